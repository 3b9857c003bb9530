"""Processes that share the port: their supervisor, and each worker's ties to it."""
