"""A graph becomes a version: wrapped, converted, proved, published.

    made elsewhere: adopt = options -> screen -> geometry, wrap -> sandbox (child) -> examine
    examine:        pictures, answers -> diagnose (setups) -> figures, calibrate
    from PyTorch:   from_torch = source -> torch_child -> transform, tensors -> adopt
    from training:  run -> precision, abstain
    both:           proof -> golden -> draft -> serving -> publish

``adopt`` is the whole way of a graph made elsewhere: ``options`` say how it wants its pixels,
``geometry`` puts that in the contract's terms, ``screen`` refuses what no classifier needs,
``wrap`` puts the contract around the graph (``interface``, ``scores``, ``heads``, ``batch``),
``sandbox`` runs it in a process of its own (``child``, ``waiting``), and ``examine`` compares it
with the user's own answers to their images. ``from_torch`` gets such a graph from a user's PyTorch
code, with what its transform says about pixels and its own ``answers``. ``training`` hands over the
graph of its network, which ``run`` runs by the service's session; ``precision`` adds int8 and fp16
files behind their gate, and ``abstain`` chooses the threshold below which the model abstains. Both
ways meet in ``proof`` (the graph answers as its reference does), ``golden`` (images that every load
replays), ``draft`` (what a version is made of), ``serving`` (is it worse than the version that
serves?) and
``publish``; ``errors`` lists what can go wrong. Needs the onnx package, never torch; the service
never imports this room.
"""
