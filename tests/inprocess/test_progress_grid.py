"""The progress grid sampled by ComfyUI itself, on the tiny FLUX, in a run folder as the trainer leaves it."""

import pytest
import torch
from impasto.errors import ModelError, TrainingError
from impasto.prompting.prompt_set import prompt_set
from impasto.trainers.run.folder import Run
from safetensors.torch import load_file, save_file

SIZE, STEPS = 64, 2
PROMPTS = prompt_set("a harbour at dawn\na red barn --d 7", seed=3)


pytestmark = pytest.mark.usefixtures("without_gradients")


def save_checkpoint(folder, step, scale, model, width=None):
    """A rank-2 LoRA on two layers in the trainer's exported form; B is `scale` everywhere."""
    width = width or model.model.diffusion_model.hidden_size
    generator = torch.Generator().manual_seed(step)
    state = {}
    for layer in ("to_q", "to_out.0"):
        name = f"transformer.transformer_blocks.0.attn.{layer}"
        state[f"{name}.lora_A.weight"] = torch.randn(2, width, generator=generator)
        state[f"{name}.lora_B.weight"] = torch.full((width, 2), float(scale))
        state[f"{name}.alpha"] = torch.tensor(2.0)
    target = folder / "checkpoints" / f"step-{step:06d}" / "adapter.safetensors"
    target.parent.mkdir(parents=True)
    save_file(state, target)


@pytest.fixture
def run(tmp_path, tiny):
    """A run whose first checkpoint changes nothing (B is zero) and whose second does."""
    save_checkpoint(tmp_path, 10, 0.0, tiny[0])
    save_checkpoint(tmp_path, 20, 5.0, tiny[0])
    return Run("harbours-12345678", str(tmp_path))


def executed(run, tiny, **changes):
    from impasto.nodes.rendering import ProgressGrid

    settings = {"width": SIZE, "height": SIZE, "steps": STEPS, "guidance": 3.5, "columns": 6, "strength": 1.0}
    settings |= {"sampler_name": "euler", "scheduler": "simple", "prompts": PROMPTS} | changes
    model, clip, vae = tiny
    return ProgressGrid.execute(run=run, model=model, clip=clip, vae=vae, **settings)


def render(run, tiny, **changes):
    return executed(run, tiny, **changes).args[:2]


def kept(run):
    return {path.name: path.read_bytes() for path in (run.path / "grid").iterdir()}


def test_the_base_column_is_what_comfyuis_own_nodes_sample(run, tiny):
    from comfy_extras.nodes_flux import FluxGuidance
    from comfy_extras.nodes_sd3 import EmptySD3LatentImage

    import nodes

    model, clip, vae = tiny
    positive = nodes.CLIPTextEncode().encode(clip, PROMPTS[1].text)[0]
    positive = FluxGuidance.execute(positive, 3.5).args[0]
    negative = nodes.ConditioningZeroOut().zero_out(positive)[0]
    latent = EmptySD3LatentImage.execute(SIZE, SIZE).args[0]
    samples = nodes.KSampler().sample(model, 7, STEPS, 1.0, "euler", "simple", positive, negative, latent)[0]
    by_core = (nodes.VAEDecode().decode(vae, samples)[0] * 255).clamp(0, 255).to(torch.uint8)

    _, pictures = render(run, tiny)
    assert pictures.shape == (6, SIZE, SIZE, 3)
    assert torch.equal((pictures[3] * 255).round().to(torch.uint8), by_core[0])  # row 1, column 0


def test_a_checkpoint_that_learned_something_changes_its_column_and_one_that_did_not_does_not(run, tiny):
    _, pictures = render(run, tiny)
    for row in (0, 1):
        base, unchanged, changed = pictures[3 * row : 3 * row + 3]
        assert torch.equal(base, unchanged)
        assert (base - changed).abs().max() > 0.02


def test_a_learned_column_is_what_cores_lora_loader_gives(run, tiny, comfyui):
    import folder_paths
    from comfy_extras.nodes_flux import FluxGuidance
    from comfy_extras.nodes_sd3 import EmptySD3LatentImage

    import nodes

    model, clip, vae = tiny
    lora = comfyui.base / "models" / "loras"
    lora.mkdir(parents=True, exist_ok=True)
    save_file(load_file(run.checkpoints()[20] / "adapter.safetensors"), lora / "step-20.safetensors")
    folder_paths.add_model_folder_path("loras", str(lora))
    with_lora = nodes.LoraLoaderModelOnly().load_lora_model_only(model, "step-20.safetensors", 0.7)[0]
    positive = FluxGuidance.execute(nodes.CLIPTextEncode().encode(clip, PROMPTS[0].text)[0], 3.5).args[0]
    latent = EmptySD3LatentImage.execute(SIZE, SIZE).args[0]
    samples = nodes.KSampler().sample(with_lora, 3, STEPS, 1.0, "euler", "simple", positive, positive, latent)[0]
    by_core = (nodes.VAEDecode().decode(vae, samples)[0] * 255).clamp(0, 255).to(torch.uint8)

    _, pictures = render(run, tiny, strength=0.7, prompts=PROMPTS[:1])
    assert torch.equal((pictures[2] * 255).round().to(torch.uint8), by_core[0])


def test_sampling_twice_gives_the_same_files_byte_for_byte(run, tiny, tmp_path_factory):
    render(run, tiny, prompts=PROMPTS[:1])
    first = kept(run)
    for path in (run.path / "grid").iterdir():
        path.unlink()
    render(run, tiny, prompts=PROMPTS[:1])
    assert kept(run) == first and len(first) == 3


def test_models_are_recognised_again_when_loaded_anew_and_so_nothing_is_sampled_twice(run, tiny):
    from impasto.nodes.embedded import TinyFluxLoader

    first, _ = render(run, tiny, prompts=PROMPTS[:1])
    times = {path: path.stat().st_mtime_ns for path in (run.path / "grid").iterdir()}
    again, _ = render(run, TinyFluxLoader.execute(seed=0).args, prompts=PROMPTS[:1])
    assert torch.equal(first, again)
    assert {path: path.stat().st_mtime_ns for path in (run.path / "grid").iterdir()} == times


def test_a_model_with_a_lora_on_it_or_another_schedule_is_another_model(run, tiny):
    from comfy_extras.nodes_model_advanced import ModelSamplingFlux
    from impasto.nodes.host import identity, models

    model, clip, vae = tiny
    patched = models.with_lora(model, run.checkpoints()[20] / "adapter.safetensors", 1.0)
    weaker = models.with_lora(model, run.checkpoints()[20] / "adapter.safetensors", 0.5)
    shifted = ModelSamplingFlux().patch(model, 3.0, 0.5, 512, 512)[0]
    identities = {identity.sampling_identity(one, clip, vae) for one in (model, patched, weaker, shifted)}
    assert len(identities) == 4
    assert identity.sampling_identity(model.clone(), clip, vae) == identity.sampling_identity(model, clip, vae)


def test_cancel_between_two_sampling_steps_keeps_the_pictures_done(run, tiny):
    import comfy.model_management
    from impasto.nodes.host import sampling

    asked = []
    paint = sampling.ComfyPainter.paint

    def cancelled_in_the_third(self, text, seed, on_step):
        asked.append(text)
        if len(asked) == 3:
            comfy.model_management.interrupt_current_processing()  # what ComfyUI's /interrupt does
        return paint(self, text, seed, on_step)

    sampling.ComfyPainter.paint = cancelled_in_the_third
    try:
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            render(run, tiny)
    finally:
        sampling.ComfyPainter.paint = paint
    assert len(asked) == 3 and len(kept(run)) == 2
    times = {path: path.stat().st_mtime_ns for path in (run.path / "grid").iterdir()}
    render(run, tiny)
    assert len(kept(run)) == 6
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())


def test_a_lora_of_another_model_is_refused_instead_of_showing_the_base_model_twice(tmp_path, tiny):
    save_checkpoint(tmp_path, 30, 0.5, tiny[0], width=3072)
    with pytest.raises(ModelError, match=r"step-000030.*2 LoRA layers.*0 of them fit.*Connect the model"):
        render(Run("dev", str(tmp_path)), tiny)
    assert not (tmp_path / "grid").exists()


def test_a_run_without_checkpoints_says_what_to_do(tmp_path, tiny):
    with pytest.raises(TrainingError, match="'empty' has no checkpoint"):
        render(Run("empty", str(tmp_path)), tiny)


def test_the_grid_comes_first_and_is_larger_than_its_pictures(run, tiny):
    grid, pictures = render(run, tiny, columns=2)
    assert pictures.shape[0] == 4  # base model and the last checkpoint
    assert grid.shape[0] == 1 and grid.shape[1] > 2 * SIZE and grid.shape[2] > 2 * SIZE


def test_the_loss_plot_of_a_run(run):
    from impasto.nodes.rendering import LossPlot

    (run.path / "metrics.jsonl").write_text('{"step": 1, "loss": 0.9}\n{"step": 2, "loss": 0.7}\n')
    assert LossPlot.execute(run=run).args[0].shape == (1, 1000, 1600, 3)


def test_prompt_set_node_gives_the_prompts():
    from impasto.nodes.prompt_sets import PromptSet

    assert PromptSet.execute(text="one\ntwo --d 9", seed=4).args[0] == prompt_set("one\ntwo --d 9", 4)


def test_the_node_says_what_it_shows_and_which_step_is_best(run, tiny):
    (run.path / "metrics.jsonl").write_text(
        '{"step": 10, "loss": 1.5, "held_out_loss": 1.25}\n{"step": 20, "loss": 1.4, "held_out_loss": 1.5}\n'
    )
    [said] = executed(run, tiny).ui["impasto"]
    best = "Step 10 has the lowest held-out loss (1.2500)."
    assert said.startswith(f"harbours: 2 prompts, base model to step 20. {best} 6 pictures. Kept as ")
    [said] = executed(run, tiny, at_steps="20", prompts=PROMPTS[:1]).ui["impasto"]
    assert said.startswith("harbours: 1 prompt, step 20. ") and said.count(best) == 1
