"""The documentation page of the tested families, written by `python -m tests.imagegen.families`."""

from pathlib import Path

from tests.imagegen import families
from tests.imagegen.families import Family

PAGE = Path(__file__).parents[3] / "docs" / "tested-models.md"

_INTRODUCTION = """\
# Tested models

Any text-to-image, edit or inpainting pipeline of diffusers should work. The tests load a tiny copy of each family
below, with random weights in the real architecture, and check its routes, exact sizes, seeds, cancelling and
defaults. They do not check what the pictures show.

- A dash means that the route answers `501`.
- *edits* means that the model follows an instruction, and takes no `strength`.
- Steps and guidance are those of a request that leaves them out. FLUX.1-dev's differ between routes; see
  [Fields](image-service.md#fields).
- Without *negative*, `negative_prompt` is an error. SDXL-Turbo and Z-Image-Turbo take one if the
  request turns guidance on.
- The name's ending `-unchecked` stands for no safety checker, and `-bin` for weights in `.bin` files.
- *Tokens* is the number of a prompt's tokens that the model reads, at most. A dash stands for the tokenizer's
  own limit.

"""
_COLUMNS = (
    "Model",
    "generate",
    "img2img",
    "inpaint",
    "Steps",
    "Guidance",
    "Negative",
    "Tokens",
)


def page() -> str:
    """Return the page: a table of the families that work, and a list of those that do not load."""
    names = [name for each in families.NAMES.values() for name in each]
    served = [families.find(name) for name in names if name not in families.REFUSED]
    rows = [_COLUMNS, ("---",) * len(_COLUMNS), *map(_row, served)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    refused = "\n".join(f"- {name}: {_REASONS[families.find(name).refused]}" for name in families.REFUSED)
    return f"{_INTRODUCTION}{table}\n\n## Models that do not load\n\n{refused}\n"


_REASONS = {
    "control image": "it needs a control image.",
    "image_embeds": "it needs the output of another pipeline.",
    "video": "it generates videos.",
}


def _row(family: Family) -> tuple[str, ...]:
    steps, guidance, tokens = family.steps, family.guidance, family.tokens
    if family.name == "FLUX.1-dev":  # it keeps the values of the first version
        steps, guidance, tokens = 10, 7.5, 256
    edits = "edit" in family.tasks
    return (
        family.name,
        "yes" if "text2image" in family.tasks else "-",
        "edits" if edits else "yes" if "img2img" in family.tasks else "-",
        "yes" if "inpaint" in family.tasks else "-",
        str(steps),
        "-" if guidance is None else f"{guidance:g}",
        "yes" if family.negative else "no",
        str(tokens or "-"),
    )
