"""Datasets of a few small pictures on disk, and stand-ins for FLUX's encoders that are cheap and can be recognised."""

import numpy
import torch
from impasto.trainers.features import encoding as features
from impasto.trainers.features.encoding import Encoder
from PIL import Image

SIZES = [(192, 128), (128, 192), (192, 128), (128, 128), (400, 100), (192, 130)]


def raw_latent(pixels):
    """Sixteen different multiples of the mean of each 8 x 8 pixels: (16, height/8, width/8)."""
    height, width, _ = pixels.shape
    means = pixels.mean(-1).reshape(height // 8, 8, width // 8, 8).mean((1, 3))
    return means * torch.arange(1, 17).reshape(16, 1, 1)


class CountingEncoders:
    """Stand-ins for FLUX's VAE and CLIP that remember what they were given."""

    def __init__(self, vae="vae-1", clip="clip-1", dtype=torch.float32):
        self.pictures = []
        self.texts = []
        self.dtype = dtype
        self.autoencoder = Encoder(vae, self.encode_picture)
        self.text_encoder = Encoder(clip, self.encode_text)

    def encode_picture(self, pixels):
        self.pictures.append(pixels)
        return raw_latent(pixels)

    def encode_text(self, text):
        self.texts.append(text)
        random = torch.Generator().manual_seed(sum(map(ord, text)) * 1000 + len(text))
        t5 = torch.randn(max(256, len(text)), 32, generator=random).to(self.dtype)
        return t5, torch.randn(24, generator=random).to(self.dtype)


def make_dataset(folder, sizes=SIZES, dataset="", subset=""):
    """Pictures of `sizes` with captions, and a dataset.toml beside them; further lines for its two tables."""
    add_pictures(folder / "train", sizes)
    config = folder / "dataset.toml"
    write_config(config, dataset, subset)
    return config


def add_pictures(images, sizes=SIZES, seed=0, mode="RGB"):
    images.mkdir(parents=True)
    random = numpy.random.default_rng(seed)
    for number, (width, height) in enumerate(sizes):
        pixels = random.integers(0, 256, (height, width, len(mode)), dtype=numpy.uint8)
        Image.fromarray(pixels).save(images / f"picture-{number}.png")
        (images / f"picture-{number}.txt").write_text(f"caption {number}\n")


def write_config(config, dataset="", subset=""):
    config.write_text(
        "[[datasets]]\nresolution = 128\nenable_bucket = true\nmin_bucket_reso = 64\nmax_bucket_reso = 256\n"
        f"bucket_reso_steps = 32\n{dataset}\n[[datasets.subsets]]\n"
        f'image_dir = "train"\ncaption_extension = ".txt"\n{subset}\n'
    )


def encode(config, encoders=None, **arguments):
    encoders = encoders or CountingEncoders()
    return features.encode(config, encoders.autoencoder, encoders.text_encoder, **arguments)
