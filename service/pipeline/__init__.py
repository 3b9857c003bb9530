"""What happens to a row between decode and response; no HTTP, no BentoML, no Starlette.

``classifier`` is what protocols hold; it decodes, queues in ``batcher``, which runs ``session`` and
gives batches that ``postprocess`` turns into predictions.

A session follows one of the ``plans``; ``devices`` says which device is here. Off the CPU, rows are
filled up to ``buckets`` and run in ``binding``'s buffers, which lie in a device's ``memory``; all
sessions on a GPU share its ``accelerator``: one thread, two streams of ``cuda_runtime``, a budget.
"""
