"""Processors that work without torchvision.

Transformers' own processors need torchvision, but only for parts that no request uses.
"""

import importlib.util
import json
from pathlib import Path
from typing import Any


def replacements(folder: Path) -> dict[str, Any]:
    """Return the components of a model that replace those that need torchvision; none if it is installed."""
    if importlib.util.find_spec("torchvision") is not None:
        return {}
    index = json.loads((folder / "model_index.json").read_text())
    makers = {"PixtralProcessor": _text_tokenizer, "Qwen2VLProcessor": _image_processor}
    classes = {name: entry[1] for name, entry in index.items() if isinstance(entry, list) and len(entry) == 2}
    return {name: makers[kind](folder / name) for name, kind in classes.items() if kind in makers}


def _text_tokenizer(folder: Path) -> Any:
    """Return the tokenizer of FLUX.2-dev's processor, whose chat template is all that a prompt needs."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(folder)


def _image_processor(folder: Path) -> Any:
    """Return Qwen-Image-Edit's processor without its part for videos."""
    from transformers import ProcessorMixin, Qwen2VLProcessor

    class ImageProcessor(Qwen2VLProcessor):
        def __init__(
            self, image_processor: Any = None, tokenizer: Any = None, chat_template: Any = None, **kwargs: Any
        ) -> None:
            self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
            tokens = [self.image_token, self.video_token]
            self.image_token_id, self.video_token_id = tokenizer.convert_tokens_to_ids(tokens)
            ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    return ImageProcessor.from_pretrained(folder)
