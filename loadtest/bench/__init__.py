"""Benchmarks beside peers and stage by stage, and their results."""
