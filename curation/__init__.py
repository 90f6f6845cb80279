"""Which pictures are good enough, how a dataset is composed, what it consists of, how it goes to other trainers."""
