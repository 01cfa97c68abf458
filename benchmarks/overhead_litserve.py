"""The trivial handler of `benchmarks.overhead` as a LitServe API; by itself, since its workers import it again."""

import sys

import litserve
from pydantic import BaseModel


class Prompt(BaseModel):
    """What it takes."""

    prompt: str


class Echo(litserve.LitAPI):  # type: ignore[misc]  # it ships no types
    """The four steps of a LitServe API."""

    def setup(self, device: str) -> None:
        """Nothing to load."""

    def decode_request(self, request: Prompt) -> str:
        """From the request to the model's input."""
        return request.prompt

    def predict(self, x: str) -> str:
        """The model."""
        return x

    def encode_response(self, output: str) -> dict[str, str]:
        """From the model's output to the answer."""
        return {"echo": output}


if __name__ == "__main__":
    server = litserve.LitServer(Echo(api_path="/echo"), accelerator="cpu")
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False)
