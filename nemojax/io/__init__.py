"""Reads and writes files: rows, quarantine, work folders, parts, journals."""
