"""/v1/embeddings of the stores' own embedder, with the official client."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openai import BadRequestError, OpenAI

from heedful.retrieval.embedding.scripted import word_embedder
from heedful.retrieval.store.stores import Stores
from heedful.strategies.scripted import ScriptedEngine


@pytest.fixture
def openai(
    serving: Callable[..., AbstractContextManager[str]], client: Callable[[str], OpenAI], tmp_path: Path
) -> Iterator[OpenAI]:
    embedder = word_embedder(longest=20)
    stores = Stores(tmp_path, embedder)
    with serving(ScriptedEngine(model="m"), stores=stores) as url:
        yield client(url)
    stores.close()
    embedder.close()


def test_vectors_and_tokens(openai: OpenAI) -> None:
    texts = ["be kind", "to all three words"]
    by_default = openai.embeddings.create(model="words", input=texts)  # the client asks for base64
    plain = openai.embeddings.create(model="words", input=texts, encoding_format="float", dimensions=64)
    raw = openai.embeddings.with_raw_response.create(model="words", input=texts[0], encoding_format="base64")
    assert (by_default.usage.prompt_tokens, by_default.usage.total_tokens) == (6, 6)
    for one, other in zip(by_default.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding)
        assert np.linalg.norm(one.embedding) == pytest.approx(1, abs=1e-5)
    encoded = raw.http_response.json()
    assert encoded["usage"] == {"prompt_tokens": 2, "total_tokens": 2}
    found = np.frombuffer(base64.b64decode(encoded["data"][0]["embedding"]), "<f4")
    assert found == pytest.approx(np.array(plain.data[0].embedding, np.float32))


def test_a_text_that_is_too_long_is_refused_with_numbers_or_cut_where_asked(openai: OpenAI) -> None:
    long = "word " * 21
    with pytest.raises(
        BadRequestError, match="maximum context length is 20 tokens.*resulted in 21 tokens"
    ) as refused:
        openai.embeddings.create(model="words", input=["short", long])
    assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "input.1")
    cut = openai.embeddings.create(model="words", input=long, extra_body={"truncate_prompt_tokens": -1})
    assert cut.usage.prompt_tokens == 20
    whole = openai.embeddings.create(model="words", input="word " * 20)
    assert cut.data[0].embedding == pytest.approx(whole.data[0].embedding)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": [1, 2, 3]}, "input"),
        ({"input": [[1, 2], [3]]}, "input"),
        ({"input": ["text", 3]}, "input"),
        ({"input": []}, "input"),
        ({"input": ""}, "input"),
        ({"input": ["a", ""]}, "input.1"),
        ({"input": None}, "input"),
        ({"input": {"text": "a"}}, "input"),
        ({"input": "a", "dimensions": 32}, "dimensions"),
        ({"input": "a", "dimensions": True}, "dimensions"),
        ({"input": "a", "dimensions": "64"}, "dimensions"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "a", "encoding_format": ["float"]}, "encoding_format"),
        ({"input": "a", "truncate_prompt_tokens": 5}, "truncate_prompt_tokens"),
        ({"input": "a", "truncate_prompt_tokens": "yes"}, "truncate_prompt_tokens"),
        ({"input": "a" * (1 << 20) + "a"}, "input"),
    ],
)
def test_what_cannot_be_embedded_is_named(openai: OpenAI, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequestError) as refused:
        openai.embeddings.create(model="words", input="x", extra_body=fields)
    assert refused.value.param == param
