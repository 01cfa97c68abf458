"""What a client may read of a library's message."""

import pytest

from imagegen.errors import client_reason


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("Aspect ratio 9 is too high.", "Aspect ratio 9 is too high"),
        ("`height` must be divisible by 16.\nSee above", "`height` must be divisible by 16"),
        ("The class <class 'diffusers.x.Y'> has no sigmas", ""),
        ("No such file: /models/flux/config.json", ""),
        ("C:\\models\\flux", ""),
        ("self.transformer is None", ""),
        ("", ""),
    ],
)
def test_no_internal_name_reaches_a_client(message: str, reason: str) -> None:
    assert client_reason(ValueError(message)) == reason
