"""The fast lane: bytes on a socket to a complete request and back to its answer; knows no model."""
