"""What happens to a row between decode and response; no HTTP, no BentoML, no Starlette.

Protocols hold a ``classifier``. It decodes images and queues their rows in a ``batcher``, which
runs a session on batches of ``job``; ``postprocess`` turns their outputs into predictions. A
session is known here only by its protocol, its outputs and its plan.
"""
