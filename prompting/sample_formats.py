"""A prompt set in the sample-prompt formats of other trainers, so that their pictures can be compared with ours."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import SettingsError, check_finite
from ..files import write_whole
from .prompt_set import Prompt

MAX_NICKNAME = 40  # characters; SimpleTuner names its pictures by them


@dataclass(frozen=True)
class SampleSettings:
    """How a trainer samples: pixels, sampler steps and FLUX's guidance."""

    width: int
    height: int
    steps: int
    guidance: float

    def __post_init__(self) -> None:
        check_finite(guidance=self.guidance)


def write_sample_formats(folder: Path, prompts: Sequence[Prompt], settings: SampleSettings) -> tuple[Path, ...]:
    """Write the set for kohya sd-scripts, ai-toolkit and SimpleTuner, each in its own file.

    Raises:
        SettingsError: a prompt has line ends or ` --`, which these formats would read as something else.
    """
    for prompt in prompts:
        if "\n" in prompt.text or re.search(r"\s--", prompt.text):
            raise SettingsError(
                f"The prompt '{prompt.text[:60]}' has a line end or ' --', which trainers read as an option. Remove it."
            )
    files = {
        "kohya.txt": kohya(prompts, settings),
        "ai-toolkit.yaml": ai_toolkit(prompts, settings),
        "simpletuner.json": simple_tuner(prompts),
    }
    for name, content in files.items():
        write_whole(folder / name, content)
    return tuple(folder / name for name in files)


def kohya(prompts: Sequence[Prompt], settings: SampleSettings) -> str:
    """`--sample_prompts` of sd-scripts: a line a prompt. cfg (--l) is 1: FLUX is guided by --g."""
    options = f"--w {settings.width} --h {settings.height} --s {settings.steps} --l 1 --g {settings.guidance:g}"
    return "".join(f"{prompt.text} {options} --d {prompt.seed}\n" for prompt in prompts)


def ai_toolkit(prompts: Sequence[Prompt], settings: SampleSettings) -> str:
    """The `sample` block of an ai-toolkit configuration; it reads kohya's ` --d` for a prompt's own seed."""
    lines = [
        "sample:",
        '  sampler: "flowmatch"',
        f"  width: {settings.width}",
        f"  height: {settings.height}",
        f"  guidance_scale: {settings.guidance:g}",
        f"  sample_steps: {settings.steps}",
        f"  seed: {prompts[0].seed}",
        "  walk_seed: false",
        "  prompts:",
        *(f"    - {json.dumps(f'{prompt.text} --d {prompt.seed}', ensure_ascii=False)}" for prompt in prompts),
    ]
    return "\n".join(lines) + "\n"


def simple_tuner(prompts: Sequence[Prompt]) -> str:
    """`--user_prompt_library` of SimpleTuner: nickname -> prompt. It has one seed for all, `--validation_seed`."""
    names = [f"{index:02}_{_nickname(prompt.text)}" for index, prompt in enumerate(prompts, start=1)]
    library = {name: prompt.text for name, prompt in zip(names, prompts, strict=True)}
    return json.dumps(library, ensure_ascii=False, indent=2) + "\n"


def _nickname(text: str) -> str:
    return "_".join(re.findall(r"[a-z0-9]+", text.lower()))[:MAX_NICKNAME].strip("_")
