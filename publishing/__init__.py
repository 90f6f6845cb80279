"""A LoRA made ready for other people: a folder with a card and pictures, and its way to the Hugging Face Hub."""
