"""Load on a running service, what came of it, and benchmarks beside other servers.

calls -> engines (sender or locust, in processes of their own) -> samples -> trial -> report

README.md says how to read the figures.
"""
