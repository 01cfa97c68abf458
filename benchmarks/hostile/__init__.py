"""Attacks on a real `chutes run` process: hostile input, overload, disconnects and a soak. See `__main__`."""
