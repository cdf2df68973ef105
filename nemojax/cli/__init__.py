"""What every command has in common: flags, devices, and how it ends."""
