"""Weights of other systems in and out: Hugging Face safetensors."""
