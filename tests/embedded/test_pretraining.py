"""The scripts that make the pretrained weights: what they read, that they go on after a stop, what they write."""

import pytest
import torch
from impasto.embedded import (
    export_weights,
    judges,
    learning,
    tiny_flux,
    train_decoder,
    train_transformer,
    training_pictures,
)
from impasto.embedded.taesd import worked_out
from impasto.embedded.training_latents import Latents, latents_of
from impasto.errors import TrainingError
from impasto.trainers.flux import loading
from safetensors import safe_open


@pytest.fixture(scope="module")
def painted(tmp_path_factory):
    """A folder with eight scenes in both finishes, eight in one, and four held out."""
    folder = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_pictures, "SHARD", 8)
        patch.setattr(training_pictures, "HELD_OUT_SCENES", 4)
        training_pictures.paint_training_pictures(folder / "pictures", scenes=16, both=8)
    return folder


@pytest.fixture
def folder(painted, tmp_path):
    (tmp_path / "pictures").symlink_to(painted / "pictures")
    return tmp_path


def groups(folder, finish="plain"):
    return [group for group in training_pictures.training_pictures(folder / "pictures") if group.finish == finish]


def test_pictures_are_of_several_shapes_and_no_training_scene_is_held_out(painted):
    found = list(training_pictures.training_pictures(painted / "pictures"))
    trained = {int(index) for group in found for index in group.indices}
    judged = {
        int(index) for group in training_pictures.held_out_pictures(painted / "pictures") for index in group.indices
    }
    assert len(trained) == 16 and len(judged) == 4 and not trained & judged
    assert sum(len(group.pixels) for group in found if group.finish == "impressionist") == 8
    assert len({group.pixels.shape[1:3] for group in found}) > 1


def test_painting_again_paints_nothing(painted, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("painted again")

    monkeypatch.setattr(training_pictures, "paint", refuse)
    monkeypatch.setattr(training_pictures, "SHARD", 8)
    training_pictures.paint_training_pictures(painted / "pictures", scenes=16, both=8)


def test_the_encoder_as_one_matrix_gives_its_latents(painted):
    pixels = groups(painted)[0].pixels[:2]
    assert torch.allclose(
        latents_of(pixels), worked_out().encode(learning.as_tensor(pixels)), atol=5e-3
    )  # the lifts round


def test_every_picture_is_told_its_own_caption_a_short_one_or_none(painted):
    latents = Latents(groups(painted))
    assert latents.prompts[:2] == ["", "a landscape"]
    told = torch.cat([latents.batch(8, torch.Generator().manual_seed(seed))[1] for seed in range(100)])
    shares = [(told == 0).float().mean(), ((told > 0) & (told < 5)).float().mean(), (told >= 5).float().mean()]
    assert [share.item() for share in shares] == pytest.approx([0.10, 0.05, 0.85], abs=0.04)


def test_a_decoder_stopped_and_resumed_is_the_one_that_ran_through(folder, painted, monkeypatch, tmp_path_factory):
    monkeypatch.setattr(train_decoder, "SAVE_EVERY", 2)
    monkeypatch.setattr(train_decoder, "FALLING", 1e-9)  # or the shorter training would fall earlier
    train_decoder.train(folder, 2)
    train_decoder.train(folder, 4)
    whole = tmp_path_factory.mktemp("whole")
    (whole / "pictures").symlink_to(painted / "pictures")
    train_decoder.train(whole, 4)
    first, second = (learning.load_state(place / "decoder.pt") for place in (folder, whole))
    assert first["step"] == second["step"] == 4
    assert all(torch.equal(first["average"][key], second["average"][key]) for key in first["average"])
    assert (folder / "decoder.jpg").is_file()


def transformer_training(folder, latents, steps, guidance_steps):
    random = torch.Generator().manual_seed(3)
    count = len(latents.prompts)
    prompts = train_transformer.Prompts(
        torch.randn(count, 64, 128, generator=random), torch.randn(count, 64, generator=random)
    )
    return train_transformer.Training(folder, prompts, steps, guidance_steps)


def test_a_transformer_stopped_between_its_phases_and_resumed_is_the_one_that_ran_through(tmp_path, painted):
    latents = Latents(groups(painted))
    (tmp_path / "stopped").mkdir()
    stopped = transformer_training(tmp_path / "stopped", latents, 2, 2)
    for _ in range(3):
        stopped.step(latents)
    stopped.save()
    resumed = transformer_training(tmp_path / "stopped", latents, 2, 2)
    assert resumed.done == 3 and resumed.teacher is not None
    whole = transformer_training(tmp_path, latents, 2, 2)
    for _ in range(3):
        whole.step(latents)
    assert whole.step(latents) == resumed.step(latents)
    assert all(torch.equal(resumed.average.values[key], whole.average.values[key]) for key in whole.average.values)


@torch.no_grad()
def test_before_the_second_phase_every_guidance_means_what_one_did():
    transformer = train_transformer.new_transformer()
    embed = transformer.time_text_embed
    sinusoids = embed.time_proj(torch.tensor([1000.0, 2500.0, 5000.0]))
    one, *others = embed.guidance_embedder(sinusoids)
    assert not torch.allclose(one, others[0], atol=1e-2)
    train_transformer.guidance_means_nothing(transformer)
    assert all(torch.allclose(one, flat, atol=1e-5) for flat in embed.guidance_embedder(sinusoids))


def test_the_first_steps_lower_the_loss_and_move_every_matrix(tmp_path, painted, monkeypatch):
    monkeypatch.setattr(train_transformer, "WARM_UP", 2)
    latents = Latents(groups(painted))
    training = transformer_training(tmp_path, latents, 40, 0)
    before = {key: value.clone() for key, value in training.master.state_dict().items()}
    losses = [training.step(latents) for _ in range(12)]
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])
    after = training.master.state_dict()
    still = {key for key in before if before[key].ndim == 2 and torch.equal(before[key], after[key])}
    assert not still


def test_what_is_exported_is_read_again_by_the_trainers_own_loader(folder, monkeypatch):
    transformer = train_transformer.new_transformer()
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter)
    train_transformer.guidance_means_nothing(transformer)  # as it is without a teacher
    learning.save_state(folder / "transformer.pt", {"average": transformer.state_dict(), "teacher": {}, "step": 7})
    learning.save_state(folder / "decoder.pt", {"average": train_decoder.beginning().state_dict(), "step": 5})
    shipped = {part: folder / "weights" / f"{part}.safetensors" for part in export_weights.PRETRAINED}
    monkeypatch.setattr(export_weights, "PRETRAINED", shipped)
    monkeypatch.setattr(export_weights, "JUDGES", folder / "weights" / "judges.safetensors")
    export_weights.export(folder)
    fitted = judges.load(folder / "weights" / "judges.safetensors")
    assert fitted["finish"].labels == ("impressionist", "plain") and len(fitted["composition"].labels) > 1
    loaded = loading.load_transformer(shipped["transformer"], "bf16").state_dict()
    assert all(
        torch.allclose(value, loaded[key].bfloat16(), rtol=0.01)
        for key, value in transformer.bfloat16().state_dict().items()
    )
    with safe_open(shipped["transformer"], "pt") as file:
        assert '"steps": 7' in file.metadata()[tiny_flux.METADATA_KEY]


def test_without_pictures_or_states_the_scripts_say_what_to_run_first(tmp_path):
    with pytest.raises(TrainingError, match="embedded.training_pictures"):
        train_decoder.train(tmp_path, 1)
    with pytest.raises(TrainingError, match="embedded.train_transformer"):
        export_weights.export(tmp_path)
    with pytest.raises(TrainingError, match="embedded.train_decoder"):
        train_decoder.trained(tmp_path)


def test_the_learning_rate_warms_up_stays_level_and_falls():
    rates = [learning.learning_rate(step, 100, 1.0, 10, 0.4, last=0.2) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and rates[10] == rates[59] == 1.0
    assert rates[80] == pytest.approx(0.6) and rates[100] == pytest.approx(0.2)
