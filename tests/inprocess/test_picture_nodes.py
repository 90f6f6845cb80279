"""Base vs LoRA, Sample Grid, Step Animation and Loss Plot on the tiny FLUX, beside what ComfyUI's own nodes give."""

import json
from pathlib import Path

import pytest
import torch
from impasto.errors import ModelError, SettingsError, TrainingError
from impasto.prompting.prompt_set import prompt_set
from impasto.trainers.run.folder import Run
from PIL import Image
from safetensors.torch import save_file

SIZE, STEPS = 64, 2
PROMPTS = prompt_set("a harbour at dawn\na red barn --d 7", seed=3)


pytestmark = pytest.mark.usefixtures("without_gradients")


@pytest.fixture(scope="module")
def loras(comfyui, tiny) -> Path:
    """ComfyUI's LoRA folder with one LoRA in PEFT's layout, in kohya's, and one of a wider model."""
    import folder_paths

    folder = comfyui.base / "models" / "loras"
    folder.mkdir(parents=True, exist_ok=True)
    folder_paths.add_model_folder_path("loras", str(folder))
    width = tiny[0].model.diffusion_model.hidden_size
    generator = torch.Generator().manual_seed(1)
    down, up = torch.randn(2, width, generator=generator), torch.randn(width, 2, generator=generator)
    layer = "transformer.transformer_blocks.0.attn.to_out.0"
    peft = {f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up, f"{layer}.alpha": torch.tensor(2.0)}
    kohya_layer = "lora_unet_double_blocks_0_img_attn_proj"
    kohya = {f"{kohya_layer}.lora_down.weight": down, f"{kohya_layer}.lora_up.weight": up}
    kohya[f"{kohya_layer}.alpha"] = torch.tensor(2.0)
    kohya["lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight"] = torch.zeros(2, 32)
    save_file(peft, folder / "peft.safetensors")
    save_file(kohya, folder / "kohya.safetensors")
    save_file(
        {name: torch.cat([w, w], -1) if "lora_A" in name else w for name, w in peft.items()},
        folder / "wide.safetensors",
    )
    return folder


def compare(tiny, **changes):
    from impasto.nodes.comparison import BaseVsLora

    given = {"lora": "peft.safetensors", "strengths": "1", "width": SIZE, "height": SIZE, "steps": STEPS}
    given |= {"guidance": 3.5, "sampler_name": "euler", "scheduler": "simple", "prompts": PROMPTS} | changes
    model, clip, vae = tiny
    return BaseVsLora.execute(model=model, clip=clip, vae=vae, **given).args


def by_core(tiny, lora: str, strength: float, prompt) -> torch.Tensor:
    from comfy_extras.nodes_flux import FluxGuidance
    from comfy_extras.nodes_sd3 import EmptySD3LatentImage

    import nodes

    model, clip, vae = tiny
    if strength:
        model = nodes.LoraLoaderModelOnly().load_lora_model_only(model, lora, strength)[0]
    text = FluxGuidance.execute(nodes.CLIPTextEncode().encode(clip, prompt.text)[0], 3.5).args[0]
    latent = EmptySD3LatentImage.execute(SIZE, SIZE).args[0]
    sampled = nodes.KSampler().sample(model, prompt.seed, STEPS, 1.0, "euler", "simple", text, text, latent)[0]
    return (nodes.VAEDecode().decode(vae, sampled)[0][0] * 255).clamp(0, 255).to(torch.uint8)


def bytes_of(pictures: torch.Tensor) -> torch.Tensor:
    return (pictures * 255).round().to(torch.uint8)


def test_each_strength_is_what_cores_lora_loader_gives_and_zero_is_the_base_model(tiny, loras):
    shown, base, tuned, grid, report = compare(tiny, strengths="-0.5, 0, 1.5", prompts=PROMPTS[1:])
    assert base.shape == tuned.shape == (2, SIZE, SIZE, 3) and shown.shape[0] == 1
    for number, strength in enumerate((-0.5, 1.5)):
        expected = by_core(tiny, "peft.safetensors", strength, PROMPTS[1])
        assert torch.equal(bytes_of(tuned)[number], expected)
        assert torch.equal(bytes_of(base)[number], by_core(tiny, "", 0.0, PROMPTS[1]))
    assert [column.text for column in grid.columns][1] == "base model" and "3 pictures" in report


def test_a_lora_in_kohyas_layout_is_taken_and_gives_the_same_pictures(tiny, loras):
    from impasto.nodes.host import folders

    assert "kohya.safetensors" in folders.lora_names()
    _, _, tuned, grid, _ = compare(tiny, more_loras="kohya.safetensors\n\n", prompts=PROMPTS[:1])
    assert [row.text for row in grid.rows] == ["peft", "kohya"]
    assert torch.equal(*bytes_of(tuned))


def test_what_cannot_be_compared_is_refused_with_the_remedy(tiny, loras, tmp_path):
    with pytest.raises(ModelError, match="1 LoRA layers, and only 0 of them fit"):
        compare(tiny, lora="wide.safetensors")
    with pytest.raises(ModelError, match="no LoRA 'gone.safetensors'"):
        compare(tiny, more_loras="gone.safetensors")
    with pytest.raises(SettingsError, match="no LoRA to compare"):
        compare(tiny, lora="none")
    with pytest.raises(SettingsError, match="'x-12345678' has no checkpoint of step last. It has none yet"):
        compare(tiny, lora="none", run=Run("x-12345678", str(tmp_path)))


@pytest.fixture
def run(tmp_path, tiny) -> Run:
    """A run with drawn samples of two prompts at two steps, and metrics."""
    for step in (10, 20):
        file = tmp_path / "samples" / f"step-{step:06d}" / "latents.safetensors"
        file.parent.mkdir(parents=True)
        generator = torch.Generator().manual_seed(step)
        save_file({"latents": torch.randn(2, 16, 8, 8, generator=generator)}, file)
    rows = [{"step": step, "loss": 1 / step, "learning_rate": 1e-4} for step in range(1, 21)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Run("harbours-12345678", str(tmp_path))


def test_the_samples_of_a_run_are_what_cores_vae_decode_gives(run, tiny):
    from impasto.nodes.rendering import SampleGrid
    from impasto.trainers.run.samples import drawn_samples

    import nodes

    pages, pictures, grid, _ = SampleGrid.execute(run=run, vae=tiny[2]).args
    latents, _ = drawn_samples(run)
    expected = nodes.VAEDecode().decode(tiny[2], {"samples": latents})[0]
    expected = (expected * 255).clamp(0, 255).to(torch.uint8)
    difference = bytes_of(pictures).int() - expected[[0, 2, 1, 3]].int()  # row by row
    assert difference.abs().max() <= 1  # one at a time and four together are not summed in the same order
    assert pages.shape[0] == 1 and grid.title.text == "harbours"


def test_a_folder_of_samples_is_found_in_the_input_folder_and_nowhere_else(comfyui):
    import folder_paths
    from impasto.errors import DatasetError, NameRefused
    from impasto.nodes.rendering import SampleGrid

    folder = Path(folder_paths.get_input_directory()) / "monet" / "samples"
    folder.mkdir(parents=True)
    for step in (0, 250):
        Image.new("RGB", (32, 32), (step % 256, 0, 0)).save(folder / f"1769860800000__{step:09d}_0.jpg")
    pages, pictures, grid, report = SampleGrid.execute(folder="monet/samples", theme="dark").args
    assert pictures.shape == (2, 32, 32, 3) and grid.title.text == "monet" and "grids" in report
    for wrong in ("../monet", "/etc", "monet/../../.."):
        with pytest.raises((NameRefused, DatasetError)):
            SampleGrid.execute(folder=wrong)
    with pytest.raises(SettingsError, match="one of the two"):
        SampleGrid.execute()


@pytest.mark.parametrize(("format", "suffix"), [("WebP", ".webp"), ("GIF", ".gif"), ("APNG", ".png"), ("MP4", ".mp4")])
def test_an_animation_is_a_file_and_a_video_of_the_same_length(run, tiny, format, suffix, tmp_path):
    from impasto.nodes.animation import StepAnimation
    from impasto.nodes.rendering import SampleGrid

    grid = SampleGrid.execute(run=run, vae=tiny[2]).args[2]
    given = {"prompt": 1, "label": True, "hold": 0.5, "cross_fade": 0.2, "last_hold": 1.5, "frames_per_second": 10}
    output = StepAnimation.execute(picture_grid=grid, format=format, size=64, **given)
    frames, video, file = output.args
    assert frames.shape[0] == 2 and Path(file).suffix == suffix and Path(file).is_file()
    assert video.get_duration() == pytest.approx(0.5 + 0.2 + 1.5, abs=0.11)
    assert video.get_dimensions() == (frames.shape[2], frames.shape[1])
    assert video.get_components().images.shape[0] == 22
    video.save_to(str(tmp_path / "saved.mp4"))  # as core's Save Video does
    assert (tmp_path / "saved.mp4").stat().st_size > 0
    [shown] = (output.ui if isinstance(output.ui, dict) else output.ui.as_dict())["images"]
    assert shown["filename"] == Path(file).name and shown["subfolder"] == "impasto/animations"
    before = Path(file).stat().st_mtime_ns
    StepAnimation.execute(picture_grid=grid, format=format, size=64, **given)
    assert Path(file).stat().st_mtime_ns == before


def test_the_loss_plot_takes_a_loss_map_alone_or_over_a_run(run, comfyui):
    from impasto.nodes.rendering import LossPlot

    losses = {"loss": [torch.tensor(0.5), 0.4, 0.3]}
    alone, over, plain = (
        LossPlot.execute(**given).args[0]
        for given in ({"loss_map": losses}, {"run": run, "loss_map": losses}, {"run": run})
    )
    assert alone.shape == over.shape == (1, 1000, 1600, 3) and not torch.equal(over, plain)
    with pytest.raises(SettingsError, match="loss_map cannot be read.*Train LoRA"):
        LossPlot.execute(loss_map={"loss": "x"})
    with pytest.raises(SettingsError, match="nothing to plot"):
        LossPlot.execute()
    with pytest.raises(TrainingError, match="no training run 'nowhere'"):
        LossPlot.execute(run=run, other_runs="nowhere")


def test_a_run_deleted_underneath_is_named(tmp_path, tiny):
    from impasto.nodes.rendering import LossPlot, ProgressGrid

    gone = Run("gone-12345678", str(tmp_path / "gone"))
    with pytest.raises(TrainingError, match="folder of the run 'gone-12345678' is gone"):
        LossPlot.execute(run=gone)
    model, clip, vae = tiny
    given = {"width": SIZE, "height": SIZE, "steps": 1, "guidance": 3.5, "columns": 6, "strength": 1.0}
    given |= {"sampler_name": "euler", "scheduler": "simple"}
    with pytest.raises(TrainingError, match="folder of the run 'gone-12345678' is gone"):
        ProgressGrid.execute(run=gone, prompts=PROMPTS, model=model, clip=clip, vae=vae, **given)


def test_pages_hold_the_graph_and_the_run_where_comfyui_gives_them(run, tiny, monkeypatch):
    from types import SimpleNamespace

    from impasto.nodes.rendering import SampleGrid

    hidden = SimpleNamespace(prompt={"1": {"class_type": "x"}}, extra_pnginfo={"workflow": {"nodes": ["睡蓮"]}})
    monkeypatch.setattr(SampleGrid, "hidden", hidden)
    SampleGrid.execute(run=run, vae=tiny[2])
    [page] = (run.path / "grids").glob("harbours-samples-*.png")
    with Image.open(page) as picture:
        assert json.loads(picture.text["workflow"]) == hidden.extra_pnginfo["workflow"]
        assert json.loads(picture.text["prompt"]) == hidden.prompt
        assert json.loads(picture.text["impasto"])["run"] == run.id
