"""Inference with a trained model: the engine, text, scoring, the server."""
