"""Pure functions from arrays to loss sums, weights and metrics."""
