"""Metrics: the families, and how the hot ones are observed."""
