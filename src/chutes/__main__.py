"""Run the command line as `python -m chutes`."""

from chutes.cli import app

app(prog_name="chutes")
