"""The README.md that the Hugging Face Hub shows of a LoRA, with the metadata that it reads at its head.

The metadata's keys are the Hub's: https://huggingface.co/docs/hub/model-cards.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..curation.dataset_card import cell, source_of, table
from ..dataset.records import Record
from ..texts import one_line
from .rights import Rights


@dataclass(frozen=True)
class BaseModel:
    """A FLUX.1 that LoRAs are trained on: its repository, and the licence that binds what is derived from it.

    Attributes:
        architecture: as a LoRA's file names it, in modelspec.architecture before the slash.
    """

    repository: str
    architecture: str
    license: str
    license_name: str = ""
    license_link: str = ""


_DEV_LICENSE = "https://huggingface.co/black-forest-labs/FLUX.1-dev/blob/main/LICENSE.md"
_DEV = ("flux-1-dev", "other", "flux-1-dev-non-commercial-license", _DEV_LICENSE)
BASE_MODELS = {
    "FLUX.1-dev": BaseModel("black-forest-labs/FLUX.1-dev", *_DEV),
    "FLUX.1-schnell": BaseModel("black-forest-labs/FLUX.1-schnell", "flux-1-schnell", "apache-2.0"),
    "FLUX.1-Krea-dev": BaseModel("black-forest-labs/FLUX.1-Krea-dev", *_DEV),
    "FLUX.1-Kontext-dev": BaseModel("black-forest-labs/FLUX.1-Kontext-dev", *_DEV),
}
# Of the settings, those that people compare LoRAs by; the whole of them is in the LoRA file's metadata.
SHOWN_SETTINGS = ("steps", "rank", "alpha", "learning_rate", "optimizer", "scheduler", "precision", "targets", "seed")


@dataclass(frozen=True)
class GalleryPicture:
    """A picture of the gallery: its file within the folder, and the prompt that it was painted from."""

    file: str
    prompt: str


@dataclass(frozen=True)
class Card:
    """What a card tells.

    Attributes:
        name: of the LoRA.
        weights: name of its file in the folder.
        base: of `BASE_MODELS`.
        trigger: the word that calls the style; "" for none.
        settings: of the training, by name.
        samples: the gallery.
        grid: file of the progress grid within the folder; "" for none.
        records: of the pictures trained on; empty where they are not known.
        verdict: sentences of the evaluation; empty where there was none.
    """

    name: str
    weights: str
    base: str
    rights: Rights
    trigger: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    samples: Sequence[GalleryPicture] = ()
    grid: str = ""
    records: Sequence[Record] = ()
    verdict: Sequence[str] = ()

    def markdown(self) -> str:
        """The whole card."""
        sections = [
            f"---\n{self._metadata()}---",
            f"# {cell(self.name)}",
            f"A style LoRA for [{BASE_MODELS[self.base].repository}](https://huggingface.co/"
            f"{BASE_MODELS[self.base].repository}), trained with Impasto.",
            "<Gallery />" if self.samples else "",
            self._use(),
            f"## How it learned\n\n![A prompt a row, a checkpoint a column]({self.grid})" if self.grid else "",
            "## Evaluation\n\n" + "\n".join(f"- {cell(line)}" for line in self.verdict) if self.verdict else "",
            self._training(),
            self._dataset(),
            self._rights(),
        ]
        return "\n\n".join(filter(None, sections)) + "\n"

    def _metadata(self) -> str:
        import yaml

        base = BASE_MODELS[self.base]
        metadata: dict[str, Any] = {
            "base_model": base.repository,
            "base_model_relation": "adapter",
            "library_name": "diffusers",
            "pipeline_tag": "text-to-image",
            "license": base.license,
        }
        if base.license_name:
            metadata |= {"license_name": base.license_name, "license_link": base.license_link}
        metadata["tags"] = ["flux", "lora", "text-to-image", "style", "impasto"]
        if self.trigger:
            metadata["instance_prompt"] = self.trigger
        if self.samples:
            metadata["widget"] = [
                {"text": one_line(sample.prompt), "output": {"url": sample.file}} for sample in self.samples
            ]
        return yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True, width=1000)

    def _use(self) -> str:
        call = f"Put `{_code(self.trigger)}` into the prompt." if self.trigger else "It has no trigger word."
        base = BASE_MODELS[self.base].repository
        code = (
            "import torch\nfrom diffusers import FluxPipeline\n\n"
            f'pipeline = FluxPipeline.from_pretrained("{base}", torch_dtype=torch.bfloat16)\n'
            f'pipeline.load_lora_weights("<this repository>", weight_name="{self.weights}")\n'
            "pipeline.enable_model_cpu_offload()"
        )
        return (
            f"## How to use it\n\n{call} In ComfyUI: put [{self.weights}]({self.weights}) into `models/loras` and load "
            f"it with *Load LoRA*. In diffusers:\n\n```python\n{code}\n```"
        )

    def _training(self) -> str:
        rows = [f"| {name} | {cell(str(self.settings[name]))} |" for name in SHOWN_SETTINGS if name in self.settings]
        if not rows:
            return ""
        return "\n".join(["## Training", "", "| setting | value |", "|---|---|", *rows])

    def _dataset(self) -> str:
        if not self.records:
            return ""
        count, captioned = len(self.records), sum(bool(record.text) for record in self.records)
        parts = [f"## Dataset\n\n{count:,} pictures, {captioned:,} with a caption."]
        parts.append(table("source", (source_of(record.source) for record in self.records)))
        parts += [
            table(name, (getattr(record, name) for record in self.records))
            for name in ("style", "artist")
            if any(getattr(record, name) for record in self.records)
        ]
        return "\n\n".join(parts)

    def _rights(self) -> str:
        base = BASE_MODELS[self.base]
        name = base.license_name or base.license
        lines = [f"The base model's licence, {name}, holds for this LoRA too."]
        if self.rights.stated:
            rows = [f"| {cell(statement)} | {count:,} |" for statement, count in self.rights.stated]
            lines.append(
                "What the sources of the pictures state:\n\n"
                + "\n".join(["| statement | pictures |", "|---|---:|", *rows])
            )
        if self.rights.unknown:
            lines.append(f"Of {self.rights.unknown:,} pictures the sources state nothing.")
        if self.rights.claimed:
            lines.append("Whoever published this says that they have the right to.")
        return "## Rights\n\n" + "\n\n".join(lines)


def _code(text: str) -> str:
    """Text of others within backticks."""
    return re.sub(r"[`\\]", "", one_line(text))
