"""How a graph runs: a session under a plan, on the CPU or a GPU."""
