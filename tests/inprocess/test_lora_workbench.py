"""The workbench in ComfyUI: what is shown is what is saved, bit for bit, and what does not fit is refused."""

import os
from pathlib import Path

import pytest
import torch
from impasto.errors import ImpastoError, ModelError, SettingsError, TrainingError
from impasto.trainers.lora import file_formats
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.usefixtures("without_gradients")


@pytest.fixture(scope="module")
def tiny(comfyui):
    from impasto.nodes.embedded import TinyFluxLoader

    return TinyFluxLoader.execute(seed=0).args[0]


def layer(name: str, outputs: int, inputs: int, rank: int, seed: int) -> dict:
    generator = torch.Generator().manual_seed(seed + sum(map(ord, name)))
    return {
        f"transformer.{name}.lora_A.weight": torch.randn(rank, inputs, generator=generator),
        f"transformer.{name}.lora_B.weight": torch.randn(outputs, rank, generator=generator) * 0.05,
        f"transformer.{name}.alpha": torch.tensor(3.0),
    }


def lora(width: int, rank: int, seed: int) -> dict:
    """All of a double block's attention and what one layer of a file fuses in a single block."""
    state = {}
    for part in ("to_q", "to_k", "to_v", "to_out.0"):
        state |= layer(f"transformer_blocks.0.attn.{part}", width, width, rank, seed)
    for part, outputs in (("attn.to_q", 1), ("attn.to_k", 1), ("attn.to_v", 1), ("proj_mlp", 4)):
        state |= layer(f"single_transformer_blocks.1.{part}", outputs * width, width, rank, seed)
    return state


@pytest.fixture
def loras(comfyui, tiny, tmp_path):
    """A folder that ComfyUI lists, with two LoRAs of the tiny FLUX in different formats."""
    import folder_paths

    folder = comfyui.base / "models" / "loras" / tmp_path.name
    folder.mkdir(parents=True)
    for root in (folder.parent, Path(folder_paths.get_output_directory()) / "loras"):
        folder_paths.add_model_folder_path("loras", str(root))
    width = tiny.model.diffusion_model.hidden_size
    save_file(lora(width, 4, 1), folder / "one.safetensors")
    save_file(file_formats.convert(lora(width, 2, 2), "kohya"), folder / "zwei 絵.safetensors")
    return folder


def made(loras, lora="one.safetensors", **inputs):
    from impasto.nodes.lora_workbench import LoraWorkbench

    return LoraWorkbench.execute(lora=f"{loras.name}/{lora}", **inputs).args


def weights_of(patcher) -> dict[str, torch.Tensor]:
    """Every patched weight as ComfyUI computes it, before it is rounded to the model's own precision."""
    import comfy.lora

    state = patcher.model.state_dict()
    return {
        key: comfy.lora.calculate_weight(patches, state[key].float().clone(), key)
        for key, patches in patcher.patches.items()
    }


@pytest.mark.parametrize("format", file_formats.FORMATS)
def test_the_saved_file_loads_to_what_is_shown_bit_for_bit(loras, tiny, format):
    import nodes

    more = f"{loras.name}/zwei 絵.safetensors: -0.7"
    changes = {"weight": 0.9, "more": more, "double": 0.3, "attention": 1.7, "rank": 3, "name": f"shown {format}"}
    patched, picture, name, report = made(loras, model=tiny, lora_format=format, **changes)
    by_core = nodes.LoraLoaderModelOnly().load_lora_model_only(tiny, name, 1.0)[0]
    shown, loaded = weights_of(patched), weights_of(by_core)
    assert len(shown) == 3 and shown.keys() == loaded.keys()
    assert all(torch.equal(shown[key], loaded[key]) for key in shown)
    base = tiny.model.state_dict()
    assert all((shown[key] - base[key].float()).abs().max() > 0 for key in shown)
    assert picture.shape[0] == 1 and picture.shape[3] == 3
    assert "Resized from rank 6: " in report and f"shown {format}.safetensors" in report
    file = next(Path(line.removeprefix("Saved as ")) for line in report.splitlines() if line.startswith("Saved as "))
    assert all(tensor.dtype == torch.float32 for tensor in load_file(file).values())


def test_a_lora_on_the_bench_unchanged_does_what_cores_loader_makes_it_do(loras, tiny):
    import nodes

    patched, *_ = made(loras, model=tiny)
    by_core = nodes.LoraLoaderModelOnly().load_lora_model_only(tiny, f"{loras.name}/one.safetensors", 1.0)[0]
    shown, loaded = weights_of(patched), weights_of(by_core)
    assert all(torch.allclose(shown[key], loaded[key], rtol=1e-6, atol=1e-6) for key in loaded)


def test_without_a_model_and_a_name_those_outputs_stop_what_follows_and_nothing_is_written(loras, comfyui):
    from comfy_execution.graph_utils import ExecutionBlocker

    before = sorted((comfyui.base / "output").rglob("*.safetensors"))
    patched, picture, name, report = made(loras)
    assert isinstance(patched, ExecutionBlocker) and isinstance(name, ExecutionBlocker)
    assert picture.shape[2] >= 900 and report.startswith("8 layers, rank 4")
    assert sorted((comfyui.base / "output").rglob("*.safetensors")) == before


def test_a_lora_that_fits_no_layer_of_the_model_is_refused(loras, tiny):
    save_file(lora(3072, 1, 1), loras / "dev.safetensors")
    with pytest.raises(ModelError, match="8 LoRA layers, and only 0 of them fit this Flux model"):
        made(loras, "dev.safetensors", model=tiny)
    with pytest.raises(SettingsError, match="of models of different sizes"):
        made(loras, more=f"{loras.name}/dev.safetensors")


def test_a_lora_of_another_family_is_refused_by_name(loras):
    key = "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight"
    save_file({key: torch.ones(2, 2)}, loras / "sdxl.safetensors")
    with pytest.raises(TrainingError, match=r"sdxl\.safetensors cannot be read as one of FLUX\.1"):
        made(loras, "sdxl.safetensors")


def test_a_lora_deleted_underneath_and_one_outside_the_folders_are_named(loras):
    os.unlink(loras / "one.safetensors")
    with pytest.raises(ImpastoError, match=r"one\.safetensors"):
        made(loras)
    for name in ("../../secret.safetensors", "/etc/passwd"):
        with pytest.raises(ModelError, match="ComfyUI knows no LoRA"):
            made(loras, "zwei 絵.safetensors", more=name)


def test_another_content_under_the_same_name_runs_the_node_anew(loras):
    from impasto.nodes.lora_workbench import LoraWorkbench

    def fingerprint():
        return LoraWorkbench.fingerprint_inputs(lora=f"{loras.name}/one.safetensors", more="no such LoRA: 2")

    before = fingerprint()
    assert fingerprint() == before
    save_file(content_of(loras / "one.safetensors"), loras / "one.safetensors")
    os.utime(loras / "one.safetensors", ns=(1, 1))
    assert fingerprint() != before


def content_of(file: Path) -> dict:
    return {key: tensor.clone() for key, tensor in load_file(file).items()}
