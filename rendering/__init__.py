"""Pictures of a training run: the progress grid and the loss plot; and batches of pictures from prompts and seeds."""
