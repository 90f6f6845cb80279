"""How many tokens FLUX's two text encoders read, start and end included."""

CLIP_L = 77  # openai/clip-vit-large-patch14: max_position_embeddings
T5_DEV, T5_SCHNELL = 512, 256  # black-forest-labs/flux util.py, load_t5: FLUX.1-dev, FLUX.1-schnell
