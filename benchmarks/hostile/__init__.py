"""Hostile input, overload and disconnects against a `chutes run` process or a cluster; see `__main__`."""
