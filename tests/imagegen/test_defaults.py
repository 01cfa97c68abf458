"""The messages for fields that a model cannot honour; `test_families` tries each family's defaults."""

from dataclasses import replace

import pytest

from imagegen.defaults import apply_defaults
from imagegen.errors import InputError
from imagegen.profile import FLUX_DEV, Bounds
from imagegen.request import Request

QWEN = replace(FLUX_DEV, guidance=Bounds(4, 0, 20), guidance_argument="true_cfg_scale", true_cfg=None)
TURBO = replace(FLUX_DEV, guidance=Bounds(0, 0, 20), guidance_off=1, true_cfg=None)
ACCEPTED = {"guidance_scale", "true_cfg_scale", "negative_prompt"}


def test_one_value_has_one_name() -> None:
    """A request may use either name of Qwen-Image's guidance, or both with the same value."""
    for fields in ({"guidance": 3}, {"true_cfg_scale": 3}, {"guidance": 3, "true_cfg_scale": 3}):
        assert apply_defaults(Request("a cat", **fields), QWEN, ACCEPTED).guidance == 3
    with pytest.raises(InputError, match=r"^true_cfg_scale and guidance_scale .*; got 2 and 3\. Send one of them\.$"):
        apply_defaults(Request("a cat", guidance=3, true_cfg_scale=2), QWEN, ACCEPTED)


@pytest.mark.parametrize(("guidance", "used"), [(None, 0), (1, 1)])
def test_a_negative_prompt_without_guidance(guidance: float | None, used: float) -> None:
    message = rf"^negative_prompt has an effect only with a guidance_scale above 1; got {used}\. Raise it, or leave "
    with pytest.raises(InputError, match=message):
        apply_defaults(Request("a cat", negative_prompt="blue", guidance=guidance), TURBO, ACCEPTED)
