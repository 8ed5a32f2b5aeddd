"""`heedful serve --workers 2`: one server to its clients, whichever process answers, and whichever is killed."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from upstream_fixtures import Gate, Reply, ScriptedUpstream, chunk, recording, streamed
from waiting import HANG

CHAT = "/v1/chat/completions"
BODY = {"model": "theirs", "messages": [{"role": "user", "content": "Hi"}]}
Here = Callable[..., tuple[int | str | None, str]]
Serve = Callable[..., AbstractContextManager[tuple[str, subprocess.Popen[bytes]]]]


def until(true: Callable[[], bool]) -> None:
    """Asks again and again."""
    end = time.monotonic() + HANG
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


@dataclass
class Served:
    url: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def workers(self) -> list[psutil.Process]:
        children = psutil.Process(self.process.pid).children()
        return [each for each in children if "heedful.server.workers.worker" in each.cmdline()]

    def connected(self, worker: psutil.Process) -> int:
        """Clients of a worker."""
        port = httpx.URL(self.url).port
        found = worker.net_connections("tcp")
        return sum(each.status == "ESTABLISHED" and each.laddr[1] == port for each in found)

    def figures(self, name: str, **labels: str) -> float:
        """The sum of a name's series, by whichever worker takes the connection."""
        text = httpx.get(f"{self.url}/metrics", timeout=HANG).text
        samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
        return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())


@contextmanager
def _serving(serve: Serve, upstream: ScriptedUpstream, folder: Path) -> Iterator[Served]:
    config = recording(folder, upstream, texts="digests")
    with serve("--config", str(config), "--workers", "2", log=folder / "log") as (url, process):
        made = Served(url, process, folder / "log")
        until(lambda: "  workers: " in made.log.read_text())
        yield made


@pytest.fixture(scope="module")
def served(
    _upstream: ScriptedUpstream, heedful_serve: Serve, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    with _serving(heedful_serve, _upstream, tmp_path_factory.mktemp("workers")) as made:
        yield made


def _streams(served: Served, upstream: ScriptedUpstream, held: ExitStack) -> tuple[Gate, list[Iterator[str]]]:
    """Streams that have begun, in every worker at least one."""
    gate, streams = Gate(), list[Iterator[str]]()
    upstream.answers(
        lambda asked: Reply.sse(chunk(role="assistant"), chunk("One"), gate, *streamed("two")[1:])
    )

    def begin() -> bool:
        client = held.enter_context(httpx.Client(timeout=HANG))
        response = held.enter_context(
            client.stream("POST", f"{served.url}{CHAT}", json={**BODY, "stream": True})
        )
        assert response.status_code == 200
        lines = (line for line in response.iter_lines() if line)
        next(lines)
        streams.append(lines)
        return all(served.connected(worker) for worker in served.workers)

    until(begin)
    return gate, streams


def test_figures_are_those_of_all(served: Served, upstream: ScriptedUpstream) -> None:
    before = served.figures("heedful_requests_total", route=CHAT, status="200")
    with ExitStack() as held:
        gate, streams = _streams(served, upstream, held)
        until(lambda: served.figures("heedful_requests_running") >= len(streams))
        gate.open.set()
        assert [list(lines)[-1] for lines in streams] == ["data: [DONE]"] * len(streams)
    for _ in range(8):
        until(lambda: served.figures("heedful_requests_total", route=CHAT) == before + len(streams))
    assert served.figures("heedful_request_seconds_count", model="theirs") == before + len(streams)
    assert served.figures("heedful_build_info") == 1


def test_records_are_those_of_all(served: Served, upstream: ScriptedUpstream) -> None:
    with ExitStack() as held:
        gate, streams = _streams(served, upstream, held)
        gate.open.set()
        for lines in streams:
            list(lines)
    total = int(served.figures("heedful_requests_total", route=CHAT))
    url = f"{served.url}/v1/alignment/records?limit=100"
    until(lambda: len(httpx.get(url).json()["data"]) == min(100, total))


@pytest.fixture
def own(upstream: ScriptedUpstream, heedful_serve: Serve, tmp_path: Path) -> Iterator[Served]:
    """Not the others': tests with an engine run in a turn of their own, perhaps after the one that ends theirs."""
    with _serving(heedful_serve, upstream, tmp_path) as made:
        yield made


@pytest.mark.engine
def test_a_norm_is_heeded_by_all_and_one_process_embeds(own: Served, upstream: ScriptedUpstream) -> None:
    served, stores = own, f"{own.url}/v1/alignment/stores/norms"
    assert httpx.put(stores, timeout=HANG).status_code == 201
    body = {**BODY, "alignment": "norms"}
    with ExitStack() as held:
        clients = [held.enter_context(httpx.Client(timeout=HANG))]
        while not all(served.connected(worker) for worker in served.workers):
            clients[-1].get(f"{served.url}/health")
            clients.append(held.enter_context(httpx.Client(timeout=HANG)))
        for i, client in enumerate(clients):
            client.post(
                f"{stores}/items", json={"id": "rule", "text": f"Rule number {i} holds."}, timeout=HANG
            )
            for other in (client, clients[i - 1]):
                assert other.post(f"{served.url}{CHAT}", json=body).status_code == 200
                assert f"Rule number {i} holds." in upstream.last.raw.decode()
    everyone = psutil.Process(served.process.pid).children(recursive=True)
    assert sum("heedful.retrieval.embedding.encoding" in each.cmdline() for each in everyone) == 1


def test_a_killed_worker_is_started_again(served: Served, upstream: ScriptedUpstream) -> None:
    """What it answered still counts, what runs elsewhere goes on, and nobody who comes is turned away."""
    killed, other = served.workers
    with ExitStack() as held:
        gate, streams = _streams(served, upstream, held)
        lost = served.connected(killed)
        counted = served.figures("heedful_requests_total", route=CHAT)
        killed.kill()
        upstream.answers(Reply.json({}))
        killed.wait(HANG)
        assert httpx.get(f"{served.url}/health", timeout=HANG).status_code == 200
        gate.open.set()
        ends = [_end(lines) for lines in streams]
        assert (ends.count(None), ends.count("data: [DONE]")) == (lost, len(streams) - lost)
    until(lambda: len(served.workers) == 2 and all(served_by(served, each) for each in served.workers))
    assert other in served.workers and killed not in served.workers
    until(lambda: served.figures("heedful_requests_total", route=CHAT) == counted + len(streams) - lost)
    assert "worker" in served.log.read_text() and "started again" in served.log.read_text()


def _end(lines: Iterator[str]) -> str | None:
    """A stream's last line; None where it broke off."""
    try:
        return list(lines)[-1]
    except httpx.TransportError:
        return None


def served_by(served: Served, worker: psutil.Process) -> bool:
    """Whether a worker takes connections: one more does, sooner or later."""
    with httpx.Client() as client:
        client.get(f"{served.url}/health")
        return served.connected(worker) > 0


@pytest.mark.ends_server
def test_sigterm_finishes_what_runs_in_every_worker(served: Served, upstream: ScriptedUpstream) -> None:
    workers = served.workers
    with ExitStack() as held:
        gate, streams = _streams(served, upstream, held)
        idle = held.enter_context(httpx.Client(timeout=HANG))
        idle.get(f"{served.url}/health")
        served.process.send_signal(signal.SIGTERM)
        until(lambda: not _takes(served.url))
        gate.open.set()
        assert [list(lines)[-1] for lines in streams] == ["data: [DONE]"] * len(streams)
    assert served.process.wait(HANG) == 0
    assert not any(worker.is_running() for worker in workers)
    assert "Traceback" not in served.log.read_text()


def _takes(url: str) -> bool:
    try:
        httpx.get(f"{url}/health")
    except httpx.TransportError:
        return False
    return True


def test_a_model_in_the_process_has_one(heedful_here: Here) -> None:
    status, said = heedful_here("serve", "smollm2-135m-instruct", "--workers", "2")
    assert status == 2
    assert "workers: 2 processes would each load smollm2-135m-instruct" in said and "--upstream" in said


def test_a_worker_that_cannot_start_stops_the_whole(heedful_here: Here) -> None:
    arguments = ("serve", "--upstream", "http://127.0.0.1:9/v1", "--workers", "2", "--port", "0")
    status, said = heedful_here(*arguments)
    assert status == 2
    assert "worker 0 can't start: upstream 127.0.0.1:9: name its models" in said


def test_none_outlives_a_supervisor_that_is_killed(
    upstream: ScriptedUpstream, heedful_serve: Serve, tmp_path: Path
) -> None:
    config = recording(tmp_path, upstream)
    with heedful_serve("--config", str(config), "--workers", "2", log=tmp_path / "log") as (url, process):
        workers = Served(url, process, tmp_path / "log").workers
        process.kill()
        for worker in workers:
            worker.wait(HANG)
        assert not _takes(url)
