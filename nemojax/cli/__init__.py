"""Parts that every command shares: flags, devices, and how it ends."""
