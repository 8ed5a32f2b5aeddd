"""What each side does when it is killed, written to by several, deleted or read whole; parts of lancedb_beside.py.

Every function takes a side's name and an empty folder, and returns facts; what a child process does is at the end.
"""

from __future__ import annotations

import itertools
import json
import random
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from heedful.benchmarks.scripts.lancedb_sides import SIDES, Lance, Side
from heedful.benchmarks.scripts.retrieval_scale import draw
from heedful.retrieval import Item

GROUP, SMALL = 5, 2000
WRITERS, EACH, SHARED = 4, 12, 3
_QUERY = draw(10**6, 1)[0]
_ONE = draw(10**6 + 1, 1)


def kills(name: str, folder: Path, rounds: int = 10) -> dict[str, Any]:
    """SIGKILL in the midst of groups of five and of replacements: what was acknowledged, and what is by halves."""
    _small(name, folder, 50).close()
    dice, acknowledged, lost, halves = random.Random(0), 0, 0, 0
    texts: dict[str, str] = {}
    for round in range(rounds):
        child = _child("write_on", name, folder, str(round))
        assert child.stdout is not None
        lines: list[str] = [child.stdout.readline()]
        reader = threading.Thread(target=lines.extend, args=[child.stdout])
        reader.start()
        time.sleep(dice.uniform(0.1, 1))
        child.kill()
        child.wait()
        reader.join()
        said = [json.loads(line) for line in lines if line.endswith("\n")]
        pending: dict[str, str] = {}
        for group, done in said:
            pending = {} if done else group
            texts |= group if done else {}
            acknowledged += done
        side = SIDES[name](folder)
        # What the last write would have changed is as it was, or all of it is there.
        there = {id: side.history(id)[-1:] == [text] for id, text in pending.items()}
        halves += len(set(there.values())) > 1
        texts |= pending if all(there.values()) else {}
        lost += sum(side.history(id)[-1:] != [text] for id, text in list(texts.items())[-60:])
        standing = Counter(id.rsplit("-", 1)[0] for id in side.export() if id.startswith("g"))
        halves += sum(count != GROUP for count in standing.values())
        assert len(side.search(_QUERY, 10, None)) == 10
        side.close()
    return {"rounds": rounds, "acknowledged": acknowledged, "lost": lost, "by_halves": halves}


def history(name: str, folder: Path, versions: int = 100) -> dict[str, Any]:
    """One of 2,000 items replaced again and again, and asked what stood when."""
    side = _small(name, folder, SMALL)
    middle, began = 0.0, time.perf_counter()
    for i in range(versions):
        side.add([Item(f"said {i}", id="n7")], _ONE)
        if i == versions // 2:
            middle = time.time()
    result: dict[str, Any] = {"versions": versions, "replacements_per_s": _rate(versions, began)}
    began = time.perf_counter()
    assert len(side.history("n7")) == versions + 1
    result["history_ms"] = _ms(began)
    began = time.perf_counter()
    assert side.as_of("n7", middle) == f"said {versions // 2}"
    result["as_of_ms"] = _ms(began)
    if isinstance(side, Lance):
        began = time.perf_counter()
        assert side.as_of_by_table_version("n7", middle) == f"said {versions // 2}"
        result["as_of_by_table_version_ms"] = _ms(began)
    result |= {"disk_mb": megabytes(folder), "files": sum(f.is_file() for f in folder.rglob("*"))}
    side.close()
    return result


def writers(name: str, folder: Path) -> dict[str, Any]:
    """Four processes write items of their own, and by turns replace the same three."""
    _small(name, folder, SMALL).close()
    children = [_child("write_shared", name, folder, str(i)) for i in range(WRITERS)]
    for child in children:  # all are ready before the first begins
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
    began = time.perf_counter()
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    answers = [child.communicate(timeout=120)[0] for child in children]
    took = time.perf_counter() - began
    told = [json.loads(answer.splitlines()[-1]) for answer in answers]
    side = SIDES[name](folder)
    standing = Counter(side.export())
    own = [id for answer in told for id in answer["own"]]
    versions = sum(len(side.history(f"n{i}")) - 1 for i in range(SHARED))
    side.close()
    return {
        "acknowledged_per_s": round((len(own) + sum(a["replaced"] for a in told)) / took, 1),
        "refused": sum((Counter(a["refused"]) for a in told), Counter()),
        "own_lost": sum(standing[id] != 1 for id in own),
        "replacements_acknowledged": sum(a["replaced"] for a in told),
        "replacements_in_history": versions,
        "standing_of_each_shared": [standing[f"n{i}"] for i in range(SHARED)],
    }


def deletion(name: str, folder: Path) -> dict[str, Any]:
    """Deleted while two threads search it through handles of their own; then another is made of the same name."""
    _small(name, folder, SMALL).close()
    deleted, ends = threading.Event(), list[str]()

    def search_on() -> None:
        side, after = SIDES[name](folder), 0
        try:
            while after < 20:
                side.search(_QUERY, 10, None)
                after += deleted.is_set()
            ends.append("goes on finding what was deleted")
        except Exception as error:  # what it is told is what is measured
            ends.append(_said(error))

    threads = [threading.Thread(target=search_on) for _ in range(2)]
    for thread in threads:
        thread.start()
    old = SIDES[name](folder)
    old.search(_QUERY, 10, None)
    SIDES[name](folder).remove()
    deleted.set()
    for thread in threads:
        thread.join(60)
    new = SIDES[name](folder, create=True)
    new.add([Item("anew", id="anew")], _ONE)
    try:
        found = old.search(_QUERY, 10, None)
        then = "finds the new one's" if found == ["anew"] else f"finds {len(found)} of the old one's"
    except Exception as error:
        then = _said(error)
    try:
        old.add([Item("late", id="late")], _ONE)
        late = "acknowledged, " + ("in the new one" if "late" in list(new.export()) else "and nowhere")
    except Exception as error:
        late = _said(error)
    return {"searchers": sorted(set(ends)), "old_handle_after_making_anew": then, "its_write": late}


def export(name: str, folder: Path) -> dict[str, Any]:
    """All items, read slowly while others are added, replaced and deleted: they are those of its beginning."""
    side = _small(name, folder, SMALL)
    expected, ids = sorted(side.export()), side.export()
    found = list(itertools.islice(ids, 10))
    for i in range(20):
        side.add([Item(f"later {i}", id=f"later{i}")], _ONE)
        side.add([Item(f"said {i}", id=f"n{1000 + i}")], _ONE)
    side.delete([f"n{i}" for i in range(1500, 1600)])
    whole = sorted([*found, *ids]) == expected
    began = time.perf_counter()
    count = sum(1 for _ in side.export())
    side.close()
    return {"as_of_its_beginning": whole, "items": count, "export_ms": _ms(began)}


def syncs(name: str, folder: Path, writes: int = 20) -> dict[str, Any] | None:
    """How often the disk is told to keep what was written, in so many acknowledged writes; None without strace."""
    if shutil.which("strace") is None:
        return None
    _small(name, folder, 50).close()
    traced = ["strace", "-f", "-qq", "-e", "trace=fsync,fdatasync,sync_file_range,msync"]
    child = _child("write_few", name, folder, str(writes), before=traced)
    _, errors = child.communicate(timeout=120)
    assert child.returncode == 0, errors[-2000:]
    return {"writes": writes, "syncs": len(re.findall(r"\b(?:fsync|fdatasync)\(", errors))}


def megabytes(folder: Path) -> float:
    return round(sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) / 2**20, 1)


def _small(name: str, folder: Path, count: int) -> Side:
    side = SIDES[name](folder, create=True)
    side.grow([Item(f"Norm {i}", id=f"n{i}") for i in range(count)], draw(10**6 + 5, count))
    side.settle()
    return side


def _rate(count: int, began: float) -> float:
    return round(count / (time.perf_counter() - began), 1)


def _ms(began: float) -> float:
    return round((time.perf_counter() - began) * 1000, 2)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {re.split(r'[,/(]', str(error))[0][:90].strip()}"


# -- children


def _child(what: str, *arguments: object, before: list[str] | None = None) -> subprocess.Popen[str]:
    command = [*(before or []), sys.executable, __file__, what, *map(str, arguments)]
    pipe = subprocess.PIPE
    errors = pipe if before else None
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, text=True, bufsize=1)


def write_on(side: Side, round: str) -> None:
    """Until it is killed; says what it is about to write, and what was acknowledged."""
    for i in itertools.count():
        texts = {f"g{round}-{i}-{j}": f"rule {round} {i} {j}" for j in range(GROUP)}
        if i % 3 == 2:
            texts = {f"g{round}-{i - 1}-{j}": f"anew {round} {i} {j}" for j in range(GROUP)}
        items = [Item(text, id=id) for id, text in texts.items()]
        print(json.dumps([texts, False]), flush=True)
        side.add(items, draw(10**6 + 6, GROUP))
        print(json.dumps([texts, True]), flush=True)


def write_few(side: Side, writes: str) -> None:
    for i in range(int(writes)):
        side.add([Item(f"few {i}", id=f"few{i}")], _ONE)


def write_shared(side: Side, writer: str) -> None:
    print("ready", flush=True)
    sys.stdin.readline()
    own: list[str] = []
    refused: Counter[str] = Counter()
    replaced = 0
    for i in range(EACH):
        for id in (f"w{writer}-{i}", f"n{i % SHARED}"):
            try:
                side.add([Item(f"by {writer}, {i}", id=id)], _ONE)
            except Exception as error:  # counted, whatever it is
                refused[_said(error)] += 1
                continue
            if id.startswith("w"):
                own.append(id)
            else:
                replaced += 1
    print(json.dumps({"own": own, "refused": refused, "replaced": replaced}))


if __name__ == "__main__":
    _what, _name, _folder, _argument = sys.argv[1:]
    {"write_on": write_on, "write_few": write_few, "write_shared": write_shared}[_what](
        SIDES[_name](Path(_folder)), _argument
    )
