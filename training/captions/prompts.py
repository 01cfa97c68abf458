"""The prompts of the contact sheet and of the evaluation. They are fixed, so that two trainings can be compared."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from training.captions.palette import COLOURS

if TYPE_CHECKING:
    from training.drawings.dataset import Drawings

# The contact sheet, in reading order; prompt i uses seed i.
SHEET = (
    "a red apple", "a cat", "a dog", "a rocket", "a hamburger", "a red heart", "a sad face", "a sunflower",
    "a blue apple", "a purple cat on a yellow background", "a green rocket at night", "a pink elephant",
    "a small rocket at the left", "a large pizza", "a tiny penguin in the snow", "an owl at the top right",
    "a majestic dragon flying over a crystal lake at sunset", "a castle on a green hill at sunrise",
    "a sailboat on the ocean at sunset", "a robot in space", "a unicorn in a meadow", "a whale in the sea",
    "a cactus in the desert", "a bicycle on the street",
    "a cat and a dog", "a banana next to a pineapple", "two butterflies", "a sun and a cloud",
    "a fox", "a lion", "a panda", "an octopus", "a butterfly", "a frog on a pink background", "a turtle", "a bee",
    "a strawberry", "a pizza on a blue background", "a cup of coffee on a table", "a birthday cake", "a doughnut",
    "an ice cream cone", "a car", "a yellow car on a gray background", "a fire truck", "an airplane in the sky",
    "a train",
    "a house in the forest", "a guitar", "a piano", "a camera", "a key", "a light bulb on a black background", "a book",
    "an umbrella in the rain", "a crown", "a smiling face with sunglasses", "an astronaut", "a wizard", "a mermaid",
    "a ghost at night", "a pumpkin", "a snowman", "a soccer ball on a green background",
)  # fmt: skip


@dataclass(frozen=True)
class Prompt:
    """An evaluation prompt, with the drawings and the background colour that are correct for it."""

    text: str
    correct: tuple[int, ...]  # indices of drawings
    background: str | None


def plain_prompts(drawings: Drawings, count: int = 240) -> list[Prompt]:
    """Return prompts with a plain name, half of them with a background colour: "a frog on a pink background"."""
    rng = random.Random("named")
    prompts = []
    for index in sorted(rng.sample(range(len(drawings)), min(count, len(drawings)))):
        name = drawings.names[index][0]
        background = rng.choice(list(COLOURS)[:12]) if rng.random() < 0.5 else None
        prompts.append(_prompt(drawings, name, "", background))
    return prompts


def unseen_prompts(drawings: Drawings, count: int = 100) -> list[Prompt]:
    """Return random combinations of colour, object and background.

    It is next to impossible that a training caption had the same three.
    """
    rng = random.Random("unseen")
    colours = ["red", "orange", "yellow", "green", "blue", "purple", "pink", "brown"]
    prompts = []
    for _ in range(count):
        plain = [names[0] for names in drawings.names if names[0].split()[0] not in COLOURS]
        colour, background = rng.sample(colours, 2)
        prompts.append(_prompt(drawings, rng.choice(plain), colour, background))
    return prompts


def _prompt(drawings: Drawings, name: str, colour: str, background: str | None) -> Prompt:
    words = f"{colour} {name}".strip()
    text = f"{'an' if words[0] in 'aeiou' else 'a'} {words}"
    if background is not None:
        text += f" on {'an' if background[0] in 'aeiou' else 'a'} {background} background"
    return Prompt(text, tuple(drawings.indices_of(name)), background)
