"""Pictures per second of the Florence-2 Captioner, one at a time and in batches, beside a plain transformers loop.

    .impasto/venv/bin/python benchmarks/florence.py            on a GPU a minute; on two cores half an hour
    .impasto/venv/bin/python benchmarks/florence.py --quick    under a minute; shows that it runs, measures nothing

The model has the architecture of Florence-2-base and random weights, so every answer is made exactly `--tokens` long.
The plain loop is the one of transformers' own documentation: open, process, generate, decode, one picture at a time.
Both read the same JPEG files, and use the GPU in bf16 if there is one, else the CPU in float32. They take turns; the
best of `--rounds` counts. On a busy CPU read the processor time.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import logging
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
TASK, TOKEN = "more_detailed_caption", "<MORE_DETAILED_CAPTION>"
SIDE = 768  # pixels that the real checkpoints are trained with
BASE_VISION = {"projection_dim": 768}  # the rest of Florence2VisionConfig is the base model's by default
BASE_TEXT = {  # BART-base, with Florence-2's tokens for places
    "vocab_size": 51328,
    "d_model": 768,
    "encoder_layers": 6,
    "decoder_layers": 6,
    "encoder_attention_heads": 12,
    "decoder_attention_heads": 12,
    "encoder_ffn_dim": 3072,
    "decoder_ffn_dim": 3072,
}
PLAIN = "plain transformers loop"


@dataclass(frozen=True)
class Measured:
    """One contender over all pictures."""

    name: str
    batch: int
    seconds: float  # by the clock
    processor_seconds: float  # of all threads


class Held:
    """A `captioners.florence.Place` with the model there already."""

    def __init__(self, florence: Any):
        self.florence = florence

    def open(self, captioner: Any) -> Any:
        return self.florence

    def free(self) -> None:
        import torch

        torch.cuda.empty_cache()

    def close(self) -> None:
        pass


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="see that it runs: tiny sizes whatever else is asked for")
    parser.add_argument("--pictures", type=int, help="default: 128 on a GPU, 8 on a CPU")
    parser.add_argument("--batches", type=int, nargs="+", help="default: 1 to 64 on a GPU, 1 to 8 on a CPU")
    parser.add_argument("--beams", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=64, help="length of every answer (default: 64)")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, help="of torch on the CPU (default: torch's own choice)")
    arguments = parser.parse_args()
    if arguments.threads:
        os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    load("impasto", REPOSITORY / "__init__.py", [str(REPOSITORY)])
    with tempfile.TemporaryDirectory(prefix="impasto-benchmark-") as folder:
        print(benchmark(arguments, Path(folder)))
    return 0


def load(name: str, file: Path, submodules: list[str] | None = None) -> Any:
    """A module from a file, whatever its folder is called."""
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=submodules)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def benchmark(arguments: argparse.Namespace, folder: Path) -> str:
    import torch
    from impasto.captioners.florence import Florence

    logging.getLogger("transformers").setLevel(logging.ERROR)
    quick, gpu = arguments.quick, torch.cuda.is_available()
    device, dtype = ("cuda", torch.bfloat16) if gpu else ("cpu", torch.float32)
    tokens, rounds = (8, 1) if quick else (arguments.tokens, arguments.rounds)
    count = 5 if quick else arguments.pictures or (128 if gpu else 8)
    batches = [1, 2] if quick else arguments.batches or ([1, 2, 4, 8, 16, 32, 64] if gpu else [1, 2, 4, 8])

    tiny = load("tiny_florence", REPOSITORY / "tests" / "tiny_florence.py")
    processor = tiny.make_processor(tiny.SIDE if quick else SIDE)
    sizes = (tiny.TINY_VISION, tiny.TINY_TEXT) if quick else (BASE_VISION, BASE_TEXT)
    florence = Florence(tiny.make_model(processor, *sizes).to(device, dtype), processor)
    florence.model.generation_config.min_new_tokens = tokens  # random weights do not know when to end
    files = draw_pictures(folder / "pictures", count)

    contenders: list[tuple[str, int, Callable[[Sequence[Path]], None]]] = [
        (PLAIN, 1, lambda some: plain_loop(florence, some, arguments.beams, tokens))
    ]
    for batch in batches:
        captioner = new_captioner(florence, folder, batch, arguments.beams, tokens)
        contenders.append(("Impasto", batch, lambda some, captioner=captioner: captioned(captioner, some)))
    for _, batch, run in contenders if gpu or quick else contenders[:1]:
        run(files[:batch])  # warm-up: kernels are chosen by the shapes on a GPU, libraries are loaded on a CPU
    measured = [measure(*contender, files, gpu) for _ in range(rounds) for contender in contenders]
    best = [min(measured[place :: len(contenders)], key=lambda one: one.seconds) for place in range(len(contenders))]
    return report(best, florence, count, arguments.beams, tokens)


def draw_pictures(folder: Path, count: int) -> list[Path]:
    """JPEGs of 1,024 by 768 pixels with something in them to decode."""
    import numpy
    from PIL import Image

    folder.mkdir()
    files = []
    for number in range(count):
        coarse = numpy.random.default_rng(number).integers(0, 256, (48, 64, 3), dtype=numpy.uint8)
        files.append(folder / f"{number}.jpg")
        Image.fromarray(coarse).resize((1024, 768), Image.Resampling.BICUBIC).save(files[-1], quality=92)
    return files


def plain_loop(florence: Any, files: Sequence[Path], beams: int, tokens: int) -> None:
    """As in transformers' documentation of Florence-2."""
    import torch
    from PIL import Image

    model, processor = florence.model, florence.processor
    for file in files:
        image = Image.open(file).convert("RGB")
        inputs = processor(text=TOKEN, images=image, return_tensors="pt").to(model.device, model.dtype)
        with torch.inference_mode():
            generated = model.generate(**inputs, num_beams=beams, max_new_tokens=tokens, do_sample=False)
        text = processor.batch_decode(generated, skip_special_tokens=False)[0]
        processor.post_process_generation(text=text, task=TOKEN, image_size=image.size)


def new_captioner(florence: Any, folder: Path, batch: int, beams: int, tokens: int) -> Any:
    from impasto.captioners.florence import Florence2Captioner, FlorenceSettings
    from impasto.captioners.florence_checkpoints import FlorenceCheckpoint

    checkpoint = FlorenceCheckpoint("benchmark", folder, own_code=False)
    return Florence2Captioner(checkpoint, FlorenceSettings(TASK, beams, tokens), batch, Held(florence))


def captioned(captioner: Any, files: Sequence[Path]) -> None:
    from impasto.captioners.captioner import Picture

    pictures = [Picture(file.stem, file, 1024, 768) for file in files]

    async def all_batches() -> None:
        for start in range(0, len(pictures), captioner.batch_size):
            await captioner.caption(pictures[start : start + captioner.batch_size], lambda: None, lambda: None)

    asyncio.run(all_batches())


def measure(name: str, batch: int, run: Callable[[Sequence[Path]], None], files: Sequence[Path], gpu: bool) -> Measured:
    import torch

    began, processor = time.perf_counter(), time.process_time()
    run(files)
    if gpu:
        torch.cuda.synchronize()
    found = Measured(name, batch, time.perf_counter() - began, time.process_time() - processor)
    print(f"{name}, batch {batch}: {len(files) / found.seconds:.3f} pictures/s", file=sys.stderr, flush=True)
    return found


def report(best: Sequence[Measured], florence: Any, count: int, beams: int, tokens: int) -> str:
    import torch
    import transformers

    plain = best[0]
    model = florence.model
    where = torch.cuda.get_device_name() if model.device.type == "cuda" else f"CPU, {torch.get_num_threads()} thread(s)"
    lines = [
        f"{platform.platform()}, {where}, torch {torch.__version__}, transformers {transformers.__version__}  ",
        f"{sum(weight.numel() for weight in model.parameters()) / 1e6:.1f} M parameters, random, {model.dtype}  ",
        f"{count} pictures of 1024 x 768, {beams} beams, {tokens} tokens each",
        "",
        "| captioner               | batch | pictures/s | CPU s/picture | speed to plain | CPU time to plain |",
        "| ----------------------- | ----: | ---------: | ------------: | -------------: | ----------------: |",
    ]
    for one in best:
        lines.append(
            f"| {one.name:23} | {one.batch:5} | {count / one.seconds:10.3f} | {one.processor_seconds / count:13.3f} "
            f"| {plain.seconds / one.seconds:13.2f}x | {one.processor_seconds / plain.processor_seconds:16.2f}x |"
        )
    ours = [one for one in best if one.name != PLAIN]
    fastest, single = min(ours, key=lambda one: one.seconds), min(ours, key=lambda one: one.batch)
    lines += ["", f"Best batch: {fastest.batch}, {single.seconds / fastest.seconds:.2f}x batch {single.batch}."]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
