"""Devices and memory: what there is, what is free, what holds it."""
