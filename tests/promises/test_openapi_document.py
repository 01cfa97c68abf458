"""Valid and invalid requests of the OpenAPI document never get a 5xx."""

from itertools import product
from pathlib import Path

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode

from benchmarks.harness.server import serving
from benchmarks.harness.waiting import LIMIT

TYPED = """
from typing import Any, Literal
from fastapi import Header, UploadFile
from pydantic import BaseModel, Field

class Style(BaseModel):
    name: Literal["oil", "ink"] = "oil"
    weight: float = Field(default=1.0, ge=0, le=2)

class Picture(BaseModel):
    prompt: str = Field(min_length=1, max_length=100)
    size: int = Field(default=512, ge=128, le=2048)
    styles: list[Style] = Field(default=[], max_length=3)
    seed: int | None = Field(default=None, ge=0, lt=2**32)

@chute.cord(public_api_path="/draw", input_schema=Picture)
async def draw(self, picture: Picture) -> dict[str, Any]:
    return picture.model_dump()

@chute.cord(public_api_path="/v1/draw")
async def openai_draw(self, picture: Picture) -> dict[str, Any]:
    return picture.model_dump()

@chute.cord(public_api_path="/bare")
def bare(self, prompt: str, width: int = 512, scale: float = 1.0) -> dict[str, Any]:
    return {"prompt": prompt, "width": width, "scale": scale}

@chute.cord(public_api_path="/anything")
async def anything(self, args: dict[str, Any]) -> dict[str, Any]:
    return args

@chute.cord(public_api_path="/upload")
async def upload(self, file: UploadFile, x_name: str = Header(default="")) -> dict[str, Any]:
    return {"size": len(await file.read()), "name": x_name}

@chute.cord(public_api_path="/find", method="GET")
async def find(self, query: str, limit: int = 10) -> dict[str, Any]:
    return {"query": query, "limit": limit}
"""


def test_no_response_is_a_5xx(tmp_path: Path) -> None:
    with serving(tmp_path, TYPED, concurrency=4) as server:
        schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
        seen: dict[int, int] = {}
        for operation, mode in product(schema.get_all_operations(), GenerationMode):

            @given(case=operation.ok().as_strategy(generation_mode=mode))
            @settings(
                max_examples=40,
                deadline=None,
                derandomize=True,
                database=None,
                phases=[Phase.explicit, Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            def holds(case: schemathesis.Case) -> None:
                answer = case.call(timeout=LIMIT)
                seen[answer.status_code] = seen.get(answer.status_code, 0) + 1
                case.validate_response(answer, checks=[not_a_server_error])

            holds()
        print(f"answers by status: {seen}")
        assert {200, 422} <= seen.keys()
