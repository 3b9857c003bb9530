"""What reports are made with: the page, its numbers, plots, progress. Imports no other room."""
