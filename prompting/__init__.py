"""Prompts and seeds."""
