"""How fast FLUX.1-dev is served: `python -m benchmarks.flux`, on a machine with a GPU."""
