"""Readers: a dataset's name becomes images in memory, divided into splits."""
