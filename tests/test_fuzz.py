"""The whole API under a schema fuzzer: whatever is sent, no answer is a 5xx and every answer has its shape.

HEEDFUL_FUZZ: how many times as many cases as usual (default 1, which is some 1,600 requests).
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import httpx
import pytest
from fuzz_engine import FuzzEngine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from upstream_fixtures import LIMIT, Asked, Proxy, Reply, ScriptedUpstream, before, completion, streamed

from heedful.retrieval.embedding.scripted import word_embedder
from heedful.retrieval.store.stores import Stores
from heedful.server.access.settings import KeySettings
from heedful.server.app import openapi_document
from heedful.server.config import Config

MODELS = [
    "scripted",
    "scripted@norms",
    "scripted@principles",
    "scripted@demos",
    "scripted@searched",
    "scripted@segments",
    "scripted@refine",
    "scripted@sentences",
    "scripted@best_of_n",
    "scripted@likeliest",
    "scripted@everything",
    "scripted@deliberate",
    "ours",
    "ours@principles",
    "ours@thoughtful",
    "ours@urial",
    "ours@demos",
    "ours@refine",
    "ours@best_of_n",
    "ours@racing",
    "ours@revised",
    "ours@deliberate",
    "nobody",
]
VERIFIERS: Any = [
    "toxicity",
    "self",
    "guard",
    "norms",
    {"policy": {"words": ["bad"]}},
    {"evidence": {"k": 2}},
]
LENIENT: Any = {"verifiers": VERIFIERS, "on_error": "pass"}  # a judge without a verdict is a 502, and rightly
ALIGNMENTS: Any = {
    "searched": [{"rain": {"effort": "low", "max_drafted_tokens": 200, "no_opinion": "decode"}}],
    "segments": [{"blockwise": LENIENT | {"n": 2, "max_tokens": 30}}],
    "refine": [{"refine": LENIENT | {"max_rounds": 2}}],
    "sentences": [{"refine": LENIENT | {"max_rounds": 1, "mode": "sentence"}}],
    "best_of_n": [{"best_of_n": LENIENT | {"n": 3}}],
    "revised": [{"tpo": LENIENT | {"n": 2, "max_rounds": 1}}],
    "racing": [{"best_of_n": LENIENT | {"n": 4, "reject": 0.5, "reject_after": 2}}],
    "likeliest": [{"best_of_n": {"verifiers": [], "n": 3}}],
    "thoughtful": [{"principles": {"mode": "cot"}}],
    "deliberate": ["norms", "align3"],
    "everything": ["norms", "demos", "thoughtful", "refine"],
}
ADMIN = {"x-api-key": "the key of one who may ask for anything"}
SENT: Counter[int] = Counter()
"""Answers by status, told at the end (pytest -s)."""
TIMES = int(os.environ.get("HEEDFUL_FUZZ", "1"))


def by_kind(asked: Asked) -> Reply:
    if asked.path.endswith("/count_tokens"):
        return Reply.json({"input_tokens": 3})
    if asked.path.endswith("/moderations"):
        result = {"flagged": False, "categories": {}, "category_scores": {}}
        return Reply.json({"id": "modr-1", "model": "theirs", "results": [result]})
    return Reply.sse(*streamed("x")) if asked.body.get("stream") is True else Reply.json(completion())


@pytest.fixture(scope="session")
def fuzzed(
    _upstream: ScriptedUpstream, proxy: Proxy, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """An engine of our own and an upstream, both of which answer anything, and stores to be written to."""
    stores = Stores(tmp_path_factory.mktemp("fuzzed"), word_embedder())
    stores.add_starters()
    key = KeySettings(tenant="default", role="admin", sha256=sha256(ADMIN["x-api-key"].encode()).hexdigest())
    config = Config(upstreams=[before(_upstream)], alignments=ALIGNMENTS, keys=[key])
    with proxy(config, FuzzEngine(), stores=stores) as url:
        yield url
    stores.close()
    print(f"\nfuzzed with {SENT.total()} requests: {dict(sorted(SENT.items()))}")


@pytest.fixture(scope="session")
def api(fuzzed: str) -> Any:
    import schemathesis  # here, since every worker imports this file: it takes seconds

    return schemathesis.openapi.from_url(f"{fuzzed}/openapi.json")


@pytest.fixture(scope="session")
def checks() -> list[Any]:
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

    return [not_a_server_error, content_type_conformance, response_schema_conformance]


OPERATIONS = [(path, method) for path, kinds in openapi_document()["paths"].items() for method in kinds]


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_any_input(
    api: Any, checks: list[Any], path: str, method: str, upstream: ScriptedUpstream, fuzzed: str
) -> None:
    upstream.answers(by_kind)
    examples = TIMES * (40 if method == "post" else 5)

    @given(case=api[path][method].as_strategy())
    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    def send(case: Any) -> None:
        if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
            # A made-up name would be a 404 every time and reach nothing.
            case.body["model"] = MODELS[len(case.body["model"]) % len(MODELS)]
        if "store" in (case.path_parameters or {}) and method != "delete":
            case.path_parameters["store"] = "norms"  # likewise
        SENT[case.call_and_validate(base_url=fuzzed, checks=checks, headers=ADMIN).status_code] += 1

    send()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize("path", [path for path, method in OPERATIONS if method == "post"])
def test_any_json_in_any_field(path: str, upstream: ScriptedUpstream, fuzzed: str) -> None:
    """Beyond the schema: every listed field with any value whatever, and bodies that are no object at all."""
    upstream.answers(by_kind)
    (body,) = (
        kind["schema"]
        for kind in openapi_document()["paths"][path]["post"]["requestBody"]["content"].values()
    )
    valid = {"messages": [{"role": "user", "content": "Hi"}], "prompt": "Hi", "input": "Hi", "max_tokens": 4}
    if "/stores/" in path:
        valid = {"text": "Hi"} if path.endswith("items") else {"query": "Hi"}
    components = openapi_document()["components"]["schemas"]
    described = components[body["$ref"].rpartition("/")[2]] if "$ref" in body else {}
    fields = {
        **described.get("properties", {}),
        "previous_response_id": {},
        "stop": {},
        "messages": {},
    }

    @given(
        changes=st.dictionaries(st.sampled_from(sorted(fields)), JSON, max_size=3),
        model=st.sampled_from(MODELS),
        whole=JSON,
        broken=st.booleans(),
    )
    @settings(max_examples=60 * TIMES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    def send(changes: dict[str, Any], model: str, whole: Any, broken: bool) -> None:
        named = {} if "/stores/" in path else {"model": model}
        sent = whole if broken else {**valid, **named, **changes}
        content = json.dumps(sent).encode(errors="surrogatepass")
        response = client.post(f"{fuzzed}{path.format(store='norms', id='nothing')}", content=content)
        SENT[response.status_code] += 1
        assert response.status_code < 500, (sent, response.text)
        if response.status_code >= 400:
            assert response.json()["error"]["message"]

    with httpx.Client(timeout=LIMIT, headers=ADMIN) as client:
        send()
