"""Decoding with a dense cache, all prompts to their end."""
