"""Random scenes of one or two objects on a background, and captions for them in the style of real prompts.

A scene is one row of COLUMNS numbers, which `Composer` renders on the GPU, and several captions. The image
shows everything that a caption mentions. Everything else in it is random, so that images of different seeds differ.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from training.captions.palette import COLOURS, GROUNDS, OBJECT_COLOURS, SKIES, Background, Colour
from training.captions.phrases import (
    ACTIVITIES,
    ADJECTIVES,
    CLAUSES,
    CONJUNCTIONS,
    FAVOURITES,
    NONSENSE_SYLLABLES,
    OPENINGS,
    PLACES,
    SIZES,
    STYLES,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

OBJECT_COLUMNS = ("drawing", "x", "y", "scale", "angle", "mirror", "recoloured", "red", "green", "blue")
BACKGROUND_COLUMNS = ("top_r", "top_g", "top_b", "bottom_r", "bottom_g", "bottom_b", "horizon", "sharpness")
DAY_SKY = (186, 222, 250)  # above a ground whose caption names no sky
COLUMNS = len(OBJECT_COLUMNS) * 2 + len(BACKGROUND_COLUMNS)


@dataclass
class SceneObject:
    """One drawing in a scene, and the attributes that a caption can mention."""

    drawing: int
    x: float = 0.5
    y: float = 0.5
    scale: float = 0.8
    angle: float = 0.0  # radians
    mirror: bool = False
    colour: str | None = None  # the name of the colour that replaces the dominant one
    size: str | None = None
    place: str | None = None

    def row(self, rng: random.Random) -> list[float]:
        """Return the values of OBJECT_COLUMNS."""
        rgb = _jitter(COLOURS[self.colour].rgb, rng, 8) if self.colour else (0.0, 0.0, 0.0)
        values = [self.drawing, self.x, self.y, self.scale, self.angle, self.mirror, self.colour is not None]
        return [*map(float, values), *rgb]


@dataclass
class Scene:
    """One or two objects on a background."""

    objects: list[SceneObject]
    background: Background
    background_phrases: list[str] = field(default_factory=list)  # a caption contains all of them


class SceneSampler:
    """A source of random scenes and captions for a set of drawings; the same seed gives the same samples.

    `names` and `colours` are the names and the colour name of each drawing.
    """

    def __init__(self, names: list[list[str]], colours: list[str | None], seed: int) -> None:
        self.names = names
        self.colours = colours
        self.colourless_names = [[_without_colour(name) for name in each] for each in names]
        # Favourites are sampled three times as often as other drawings.
        self.weights = [*accumulate(3 if FAVOURITES.intersection(each) else 1 for each in names)]
        self.rng = random.Random(seed)

    def scene(self) -> Scene:
        """Return a random scene: two objects in one scene of three, one object in the others."""
        rng = self.rng
        background, phrases = self._background()
        first = SceneObject(self._drawing())
        if rng.random() < 1 / 3:
            return Scene(self._pair(first), background, phrases)
        if rng.random() < 0.2:
            first.colour = rng.choice(OBJECT_COLOURS)
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
        self._perturb(first)
        return Scene([first], background, phrases)

    def row(self, scene: Scene) -> list[float]:
        """Return the scene as COLUMNS numbers; a missing second object has drawing -1."""
        objects = [each.row(self.rng) for each in scene.objects]
        if len(objects) < 2:
            objects.append([-1.0, *[0.0] * (len(OBJECT_COLUMNS) - 1)])
        background = scene.background
        colours = _jitter(background.top, self.rng, 7) + _jitter(background.bottom, self.rng, 7)
        if background.top == background.bottom:
            colours = colours[:3] * 2
        horizon = background.horizon + self.rng.uniform(-0.04, 0.04)
        return [*objects[0], *objects[1], *colours, horizon, background.sharpness]

    def caption(self, scene: Scene) -> str:
        """Return a random caption of a scene."""
        rng = self.rng
        if len(scene.objects) == 2:
            subject = self._pair_phrase(*scene.objects)
        else:
            one = scene.objects[0]
            if rng.random() < 0.12 and not (one.colour or one.size or one.place or scene.background_phrases):
                return rng.choice(self.names[one.drawing][:2])
            subject = self._phrase(one)
        words = [subject]
        if rng.random() < 0.15:
            words.append(rng.choice(ACTIVITIES))
        if len(scene.objects) == 1 and (place := scene.objects[0].place):
            words.append(rng.choice(PLACES[place][1]))
        words += rng.sample(scene.background_phrases, len(scene.background_phrases))
        if rng.random() < 0.22:
            words.insert(rng.choice((1, len(words))), rng.choice(CLAUSES))
        if rng.random() < 0.06:
            words.append(self._nonsense())
        text = " ".join(words)
        if rng.random() < 0.3:
            text = f"{rng.choice(OPENINGS)} {text}"
        if rng.random() < 0.2:
            text += ", " + ", ".join(rng.sample(STYLES, rng.choice((1, 1, 2, 3))))
        return text.replace(" ,", ",")

    def _background(self) -> tuple[Background, list[str]]:
        """Return a random background, and the phrases that a caption of it must contain."""
        rng = self.rng
        kind = rng.random()
        if kind < 0.34:  # white or a pale colour, not mentioned in the caption
            if rng.random() < 0.6:
                return _plain(COLOURS["white"]), []
            pale = tuple(round(255 - 60 * rng.random()) for _ in range(3))
            return _plain(Colour((pale[0], pale[1], pale[2]), ())), []
        if kind < 0.78:
            colour = COLOURS[rng.choice(list(COLOURS))]
            return _plain(colour), [_background_phrase(rng, rng.choice(colour.words))]
        if rng.random() >= 0.6:
            ground = rng.choice(list(GROUNDS.values()))
            return ground._replace(top=DAY_SKY), [rng.choice(ground.words)]
        sky = rng.choice(list(SKIES.values()))
        if rng.random() >= 0.4:
            return sky, [rng.choice(sky.words)]
        ground = rng.choice(list(GROUNDS.values()))
        both = ground._replace(top=sky.top, bottom=_tinted(ground.bottom, sky))
        return both, [rng.choice(ground.words), rng.choice(sky.words)]

    def _drawing(self) -> int:
        return self.rng.choices(range(len(self.names)), cum_weights=self.weights)[0]

    def _perturb(self, one: SceneObject) -> None:
        rng = self.rng
        slack = 0.02 if one.place else max(0.015, (1 - one.scale) * 0.2)
        one.x += rng.uniform(-slack, slack)
        one.y += rng.uniform(-slack, slack)
        one.angle = rng.gauss(0, 0.05)

    def _pair(self, first: SceneObject) -> list[SceneObject]:
        rng = self.rng
        other = first.drawing if rng.random() < 0.25 else self._drawing()
        second = SceneObject(other)
        for one, x in ((first, 0.27), (second, 0.73)):
            one.x, one.y, one.scale = x, 0.5, rng.uniform(0.42, 0.5)
            self._perturb(one)
        return [first, second]

    def _name(self, one: SceneObject) -> str:
        """Return the usual name with probability 1/2, else any of the names."""
        names = self.colourless_names[one.drawing] if one.colour else self.names[one.drawing]
        return names[0] if self.rng.random() < 0.5 else self.rng.choice(names)

    def _phrase(self, one: SceneObject) -> str:
        rng = self.rng
        words = []
        if one.size:
            words.append(rng.choice(SIZES[one.size][1]))
        if rng.random() < 0.16:
            words += rng.sample(ADJECTIVES, rng.choice((1, 1, 2)))
        name = self._name(one)
        if one.colour:
            words.append(rng.choice(COLOURS[one.colour].words[:3]))
        elif (own := self.colours[one.drawing]) and rng.random() < 0.1 and _without_colour(name) == name:
            words.append(own)
        return _with_article(rng, " ".join([*words, name]))

    def _pair_phrase(self, left: SceneObject, right: SceneObject) -> str:
        rng = self.rng
        if left.drawing == right.drawing and rng.random() < 0.8:
            return f"{rng.choice(('two', 'two', '2', 'a pair of', 'a couple of'))} {self._name(left)}"
        one, other = _with_article(rng, self._name(left)), _with_article(rng, self._name(right))
        if rng.random() < 0.3:
            return f"{one} on the left and {other} on the right"
        return f"{one} {rng.choice(CONJUNCTIONS)} {other}"

    def _nonsense(self) -> str:
        """Return a phrase with an unknown word, which the model learns to ignore."""
        rng = self.rng
        word = "".join(rng.choice(NONSENSE_SYLLABLES) for _ in range(3))
        return rng.choice(("named {}", "called {}", "in {}", "of {}", "{}", "by {}")).format(word)


def sample_scenes(
    names: list[list[str]], colours: list[str | None], seed: int, count: int, captions: int
) -> tuple[NDArray[np.float32], list[list[str]]]:
    """Return `count` random scenes as rows (count, COLUMNS), with `captions` captions each.

    The result depends on the arguments alone, so that worker processes can share the work.
    """
    sampler = SceneSampler(names, colours, seed)
    rows, texts = np.empty((count, COLUMNS), np.float32), []
    for index in range(count):
        scene = sampler.scene()
        rows[index] = sampler.row(scene)
        texts.append([sampler.caption(scene) for _ in range(captions)])
    return rows, texts


def _plain(colour: Colour) -> Background:
    return Background(colour.rgb, colour.rgb, 0.5, 1.0, ())


def _background_phrase(rng: random.Random, colour: str) -> str:
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


def _with_article(rng: random.Random, phrase: str) -> str:
    if rng.random() < 0.2:
        return phrase
    if rng.random() < 0.15:
        return f"the {phrase}"
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _without_colour(name: str) -> str:
    first, _, rest = name.partition(" ")
    return rest if rest and first in COLOURS else name


def _tinted(rgb: tuple[int, int, int], sky: Background) -> tuple[int, int, int]:
    """Tint a ground with the colour of the sky above it: darker at night, orange at sunset."""
    red, green, blue = (round(0.65 * own + 0.35 * above) for own, above in zip(rgb, sky.top, strict=True))
    return red, green, blue


def _jitter(rgb: tuple[int, int, int], rng: random.Random, spread: float) -> tuple[float, ...]:
    return tuple(min(1.0, max(0.0, (value + rng.uniform(-spread, spread)) / 255)) for value in rgb)
