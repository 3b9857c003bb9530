"""From a promised latency to a plan: ``foveal tune``.

In order of use: ``points`` (what can be chosen, what was measured), ``sweep`` (the session alone,
in a process of its own: ``sweeper``), ``serve`` (the real service under open arrivals), ``search``
(which of it when, and what to choose), ``journal`` (every measurement on disk, so that a repeated
command goes on), ``report``, ``pipeline`` (a model and a wish to a plan beside the model).
"""
