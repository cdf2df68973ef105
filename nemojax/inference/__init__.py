"""What runs a trained model: cache, prefill and decode, sampling, scoring."""
