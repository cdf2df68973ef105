"""What things cost: measured, never asserted."""
