"""Other people's code, run in processes of its own with limits."""
