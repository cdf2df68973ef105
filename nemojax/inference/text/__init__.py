"""Generation of text: lists of prompts, streams, conversations."""
