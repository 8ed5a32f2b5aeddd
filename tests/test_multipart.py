"""Forms that are read and rewritten on their way through, wherever they are cut."""

from __future__ import annotations

from typing import Any

import pytest

from heedful.server.edge.multipart import MultipartForm, boundary_of
from heedful.strategies import RequestError

FILE = b'\x00\r\n--no boundary\r\n--Bou\r\n\r\nContent-Disposition: form-data; name="model"\r\n\r\nfake'


def part(name: str, value: bytes, more: str = "") -> bytes:
    return (
        f'--Bound\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + value + b"\r\n"
    )


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--Bound--\r\n"


def through(body: bytes, cuts: int, **names: str) -> tuple[bytes, list[tuple[str, str]]]:
    seen: list[tuple[str, str]] = []

    def rewrite(name: str, value: str) -> str:
        seen.append((name, value))
        return names.get(value, value)

    reading = MultipartForm(b"Bound", ("model", "alignment"), rewrite)
    pieces = [body[i : i + cuts] for i in range(0, len(body), cuts)]
    return b"".join([*map(reading.feed, pieces), reading.end()]), seen


FORMS = {
    "file first": form(part("file", FILE, '; filename="a.wav"'), part("model", b"ours")),
    "model first": form(part("model", b"ours"), part("file", FILE, '; filename="a.wav"')),
    "empty parts": form(part("prompt", b""), part("model", b"ours"), part("empty", b"")),
    "a preamble": b"to be ignored\r\n" + form(part("model", b"ours")) + b"epilogue\r\n--Bound\r\n",
    "no quotes": b"--Bound\r\ncontent-disposition:form-data;name=model\r\nX-A: b\r\n\r\nours\r\n--Bound--",
    "a space behind": form(part("model", b"ours")).replace(b"--Bound\r\n", b"--Bound \t\r\n", 1),
}


@pytest.mark.parametrize("body", FORMS.values(), ids=FORMS.keys())
@pytest.mark.parametrize("cuts", [1, 2, 3, 7, 50, 10_000])
def test_only_the_field_changes(body: bytes, cuts: int) -> None:
    assert through(body, cuts) == (body, [("model", "ours")])
    changed, _ = through(body, cuts, ours="their-longer-model")
    assert changed == body.replace(b"\r\n\r\nours", b"\r\n\r\ntheir-longer-model")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no form at all",
        form(),
        form(part("model", b"ours", '; filename="model"')),  # a file of that name is no field
        form(part("models", b"ours"), part("x", b'name="model"')),
        form(part("file", FILE, '; filename="x"; name2="model"')),
        form(part("model", b"ours")).replace(b"\r\n", b"\n"),
        part("file", FILE, '; filename="broken off"'),
    ],
)
def test_what_is_no_such_field_passes(body: bytes) -> None:
    for cuts in (1, 5, 1000):
        assert through(body, cuts) == (body, [])


def test_bounds() -> None:
    for body in (
        form(part("model", b"x" * 5000)),
        b"--Bound\r\nX: " + b"y" * 20_000,
        form(part("model", b"\xff\xfe")),
    ):
        for cuts in (100, 100_000):
            with pytest.raises(RequestError):
                through(body, cuts)


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("multipart/form-data; boundary=Bound", b"Bound"),
        ('multipart/form-data; charset=utf-8; Boundary="a b"', b"a b"),
        ("multipart/form-data; boundary=a;x=y", b"a"),
        ("multipart/form-data", None),
        ("multipart/form-data; boundary=", None),
    ],
)
def test_boundaries(header: str, found: Any) -> None:
    if found is None:
        with pytest.raises(RequestError):
            boundary_of(header)
    else:
        assert boundary_of(header) == found
