"""Time of a 4 × 6 Progress Grid beside six separate graphs with core's LoRA loader, on the embedded tiny FLUX.

    .impasto/venv/bin/python benchmarks/progress_grid.py            some minutes
    .impasto/venv/bin/python benchmarks/progress_grid.py --quick    one prompt, two checkpoints; shows that it runs

Both paint every prompt with every checkpoint, with the same sampler, seeds and sizes, in one process, by turns. The
grid loads the base model once, encodes each prompt once, and puts each checkpoint on in turn. A graph of its own, as a
person queues them one after the other in a ComfyUI that was freed in between, loads the models, puts one LoRA on with
LoraLoaderModelOnly, and encodes, samples and decodes with core's nodes. "cached" are the same graphs in a ComfyUI that
keeps what its loaders and encoders gave. Seconds are of processor time: on a busy machine the clock says little.
ComfyUI is the one in COMFYUI_PATH, else in .impasto/ComfyUI.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from full_size import REPOSITORY, load_pack

AIM = 0.6  # at most this share of the time of the separate graphs
PROMPTS = ("a harbour at dawn", "a red barn", "apples on a table", "a portrait of a child")
RANK = 8
GUIDANCE = 3.5


@dataclass(frozen=True)
class Work:
    prompts: int
    checkpoints: int
    side: int
    steps: int


def start_comfyui(base: Path) -> None:
    """Make ComfyUI's modules importable, on the CPU, with its folders in an empty place."""
    sys.path.insert(0, str(Path(os.environ.get("COMFYUI_PATH") or REPOSITORY / ".impasto" / "ComfyUI")))
    from comfy.cli_args import args

    args.cpu = True
    args.base_directory = str(base)
    import folder_paths

    folder_paths.set_output_directory(str(base / "output"))
    folder_paths.set_temp_directory(str(base / "temp"))
    loras = base / "models" / "loras"
    loras.mkdir(parents=True)
    folder_paths.add_model_folder_path("loras", str(loras))


def write_run(folder: Path, loras: Path, work: Work, width: int) -> None:
    """A run's checkpoints of seeded weights, and the same files where core's loader finds them."""
    import torch
    from safetensors.torch import save_file

    for step in range(100, 100 * work.checkpoints + 1, 100):
        generator = torch.Generator().manual_seed(step)
        state = {}
        for layer in ("to_q", "to_k", "to_v", "to_out.0"):
            name = f"transformer.transformer_blocks.0.attn.{layer}"
            state[f"{name}.lora_A.weight"] = torch.randn(RANK, width, generator=generator)
            state[f"{name}.lora_B.weight"] = torch.randn(width, RANK, generator=generator) * 0.05
            state[f"{name}.alpha"] = torch.tensor(float(RANK))
        checkpoint = folder / "checkpoints" / f"step-{step:06d}"
        checkpoint.mkdir(parents=True)
        save_file(state, checkpoint / "adapter.safetensors")
        save_file(state, loras / f"step-{step}.safetensors")


def grid(run_folder: Path, work: Work) -> object:
    """One Progress Grid of all checkpoints, nothing of it kept from before. Gives its pictures."""
    import shutil

    from impasto.nodes.embedded import TinyFluxLoader
    from impasto.nodes.rendering import ProgressGrid
    from impasto.prompting.prompt_set import prompt_set
    from impasto.trainers.run.folder import Run

    shutil.rmtree(run_folder / "grid", ignore_errors=True)
    model, clip, vae = TinyFluxLoader.execute(seed=0).args
    steps = ", ".join(str(100 * number) for number in range(1, work.checkpoints + 1))
    return ProgressGrid.execute(
        run=Run(run_folder.name, str(run_folder)),
        prompts=prompt_set("\n".join(PROMPTS[: work.prompts]), seed=3),
        model=model,
        clip=clip,
        vae=vae,
        width=work.side,
        height=work.side,
        steps=work.steps,
        guidance=GUIDANCE,
        columns=6,
        strength=1.0,
        sampler_name="euler",
        scheduler="simple",
        at_steps=steps,
    ).args[1]


def graphs(work: Work, cached: bool) -> list:
    """A graph for each checkpoint with core's nodes. Gives the pictures, checkpoint by checkpoint."""
    from comfy_extras.nodes_flux import FluxGuidance
    from comfy_extras.nodes_sd3 import EmptySD3LatentImage
    from impasto.nodes.embedded import TinyFluxLoader

    import nodes

    pictures, kept, texts = [], None, {}
    for number in range(1, work.checkpoints + 1):
        if kept is None or not cached:
            forget()
            kept, texts = TinyFluxLoader.execute(seed=0).args, {}
        model, clip, vae = kept
        tuned = nodes.LoraLoaderModelOnly().load_lora_model_only(model, f"step-{number * 100}.safetensors", 1.0)[0]
        for text in PROMPTS[: work.prompts]:
            if text not in texts:
                encoded = nodes.CLIPTextEncode().encode(clip, text)[0]
                texts[text] = FluxGuidance.execute(encoded, GUIDANCE).args[0]
            latent = EmptySD3LatentImage.execute(work.side, work.side).args[0]
            sampled = nodes.KSampler().sample(
                tuned, 3, work.steps, 1.0, "euler", "simple", texts[text], texts[text], latent
            )[0]
            pictures.append(nodes.VAEDecode().decode(vae, sampled)[0])
    return pictures


def forget() -> None:
    """What ComfyUI's "free model and node cache" does."""
    import comfy.model_management

    comfy.model_management.unload_all_models()
    gc.collect()


def seconds_of(do: Callable[[], object]) -> tuple[float, object]:
    forget()
    before = time.process_time()
    result = do()
    return time.process_time() - before, result


def check_alike(grid_pictures: object, graph_pictures: list, work: Work) -> None:
    """That both painted the same: else their times say nothing."""
    import torch

    for row in range(work.prompts):
        for column in range(work.checkpoints):
            ours = (grid_pictures[row * work.checkpoints + column] * 255).round().to(torch.uint8)
            theirs = (graph_pictures[column * work.prompts + row][0] * 255).clamp(0, 255).to(torch.uint8)
            if not torch.equal(ours, theirs):
                raise SystemExit(f"Prompt {row + 1} at checkpoint {column + 1} is another picture: nothing to compare.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", type=int, default=64, help="pixels of a picture")
    parser.add_argument("--steps", type=int, default=4, help="of the sampler")
    options = parser.parse_args()
    work = Work(1, 2, 64, 1) if options.quick else Work(4, 6, options.side, options.steps)
    rounds = 1 if options.quick else options.rounds
    load_pack()
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary)
        start_comfyui(base)
        import torch

        torch.set_num_threads(1)
        run_folder = base / "output" / "impasto" / "runs" / "bench-00000000"
        with torch.inference_mode():
            measure(run_folder, base / "models" / "loras", work, rounds)


def measure(run_folder: Path, loras: Path, work: Work, rounds: int) -> None:
    import torch
    from impasto.nodes.embedded import TinyFluxLoader

    model = TinyFluxLoader.execute(seed=0).args[0]  # writes the files, and warms up
    write_run(run_folder, loras, work, model.model.diffusion_model.hidden_size)
    times: dict[str, list[float]] = {"grid": [], "graphs": [], "cached": []}
    peaks = []
    for _ in range(rounds):
        taken, ours = seconds_of(lambda: grid(run_folder, work))
        times["grid"].append(taken)
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        for name in ("graphs", "cached"):
            taken, theirs = seconds_of(lambda: graphs(work, name == "cached"))  # noqa: B023
            times[name].append(taken)
            check_alike(ours, theirs, work)
    print(f"{platform.system()} {platform.release()} {platform.machine()}, CPU, 1 thread, torch {torch.__version__}  ")
    print(
        f"{work.prompts} prompts, {work.checkpoints} checkpoints, {work.side} px, {work.steps} steps, {rounds} rounds\n"
    )
    print("| who paints | CPU s | CPU s/picture | grid's share |")
    print("| --- | ---: | ---: | ---: |")
    ours, count = statistics.median(times["grid"]), work.prompts * work.checkpoints
    for name, words in (
        ("grid", "Progress Grid"),
        ("graphs", f"{work.checkpoints} graphs, each loading its models"),
        ("cached", f"{work.checkpoints} graphs in a ComfyUI that keeps its models"),
    ):
        median = statistics.median(times[name])
        print(f"| {words} | {median:.2f} | {median / count:.3f} | {ours / median:.2f} |")
    share = ours / statistics.median(times["graphs"])
    print(f"\nAim: at most {AIM} of the separate graphs: {'met' if share <= AIM else 'missed'} ({share:.2f}).")
    print(f"Peak memory of the process after each grid, MiB: {', '.join(f'{peak:,.0f}' for peak in peaks)}.")


if __name__ == "__main__":
    main()
