"""Shared memory: segments, single-producer rings, waiting without bells, and a queue built from them."""
