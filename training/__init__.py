"""How the bundled model was made: the whole recipe, runnable again with `python -m training`."""
