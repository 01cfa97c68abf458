"""The whole recipe in small: it learns, stops, goes on, exports, and can be measured."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from training import classifier, drawings, evaluate, export, report, steps, storage, transformer


def losses(run, stage):
    return [
        line["loss"] for line in map(json.loads, (run / "log.jsonl").read_text().splitlines()) if line["stage"] == stage
    ]


def test_every_stage_leaves_its_weights_and_something_to_look_at(trained):
    made = {path.name for path in trained.run.iterdir()}
    for stage in ("autoencoder", "transformer", "classifier"):
        assert f"{stage}.safetensors" in made
        assert losses(trained.run, stage if stage != "transformer" else "flow")
    assert {"samples.png", "autoencoder.png", "curves.png"} <= made


def test_it_learns(trained):
    loss = losses(trained.run, "flow")[-1]
    print(f"flow matching loss {loss:.2f}")
    assert loss < 1.9  # two is what predicting nothing costs


def test_a_parcel_carries_the_run(trained, tmp_path):
    parcel = trained.run.parent / "parcel"
    storage.unpack(parcel, tmp_path)
    for name in ("autoencoder.safetensors", "transformer.safetensors", "transformer.json"):
        assert (tmp_path / name).read_bytes() == (trained.run / name).read_bytes()
    assert all(part.stat().st_size < 2**24 for part in parcel.iterdir())


def test_nothing_to_go_on_from_is_said(trained, archive, tmp_path):
    with pytest.raises(SystemExit, match="nothing to resume"):
        storage.unpack(tmp_path / "no", tmp_path / "run")
    with pytest.raises(SystemExit, match="needs an autoencoder"):
        steps.walk(replace(trained, run=tmp_path / "run"), ("transformer",), archive, 0, None, tmp_path)


def test_a_finished_training_is_not_repeated(trained, archive):
    before = (trained.run / "transformer.safetensors").read_bytes()
    steps.walk(trained, ("autoencoder", "transformer"), archive, 0, None, trained.run)
    assert (trained.run / "transformer.safetensors").read_bytes() == before


def test_a_cut_off_training_goes_on(trained, archive, tmp_path):
    from dataclasses import replace

    for name in ("autoencoder.safetensors", "autoencoder.json", "transformer.safetensors"):
        (tmp_path / name).write_bytes((trained.run / name).read_bytes())
    storage.write_progress(tmp_path, transformer.NAME, spent=3.0)
    again = replace(trained, run=tmp_path, minutes=0.08)
    steps.walk(again, ("transformer",), archive, float("inf"), None, tmp_path)
    assert storage.read_progress(tmp_path, transformer.NAME)["spent"] >= 0.08 * 60


@pytest.fixture(scope="module")
def exported(trained):
    return report.load(trained.run.parent / "folder")


def test_the_exported_folder_draws_with_diffusers(exported):
    pipeline, about = exported
    assert type(pipeline).__name__ == "FluxPipeline"
    picture = report.draw(pipeline, about, ["a red ball"], [1], steps=2)[0]
    assert picture.size == (64, 64)


def test_the_exported_pipeline_draws_what_training_drew(exported, trained, archive):
    from training import autoencoder
    from training.sheet import draw_prompts

    pipeline, about = exported
    loaded = drawings.load(archive, trained.size)
    device = torch.device("cpu")
    model = transformer.load(trained, loaded, device)
    vae = autoencoder.train(trained, loaded, device, deadline=0)
    ours = draw_prompts(trained, loaded, model, vae, ["a red ball"], steps=4)[0]
    theirs = report.draw(pipeline, about, ["a red ball"], [0], steps=4)[0]
    import numpy as np

    difference = np.abs(np.asarray(ours, float) - np.asarray(theirs, float)).mean()
    print(f"mean difference {difference:.2f} of 255")
    assert difference < 3  # the exported weights are rounded to bfloat16


def test_an_exported_folder_can_be_trained_further(exported, trained, archive, tmp_path):
    export.restore(trained.run.parent / "folder", tmp_path)
    for name in ("autoencoder", "transformer"):
        assert storage.read_progress(tmp_path, name) == storage.read_progress(trained.run, name)
        kept, back = (load_file(run / f"{name}.safetensors") for run in (trained.run, tmp_path))
        assert kept.keys() == back.keys()
        assert all(torch.allclose(kept[key].float(), back[key].float(), rtol=2**-7, atol=1e-6) for key in kept)


def test_padding_to_the_default_length_still_draws(exported):
    pipeline, about = exported
    assert report.draw(pipeline, {**about, "max_sequence_length": 512}, ["a red ball"], [1], steps=1)


def test_the_evaluation_runs_on_it(exported, trained, archive):
    pipeline, about = exported
    loaded = drawings.load(archive, trained.size)
    judge = classifier.load(trained, loaded)
    figures = evaluate.measure(pipeline, about, judge, loaded, steps=1, count=(4, 4))
    assert set(figures) == {f"{kind}_{what}" for kind in ("named", "unseen") for what in ("top1", "top5", "background")}
    assert all(0 <= share <= 1 for share in figures.values())
