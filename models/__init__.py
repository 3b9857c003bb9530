"""The contract: what a model is on disk, read by the online half and written by the offline half.

Imports only the standard library, numpy and the image decoder, so that both halves can stand on it.
Order of use: ``repository`` finds a version, ``artifact`` says what it is, ``onnx_file`` looks into
its graph without running it, ``image`` turns encoded bytes into the pixels that the graph takes.
"""
