"""Training of a model: optimizer, the one step, the one loop, checkpoints."""
