"""A Gradio Space as a folder: a page on the Hugging Face Hub on which people try a LoRA out, ready to be pushed."""

from __future__ import annotations

from pathlib import Path

from ..files import write_changed
from ..texts import one_line
from .model_card import BASE_MODELS

# A step-distilled base wants few steps and no guidance.
_SAMPLING = {"FLUX.1-schnell": (4, 0.0)}
_STEPS, _GUIDANCE = 28, 3.5
FILES = ("README.md", "app.py", "requirements.txt")

_APP = '''"""Try the LoRA {repository} out."""

import gradio as gr
import spaces
import torch
from diffusers import FluxPipeline

BASE, LORA, WEIGHTS, TRIGGER = {base!r}, {repository!r}, {weights!r}, {trigger!r}

pipeline = FluxPipeline.from_pretrained(BASE, torch_dtype=torch.bfloat16).to("cuda")
pipeline.load_lora_weights(LORA, weight_name=WEIGHTS, adapter_name="style")


@spaces.GPU
def paint(prompt, strength, seed):
    pipeline.set_adapters(["style"], [strength])
    text = prompt if not TRIGGER or TRIGGER in prompt else f"{{TRIGGER}}, {{prompt}}"
    generator = torch.Generator("cpu").manual_seed(int(seed))
    return pipeline(text, num_inference_steps={steps}, guidance_scale={guidance}, generator=generator).images[0]


demo = gr.Interface(
    paint,
    [
        gr.Textbox(label="What is to be seen"),
        gr.Slider(0, 2, value=1, step=0.05, label="Strength"),
        gr.Number(value=0, precision=0, label="Seed"),
    ],
    gr.Image(label="Picture"),
    title={title!r},
)

if __name__ == "__main__":
    demo.launch()
'''
REQUIREMENTS = "accelerate\ndiffusers\ngradio\npeft\nprotobuf\nsentencepiece\nspaces\ntorch\ntransformers\n"


def write_space(folder: Path, name: str, repository: str, weights: str, base: str, trigger: str) -> None:
    """Write `app.py`, `requirements.txt` and `README.md` into a folder.

    Args:
        name: of the LoRA.
        repository: where it will lie on the Hub, "owner/name".
        weights: name of its file there.
        base: of `model_card.BASE_MODELS`.
        trigger: the word that calls the style; "" for none.
    """
    import yaml

    steps, guidance = _SAMPLING.get(base, (_STEPS, _GUIDANCE))
    head = {
        "title": one_line(name),
        "sdk": "gradio",
        "app_file": "app.py",
        "pinned": False,
        "models": [repository, BASE_MODELS[base].repository],
    }
    app = _APP.format(
        repository=repository,
        base=BASE_MODELS[base].repository,
        weights=weights,
        trigger=one_line(trigger),
        title=one_line(name),
        steps=steps,
        guidance=guidance,
    )
    write_changed(folder / "app.py", app)
    write_changed(folder / "requirements.txt", REQUIREMENTS)
    header = yaml.safe_dump(head, sort_keys=False, allow_unicode=True)
    write_changed(
        folder / "README.md",
        f"---\n{header}---\n\nTry out the LoRA [{repository}](https://huggingface.co/{repository}).\n",
    )
