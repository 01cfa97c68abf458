"""`python -m training`: the recipe from the drawings to the model, in steps that can be cut into short runs.

    data          fetch and render the drawings                  (needs npm; minutes of CPU)
    autoencoder   pictures <-> latents                           (3 minutes of an H100)
    transformer   latents <-> captions, then guidance           (37 minutes of an H100)
    classifier    the judge for the evaluation                   (1 minute of an H100)
    samples       contact sheet and loss curves of the run so far
    export        the folder that diffusers' FluxPipeline loads
    report        the contact sheet drawn by the exported folder (`python -m training.evaluate` measures it)

With no step named, all of them. Every step goes on from what the run's folder holds, and `--minutes` stops it cleanly,
but for the classifier, which is done in one go.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

from training import config as recipes

STEPS = ("data", "autoencoder", "transformer", "classifier", "samples", "export", "report")


def main() -> None:
    """Run the steps named on the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("steps", nargs="*", metavar="STEP", help=", ".join(STEPS))
    parser.add_argument("--recipe", choices=("full", "smoke"), default="full")
    parser.add_argument("--folder", type=Path, help="folder of this run's checkpoints")
    parser.add_argument("--drawings", type=Path, default=Path("runs/drawings.zip"), help="the packed drawings")
    parser.add_argument("--minutes", type=float, default=1e6, help="stop and save after this long, whatever the step")
    parser.add_argument("--total", type=float, help="minutes of the transformer's whole training, over all runs")
    parser.add_argument("--vae-minutes", type=float, help="minutes of the autoencoder's training")
    parser.add_argument("--pool-seconds", type=float, help="time to encode the transformer's scenes in")
    parser.add_argument("--parcel", type=Path, help="keep a copy of the run there, in files of at most 15 MiB")
    parser.add_argument("--resume", type=Path, help="a parcel or an exported folder to go on from")
    parser.add_argument("--eager", action="store_true", help="do not compile the training steps")
    parser.add_argument("--target", type=Path, default=Path("src/imagegen/bundled"), help="where export writes to")
    options = parser.parse_args()
    if unknown := set(options.steps) - set(STEPS):
        parser.error(f"no such step: {', '.join(sorted(unknown))}")
    config = recipes.SMOKE if options.recipe == "smoke" else recipes.FULL
    config = replace(
        config,
        run=options.folder or config.run,
        minutes=options.total or config.minutes,
        vae_minutes=options.vae_minutes or config.vae_minutes,
        pool_seconds=options.pool_seconds or config.pool_seconds,
        compile=config.compile and not options.eager,
    )
    from training import export, steps, storage

    deadline = time.monotonic() + options.minutes * 60
    if options.resume and not any(config.run.glob("*.safetensors")):
        exported = (options.resume / "model_index.json").exists()
        (export.restore if exported else storage.unpack)(options.resume, config.run)
    steps.walk(config, options.steps or STEPS, options.drawings, deadline, options.parcel, options.target)


if __name__ == "__main__":
    main()
