"""Programs that measure the figures in the documentation. Each writes its result to `results/`."""
