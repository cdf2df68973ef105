"""Runnable jobs: one file is one job, and its docstring is how to run it."""
