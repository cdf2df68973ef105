"""Statistics, tables, charts and the pages that show a run."""
