"""Limits are those of all workers: minutes and requests at once are counted in a table that they share."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
from known_clients import let_in
from running import serving_app
from upstream_fixtures import Opening
from waiting import HANG

from heedful.prompts import Prompts
from heedful.server.access.client import Client, Role, Tenant
from heedful.server.access.settings import AdmissionSettings, LimitSettings, TenantSettings
from heedful.server.alignments import Alignments
from heedful.server.app import create_app
from heedful.server.config import Config
from heedful.server.engines.served import ServedModel
from heedful.server.limits import table as tables
from heedful.server.limits import windows
from heedful.server.limits.table import SharedRates, SharedTable, SharedUnderWay
from heedful.server.service import Service
from heedful.server.workers.wire import WorkerPlace
from heedful.strategies import Call, EngineUnavailable, Resources
from heedful.strategies.scripted import ScriptedEngine

BODY = {"model": "scripted", "messages": [{"role": "user", "content": "Hi"}]}
COST = len("HiHello")
_COUNTING = """
import sys
from pathlib import Path
from heedful.server.limits import windows
from heedful.server.limits.table import SharedRates, SharedTable
windows.now = lambda: 30.0
rates = SharedRates(SharedTable(Path(sys.argv[1]), 2, int(sys.argv[2])))
count, taken = rates.count("requests/acme"), 0
together = rates.together([count])
print("ready", flush=True)
sys.stdin.readline()
for _ in range(20_000):
    with together:
        if count.minute != 0:
            rates.turn(count, 0)
        if count.current < 10_001:
            count.current += 1
            taken += 1
print(taken)
"""


@contextmanager
def _workers(folder: Path, engine: Callable[[], ServedModel], **limits: int) -> Iterator[list[str]]:
    """Two of one server, each in a thread of its own."""
    config = Config(workers=2, stores=folder)
    client = Client(Tenant("acme", TenantSettings(limits=LimitSettings(**limits))), Role.USER, "k1")
    with ExitStack() as stack:
        urls = []
        for number in range(2):
            place = WorkerPlace(config, number, False, 0, folder)
            alignments = Alignments(config, Resources(Prompts()))
            service = Service(config, {"scripted": engine()}, alignments, place=place)
            let_in(service.access, {"a": client})
            urls.append(stack.enter_context(serving_app(create_app(service))))
        yield urls


def _post(url: str) -> httpx.Response:
    return httpx.post(f"{url}/v1/chat/completions", json=BODY, headers={"x-api-key": "a"}, timeout=HANG)


@pytest.mark.parametrize("limits", [{"requests_per_minute": 4}, {"tokens_per_minute": 3 * COST + 1}])
def test_a_minute(tmp_path: Path, limits: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "now", lambda: 1_000_000.0)
    with _workers(tmp_path, lambda: ScriptedEngine("Hello"), **limits) as (one, other):
        answers = [_post(url) for url in (one, other, one, other)]
        assert [answer.status_code for answer in answers] == [200] * 4
        (kind,) = (name.removesuffix("_per_minute") for name in limits)
        left = [int(answer.headers[f"x-ratelimit-remaining-{kind}"]) for answer in answers]
        assert left == sorted(left, reverse=True) and len(set(left)) == 4
        for url in (one, other):
            refused = _post(url)
            assert refused.status_code == 429 and int(refused.headers["retry-after"]) > 1


def test_requests_at_once(tmp_path: Path) -> None:
    began, go = threading.Semaphore(0), Opening()

    async def reply(call: Call) -> str:
        began.release()
        await go.wait()
        return "Hello"

    with _workers(tmp_path, lambda: ScriptedEngine(reply), concurrent=1) as (one, other):
        first = threading.Thread(target=_post, args=(one,))
        first.start()
        assert began.acquire(timeout=HANG)
        assert _post(other).status_code == 429
        go.set()
        first.join(HANG)
        assert _post(other).status_code == 200


def test_processes_that_count_at_the_same_time_let_through_what_is_allowed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _COUNTING, str(tmp_path / "limits")]
    counting = [
        subprocess.Popen([*command, str(n)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for n in range(2)
    ]
    for each in counting:
        assert each.stdout is not None and each.stdout.readline() == "ready\n"
    for each in counting:
        assert each.stdin is not None
        each.stdin.write("\n")
        each.stdin.flush()
    taken = [int(each.communicate()[0]) for each in counting]
    assert sum(taken) == 10_001


def test_what_ran_in_a_worker_ends_with_it(tmp_path: Path) -> None:
    killed, other = (SharedUnderWay(SharedTable(tmp_path / "limits", 2, number)) for number in range(2))
    assert killed.full([("acme", 2)]) is None and other.full([("acme", 2)]) is None
    assert other.full([("acme", 2)]) == ("acme", 2)
    successor = SharedUnderWay(SharedTable(tmp_path / "limits", 2, 0))
    assert successor["acme"] == other["acme"] == 1
    other.over([("acme", 2)])
    assert successor["acme"] == 0


def test_a_full_table_forgets_what_no_longer_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_BUCKETS", 1)
    clock = [60_000.0]
    monkeypatch.setattr(windows, "now", lambda: clock[0])
    rates = SharedRates(SharedTable(tmp_path / "limits", 2, 0))
    held = [rates.count(f"requests/t{i}") for i in range(17)]
    for count in held[:16]:
        rates.add([count], 1)
    with pytest.raises(EngineUnavailable, match="more keys"):
        rates.add([held[16]], 1)
    clock[0] += 180
    rates.add([held[16]], 1)
    rates.add([held[0]], 1)
    with rates.together(held[:1] + held[16:]):
        assert [each.used for each in rates.look(["requests/t0", "requests/t16"])] == [1, 1]


def test_a_line_is_shared_out() -> None:
    whole = AdmissionSettings(running=7, waiting=5, per_tenant=4)
    shares = [whole.share(number, 3) for number in range(3)]
    assert [share.running for share in shares] == [3, 2, 2]
    assert [share.waiting for share in shares] == [2, 2, 1]
    assert [share.per_tenant for share in shares] == [1, 1, 1]


def test_a_full_disk_is_told_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A map of a file that has no place on the disk would end whoever writes into it."""
    path = tmp_path / "limits"
    table = SharedTable(path, 2, 0)
    assert path.stat().st_blocks * 512 >= path.stat().st_size > 0
    table.close()
    monkeypatch.setattr("os.posix_fallocate", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OSError, match="No space"):
        SharedTable(path, 2, 0)
