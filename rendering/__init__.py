"""Pictures of a training run: the progress grid and the loss plot."""
