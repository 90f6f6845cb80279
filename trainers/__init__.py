"""The training engine: settings, feature cache, FLUX weights, adapters, the recipe, runs. Never imports ComfyUI."""
