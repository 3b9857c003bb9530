"""Load on a running service, and a report of the results.

calls -> engines (sender or locust, in processes of their own) -> samples -> trial -> report

README.md says how to read the figures.
"""
