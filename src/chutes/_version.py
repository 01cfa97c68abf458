"""The version of the distribution, which pyproject.toml reads from here."""

version = "0.1.0"
