"""What a run and a table of runs look like: curves, plots, the page."""
