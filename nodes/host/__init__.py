"""Every call into ComfyUI. Nodes import from here, not from comfy.*."""
