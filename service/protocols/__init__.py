"""One thin module for each protocol: it reads requests and writes answers; all share one engine."""
