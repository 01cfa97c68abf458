"""How a request becomes a handler's arguments."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, Form, Header, Request, Response, UploadFile
from fastapi.testclient import TestClient
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from chutes.chute import Chute

Serve = Callable[[Chute], TestClient]


class Input(BaseModel):
    prompt: str
    width: int = Field(default=1024, ge=128, le=2048)


class Defaults(BaseModel):
    prompt: str = "a mountain"


def fields(response: Any) -> list[list[str]]:
    assert response.status_code == 422
    return [error["loc"] for error in response.json()["detail"]]


def test_one_model_is_the_body(chute: Chute, serve: Serve) -> None:
    @chute.cord()
    async def draw(self: Any, params: Input) -> dict[str, Any]:
        assert isinstance(params, Input)
        return params.model_dump()

    client = serve(chute)
    assert client.post("/draw", json={"prompt": "x", "other": 1}).json() == {"prompt": "x", "width": 1024}
    assert fields(client.post("/draw", json={"prompt": "x", "width": 127})) == [["body", "width"]]
    assert fields(client.post("/draw", json={"width": "wide"})) == [["body", "prompt"], ["body", "width"]]
    assert fields(client.post("/draw", json={})) == [["body", "prompt"]]
    assert fields(client.post("/draw")) == [["body", "prompt"]]
    assert fields(client.post("/draw", json=[1])) == [["body"]]
    assert fields(client.post("/draw", content="null", headers={"content-type": "application/json"})) == [["body"]]
    assert fields(client.post("/draw", content="{", headers={"content-type": "application/json"}))


@pytest.mark.parametrize("request_options", [{"json": {}}, {}])
def test_an_empty_body_builds_a_model_whose_fields_have_defaults(
    chute: Chute, serve: Serve, request_options: dict[str, Any]
) -> None:
    @chute.cord()
    async def draw(self: Any, params: Defaults) -> str:
        return params.prompt

    assert serve(chute).post("/draw", **request_options).json() == "a mountain"


def test_json_without_its_content_type_is_415(chute: Chute, serve: Serve) -> None:
    @chute.cord()
    async def draw(self: Any, params: Input) -> str:
        return params.prompt

    @chute.cord()
    async def bare(self: Any, prompt: str) -> str:
        return prompt

    @chute.cord()
    async def optional(self: Any, prompt: str = "p") -> str:
        return prompt

    @chute.cord()
    async def anything(self: Any, args: Any) -> Any:
        return args

    client = serve(chute)
    for path in ("/draw", "/bare", "/optional", "/anything"):
        response = client.post(path, content='{"prompt": "x"}', headers={"content-type": "text/plain"})
        assert response.status_code == 415
        assert "application/json" in response.json()["detail"]


def test_bare_parameters_are_fields_of_the_body(chute: Chute, serve: Serve) -> None:
    @chute.cord(public_api_path="/sdxl", method="POST")
    async def generate_sdxl(self: Any, prompt: str, width: int = 1024, height: int = 1024) -> list[Any]:
        return [prompt, width, height]

    @chute.cord()
    async def one(self: Any, prompt: str) -> str:
        return prompt

    @chute.cord()
    async def two_models(self: Any, first: Input, second: Defaults) -> list[str]:
        return [first.prompt, second.prompt]

    @chute.cord()
    async def model_and_more(self: Any, params: Input, tags: list[str], times: int = 2) -> list[Any]:
        return [params.prompt, tags, times]

    @chute.cord()
    async def described(self: Any, n: int = Field(default=3, ge=1, description="How many")) -> int:
        return n

    client = serve(chute)
    assert client.post("/sdxl", json={"prompt": "x", "width": 512}).json() == ["x", 512, 1024]
    assert fields(client.post("/sdxl", json={"width": "x"})) == [["body", "prompt"], ["body", "width"]]
    assert client.post("/one", json={"prompt": "x"}).json() == "x"
    assert client.post("/two_models", json={"first": {"prompt": "x"}, "second": {}}).json() == ["x", "a mountain"]
    assert client.post("/model_and_more", json={"params": {"prompt": "x"}, "tags": ["t"]}).json() == ["x", ["t"], 2]
    assert client.post("/described", json={}).json() == 3
    assert fields(client.post("/described", json={"n": 0})) == [["body", "n"]]


@pytest.mark.parametrize("body", [{"a": 1}, {}, [1, "two"], None])
def test_an_untyped_parameter_takes_the_whole_body(chute: Chute, serve: Serve, body: Any) -> None:
    @chute.cord()
    async def whole(self, args):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        return args

    assert serve(chute).post("/whole", json=body).json() == (body if body is not None else {})


def test_a_dict_takes_the_whole_body(chute: Chute, serve: Serve) -> None:
    @chute.cord()
    async def whole(self: Any, args: dict[str, Any]) -> dict[str, Any]:
        return args

    @chute.cord()
    async def maybe(self: Any, args: dict[str, Any] | None = None) -> Any:
        return args

    client = serve(chute)
    assert client.post("/whole", json={"a": {"b": 1}}).json() == {"a": {"b": 1}}
    assert client.post("/whole").json() == {}
    assert fields(client.post("/whole", json=[1])) == [["body"]]
    assert client.post("/maybe").json() is None


def test_input_schema_without_a_hint(chute: Chute, serve: Serve) -> None:
    @chute.cord(input_schema=Input)
    async def untyped(self, params):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        return [type(params).__name__, params.width]

    @chute.cord(input_schema=Input)
    async def as_dict(self: Any, params: dict[str, Any]) -> list[Any]:
        return [type(params).__name__, params["width"]]

    client = serve(chute)
    assert client.post("/untyped", json={"prompt": "x"}).json() == ["Input", 1024]
    assert client.post("/as_dict", json={"prompt": "x"}).json() == ["dict", 1024]
    assert fields(client.post("/untyped", json={})) == [["body", "prompt"]]
    assert fields(client.post("/as_dict", json={})) == [["body", "prompt"]]


@dataclass
class Point:
    x: int
    y: int = 0


class Options(TypedDict):
    name: str


def test_dataclasses_typed_dicts_and_unions_are_models(chute: Chute, serve: Serve) -> None:
    @chute.cord()
    async def point(self: Any, where: Point) -> int:
        return where.x + where.y

    @chute.cord()
    async def options(self: Any, given: Options) -> str:
        return given["name"]

    @chute.cord()
    async def either(self: Any, given: Input | Point) -> str:
        return type(given).__name__

    client = serve(chute)
    assert client.post("/point", json={"x": 2}).json() == 2
    assert client.post("/options", json={"name": "n"}).json() == "n"
    assert client.post("/either", json={"x": 2}).json() == "Point"


def test_methods_without_a_body_read_the_query(chute: Chute, serve: Serve) -> None:
    @chute.cord(method="GET")
    async def bare(self: Any, x: int, tags: list[str], y: str = "a") -> list[Any]:
        return [x, y, tags]

    @chute.cord(method="GET")
    async def model(self: Any, params: Input) -> dict[str, Any]:
        return params.model_dump()

    @chute.cord(method="GET")
    async def whole(self, args):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        return args

    @chute.cord(method="GET")
    async def nothing(self: Any) -> str:
        return "ok"

    client = serve(chute)
    assert client.get("/bare?x=3&tags=p&tags=q").json() == [3, "a", ["p", "q"]]
    assert fields(client.get("/bare?x=three&tags=p")) == [["query", "x"]]
    assert client.get("/model?prompt=p&width=200").json() == {"prompt": "p", "width": 200}
    assert client.get("/whole?a=1").json() == {"a": "1"}
    assert client.get("/nothing").json() == "ok"


def token(authorization: Annotated[str, Header()] = "none") -> str:
    return authorization.removeprefix("Bearer ")


def test_fastapis_own_parameters_work(chute: Chute, serve: Serve) -> None:
    done: list[str] = []

    @chute.cord()
    async def everything(
        self: Any,
        request: Request,
        params: Defaults,
        who: Annotated[str, Depends(token)],
        later: BackgroundTasks,
        x_trace: Annotated[str | None, Header()] = None,
    ) -> list[Any]:
        later.add_task(done.append, "later")
        return [request.method, params.prompt, who, x_trace]

    client = serve(chute)
    headers = {"authorization": "Bearer me", "x-trace": "t"}
    assert client.post("/everything", json={}, headers=headers).json() == ["POST", "a mountain", "me", "t"]
    assert done == ["later"]


def count(response: Response) -> None:
    response.headers["x-counted"] = "1"


def test_a_handler_and_its_dependencies_may_set_headers_and_status(chute: Chute, serve: Serve) -> None:
    @chute.cord()
    async def create(self: Any, response: Response, counted: Annotated[None, Depends(count)]) -> str:
        response.status_code = 201
        response.set_cookie("a", "b")
        return "made"

    @chute.cord()
    async def depend(self: Any, counted: Annotated[None, Depends(count)]) -> str:
        return "made"

    client = serve(chute)
    response = client.post("/create")
    assert (response.status_code, response.json(), response.headers["x-counted"]) == (201, "made", "1")
    assert response.cookies["a"] == "b"
    assert client.post("/depend").headers["x-counted"] == "1"


def test_a_request_can_be_read_on_the_authors_loop(chute: Chute, serve: Serve) -> None:
    @chute.cord()
    async def read(self: Any, request: Request) -> list[Any]:
        pieces = [piece async for piece in request.stream()]
        return [await request.json(), b"".join(pieces).decode(), await request.is_disconnected()]

    @chute.cord()
    async def form(self: Any, request: Request, name: Annotated[str, Form()]) -> list[Any]:
        return [name, (await request.form())["name"]]

    client = serve(chute)
    assert client.post("/read", json={"a": 1}).json() == [{"a": 1}, '{"a":1}', False]
    assert client.post("/form", data={"name": "n"}).json() == ["n", "n"]


def test_files_and_forms(chute: Chute, serve: Serve) -> None:
    @chute.cord()
    async def upload(self: Any, file: UploadFile, times: int, mode: Annotated[str, Form()] = "m") -> list[Any]:
        return [file.filename, len(await file.read()), times, mode]

    @chute.cord()
    async def several(self: Any, files: list[UploadFile]) -> int:
        return len(files)

    client = serve(chute)
    assert client.post("/upload", files={"file": ("a.txt", b"abc")}, data={"times": "2"}).json() == ["a.txt", 3, 2, "m"]
    assert fields(client.post("/upload", data={"times": "2"})) == [["body", "file"]]
    assert client.post("/several", files=[("files", ("a", b"1")), ("files", ("b", b"2"))]).json() == 2


def test_the_first_parameter_is_the_chute_under_any_name(chute: Chute, serve: Serve) -> None:
    @chute.cord()
    async def unnamed(thing, params: Defaults):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        return thing is chute

    @chute.cord()
    async def typed(service: Chute, params: Defaults) -> bool:
        return service is chute

    @chute.cord()
    async def base(service: FastAPI) -> bool:
        return service is chute

    @chute.cord()
    def anything(service: Any, /, prompt: str = "p") -> bool:
        return service is chute and prompt == "p"

    client = serve(chute)
    for path in ("/unnamed", "/typed", "/base", "/anything"):
        assert client.post(path, json={}).json() is True


def test_a_handler_without_the_chute(chute: Chute, serve: Serve) -> None:
    @chute.cord()
    async def model(params: Input) -> str:
        return params.prompt

    @chute.cord()
    async def bare(prompt: str, width: int = 3) -> list[Any]:
        return [prompt, width]

    @chute.cord()
    def nothing() -> str:
        return "ok"

    client = serve(chute)
    assert client.post("/model", json={"prompt": "x"}).json() == "x"
    assert client.post("/bare", json={"prompt": "x"}).json() == ["x", 3]
    assert client.post("/nothing").json() == "ok"


def test_a_wrapped_handler_keeps_its_parameters(chute: Chute, serve: Serve) -> None:
    def logged(func: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(func)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return func(*args, **kwargs)

        return wrapper

    @chute.cord()
    @logged
    async def draw(self: Any, params: Input) -> str:
        return params.prompt

    assert serve(chute).post("/draw", json={"prompt": "x"}).json() == "x"


def test_models_defined_after_their_handler(serve: Serve) -> None:
    names: dict[str, Any] = {}
    exec(  # a module of its own
        "from __future__ import annotations\n"
        "from chutes.chute import Chute\n"
        "from pydantic import BaseModel\n"
        "chute = Chute('u', 'n', 'i')\n"
        "@chute.cord()\n"
        "async def later(self, params: Later) -> Later: return params\n"
        "@chute.get('/{name}')\n"
        "async def rest(name: str): return name\n"
        "class Later(BaseModel):\n"
        "    n: int = 3\n",
        names,
    )
    chute = names["chute"]
    assert chute.openapi()["paths"]["/later"]["post"]["requestBody"]
    assert serve(chute).post("/later", json={}).json() == {"n": 3}


def test_models_defined_in_the_same_function_as_their_handler(chute: Chute, serve: Serve) -> None:
    class Local(BaseModel):
        n: int = 3

    @chute.cord()
    async def local(self: Any, params: Local) -> int:
        return params.n

    assert serve(chute).post("/local", json={"n": 4}).json() == 4


def test_an_undefined_annotation_is_named(chute: Chute) -> None:
    @chute.cord()
    async def broken(self: Any, params: Missing) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(TypeError, match=r"Cord 'broken': parameter 'params': 'Missing' cannot be resolved"):
        chute.openapi()


def test_a_type_that_cannot_be_a_body_is_an_error_at_decoration(chute: Chute) -> None:
    class Strange: ...

    with pytest.raises(TypeError, match="Cord 'odd' cannot be served"):

        @chute.cord()
        async def odd(self: Any, thing: Strange) -> None: ...
