"""Rewards and log-probs of given sequences, of lists and of files."""
