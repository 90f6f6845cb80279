"""Which pictures are good enough, how a dataset is composed, what it consists of, how it is handed to other trainers."""
