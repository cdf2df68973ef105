"""The whole recipe on the embedded toy world."""
