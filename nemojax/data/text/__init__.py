"""Tokenizers and chat templates: conversations to tokens and back."""
