"""Compressed request bodies: what is taken, what is refused, and bombs."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import brotli
import httpx
import pytest
from backports import zstd
from upstream_fixtures import Proxy, Reply, ScriptedUpstream, before, completion

from heedful.server.config import Config
from heedful.server.edge import encodings
from heedful.strategies.scripted import ScriptedEngine

Serving = Callable[..., AbstractContextManager[str]]
BODY = json.dumps({"model": "scripted", "messages": [{"role": "user", "content": "Hi " * 500_000}]}).encode()
MIB = 1 << 20


def _raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


PACKED: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "x-gzip, in capitals": ("X-GZIP", gzip.compress),
    "gzip, two members": ("gzip", lambda b: gzip.compress(b[:1000]) + gzip.compress(b[1000:])),
    "deflate": ("deflate", zlib.compress),
    "raw deflate": ("deflate", _raw_deflate),
    "br": ("br", brotli.compress),
    "zstd": ("zstd", zstd.compress),
    "zstd, two frames": ("zstd", lambda b: zstd.compress(b[:1000]) + zstd.compress(b[1000:])),
    "zstd over gzip": ("gzip, zstd", lambda b: zstd.compress(gzip.compress(b))),
    "identity": ("identity", lambda b: b),
    "nothing": ("", lambda b: b),
}


@pytest.mark.parametrize("kind", PACKED)
def test_a_packed_body_is_unpacked(serving: Serving, kind: str) -> None:
    coding, pack = PACKED[kind]
    engine = ScriptedEngine("fine")
    with serving(engine) as url:
        answer = httpx.post(
            f"{url}/v1/chat/completions", content=pack(BODY), headers={"content-encoding": coding}
        )
    assert answer.status_code == 200, answer.text
    assert engine.calls[-1].messages[0]["content"] == "Hi " * 500_000


@pytest.mark.parametrize("kind", [k for k in PACKED if "identity" not in k and "nothing" not in k])
async def test_byte_by_byte_and_in_bounded_steps(kind: str) -> None:
    coding, pack = PACKED[kind]
    plain = b"abc" * 20_000 + bytes(5 * MIB)
    packed = pack(plain)

    async def pieces(size: int) -> Any:
        for i in range(0, len(packed), size):
            yield packed[i : i + size]

    for size in (7, len(packed)):
        got = [
            p async for p in encodings.decoded(pieces(size), encodings.codings_of(coding.lower()), 64 * MIB)
        ]
        assert b"".join(got) == plain
        assert max(map(len, got)) <= 2 * MIB


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "gzip, zstd"])
def test_a_bomb_is_refused(serving: Serving, coding: str) -> None:
    packed = bytes(30 * MIB)
    for one in coding.split(", "):
        packed = PACKED[one][1](packed)
    assert len(packed) < MIB // 4
    with serving(ScriptedEngine(), config=Config(max_body_bytes=MIB)) as url:
        for path in ("/v1/chat/completions", "/v1/messages", "/v1/embeddings"):
            answer = httpx.post(f"{url}{path}", content=packed, headers={"content-encoding": coding})
            assert answer.status_code == 413, answer.text


async def test_no_more_of_a_bomb_is_unpacked_than_the_limit() -> None:
    packed = zstd.compress(bytes(200 * MIB))

    async def whole() -> Any:
        yield packed

    size = 0
    async for piece in encodings.decoded(whole(), ["zstd"], MIB):
        size += len(piece)
        if size > MIB:  # as the reader of a body has it
            break
    assert size <= 3 * MIB


def test_a_window_larger_than_senders_may_ask_for_is_refused(serving: Serving) -> None:
    options: dict[int, int] = {
        zstd.CompressionParameter.window_log: 27,
        zstd.CompressionParameter.content_size_flag: 0,
    }
    packer = zstd.ZstdCompressor(options=options)
    packed = packer.compress(BODY) + packer.flush()
    with serving(ScriptedEngine()) as url:
        answer = httpx.post(
            f"{url}/v1/chat/completions", content=packed, headers={"content-encoding": "zstd"}
        )
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_content_encoding")


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
@pytest.mark.parametrize("damage", ["not packed", "cut", "more behind"])
def test_what_is_not_valid_is_refused(serving: Serving, coding: str, damage: str) -> None:
    whole = PACKED[coding][1](BODY)
    packed = {"not packed": BODY, "cut": whole[: len(whole) // 2], "more behind": whole + b"?!?!?!"}[damage]
    with serving(ScriptedEngine()) as url:
        answer = httpx.post(
            f"{url}/v1/chat/completions", content=packed, headers={"content-encoding": coding}
        )
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (
        400,
        "invalid_content_encoding",
        "content-encoding",
    )
    assert coding in error["message"]


@pytest.mark.parametrize("coding", ["compress", "gzip, rot13", "gzip, gzip, gzip, gzip", "aes128gcm"])
def test_a_coding_that_is_not_taken(serving: Serving, coding: str) -> None:
    with serving(ScriptedEngine()) as url:
        for path in ("/v1/chat/completions", "/v1/messages"):
            answer = httpx.post(f"{url}{path}", content=b"x", headers={"content-encoding": coding})
            assert answer.status_code == 415
            assert answer.headers["accept-encoding"] == "gzip, deflate, br, zstd"
            assert "gzip, deflate, br, zstd" in answer.json()["error"]["message"]


def test_the_upstream_gets_a_body_that_fits_its_headers(upstream: ScriptedUpstream, proxy: Proxy) -> None:
    upstream.answers(Reply.json(completion()))
    config = Config(upstreams=[before(upstream, models={"theirs": None})])
    packed = zstd.compress(BODY.replace(b'"scripted"', b'"theirs"'))
    with proxy(config) as url:
        answer = httpx.post(
            f"{url}/v1/chat/completions", content=packed, headers={"content-encoding": "zstd"}
        )
    assert answer.status_code == 200, answer.text
    assert "content-encoding" not in upstream.last.headers
    assert upstream.last.raw == BODY.replace(b'"scripted"', b'"theirs"')
