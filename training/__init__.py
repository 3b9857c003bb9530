"""The offline half: from a dataset to a published model.

``dataset -> augment -> fit -> evaluate -> graph -> publish -> (export) -> models/<name>/<n>/``

The stage's word is the file's name. ``pipeline`` chains them into the two commands: ``train``
(dataset to evaluate, writes a folder in ``runs/``) and ``export`` (graph and publish, writes a
version into the model repository). Imports ``export`` and ``models``, never ``service``.
"""
