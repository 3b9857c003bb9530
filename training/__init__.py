"""The offline half: from a dataset to a published model.

``dataset -> augment -> fit -> evaluate -> graph -> publish -> (export) -> models/<name>/<n>/``

The stage's word is the file's name. ``pipeline`` chains them into the command line's two steps:
``train`` (dataset to evaluate, leaves a folder in ``runs/``) and ``export`` (graph and publish,
leaves a version in the model repository). Imports ``export`` and ``models``, never ``service``.
"""
