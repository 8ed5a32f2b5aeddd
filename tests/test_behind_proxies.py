"""The configurations of docs/operate/deploy/, with nginx and Envoy themselves, before a `heedful serve`.

Only the addresses and files in them are put in place of those of a machine. Skipped where the proxy is not installed.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from upstream_fixtures import DONE, LIMIT, Gate, Reply, ScriptedUpstream, before, chunk, completion
from waiting import until_ready

DEPLOY = Path(__file__).parent.parent / "docs" / "operate" / "deploy"
BODY = {"model": "ours", "messages": [{"role": "user", "content": "Hi"}], "stream": True}


@pytest.fixture(scope="module")
def heedful(
    heedful_serve: Callable[..., object],
    _upstream: ScriptedUpstream,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("heedful")
    config = folder / "heedful.yaml"
    config.write_text(json.dumps({"upstreams": [before(_upstream)], "starter_stores": False}))
    with heedful_serve("--config", str(config), log=folder / "log") as (url, _):  # type: ignore[attr-defined]
        yield url.removeprefix("http://")


def _nginx(config: str, folder: Path) -> tuple[str, list[str]]:
    for file in ("/var/log/nginx/", "/run/", "/etc/nginx/tls/"):
        config = config.replace(f" {file}", f" {folder}/")
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    config = config.replace("http {", "http {" + "".join(f"{k}_temp_path {folder}/{k};" for k in kinds), 1)
    user = "user root;" if os.geteuid() == 0 else ""
    return config, ["nginx", "-p", str(folder), "-g", f"daemon off; {user}", "-c"]


def _envoy(config: str, folder: Path) -> tuple[str, list[str]]:
    return config.replace("/etc/envoy/tls/", f"{folder}/"), ["envoy", "--concurrency", "1", "-c"]


@pytest.fixture(scope="module", params=["nginx.conf", "envoy.yaml"])
def outside(
    request: pytest.FixtureRequest, heedful: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    """A client of the proxy, over TLS."""
    program = request.param.partition(".")[0]
    if not shutil.which(program) or not shutil.which("openssl"):
        pytest.skip(f"{program} or openssl is not installed")
    folder = tmp_path_factory.mktemp(program)
    _certificate(folder)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    config = (DEPLOY / request.param).read_text()
    host, _, inner = heedful.rpartition(":")
    for told, here in (
        ("server 127.0.0.1:8000;", f"server {heedful};"),
        ("address: 127.0.0.1, port_value: 8000", f"address: {host}, port_value: {inner}"),
        ("listen 443 ", f"listen 127.0.0.1:{port} "),
        ("address: 0.0.0.0, port_value: 443", f"address: 127.0.0.1, port_value: {port}"),
    ):
        config = config.replace(told, here)
    config, command = {"nginx": _nginx, "envoy": _envoy}[program](config, folder)
    (file := folder / request.param).write_text(config)
    log = folder / "out"
    with log.open("wb") as out:
        process = subprocess.Popen([*command, str(file)], stdout=out, stderr=out)
    client = httpx.Client(base_url=f"https://127.0.0.1:{port}", verify=False, timeout=LIMIT)
    try:
        until_ready(lambda: _ready(client), psutil.Process(process.pid), log)
        yield client
    finally:
        client.close()
        process.terminate()
        process.wait(LIMIT)


def _certificate(folder: Path) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
        + ["-keyout", "heedful.key", "-out", "heedful.crt"],
        cwd=folder,
        check=True,
        capture_output=True,
    )


def _ready(client: httpx.Client) -> bool:
    try:
        return client.get("/health").status_code == 200
    except httpx.TransportError:
        return False


def test_a_stream_arrives_token_by_token(outside: httpx.Client, upstream: ScriptedUpstream) -> None:
    gates = [Gate(), Gate()]
    pieces: list[bytes | Gate] = [
        chunk("One"),
        gates[0],
        chunk(" two"),
        gates[1],
        chunk(" three", finish="stop"),
        DONE,
    ]
    upstream.answers(Reply.sse(*pieces))
    with outside.stream("POST", "/v1/chat/completions", json=BODY) as response:
        events = (line for line in response.iter_lines() if line)
        # Each while the upstream holds back what follows.
        assert "One" in next(events)
        gates[0].open.set()
        assert " two" in next(events)
        gates[1].open.set()
        assert " three" in next(events) and next(events) == "data: [DONE]"


@pytest.mark.parametrize("alignment", ["direct", "principles"])
def test_a_client_that_leaves_ends_the_work(
    outside: httpx.Client, upstream: ScriptedUpstream, alignment: str
) -> None:
    upstream.answers(Reply.sse(chunk("One"), Gate()))
    with outside.stream("POST", "/v1/chat/completions", json=BODY | {"alignment": alignment}) as response:
        assert "One" in next(response.iter_lines())
    assert upstream.hung_up.acquire(timeout=LIMIT)


def test_a_client_that_leaves_before_the_first_token(
    outside: httpx.Client, upstream: ScriptedUpstream
) -> None:
    upstream.answers(Reply.sse(gate := Gate()))
    with socket.create_connection((outside.base_url.host, outside.base_url.port or 0)) as plain:
        with outside_tls().wrap_socket(plain) as connection:
            body = json.dumps(BODY).encode()
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)
            assert gate.reached.wait(LIMIT)
    assert upstream.hung_up.acquire(timeout=LIMIT)


def outside_tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def test_a_large_body_goes_through(outside: httpx.Client, upstream: ScriptedUpstream) -> None:
    upstream.answers(Reply.json(completion("Seen")))
    picture = "data:image/png;base64," + "A" * 8_000_000
    part = {"type": "image_url", "image_url": {"url": picture}}
    body = {"model": "ours", "messages": [{"role": "user", "content": [part]}]}
    answer = outside.post("/v1/chat/completions", json=body)
    assert answer.json()["choices"][0]["message"]["content"] == "Seen"
    assert upstream.last.body["messages"][0]["content"][0] == part


def test_errors_and_their_headers_go_through(outside: httpx.Client, upstream: ScriptedUpstream) -> None:
    assert (
        outside.post("/v1/chat/completions", json=BODY | {"model": "none"}).json()["error"]["param"]
        == "model"
    )
    error = {"error": {"message": "slowly", "type": "rate_limit", "param": None, "code": "slow"}}
    upstream.answers(Reply.json(error, status=429, headers={"retry-after": "7"}))
    answer = outside.post("/v1/chat/completions", json=BODY)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")
    assert len(upstream.asked) == 1  # nobody on the way asks again


@pytest.mark.parametrize(
    "path",
    ["/metrics", "//metrics", "/./metrics", "/%6detrics", "/v1/../metrics", "/v1/alignment/admin/keys"],
)
def test_what_is_for_the_house_stays_in_it(outside: httpx.Client, path: str) -> None:
    url = outside.base_url.copy_with(raw_path=path.encode())
    answer = outside.get(url)
    assert answer.status_code in (400, 404)
    assert (
        "python_gc" not in answer.text
        and "heedful" not in answer.text
        and "invalid_request" not in answer.text
    )
