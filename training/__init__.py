"""The training recipe of the bundled model. `python -m training` runs it; README.md describes it."""
