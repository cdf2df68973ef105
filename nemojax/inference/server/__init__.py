"""A server that OpenAI's clients and the evaluation harness can talk to."""
