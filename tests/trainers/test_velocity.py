import pytest
import torch
from impasto.embedded.transformer_weights import transformer_weights
from impasto.errors import FeatureError
from impasto.trainers import adapter, flux_weights
from impasto.trainers.velocity import embed_sigma, patchify, position_ids, predict_velocity, unpatchify
from safetensors.torch import save_file

SIZE = {"hidden_size": 128, "double_blocks": 2, "single_blocks": 2, "context_width": 96, "pooled_width": 40}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("flux") / "flux.safetensors"
    save_file(transformer_weights(**SIZE), path)
    return path


def inputs(batch: int = 2, height: int = 8, width: int = 12):
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(batch, 16, height, width, generator=generator)
    t5 = torch.randn(batch, 7, SIZE["context_width"], generator=generator)
    sigma = torch.linspace(0.2, 0.9, batch)
    return latents, sigma, t5, torch.randn(batch, SIZE["pooled_width"], generator=generator)


def trained_step(path, checkpointing: bool, precision="fp32"):
    """Loss and adapter after one forward and backward pass from a fresh adapter."""
    transformer = flux_weights.load_transformer(path, precision)
    parameters = adapter.add_lora(transformer, 4, 4.0, "all linear", seed=0)
    loss = predict_velocity(transformer, *inputs(), checkpointing=checkpointing).square().mean()
    loss.backward()
    return loss, parameters


def test_patches_hold_channel_row_column_as_in_comfyui():
    from einops import rearrange

    latents = inputs()[0]
    tokens = patchify(latents)
    assert torch.equal(tokens, rearrange(latents, "b c (h ph) (w pw) -> b (h w) (c ph pw)", ph=2, pw=2))
    assert torch.equal(unpatchify(tokens, 4, 6), latents)


def test_positions_are_exact_rows_and_columns():
    ids = position_ids(3, 2, 300, torch.device("cpu"))
    assert ids.dtype == torch.float32
    assert ids[:3].tolist() == [[0, 0, 0]] * 3
    assert ids[3 + 300 + 299].tolist() == [0, 1, 299]
    assert len({tuple(row) for row in ids[3:].tolist()}) == 600


def test_a_batch_predicts_what_its_pictures_predict_alone(path):
    transformer = flux_weights.load_transformer(path, "fp32")
    latents, sigma, t5, pooled = inputs()
    with torch.no_grad():
        together = predict_velocity(transformer, latents, sigma, t5, pooled)
        alone = predict_velocity(transformer, latents[1:], sigma[1:], t5[1:], pooled[1:])
    assert torch.allclose(together[1:], alone, atol=1e-5)


def test_sigma_keeps_its_precision_under_a_bfloat16_base(path):
    transformer = flux_weights.load_transformer(path, "bf16")
    close = torch.tensor([0.7499, 0.7501])
    assert close[0].bfloat16() == close[1].bfloat16(), "these two are one number in bfloat16"
    first, second = embed_sigma(transformer, close, torch.bfloat16)
    assert not torch.equal(first, second)
    latents, _, t5, pooled = inputs()
    same = [torch.stack([tensor[0]] * 2) for tensor in (latents, t5, pooled)]
    with torch.no_grad():
        velocity = predict_velocity(transformer, same[0], close, *same[1:])
    assert not torch.equal(velocity[0], velocity[1])


def test_a_bfloat16_base_predicts_about_the_same_and_answers_in_the_latents_dtype(path):
    exact, rounded = (flux_weights.load_transformer(path, precision) for precision in ("fp32", "bf16"))
    with torch.no_grad():
        expected, velocity = (predict_velocity(transformer, *inputs()) for transformer in (exact, rounded))
    assert velocity.dtype == torch.float32
    assert (velocity - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_checkpointing_changes_neither_loss_nor_gradients(path, precision):
    plain_loss, plain = trained_step(path, checkpointing=False, precision=precision)
    loss, parameters = trained_step(path, checkpointing=True, precision=precision)
    assert torch.equal(plain_loss, loss)
    assert all(torch.equal(first.grad, second.grad) for first, second in zip(plain, parameters, strict=True))


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_b_of_the_adapter_learns_from_the_first_step(path, checkpointing, precision):
    _, parameters = trained_step(path, checkpointing, precision)
    torch.optim.AdamW(parameters, lr=1e-3).step()
    # The last single block's text tokens are thrown away, but its layers serve the image too: nothing is left out.
    assert all(lora_b.abs().max() > 0 for lora_b in parameters[1::2])


def test_checkpointing_keeps_less_for_the_backward_pass(path):
    def kept(checkpointing: bool) -> int:
        transformer = flux_weights.load_transformer(path, "fp32")
        adapter.add_lora(transformer, 4, 4.0, "attention", seed=0)
        sizes = []

        def pack(tensor):
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            predict_velocity(transformer, *inputs(), checkpointing=checkpointing)
        return sum(sizes)

    assert kept(True) < 0.3 * kept(False)


def test_odd_latents_are_refused(path):
    transformer = flux_weights.load_transformer(path, "fp32")
    with pytest.raises(FeatureError, match="multiples of 16 pixels"):
        predict_velocity(transformer, *inputs(width=13))


def test_latents_of_another_autoencoder_are_refused(path):
    transformer = flux_weights.load_transformer(path, "fp32")
    latents, *others = inputs()
    with pytest.raises(FeatureError, match="4 channels, this model takes 16"):
        predict_velocity(transformer, latents[:, :4], *others)
