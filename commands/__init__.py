"""The command line: one function a command, one module a group of them; ``foveal.py`` gathers them.

A package is imported when a command that needs it runs, so `foveal predict` never waits for torch.
Exit codes: 0 done, 1 failed, 2 the command line is wrong, 3 finished, but some rows were rejected.
A user's mistake is one line on stderr, ``where: expected X, got Y; how to fix it``; a traceback is
always a bug.
"""
