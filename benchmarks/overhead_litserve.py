"""The handler of `benchmarks.overhead` as a LitServe API. Its workers import this module again."""

import sys

import litserve
from pydantic import BaseModel


class Prompt(BaseModel):
    """The request body."""

    prompt: str


class Echo(litserve.LitAPI):  # type: ignore[misc]  # it ships no types
    """The four steps of a LitServe API."""

    def setup(self, device: str) -> None:
        """Load nothing."""

    def decode_request(self, request: Prompt) -> str:
        """Convert the request to the model's input."""
        return request.prompt

    def predict(self, x: str) -> str:
        """Return the input."""
        return x

    def encode_response(self, output: str) -> dict[str, str]:
        """Convert the model's output to the response body."""
        return {"echo": output}


if __name__ == "__main__":
    server = litserve.LitServer(Echo(api_path="/echo"), accelerator="cpu")
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False)
