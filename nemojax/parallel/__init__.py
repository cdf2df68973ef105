"""The mesh, the collectives that layers use, and the pipeline schedules."""
