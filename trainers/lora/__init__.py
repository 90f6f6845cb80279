"""The LoRA: where it goes, what it computes, the files it is kept in."""
