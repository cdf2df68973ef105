"""Text of tokens as they come, and a chat in the terminal."""
