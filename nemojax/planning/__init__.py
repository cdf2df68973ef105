"""Will it fit, how fast, how long: any model on any mesh, without the hardware."""
