import pytest

from chutes.chute._handler.media import body_headers, is_json


@pytest.mark.parametrize(
    ("content_type", "in_response", "in_request"),
    [
        ("application/json", True, True),
        ("Application/JSON; charset=utf-8", True, True),
        ("application/problem+json", True, True),
        ("text/json", True, False),
        ("model/gltf+json", True, False),
        ("application/x/json", False, False),
        ("application/jsonlines", False, False),
        ("application/x-ndjson", False, False),
        ("text/plain", False, False),
        ("json", False, False),
        ("", False, False),
    ],
)
def test_json_types(content_type: str, in_response: bool, in_request: bool) -> None:
    """FastAPI parses the bodies of fewer types than a handler may return."""
    assert is_json(content_type) is in_response
    assert body_headers([(b"content-type", content_type.encode())]).is_json is in_request
