"""Programs that make the figures in the documentation; each writes its run to `results/`."""
