"""The folder of a training run, and the process that trains it."""
