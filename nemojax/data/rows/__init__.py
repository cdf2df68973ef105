"""Formats of alignment data: detected, read, converted and written."""
