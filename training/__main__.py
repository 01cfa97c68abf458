"""Train the bundled model. The recipe consists of steps, which can be spread over several short runs.

    data          download and render the drawings               (needs npm; minutes on a CPU)
    autoencoder   train the autoencoder                          (3 minutes on an H100)
    transformer   train the transformer and the text encoders    (37 minutes on an H100)
    classifier    train the classifier for the evaluation        (1 minute on an H100)
    samples       draw contact sheets and loss curves of the run
    export        write the folder that diffusers' FluxPipeline loads
    report        draw the contact sheet with the exported folder

Without step names, all steps run. Each step resumes from the files in the run's folder. `--minutes` stops a training
step and saves it; the classifier always trains to the end. `python -m training.evaluate` evaluates an exported folder.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

from training import config as recipes

STEPS = ("data", "autoencoder", "transformer", "classifier", "samples", "export", "report")


def main() -> None:
    """Run the steps that the command line names."""
    parser = argparse.ArgumentParser(
        prog="python -m training", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("steps", nargs="*", metavar="STEP", help=", ".join(STEPS))
    parser.add_argument("--recipe", choices=("full", "smoke"), default="full", help="smoke: a tiny model, in seconds")
    parser.add_argument("--folder", type=Path, help="the run's folder, for checkpoints and logs")
    parser.add_argument("--drawings", type=Path, default=Path("runs/drawings.zip"), help="archive of the drawings")
    parser.add_argument("--minutes", type=float, default=1e6, help="stop training and save after this time")
    parser.add_argument("--total", type=float, help="minutes of transformer training, summed over all runs")
    parser.add_argument("--vae-minutes", type=float, help="minutes of autoencoder training, summed over all runs")
    parser.add_argument("--pool-seconds", type=float, help="time for encoding the transformer's training set")
    parser.add_argument("--archive", type=Path, help="folder for a copy of the run, in files of at most 15 MiB")
    parser.add_argument("--resume", type=Path, help="resume from an archive or from an exported folder")
    parser.add_argument("--eager", action="store_true", help="do not compile the training steps")
    parser.add_argument("--target", type=Path, default=Path("src/imagegen/bundled"), help="folder that export writes")
    options = parser.parse_args()
    if unknown := set(options.steps) - set(STEPS):
        parser.error(f"Unknown step: {', '.join(sorted(unknown))}. The steps are {', '.join(STEPS)}.")
    config = recipes.SMOKE if options.recipe == "smoke" else recipes.FULL
    config = replace(
        config,
        run=options.folder or config.run,
        minutes=options.total or config.minutes,
        vae_minutes=options.vae_minutes or config.vae_minutes,
        pool_seconds=options.pool_seconds or config.pool_seconds,
        compile=config.compile and not options.eager,
    )
    from training import checkpoints, export
    from training.loop import steps

    deadline = time.monotonic() + options.minutes * 60
    if options.resume and not any(config.run.glob("*.safetensors")):
        exported = (options.resume / "model_index.json").exists()
        restore = export.restore if exported else checkpoints.unpack_archive
        restore(options.resume, config.run)
    steps.run(config, options.steps or STEPS, options.drawings, deadline, options.archive, options.target)


if __name__ == "__main__":
    main()
