"""Which checkpoint to keep: style, content, diversity and copies, each measured beside the base model."""
