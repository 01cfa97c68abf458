"""`python -m chutes` is `chutes`."""

from chutes.cli import app

app(prog_name="chutes")
