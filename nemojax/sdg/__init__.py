"""Synthetic data generation: prompts, dialogues, preferences, judges."""
