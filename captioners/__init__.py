"""Captions for a dataset, and the ledger that makes any captioner resumable."""
