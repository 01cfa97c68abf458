"""Arguments and options that several commands share, so that each is worded and typed in one place."""

from typing import Annotated

import typer

ChuteRef = Annotated[
    str,
    typer.Argument(
        metavar="CHUTE",
        help="The chute to load, as MODULE:NAME or FILE.py:NAME. NAME may be left out if it is 'chute'.",
    ),
]
DeployedName = Annotated[
    str, typer.Argument(metavar="NAME", help="A deployed chute, by its name, ID or slug, or by its module's name.")
]
ClusterAddress = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="Address of the cluster's head node.",
        show_default="RAY_ADDRESS, or the cluster on this machine",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
NoAuth = Annotated[bool, typer.Option("--no-auth", help="Disable API-key authentication.")]
