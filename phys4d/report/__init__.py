"""The report of a run: one self-contained HTML page with curves, videos and a table of held-out errors."""
