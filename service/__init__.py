"""The online half: requests in, predictions out, batched, through onnxruntime.

Order of reading: ``errors`` (the dataflow and what can go wrong on it), ``pipeline`` (what happens
to a row, without HTTP), ``exchange`` and ``lane`` (one HTTP request, and the protocol that answers
it before BentoML), ``protocols`` (which bytes mean what), ``app`` (wires it into BentoML).
"""
