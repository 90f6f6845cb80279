"""LoRA XY Grid and Generation Sequence, sampled by ComfyUI itself on the tiny FLUX."""

import json
from types import SimpleNamespace

import pytest
import torch
from impasto.errors import ModelError, SettingsError
from impasto.trainers.run.folder import Run
from PIL import Image
from safetensors.torch import save_file

SIZE, STEPS = 64, 2


pytestmark = pytest.mark.usefixtures("without_gradients")


@pytest.fixture(scope="module")
def lora(comfyui, tiny) -> str:
    """The name, in ComfyUI's list, of a LoRA in kohya's format that changes what is painted."""
    import folder_paths

    width = tiny[0].model.diffusion_model.hidden_size
    name = "lora_unet_double_blocks_0_img_attn_qkv"
    noise = torch.randn(2, width, generator=torch.Generator().manual_seed(1))
    folder = comfyui.base / "models" / "loras" / "pictures"
    folder.mkdir(parents=True)
    state = {f"{name}.lora_down.weight": noise, f"{name}.lora_up.weight": torch.full((3 * width, 2), 1.0)}
    save_file(state | {f"{name}.alpha": torch.tensor(2.0)}, folder / "strong.safetensors")
    folder_paths.add_model_folder_path("loras", str(folder.parent))
    return "pictures/strong.safetensors"


SAMPLING = {"width": SIZE, "height": SIZE, "steps": STEPS, "guidance": 3.5}


def grid(tiny, x, y=("none", ""), **inputs):
    from impasto.nodes.xy_grid import LoraXYGrid

    axes = {"x_axis": x[0], "x_values": x[1], "y_axis": y[0], "y_values": y[1]}
    model, clip, vae = tiny
    return LoraXYGrid.execute(model=model, clip=clip, vae=vae, **axes, **(SAMPLING | inputs)).args


def by_core(tiny, text: str, seed: int, lora: str | None = None, strength: float = 1.0) -> torch.Tensor:
    """The picture that core's own nodes give, in 8 bits."""
    from comfy_extras.nodes_flux import FluxGuidance
    from comfy_extras.nodes_sd3 import EmptySD3LatentImage

    import nodes

    model, clip, vae = tiny
    if lora:
        model = nodes.LoraLoaderModelOnly().load_lora_model_only(model, lora, strength)[0]
    positive = FluxGuidance.execute(nodes.CLIPTextEncode().encode(clip, text)[0], 3.5).args[0]
    latent = EmptySD3LatentImage.execute(SIZE, SIZE).args[0]
    samples = nodes.KSampler().sample(model, seed, STEPS, 1.0, "euler", "simple", positive, positive, latent)[0]
    return (nodes.VAEDecode().decode(vae, samples)[0] * 255).clamp(0, 255).to(torch.uint8)[0]


def bytes_of(picture: torch.Tensor) -> torch.Tensor:
    return (picture * 255).round().to(torch.uint8)


def test_each_cell_is_what_core_s_nodes_give_and_a_value_more_paints_its_own_alone(tiny, lora, comfyui):
    text = '"quoted", 🎨 夜の港 ميناء'
    axes = {"x": ("strength", "0.5\n1.5"), "y": ("seed", "3\n9"), "lora": lora, "prompt": text, "name": "core"}
    picture, pictures, report, _ = grid(tiny, **axes)
    for row, seed in enumerate((3, 9)):
        for column, strength in enumerate((0.5, 1.5)):
            expected = by_core(tiny, text, seed, lora, strength)
            assert torch.equal(bytes_of(pictures[2 * row + column]), expected), (seed, strength)
    assert picture.shape[1] > 2 * SIZE and picture.shape[2] > 2 * SIZE
    assert "4 cells, 4 pictures" in report and "0 were there" in report
    folder = comfyui.base / "output" / "impasto" / "grids" / "core"
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.png")}
    *_, report, _ = grid(tiny, **(axes | {"y": ("seed", "3\n4\n9")}))
    assert "6 cells, 6 pictures" in report and "4 were there" in report
    now = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.png")}
    assert before.items() <= now.items() and len(now) == 6


def test_the_graph_of_each_cell_is_written_and_a_checkpoint_without_a_name_is_told(tiny, lora, tmp_path, comfyui):
    from impasto.nodes.xy_grid import LoraXYGrid

    checkpoint = tmp_path / "checkpoints" / "step-000010" / "adapter.safetensors"
    checkpoint.parent.mkdir(parents=True)
    content = (comfyui.base / "models" / "loras" / lora).read_bytes()
    checkpoint.write_bytes(content)
    links = {"model": ["1", 0], "clip": ["1", 1], "vae": ["1", 2]}
    graph = {"1": {"class_type": "ImpastoTinyFluxLoader", "inputs": {"seed": 0}}, "5": {"inputs": links}}
    LoraXYGrid.hidden = SimpleNamespace(prompt=graph, unique_id="5")
    try:
        run = Run("harbours-12345678", str(tmp_path))
        inputs = {"run": run, "save_api": True, "name": "graphs"}
        *_, report, _ = grid(tiny, ("checkpoint", "base\n10"), **inputs)
        assert report.endswith("The graph of each lies beside it.")
        forms = [json.loads(file.read_text()) for file in (comfyui.base / "output/impasto/grids/graphs").glob("*.json")]
        names = {form["cell_lora"]["inputs"]["lora_name"] for form in forms if "cell_lora" in form}
        assert len(forms) == 2 and names == {lora}  # the same content
        width = tiny[0].model.diffusion_model.hidden_size
        name = "transformer.transformer_blocks.0.attn.to_q"
        own = {f"{name}.lora_A.weight": torch.ones(2, width), f"{name}.lora_B.weight": torch.ones(width, 2)}
        save_file(own, checkpoint)
        *_, report, _ = grid(tiny, ("checkpoint", "10"), **(inputs | {"name": "unnamed"}))
        assert "but for 1 whose checkpoint ComfyUI lists under no name" in report
    finally:
        del LoraXYGrid.hidden


def test_a_lora_of_another_model_is_refused_before_the_first_picture(tiny, lora, comfyui):
    name = "transformer.transformer_blocks.0.attn.to_q"
    state = {f"{name}.lora_A.weight": torch.ones(1, 3072), f"{name}.lora_B.weight": torch.ones(3072, 1)}
    save_file(state, comfyui.base / "models" / "loras" / "pictures" / "dev.safetensors")
    with pytest.raises(ModelError, match="0 of them fit this Flux model"):
        grid(tiny, ("LoRA", "none\npictures/dev.safetensors"), name="refused")
    assert not (comfyui.base / "output" / "impasto" / "grids" / "refused").exists()


def test_what_makes_no_grid_is_refused_before_anything_is_loaded(tiny):
    with pytest.raises(SettingsError, match="8,000 cells"):
        grid(tiny, ("seed", "\n".join(map(str, range(100)))), ("steps", "\n".join(map(str, range(1, 81)))))
    with pytest.raises(ModelError, match="knows no LoRA 'gone"):
        grid(tiny, ("LoRA", "gone.safetensors"))


def test_cancel_keeps_the_cells_done(tiny, comfyui, monkeypatch):
    import comfy.model_management
    from impasto.nodes.host.spec_painter import ComfySpecPainter

    paint, asked = ComfySpecPainter.paint, []

    def cancelled_in_the_second(self, spec, on_step):
        asked.append(spec)
        if len(asked) == 2:
            comfy.model_management.interrupt_current_processing()  # what ComfyUI's /interrupt does
        return paint(self, spec, on_step)

    monkeypatch.setattr(ComfySpecPainter, "paint", cancelled_in_the_second)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        grid(tiny, ("seed", "1\n2\n3"), name="cancelled")
    *_, report, _ = grid(tiny, ("seed", "1\n2\n3"), name="cancelled")
    assert "1 were there" in report and len(asked) == 4


def sequence(tiny, way, **inputs):
    from impasto.nodes.sequence import GenerationSequence

    model, clip, vae = tiny
    given = {"model": model, "clip": clip, "vae": vae, "way": way, "prompts": "a harbour"} | SAMPLING | inputs
    output = GenerationSequence.execute(**given)
    return *output.args, output.ui


def test_a_way_between_seeds_begins_and_ends_with_their_own_pictures(tiny, comfyui):
    frames, file, shown = sequence(tiny, "between seeds", seeds="3, 9", between=3, format="gif", name="way")
    assert frames.shape == (4, SIZE, SIZE, 3)
    assert torch.equal(bytes_of(frames[0]), by_core(tiny, "a harbour", 3))
    assert torch.equal(bytes_of(frames[3]), by_core(tiny, "a harbour", 9))
    assert len({picture.numpy().tobytes() for picture in frames}) == 4
    with Image.open(file) as animation:
        assert animation.n_frames == 4
    (item,) = shown["images"]
    assert (comfyui.base / "output" / item["subfolder"] / item["filename"]).samefile(file)
    assert shown["impasto"] == [f"4 frames, 0 of them were there before: {item['filename']}"]
    again, same, shown = sequence(tiny, "between seeds", seeds="3, 9", between=3, format="gif", name="way")
    assert same == file and torch.equal(again, frames) and "4 frames, 4 of them" in shown["impasto"][0]


def test_prompts_and_strengths_are_ways_too(tiny, lora):
    frames, *_ = sequence(tiny, "through prompts", prompts="a harbour\n夜の港\n", seed=3, name="prompts")
    assert torch.equal(bytes_of(frames[1]), by_core(tiny, "夜の港", 3))
    frames, *_ = sequence(tiny, "between strengths", strengths="0, 1", between=2, lora=lora, seed=3, name="strengths")
    assert torch.equal(bytes_of(frames[1]), by_core(tiny, "a harbour", 3, lora, 0.5))
