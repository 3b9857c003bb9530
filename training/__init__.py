"""The offline half: from a dataset to a published model.

``dataset -> augment -> fit -> evaluate -> export -> verify -> publish -> models/<name>/<n>/``

The stage's word is the file's name. ``pipeline`` chains them into the two steps that the command
line offers: ``train`` (dataset to evaluate, leaves a folder in ``runs/``) and ``export`` (export to
publish, leaves a version in the model repository). Imports ``models``, never ``service``.
"""
