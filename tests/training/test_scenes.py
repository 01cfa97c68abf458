import numpy as np
import torch

from training import drawings, scenes, vocabulary
from training.compose import Composer
from training.palette import COLOURS


def writer(archive, seed=0):
    return scenes.Writer.of(drawings.load(archive, 64), seed)


def test_a_seed_thinks_up_the_same_scenes_again(archive):
    names = drawings.load(archive, 64).names
    own = [None] * len(names)
    rows, texts = scenes.think_up(names, own, 7, 20, 2)
    again, texts_again = scenes.think_up(names, own, 7, 20, 2)
    assert np.array_equal(rows, again)
    assert texts == texts_again
    assert texts != scenes.think_up(names, own, 8, 20, 2)[1]


def test_what_a_scene_settles_is_in_its_caption(archive):
    author = writer(archive)
    for _ in range(300):
        scene = author.scene()
        if len(scene.things) == 2:
            continue
        caption = author.caption(scene)
        thing = scene.things[0]
        names = author.unpainted if thing.paint else author.names
        assert any(name in caption for name in names[thing.drawing]), caption
        if thing.paint:
            assert any(word in caption for word in COLOURS[thing.paint].words), caption
        for words in scene.ground_words:
            assert words.lstrip(", ") in caption


def test_no_caption_is_longer_than_the_model_reads(archive):
    names = drawings.load(archive, 64).names
    _, texts = scenes.think_up(names, [None] * len(names), 1, 500, 2)
    assert max(len(text.split()) for each in texts for text in each) <= 30


def test_known_words_are_known_and_strange_ones_are_not(archive):
    words = vocabulary.vocabulary(drawings.load(archive, 64).names)
    ids = vocabulary.encode(words, ["A red BALL, on the boxes", "a zorblatt"], 8)
    assert vocabulary.UNKNOWN_ID not in ids[0]
    assert ids[1, 1] == vocabulary.UNKNOWN_ID
    assert vocabulary.encode(words, ["balls"], 4).tolist() == vocabulary.encode(words, ["ball"], 4).tolist()


def test_every_phrase_is_in_the_vocabulary(archive):
    names = drawings.load(archive, 64).names
    words = vocabulary.vocabulary(names)
    _, texts = scenes.think_up(names, [None] * len(names), 2, 300, 1)
    unknown = (vocabulary.encode(words, [each[0] for each in texts], 32) == vocabulary.UNKNOWN_ID).any(1).mean()
    assert unknown < 0.12  # strange names alone: 6 in 100 captions


def picture(archive, **thing):
    loaded = drawings.load(archive, 64)
    author = scenes.Writer.of(loaded, 3)
    where = thing.pop("drawing", 0)
    ground = scenes._plain(COLOURS["white"])
    row = author.row(scenes.Scene([scenes.Thing(where, **thing)], ground))
    return (Composer(loaded, torch.device("cpu"))(torch.tensor([row]))[0] + 1) / 2


def test_a_thing_stands_where_its_scene_says(archive):
    drawn = picture(archive, x=0.25, y=0.75, scale=0.4)
    red = (drawn[1] < 0.5).float()
    rows, columns = red.sum(1), red.sum(0)
    y = float((torch.linspace(0, 1, 64) * rows).sum() / rows.sum())
    x = float((torch.linspace(0, 1, 64) * columns).sum() / columns.sum())
    assert abs(x - 0.25) < 0.03
    assert abs(y - 0.75) < 0.03


def test_paint_changes_the_colour_and_nothing_else(archive):
    plain, blue = picture(archive, scale=0.8), picture(archive, scale=0.8, paint="green")
    middle = blue[:, 32, 32]
    assert float((middle - torch.tensor(COLOURS["green"].rgb) / 255).abs().max()) < 0.15
    assert float((plain[:, 0, 0] - blue[:, 0, 0]).abs().max()) < 0.1
