"""Well-formed forms are read as they were sent, and others are rejected."""

import hashlib

import pytest
from hypothesis import strategies as st

from benchmarks.harness.server import Server
from tests.fuzz.conftest import Fuzz

pytestmark = [pytest.mark.fuzz, pytest.mark.timeout(3600)]

boundaries = st.from_regex(r"[A-Za-z0-9'()+_./:=-]{1,60}", fullmatch=True)
names = st.from_regex(r"[A-Za-z0-9_ .-]{1,20}", fullmatch=True)


@st.composite
def forms(draw: st.DrawFn) -> tuple[str, list[tuple[str, str, bytes]]]:
    """Draw a boundary and parts with a name, a file name (empty for a field) and boundary-like content."""
    boundary = draw(boundaries)
    lookalikes = st.sampled_from(
        [b"\r\n--", b"--" + boundary.encode()[:-1], b"\r\n--" + boundary.encode()[:-1], b"\r", b"\n"]
    )
    content = st.lists(st.binary(max_size=50) | lookalikes, max_size=8).map(b"".join)
    text = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=50).map(str.encode)
    field = st.tuples(names, st.just(""), text)
    file = st.tuples(names, names.filter(str.strip), content)
    clean = st.lists(field | file, max_size=6)
    parts = draw(clean)
    edge = b"--" + boundary.encode()
    return boundary, [part for part in parts if edge not in b"\r\n" + part[2]]


def encode(boundary: str, parts: list[tuple[str, str, bytes]]) -> bytes:
    """Encode a form by RFC 7578."""
    written = b""
    for name, filename, content in parts:
        file = f'; filename="{filename}"\r\nContent-Type: application/octet-stream' if filename else ""
        written += f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode()
        written += content + b"\r\n"
    return written + f"--{boundary}--\r\n".encode()


def test_a_form_is_read_as_it_was_sent(server: Server, fuzz: Fuzz) -> None:
    def check(example: tuple[str, list[tuple[str, str, bytes]]]) -> None:
        boundary, parts = example
        kind = f'multipart/form-data; boundary="{boundary}"'
        answer = server.post("/form", json=None, content=encode(boundary, parts), headers={"Content-Type": kind})
        assert answer.status_code == 200, answer.text
        sent = [[name, filename, hashlib.sha256(content).hexdigest()] for name, filename, content in parts]
        assert answer.json() == sent

    print(f"{fuzz(forms(), check)} forms")


pieces = st.sampled_from([
    b"--edge", b"--edge\r\n", b"--edge--", b"--edge--\r\n", b"\r\n", b"\n", b"\r\n\r\n", b"--",
    b"Content-Disposition: form-data", b'; name="a"', b'; name="', b"; name=a; name=b", b'; filename="x"',
    b"; filename*=UTF-8''%e2%82", b'; filename="..\\..\\x"', b"Content-Type: text/plain; charset=utf-16\r\n",
    b"Content-Type: text/plain; charset=none\r\n", b"Content-Length: 9\r\n", b"Content-Transfer-Encoding: base64\r\n",
    b": ", b"\x00", b"\xff", b"a=b&c=%zz&%=", b"_charset_",
])  # fmt: skip
kinds = st.sampled_from([
    "multipart/form-data; boundary=edge", "multipart/form-data", "multipart/form-data; boundary=",
    'multipart/form-data; boundary="edge', "multipart/mixed; boundary=edge", "application/x-www-form-urlencoded",
    "application/x-www-form-urlencoded; charset=none", "multipart/form-data; boundary=edge; charset=none",
    "multipart/form-data; charset=utf-16; boundary=edge",
])  # fmt: skip


def test_no_form_causes_a_500(server: Server, fuzz: Fuzz) -> None:
    def check(example: tuple[str, bytes]) -> None:
        kind, body = example
        answer = server.post("/form", json=None, content=body, headers={"Content-Type": kind})
        assert answer.status_code in {200, 400, 413, 415, 422}, answer.text

    bodies = st.lists(pieces | st.binary(max_size=20), max_size=25).map(b"".join)
    print(f"{fuzz(st.tuples(kinds, bodies), check)} forms")
