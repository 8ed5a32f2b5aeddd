"""A key in the wrong place: in a body, a path or a header where none belongs. It is kept nowhere."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import httpx
import pytest
from upstream_fixtures import Proxy, Reply, ScriptedUpstream, before

from heedful.server.access.client import Role
from heedful.server.access.database import KeyDatabase
from heedful.server.access.key_text import prefix_of
from heedful.server.access.settings import RecordSettings, TenantSettings
from heedful.server.config import Config


@pytest.mark.parametrize("texts", ["digests", "full"])
def test_no_file_log_or_error_has_it(
    proxy: Proxy, upstream: ScriptedUpstream, tmp_path: Path, caplog: pytest.LogCaptureFixture, texts: Any
) -> None:
    caplog.set_level(logging.DEBUG, "heedful")
    _, key = KeyDatabase(tmp_path).create_key("default", Role.ADMIN)
    _, other = KeyDatabase(tmp_path).create_key("default", Role.USER)
    kept = TenantSettings(records=RecordSettings(texts=texts))
    config = Config(
        upstreams=[before(upstream)],
        stores=tmp_path,
        starter_stores=False,
        tenants={"default": kept},
        access_log=str(tmp_path / "access.log"),
    )
    said, headers = "", {"authorization": f"Bearer {key}"}
    hi = {"model": "ours", "messages": [{"role": "user", "content": f"My key is {other}."}]}
    bodies: list[dict[str, Any]] = [
        {"user": other},
        {"safety_identifier": other, "metadata": {"user_id": other}},
        {"model": other},
        {"alignment": other},
        {"alignment": {"pipeline": [{"principles": {other: 1}}]}},
        {other: 1},
    ]
    with proxy(config) as url:
        client = httpx.Client(base_url=url, headers=headers)
        for body in bodies:
            answer = client.post("/v1/chat/completions", json=hi | body)
            said += f"{answer.text} {answer.headers}"
        for name in ("x-request-id", "traceparent", "tracestate", "baggage", "openai-organization"):
            answer = client.post("/v1/chat/completions", json=hi, headers={name: other})
            said += f"{answer.text} {answer.headers} {upstream.last.headers}"
        for path in (f"models/{other}", f"files/{other}", f"alignment/records/{other}"):
            said += client.get(f"/v1/{path}").text
        said += client.post("/v1/messages", json={"model": other, "max_tokens": 1, "messages": []}).text
        upstream.answers(Reply.json({"error": {"message": f"what is {other}?"}}, status=500))
        said += client.post("/v1/chat/completions", json=hi).text
        found = client.get("/v1/alignment/records", params={"user": other}).json()["data"]
        assert len(found) == 2 and found[0]["users"] == [f"{prefix_of(other)}***"]
        assert client.delete("/v1/alignment/records", params={"user": other}).json()["erased"] == 2
        said += client.get("/v1/alignment/records/export").text
    said += caplog.text + b"".join(f.read_bytes() for f in tmp_path.iterdir() if f.is_file()).decode(
        "latin-1"
    )
    assert prefix_of(other) in said and other not in said and key not in said
