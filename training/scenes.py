"""Scenes: what stands where, in which colours, on what ground; and captions for them, as people write them.

A scene is one row of numbers (COLUMNS), which `compose` turns into pixels on the GPU, and a few captions. Whatever a
caption does not say is drawn at random, so that seeds differ; whatever it says is what the picture shows.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from training.drawings import Drawings, colour_word
from training.palette import COLOURS, GROUNDS, PAINTS, SKIES, Colour, Surroundings
from training.phrases import (
    BESIDE,
    CLAUSES,
    DOING,
    FAVOURITES,
    OPENINGS,
    PLACES,
    QUALITIES,
    SIZES,
    STRANGE_SYLLABLES,
    STYLES,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

THING_COLUMNS = ("drawing", "x", "y", "scale", "angle", "mirror", "painted", "red", "green", "blue")
GROUND_COLUMNS = ("top_r", "top_g", "top_b", "bottom_r", "bottom_g", "bottom_b", "horizon", "sharpness")
COLUMNS = len(THING_COLUMNS) * 2 + len(GROUND_COLUMNS)


@dataclass
class Thing:
    """One drawing in a scene, and what may be said of it."""

    drawing: int
    x: float = 0.5
    y: float = 0.5
    scale: float = 0.8
    angle: float = 0.0  # radians
    mirror: bool = False
    paint: str | None = None  # a colour the drawing was given
    size: str | None = None
    place: str | None = None

    def row(self, rng: random.Random) -> list[float]:
        """The numbers `compose` takes."""
        rgb = _jitter(COLOURS[self.paint].rgb, rng, 8) if self.paint else (0.0, 0.0, 0.0)
        here = [self.drawing, self.x, self.y, self.scale, self.angle, self.mirror, self.paint is not None]
        return [*map(float, here), *rgb]


@dataclass
class Scene:
    """Things on a ground, and the words that hold for it."""

    things: list[Thing]
    ground: Surroundings
    ground_words: list[str] = field(default_factory=list)  # all of them have to be said


class Writer:
    """Thinks up scenes and captions for a set of drawings; the same seed thinks up the same."""

    def __init__(self, names: list[list[str]], own_colours: list[str | None], seed: int) -> None:
        self.names = names
        self.own_colours = own_colours
        self.unpainted = [[_without_colour(name) for name in each] for each in names]
        # What people ask for most is shown most: a favourite counts for three.
        self.weights = [*accumulate(3 if FAVOURITES.intersection(each) else 1 for each in names)]
        self.rng = random.Random(seed)

    @classmethod
    def of(cls, drawings: Drawings, seed: int) -> Writer:
        """A writer for these drawings."""
        return cls(drawings.names, [colour_word(rgb) for rgb in drawings.dominant], seed)

    def scene(self) -> Scene:
        """A scene at random: mostly one thing; a pair in one of three."""
        rng = self.rng
        ground, words = self._ground()
        first = Thing(self._any())
        if rng.random() < 1 / 3:
            return Scene(self._pair(first), ground, words)
        if rng.random() < 0.2:
            first.paint = rng.choice(PAINTS)
        kind = rng.random()
        if kind < 0.16:
            first.place = rng.choice(list(PLACES))
            (first.x, first.y), first.scale = PLACES[first.place][0], rng.uniform(0.4, 0.54)
            if rng.random() < 0.35:
                first.size, first.scale = "small", rng.uniform(*SIZES["small"][0])
        elif kind < 0.34:
            first.size = rng.choice(list(SIZES))
            first.scale = rng.uniform(*SIZES[first.size][0])
        else:
            first.scale = rng.uniform(0.66, 0.88)
        self._loosen(first)
        return Scene([first], ground, words)

    def row(self, scene: Scene) -> list[float]:
        """The scene as numbers; a second thing that isn't there has drawing -1."""
        things = [thing.row(self.rng) for thing in scene.things]
        if len(things) < 2:
            things.append([-1.0, *[0.0] * (len(THING_COLUMNS) - 1)])
        ground = scene.ground
        ends = _jitter(ground.top, self.rng, 7) + _jitter(ground.bottom, self.rng, 7)
        if ground.top == ground.bottom:
            ends = ends[:3] * 2
        horizon = ground.horizon + self.rng.uniform(-0.04, 0.04)
        return [*things[0], *things[1], *ends, horizon, ground.sharpness]

    def caption(self, scene: Scene) -> str:
        """One of the many ways to say it."""
        rng = self.rng
        if len(scene.things) == 2:
            subject = self._pair_phrase(*scene.things)
        else:
            thing = scene.things[0]
            if rng.random() < 0.12 and not (thing.paint or thing.size or thing.place or scene.ground_words):
                return rng.choice(self.names[thing.drawing][:2])
            subject = self._phrase(thing)
        words = [subject]
        if rng.random() < 0.15:
            words.append(rng.choice(DOING))
        if len(scene.things) == 1 and (place := scene.things[0].place):
            words.append(rng.choice(PLACES[place][1]))
        words += rng.sample(scene.ground_words, len(scene.ground_words))
        if rng.random() < 0.22:
            words.insert(rng.choice((1, len(words))), rng.choice(CLAUSES))
        if rng.random() < 0.06:
            words.append(self._strange())
        text = " ".join(words)
        if rng.random() < 0.3:
            text = f"{rng.choice(OPENINGS)} {text}"
        if rng.random() < 0.2:
            text += ", " + ", ".join(rng.sample(STYLES, rng.choice((1, 1, 2, 3))))
        return text.replace(" ,", ",")

    def _ground(self) -> tuple[Surroundings, list[str]]:
        rng = self.rng
        kind = rng.random()
        if kind < 0.34:  # unnamed: white, or something soft
            if rng.random() < 0.6:
                return _plain(COLOURS["white"]), []
            soft = tuple(round(255 - 60 * rng.random()) for _ in range(3))
            return _plain(Colour((soft[0], soft[1], soft[2]), ())), []
        if kind < 0.78:
            colour = COLOURS[rng.choice(list(COLOURS))]
            return _plain(colour), [_background(rng, rng.choice(colour.words))]
        sky = rng.choice(list(SKIES.values())) if rng.random() < 0.6 else None
        ground = rng.choice(list(GROUNDS.values())) if sky is None or rng.random() < 0.4 else None
        if ground is None and sky is not None:
            return sky, [rng.choice(sky.words)]
        if ground is not None and sky is not None:
            mixed = ground._replace(top=sky.top, bottom=_dimmed(ground.bottom, sky))
            return mixed, [rng.choice(ground.words), rng.choice(sky.words)]
        if ground is None:
            raise AssertionError
        day = (186, 222, 250)
        return ground._replace(top=day), [rng.choice(ground.words)]

    def _any(self) -> int:
        return self.rng.choices(range(len(self.names)), cum_weights=self.weights)[0]

    def _loosen(self, thing: Thing) -> None:
        rng = self.rng
        slack = 0.02 if thing.place else max(0.015, (1 - thing.scale) * 0.2)
        thing.x += rng.uniform(-slack, slack)
        thing.y += rng.uniform(-slack, slack)
        thing.angle = rng.gauss(0, 0.05)

    def _pair(self, first: Thing) -> list[Thing]:
        rng = self.rng
        other = first.drawing if rng.random() < 0.25 else self._any()
        second = Thing(other)
        for thing, x in ((first, 0.27), (second, 0.73)):
            thing.x, thing.y, thing.scale = x, 0.5, rng.uniform(0.42, 0.5)
            self._loosen(thing)
        return [first, second]

    def _name(self, thing: Thing) -> str:
        """The usual name half of the time, any other the rest."""
        names = self.unpainted[thing.drawing] if thing.paint else self.names[thing.drawing]
        return names[0] if self.rng.random() < 0.5 else self.rng.choice(names)

    def _phrase(self, thing: Thing) -> str:
        rng = self.rng
        words = []
        if thing.size:
            words.append(rng.choice(SIZES[thing.size][1]))
        if rng.random() < 0.16:
            words += rng.sample(QUALITIES, rng.choice((1, 1, 2)))
        name = self._name(thing)
        if thing.paint:
            words.append(rng.choice(COLOURS[thing.paint].words[:3]))
        elif (own := self.own_colours[thing.drawing]) and rng.random() < 0.1 and _without_colour(name) == name:
            words.append(own)
        return _article(rng, " ".join([*words, name]))

    def _pair_phrase(self, left: Thing, right: Thing) -> str:
        rng = self.rng
        if left.drawing == right.drawing and rng.random() < 0.8:
            return f"{rng.choice(('two', 'two', '2', 'a pair of', 'a couple of'))} {self._name(left)}"
        one, other = _article(rng, self._name(left)), _article(rng, self._name(right))
        if rng.random() < 0.3:
            return f"{one} on the left and {other} on the right"
        return f"{one} {rng.choice(BESIDE)} {other}"

    def _strange(self) -> str:
        """A word nobody knows, to be passed over."""
        rng = self.rng
        word = "".join(rng.choice(STRANGE_SYLLABLES) for _ in range(3))
        return rng.choice(("named {}", "called {}", "in {}", "of {}", "{}", "by {}")).format(word)


def think_up(
    names: list[list[str]], own_colours: list[str | None], seed: int, count: int, captions: int
) -> tuple[NDArray[np.float32], list[list[str]]]:
    """`count` scenes as rows, with their captions; a function of its arguments alone, for a pool of processes."""
    writer = Writer(names, own_colours, seed)
    rows, texts = np.empty((count, COLUMNS), np.float32), []
    for index in range(count):
        scene = writer.scene()
        rows[index] = writer.row(scene)
        texts.append([writer.caption(scene) for _ in range(captions)])
    return rows, texts


def _plain(colour: Colour) -> Surroundings:
    return Surroundings(colour.rgb, colour.rgb, 0.5, 1.0, ())


def _background(rng: random.Random, colour: str) -> str:
    article = "an" if colour[0] in "aeiou" else "a"
    forms = (
        f"on {article} {colour} background",
        f"on {article} {colour} background",
        f"with {article} {colour} background",
        f"against {article} {colour} background",
        f"in front of {article} {colour} wall",
        f"against {article} {colour} backdrop",
        f", {colour} background",
        f", background {colour}",
        f"on {colour}",
    )
    return rng.choice(forms)


def _article(rng: random.Random, phrase: str) -> str:
    if rng.random() < 0.2:
        return phrase
    if rng.random() < 0.15:
        return f"the {phrase}"
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _without_colour(name: str) -> str:
    first, _, rest = name.partition(" ")
    return rest if rest and first in COLOURS else name


def _dimmed(rgb: tuple[int, int, int], sky: Surroundings) -> tuple[int, int, int]:
    """The ground under a sky: darker at night, tinted at sunset."""
    red, green, blue = (round(0.65 * own + 0.35 * above) for own, above in zip(rgb, sky.top, strict=True))
    return red, green, blue


def _jitter(rgb: tuple[int, int, int], rng: random.Random, spread: float) -> tuple[float, ...]:
    return tuple(min(1.0, max(0.0, (value + rng.uniform(-spread, spread)) / 255)) for value in rgb)
