"""Continuous batching over a key/value cache in blocks."""
