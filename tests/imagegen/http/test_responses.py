"""Images and errors as HTTP responses."""

import ast
import asyncio
import base64
import inspect
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import imagegen
from imagegen import errors
from imagegen.http import responses
from imagegen.picture import Picture

METADATA: dict[str, object] = {"prompt": "a cat", "seed": 5, "num_inference_steps": 10, "model": "Ünïcode-1"}
PICTURE = Picture(Image.new("RGB", (32, 16)), METADATA, (16, 16), "folder", "bf16")
HEADERS = {
    "X-Seed": "5",
    "X-Steps": "10",
    "X-Model": "?n?code-1",
    "X-Model-Origin": "folder",
    "X-Precision": "bf16",
    "X-Drawn-Size": "16x16",
}
SMALLER = replace(PICTURE, metadata={**METADATA, "seed": 6}, generated_size=(8, 8), fallback="out-of-memory")


def test_headers_are_ascii_and_name_a_fallback_only_where_there_was_one() -> None:
    assert responses.picture_headers(PICTURE) == HEADERS
    assert responses.picture_headers(SMALLER)["X-Fallback"] == "out-of-memory"


@pytest.mark.parametrize(("file_format", "ending"), [("jpeg", "jpg"), ("png", "png"), ("webp", "webp")])
def test_an_image_is_a_file_to_download(file_format: str, ending: str) -> None:
    response = asyncio.run(responses.image_response(PICTURE, file_format))
    assert response.body == PICTURE.encode(file_format)
    assert response.headers["content-type"] == f"image/{file_format}"
    assert response.headers["content-disposition"].endswith(f'.{ending}"')
    assert HEADERS.items() <= {key: response.headers.get(key) for key in HEADERS}.items()


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", "jpeg"),
        ("*/*", "jpeg"),
        ("image/png", "png"),
        ("IMAGE/WEBP", "webp"),
        ("text/html, image/png;q=0.5, image/webp ; q=0.8", "webp"),
        ("image/avif,image/webp,image/*,*/*;q=0.8", "webp"),
        ("image/*, image/png;q=0.3", "jpeg"),
        ("image/png;q=0", "jpeg"),
        ("image/png;q=high", "jpeg"),
        ("image/gif, application/json", "jpeg"),
        (",;=q,;;" * 10_000 + ", image/png", "jpeg"),
    ],
    ids=lambda value: value[:40],
)
def test_the_header_accept_names_a_format(accept: str, expected: str) -> None:
    assert responses.accepted_format(accept, "jpeg") == expected


def test_an_image_that_was_scaled_down_is_told() -> None:
    assert responses.picture_headers(replace(PICTURE, resized_from=(4032, 3024)))["X-Resized-From"] == "4032x3024"


def test_a_batch_is_a_list_of_files_with_all_seeds_and_any_fallback() -> None:
    response = asyncio.run(responses.batch_response([PICTURE, SMALLER], "png"))
    assert [base64.b64decode(each) for each in json.loads(response.body)] == [
        PICTURE.encode("png"),
        SMALLER.encode("png"),
    ]
    assert (response.headers["x-seed"], response.headers["x-fallback"]) == ("5,6", "out-of-memory")
    assert response.headers["x-drawn-size"] == "8x8"


LATER, NEVER, SILENT = ("5", None), (None, "false"), (None, None)


@pytest.mark.parametrize(
    ("error", "status", "code", "retry"),
    [
        (errors.ImagegenError("Generation failed."), 500, "generation_failed", SILENT),
        (errors.NotFinite("NaN."), 500, "generation_failed", NEVER),
        (errors.Unsupported("No."), 501, "unsupported", NEVER),
        (errors.OutOfMemory("Full."), 503, "out_of_memory", LATER),
        (errors.EngineStopped("Over."), 503, "engine_stopped", LATER),
        (errors.EngineFailed("Lost."), 503, "engine_failed", LATER),
    ],
)
def test_an_error_has_a_status_a_code_and_retry_headers(error: Any, status: int, code: str, retry: Any) -> None:
    response = responses.error_response(error)
    assert (response.status_code, json.loads(response.body)) == (status, {"detail": str(error), "code": code})
    assert (response.headers.get("retry-after"), response.headers.get("x-should-retry")) == retry


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [(errors.InputError, 422, "value_error"), (errors.ImageTooLarge, 413, "image_too_large")],
)
def test_bad_input_names_its_field_as_validation_errors_do(kind: Any, status: int, code: str) -> None:
    response = responses.error_response(kind("image_b64 is empty.", field="image_b64"))
    detail = [{"type": code, "loc": ["body", "image_b64"], "msg": "image_b64 is empty."}]
    assert (response.status_code, json.loads(response.body)) == (status, {"detail": detail})


def test_only_the_http_package_knows_statuses() -> None:
    """No class outside `imagegen.http` has a `status`: neither in its body nor on `self`."""
    root = Path(inspect.getfile(imagegen)).parent
    found = []
    for file in root.rglob("*.py"):
        if file.is_relative_to(root / "http"):
            continue
        for kind in (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ClassDef)):
            own = [node.id for statement in kind.body for node in _targets(statement)]
            own += [node.attr for node in ast.walk(kind) if isinstance(node, ast.Attribute)]
            own += [node.name for node in kind.body if isinstance(node, ast.FunctionDef)]
            found += [f"{file.relative_to(root)}: {kind.name}.{name}" for name in own if name.startswith("status")]
    assert not found


def _targets(statement: Any) -> Any:
    """The names that an assignment binds."""
    if isinstance(statement, ast.Assign | ast.AnnAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        return [node for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)]
    return []
