"""What reports are drawn with: the page, its styles, plots, progress. Imports none of ours."""
