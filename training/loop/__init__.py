"""Training: one module for each network, with the optimizer, the schedule and the pool of encoded scenes."""
