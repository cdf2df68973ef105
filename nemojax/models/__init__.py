"""Model configurations, presets, Flax modules and forward functions."""
