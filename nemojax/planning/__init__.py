"""Plans of runs on any mesh without the hardware: do they fit, how fast, how long."""
