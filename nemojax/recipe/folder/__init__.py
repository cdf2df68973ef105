"""The whole recipe on a folder of data files."""
