"""The online half: requests in, predictions out, batched, through onnxruntime.

Order of reading: ``errors`` (the dataflow and its errors), ``pipeline`` (what happens to a row,
without HTTP), ``lane`` (one HTTP request, answered before BentoML), ``protocols`` (what the bytes
of a request mean), ``app`` (wires everything into BentoML).
"""
