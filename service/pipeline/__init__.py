"""What happens to a row between decode and response; no HTTP, no BentoML, no Starlette.

``classifier`` is what protocols hold; it decodes, queues in ``batcher``, which runs ``session`` and
gives batches that ``postprocess`` turns into predictions.
"""
