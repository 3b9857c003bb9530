"""Adopt an ONNX image classifier that was made elsewhere: it becomes a version like any other.

``options -> screen -> wrap -> verify -> publish``. Needs the onnx package, never torch; the service
never imports this folder.
"""
