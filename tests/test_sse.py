"""Server-sent events, wherever the stream is cut."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from heedful.server.engines.upstream.sse import SseParser, whole_events

STREAM = (
    "\ufeff: a comment\n\n"
    'data: {"t":"naïve 😀"}\n\n'
    "event: delta\ndata:no space\nid: 7\nretry: 10\n\n"
    "data: two\r\ndata: lines\r\n\r\n"
    "data\n\n"
    "data: old mac\r\r"
    ": keep-alive\n\n"
    "data: [DONE]\n\n"
    "data: never finished"
).encode()
EVENTS = ['{"t":"naïve 😀"}', "no space", "two\nlines", "", "old mac", "[DONE]"]


def parsed(pieces: list[bytes]) -> list[str]:
    parser = SseParser()
    return [data.decode() for piece in pieces for data in parser.feed(piece)]


def test_one_cut_at_every_byte() -> None:
    for i in range(len(STREAM) + 1):
        assert parsed([STREAM[:i], STREAM[i:]]) == EVENTS, i


def test_byte_by_byte() -> None:
    assert parsed([STREAM[i : i + 1] for i in range(len(STREAM))]) == EVENTS


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_any_cuts(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    assert parsed([STREAM[a:b] for a, b in zip(edges, edges[1:], strict=False)]) == EVENTS


def test_what_is_whole_is_what_a_parser_gives() -> None:
    for i in range(len(STREAM) + 1):
        cut = whole_events(STREAM[:i])
        if STREAM[:i].endswith(b"\n\r"):
            continue  # half of a CRLF
        # A parser waits after any CR for that reason; the colon tells it what it is.
        assert parsed([STREAM[:cut], b":"]) == parsed([STREAM[:i], b":"]), i


def test_an_event_without_end_is_given_up() -> None:
    parser = SseParser(limit=1000)
    try:
        for _ in range(20):
            parser.feed(b"x" * 100)
    except ValueError as error:
        assert "larger than 1000 bytes" in str(error)
    else:
        raise AssertionError("no limit")
