from pathlib import Path
from typing import Any

import numpy as np
import torch

from training.captions import scenes, vocabulary
from training.captions.palette import COLOURS
from training.drawings import dataset
from training.drawings.compose import Composer


def sampler_of(drawings_zip: Path, seed: int = 0) -> Any:
    drawings = dataset.read(drawings_zip, 64)
    return scenes.SceneSampler(drawings.names, drawings.colour_names(), seed)


def test_a_seed_gives_the_same_scenes_again(drawings_zip: Path) -> None:
    names = dataset.read(drawings_zip, 64).names
    own = [None] * len(names)
    rows, texts = scenes.sample_scenes(names, own, 7, 20, 2)
    again, texts_again = scenes.sample_scenes(names, own, 7, 20, 2)
    assert np.array_equal(rows, again)
    assert texts == texts_again
    assert texts != scenes.sample_scenes(names, own, 8, 20, 2)[1]


def test_a_caption_mentions_every_attribute_of_its_scene(drawings_zip: Path) -> None:
    sampler = sampler_of(drawings_zip)
    for _ in range(300):
        scene = sampler.scene()
        if len(scene.objects) == 2:
            continue
        caption = sampler.caption(scene)
        one = scene.objects[0]
        names = sampler.colourless_names if one.colour else sampler.names
        assert any(name in caption for name in names[one.drawing]), caption
        if one.colour:
            assert any(word in caption for word in COLOURS[one.colour].words), caption
        for phrase in scene.background_phrases:
            assert phrase.lstrip(", ") in caption


def test_captions_fit_into_the_models_token_limit(drawings_zip: Path) -> None:
    names = dataset.read(drawings_zip, 64).names
    _, texts = scenes.sample_scenes(names, [None] * len(names), 1, 500, 2)
    assert max(len(text.split()) for each in texts for text in each) <= 30


def test_only_unknown_words_become_the_unknown_token(drawings_zip: Path) -> None:
    words = vocabulary.vocabulary(dataset.read(drawings_zip, 64).names)
    ids = vocabulary.encode(words, ["A red BALL, on the boxes", "a zorblatt"], 8)
    assert vocabulary.UNKNOWN_ID not in ids[0]
    assert ids[1, 1] == vocabulary.UNKNOWN_ID
    assert vocabulary.encode(words, ["balls"], 4).tolist() == vocabulary.encode(words, ["ball"], 4).tolist()


def test_captions_use_words_of_the_vocabulary(drawings_zip: Path) -> None:
    names = dataset.read(drawings_zip, 64).names
    words = vocabulary.vocabulary(names)
    _, texts = scenes.sample_scenes(names, [None] * len(names), 2, 300, 1)
    unknown = (vocabulary.encode(words, [each[0] for each in texts], 32) == vocabulary.UNKNOWN_ID).any(1).mean()
    assert unknown < 0.12  # nonsense words alone: 6 in 100 captions


def compose(drawings_zip: Path, **attributes: Any) -> Any:
    loaded = dataset.read(drawings_zip, 64)
    sampler = scenes.SceneSampler(loaded.names, loaded.colour_names(), 3)
    background = scenes._plain(COLOURS["white"])
    row = sampler.row(scenes.Scene([scenes.SceneObject(0, **attributes)], background))
    return (Composer(loaded, torch.device("cpu"))(torch.tensor([row]))[0] + 1) / 2


def test_an_object_is_drawn_at_its_position(drawings_zip: Path) -> None:
    drawn = compose(drawings_zip, x=0.25, y=0.75, scale=0.4)
    red = (drawn[1] < 0.5).float()
    rows, columns = red.sum(1), red.sum(0)
    y = float((torch.linspace(0, 1, 64) * rows).sum() / rows.sum())
    x = float((torch.linspace(0, 1, 64) * columns).sum() / columns.sum())
    assert abs(x - 0.25) < 0.03
    assert abs(y - 0.75) < 0.03


def test_recolouring_changes_the_object_and_nothing_else(drawings_zip: Path) -> None:
    plain, green = compose(drawings_zip, scale=0.8), compose(drawings_zip, scale=0.8, colour="green")
    middle = green[:, 32, 32]
    assert float((middle - torch.tensor(COLOURS["green"].rgb) / 255).abs().max()) < 0.15
    assert float((plain[:, 0, 0] - green[:, 0, 0]).abs().max()) < 0.1
