"""Evaluation: tasks, verifiers and result tables."""
