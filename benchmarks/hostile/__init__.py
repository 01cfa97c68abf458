"""Attacks on a real `chutes run` process, or a cluster. See `__main__`."""
