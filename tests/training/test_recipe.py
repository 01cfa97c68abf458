"""The smoke recipe: training, resuming, exporting and evaluating."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from training import checkpoints, evaluate, export, report
from training.contact_sheet import draw_prompts, plot_losses
from training.drawings import dataset
from training.loop import steps
from training.models import autoencoder, classifier, flux


def losses(run: Any, stage: Any) -> Any:
    return [
        line["loss"] for line in map(json.loads, (run / "log.jsonl").read_text().splitlines()) if line["stage"] == stage
    ]


def test_every_stage_saves_weights_and_samples(trained: Any) -> None:
    written = {path.name for path in trained.run.iterdir()}
    for stage in ("autoencoder", "transformer", "classifier"):
        assert f"{stage}.safetensors" in written
        assert losses(trained.run, stage if stage != "transformer" else "flow")
    assert {"samples.png", "autoencoder.png"} <= written


def test_the_losses_can_be_plotted(trained: Any, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is in the bench extra")
    plot_losses(trained.run / "log.jsonl", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_loss_falls(trained: Any) -> None:
    loss = losses(trained.run, "flow")[-1]
    print(f"flow matching loss {loss:.2f}")
    assert loss < 1.9  # predicting zero has a loss of two


def test_an_archive_contains_the_run(trained: Any, tmp_path: Path) -> None:
    archive = trained.run.parent / "archive"
    checkpoints.unpack_archive(archive, tmp_path)
    for name in ("autoencoder.safetensors", "transformer.safetensors", "transformer.json"):
        assert (tmp_path / name).read_bytes() == (trained.run / name).read_bytes()
    assert all(part.stat().st_size < 2**24 for part in archive.iterdir())


def test_missing_files_are_reported(trained: Any, drawings_zip: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"Cannot resume from .*no"):
        checkpoints.unpack_archive(tmp_path / "no", tmp_path / "run")
    with pytest.raises(SystemExit, match="needs an autoencoder"):
        steps.run(replace(trained, run=tmp_path / "run"), ("transformer",), drawings_zip, 0, None, tmp_path)


def test_a_completed_stage_is_not_trained_again(trained: Any, drawings_zip: Path) -> None:
    before = (trained.run / "transformer.safetensors").read_bytes()
    steps.run(trained, ("autoencoder", "transformer"), drawings_zip, 0, None, trained.run)
    assert (trained.run / "transformer.safetensors").read_bytes() == before


def test_an_interrupted_training_resumes(trained: Any, drawings_zip: Path, tmp_path: Path) -> None:
    for name in ("autoencoder.safetensors", "autoencoder.json", "transformer.safetensors"):
        (tmp_path / name).write_bytes((trained.run / name).read_bytes())
    checkpoints.write_progress(tmp_path, flux.NAME, spent=2.0)
    resumed = replace(trained, run=tmp_path, minutes=0.05)
    steps.run(resumed, ("transformer",), drawings_zip, float("inf"), None, tmp_path)
    assert checkpoints.read_progress(tmp_path, flux.NAME)["spent"] >= 0.05 * 60


@pytest.fixture(scope="module")
def exported(trained: Any) -> Any:
    return report.load(trained.run.parent / "folder")


def test_diffusers_draws_with_the_exported_folder(exported: Any) -> None:
    pipeline, metadata = exported
    assert type(pipeline).__name__ == "FluxPipeline"
    picture = report.draw(pipeline, metadata, ["a red ball"], [1], steps=2)[0]
    assert picture.size == (64, 64)


def test_the_exported_pipeline_draws_the_same_as_the_training_model(
    exported: Any, trained: Any, drawings_zip: Path
) -> None:
    pipeline, metadata = exported
    loaded = dataset.read(drawings_zip, trained.size)
    device = torch.device("cpu")
    model = flux.load(trained, loaded, device)
    vae = autoencoder.load(trained, device)
    ours = draw_prompts(trained, loaded, model, vae, ["a red ball"], steps=4)[0]
    theirs = report.draw(pipeline, metadata, ["a red ball"], [0], steps=4)[0]
    difference = np.abs(np.asarray(ours, float) - np.asarray(theirs, float)).mean()
    print(f"mean difference {difference:.2f} of 255")
    assert difference < 3  # the exported weights are rounded to bfloat16


def test_training_resumes_from_an_exported_folder(exported: Any, trained: Any, tmp_path: Path) -> None:
    export.restore(trained.run.parent / "folder", tmp_path)
    for name in ("autoencoder", "transformer"):
        assert checkpoints.read_progress(tmp_path, name) == checkpoints.read_progress(trained.run, name)
        kept, back = (load_file(run / f"{name}.safetensors") for run in (trained.run, tmp_path))
        assert kept.keys() == back.keys()
        assert all(torch.allclose(kept[key].float(), back[key].float(), rtol=2**-7, atol=1e-6) for key in kept)


def test_diffusers_default_padding_works(exported: Any) -> None:
    pipeline, metadata = exported
    assert report.draw(pipeline, {**metadata, "max_sequence_length": 512}, ["a red ball"], [1], steps=1)


def test_the_exported_folder_can_be_evaluated(exported: Any, trained: Any, drawings_zip: Path) -> None:
    pipeline, metadata = exported
    loaded = dataset.read(drawings_zip, trained.size)
    model = classifier.load(trained, loaded)
    figures = evaluate.measure(pipeline, metadata, model, loaded, steps=1, count=(4, 4))
    assert set(figures) == {
        f"{kind}_{share}" for kind in ("named", "unseen") for share in ("top1", "top5", "background")
    }
    assert all(0 <= share <= 1 for share in figures.values())
