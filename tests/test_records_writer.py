"""The process that writes records: it is not missed when it is killed, and does not outlive its server."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from upstream_fixtures import ScriptedUpstream, recording
from waiting import HANG

from heedful.server.access.client import Client, Role, Tenant
from heedful.server.access.settings import RecordSettings, TenantSettings
from heedful.server.observe.facts import Facts
from heedful.server.records.file import NAME, RecordsFile, Wanted
from heedful.server.records.keeping import DecisionRecords
from heedful.server.records.material import LARGE
from heedful.server.records.record import Entry

CLIENT = Client(Tenant("acme", TenantSettings(records=RecordSettings())), Role.USER, "k")


def facts(user: str, received: int = 0) -> Facts:
    made = Facts("POST", "/v1/chat/completions", client=CLIENT, received=received)
    made.route, made.fields = "/v1/chat/completions", {"user": user, "messages": [{"role": "user"}]}
    return made


def users(folder: Path) -> list[str]:
    """Of all records, the newest first."""
    return [json.loads(body)["users"][0] for _, body in RecordsFile(folder).page(Wanted(), limit=10_000)]


def writers(of: psutil.Process, folder: Path) -> list[psutil.Process]:
    return [each for each in of.children() if each.cmdline()[-1] == str(folder)]


@pytest.fixture
def records(tmp_path: Path) -> Iterator[DecisionRecords]:
    made = DecisionRecords(tmp_path, {})
    yield made
    made.close()


def test_a_writer_that_is_killed_is_started_anew(records: DecisionRecords, tmp_path: Path) -> None:
    records(facts("ann"))
    records.flush().result(HANG)
    (writer,) = writers(psutil.Process(), tmp_path)
    writer.kill()
    writer.wait(HANG)  # which also takes away that it is to be waited for: it was ours
    records(facts("bob"))
    records.flush().result(HANG)
    assert users(tmp_path) == ["bob", "ann"] and records.dropped == 0


def test_what_is_told_to_those_who_stop_a_server_does_not_stop_its_writer(
    records: DecisionRecords, tmp_path: Path
) -> None:
    records(facts("ann"))
    records.flush().result(HANG)
    (writer,) = writers(psutil.Process(), tmp_path)
    for each in (signal.SIGINT, signal.SIGTERM):
        writer.send_signal(each)
    records(facts("bob"))
    records.flush().result(HANG)
    assert users(tmp_path) == ["bob", "ann"] and writers(psutil.Process(), tmp_path) == [writer]


def test_a_stop_ends_it(tmp_path: Path) -> None:
    records = DecisionRecords(tmp_path, {})
    records(facts("ann"))
    records.close()
    assert users(tmp_path) == ["ann"] and writers(psutil.Process(), tmp_path) == []


def test_no_record_no_writer(tmp_path: Path) -> None:
    records = DecisionRecords(tmp_path, {})
    records.start()
    records.close()
    assert writers(psutil.Process(), tmp_path) == [] and not (tmp_path / NAME).exists()


def test_small_and_large_ones_in_their_order(records: DecisionRecords, tmp_path: Path) -> None:
    for user, received in (("a", 0), ("b", LARGE + 1), ("c", 0)):
        records(facts(user, received))
    records.flush().result(HANG)
    assert users(tmp_path) == ["c", "b", "a"]


def test_what_may_be_there_already_is_written_once(tmp_path: Path) -> None:
    """As after a writer that was killed between a write and the word that it is done."""
    file = RecordsFile(tmp_path)
    first, second, third = (
        Entry(id, at, "acme", 10, None, (), "m", "direct", None, b"{}")
        for id, at in (("r1", 1.0), ("r2", 2.0), ("r1", 3.0))
    )
    with file.opened() as db:
        file.write(db, [first])
        file.write(db, [first, second], again=True)
        file.write(db, [third], again=True)  # an upstream that gives an id twice
    assert len(file.page(Wanted())) == 3


def test_a_server_that_is_killed_leaves_no_writer(
    tmp_path: Path,
    upstream: ScriptedUpstream,
    heedful_serve: Callable[..., AbstractContextManager[tuple[str, Any]]],
) -> None:
    config = recording(tmp_path, upstream)
    body = {"model": "theirs", "messages": [{"role": "user", "content": "Hi"}], "user": "ann"}
    with heedful_serve("--config", str(config), log=tmp_path / "log") as (url, process):
        assert httpx.post(f"{url}/v1/chat/completions", json=body).status_code == 200
        assert len(httpx.get(f"{url}/v1/alignment/records").json()["data"]) == 1
        (writer,) = writers(psutil.Process(process.pid), tmp_path / "stores")
        process.kill()
        process.wait(HANG)
        writer.wait(HANG)
    assert users(tmp_path / "stores") == ["ann"]
