"""The mesh, the collectives that layers use, and the orders of a pipeline."""
