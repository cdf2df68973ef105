"""Measures trained models with tasks of their own and of the evaluation harness."""
