"""What training takes of memory, and what to do where that is too much."""
