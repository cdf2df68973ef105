"""Batches of examples, packed into rows, in the order of a seed."""
