"""Latents and text embeddings: encoded once, kept on disk, drawn for training."""
