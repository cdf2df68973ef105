"""Weights of other systems: Hugging Face and PEFT in and out, NeMo in."""
