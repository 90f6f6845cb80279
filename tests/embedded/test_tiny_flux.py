"""The tiny FLUX's files: the same everywhere, written once, mended when damaged; its transformer at any size."""

import hashlib

import pytest
import torch
from impasto.embedded import tiny_flux
from impasto.embedded.tiny_flux import METADATA_KEY, VERSION, make_tiny_flux
from impasto.embedded.transformer_weights import HEAD_WIDTH, transformer_weights, velocity_coefficient
from impasto.errors import ModelError
from safetensors import safe_open
from safetensors.torch import load_file, save_file

# Change VERSION in embedded/tiny_flux.py whenever one of these changes: people's folders hold the old files.
DIGESTS_OF_VERSION_2 = {
    "transformer": "5a04d00b53bc114b",
    "clip_l": "d7301927a3afcdfc",
    "t5": "cab735fd71f4f685",
    "autoencoder": "59f7fcf6cdea344f",
}


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return make_tiny_flux(tmp_path_factory.mktemp("models"))


def digests(family):
    return {part: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for part, path in vars(family).items()}


def weights_digest(path):
    digest = hashlib.sha256()
    for key, tensor in sorted(load_file(path).items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode() + tensor.numpy().tobytes())
    return digest.hexdigest()[:16]


def test_the_weights_are_these_bytes_on_every_machine(family):
    assert VERSION == 2
    assert {part: weights_digest(path) for part, path in vars(family).items()} == DIGESTS_OF_VERSION_2


def test_the_same_seed_gives_the_same_files(family, tmp_path):
    assert digests(make_tiny_flux(tmp_path)) == digests(family)


def test_the_files_lie_in_a_folder_of_their_own_under_names_of_their_own(family):
    assert family.transformer.parent.name == "tiny-flux-2-0"
    assert sorted(path.name for path in family.transformer.parent.iterdir()) == [
        "autoencoder.safetensors",
        "clip_l.safetensors",
        "t5.safetensors",
        "transformer.safetensors",
    ]


def test_files_that_are_there_are_left_alone(family):
    before = {path: path.stat().st_mtime_ns for path in vars(family).values()}
    again = make_tiny_flux(family.transformer.parent.parent)
    assert again == family
    assert {path: path.stat().st_mtime_ns for path in vars(again).values()} == before


def test_a_truncated_a_foreign_and_a_missing_file_are_made_again(tmp_path):
    family = make_tiny_flux(tmp_path)
    whole = digests(family)
    family.t5.write_bytes(family.t5.read_bytes()[:-100])
    save_file({"other": torch.zeros(1)}, family.clip_l)
    family.autoencoder.unlink()
    assert digests(make_tiny_flux(tmp_path)) == whole


def test_a_file_of_an_older_version_is_made_again(tmp_path):
    family = make_tiny_flux(tmp_path)
    whole = digests(family)
    weights = load_file(family.autoencoder)
    save_file(weights, family.autoencoder, {METADATA_KEY: '{"part": "autoencoder", "seed": 0, "version": 0}'})
    assert digests(make_tiny_flux(tmp_path)) == whole


def test_another_seed_makes_another_family_beside_the_first(family):
    other = make_tiny_flux(family.transformer.parent.parent, seed=7)
    assert other.transformer.parent != family.transformer.parent
    assert digests(other)["transformer"] != digests(family)["transformer"]
    assert digests(other)["autoencoder"] != digests(family)["autoencoder"]  # its description names the seed


def test_the_whole_family_is_small(family):
    assert sum(path.stat().st_size for path in vars(family).values()) < 64 * 2**20
    with safe_open(family.transformer, "pt") as file:
        parameters = sum(file.get_tensor(key).numel() for key in file.keys())  # noqa: SIM118, it is no dict
    assert 2e6 < parameters < 10e6


@pytest.mark.parametrize("size", [(128, 1, 1), (256, 2, 4), (384, 1, 2)])
def test_weights_of_any_size_are_whole_finite_and_contiguous(size):
    hidden, double, single = size
    weights = transformer_weights(
        hidden_size=hidden, double_blocks=double, single_blocks=single, context_width=32, pooled_width=24, seed=5
    )
    assert all(torch.isfinite(tensor).all() and tensor.is_contiguous() for tensor in weights.values())
    assert all(tensor.dtype is torch.float32 for tensor in weights.values())
    assert weights["img_in.weight"].shape == (hidden, 64)
    assert weights["txt_in.weight"].shape == (hidden, 32)
    assert weights["vector_in.in_layer.weight"].shape == (hidden, 24)
    assert f"double_blocks.{double - 1}.img_mlp.2.weight" in weights
    assert f"double_blocks.{double}.img_mlp.2.weight" not in weights
    assert weights[f"single_blocks.{single - 1}.linear2.weight"].shape == (hidden, 5 * hidden)


@pytest.mark.parametrize("wrong", [{"hidden_size": HEAD_WIDTH + 1}, {"hidden_size": 0}, {"single_blocks": 0}])
def test_a_size_that_flux_cannot_have_is_refused(wrong):
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        transformer_weights(**wrong)


@pytest.mark.parametrize("variance", [0.25, 1.0, 4.0])
def test_the_velocity_coefficient_is_the_best_linear_guess(variance):
    noise, data = torch.randn(2, 100_000, generator=torch.Generator().manual_seed(0)).double()
    data *= variance**0.5
    for sigma in (0.1, 0.5, 0.8):
        noisy = (1 - sigma) * data + sigma * noise
        best = (noisy * (noise - data)).mean() / (noisy * noisy).mean()
        assert velocity_coefficient(sigma, variance) == pytest.approx(best.item(), abs=0.03)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    return tiny_flux.pretrained_tiny_flux(tmp_path_factory.mktemp("models"))


def test_the_pretrained_family_is_the_shipped_weights_and_what_they_were_taught_with(family, pretrained):
    shipped = load_file(tiny_flux.PRETRAINED["transformer"])
    written = load_file(pretrained.transformer)
    assert written.keys() == shipped.keys() and all(torch.equal(written[key], shipped[key]) for key in shipped)
    for part in ("clip_l", "t5"):
        assert weights_digest(vars(pretrained)[part]) == weights_digest(vars(family)[part])
    seeded, learned = load_file(family.autoencoder), load_file(pretrained.autoencoder)
    assert seeded.keys() == learned.keys()
    changed = {key.split(".")[0] for key in seeded if not torch.equal(seeded[key], learned[key])}
    assert changed == {"taesd_decoder"}


def test_pretrained_files_that_are_there_are_left_alone_and_a_damaged_one_is_mended(tmp_path):
    made = tiny_flux.pretrained_tiny_flux(tmp_path)
    whole, before = digests(made), made.t5.stat().st_mtime_ns
    made.transformer.write_bytes(made.transformer.read_bytes()[:-100])
    assert tiny_flux.pretrained_tiny_flux(tmp_path) == made
    assert digests(made) == whole and made.t5.stat().st_mtime_ns == before


def test_other_weights_shipped_later_lie_in_a_folder_of_their_own(pretrained, tmp_path, monkeypatch):
    later = tmp_path / "decoder.safetensors"
    save_file({key: value + 1 for key, value in load_file(tiny_flux.PRETRAINED["decoder"]).items()}, later)
    monkeypatch.setitem(tiny_flux.PRETRAINED, "decoder", later)
    other = tiny_flux.pretrained_tiny_flux(pretrained.transformer.parent.parent)
    assert other.transformer.parent != pretrained.transformer.parent


def test_without_the_shipped_weights_it_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(tiny_flux.PRETRAINED, "decoder", tmp_path / "decoder.safetensors")
    with pytest.raises(ModelError, match=r"decoder\.safetensors is missing.*'seeded'"):
        tiny_flux.pretrained_tiny_flux(tmp_path)
