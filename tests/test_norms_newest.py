"""`norms` with `newest`: of norms on one subject only the newest goes in, and the trace says what it went for."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from heedful.prompts import Prompts
from heedful.retrieval import Item
from heedful.retrieval.embedding.scripted import ScriptedEmbedder
from heedful.retrieval.items import iso
from heedful.retrieval.store.stores import Stores
from heedful.strategies import ChatRequest, Plan, RequestError, Resources, Run, collect
from heedful.strategies.scripted import ScriptedEngine

SUBJECTS = ("pool", "park", "fish")
NOW = time.time()


def _vector(text: str) -> Sequence[float]:
    """Near 1 for one subject, near 0 for two; a number in a text turns it aside, unless it is masked."""
    said = [float(text.lower().count(subject)) for subject in SUBJECTS]
    return [*said, 3.0 * any(c.isdigit() for c in text), 0.1]


@pytest.fixture
def shelf(tmp_path: Path, prompts: Prompts) -> Iterator[Resources]:
    stores = Stores(tmp_path, ScriptedEmbedder(_vector))
    stores.create("norms")
    yield Resources(prompts, stores)
    stores.close()


def _write(shelf: Resources, *items: Item) -> None:
    """Each by itself, so that each is later than those before it."""
    assert shelf.stores
    for item in items:
        shelf.stores.get("norms").add([item])


async def _asked(shelf: Resources, question: str = "pool?", **options: Any) -> dict[str, Any]:
    """The trace's entry, `used` and `dropped` as what is said of each."""
    run = Run(ScriptedEngine(context_length=100_000), shelf)
    plan = Plan.of("norms", [("norms", options)], shelf)
    await collect(plan.stream(ChatRequest("scripted", ({"role": "user", "content": question},)), run))
    return run.trace.steps[0]


def _ids(entries: Sequence[dict[str, Any]]) -> list[str]:
    return [entry["id"] for entry in entries]


async def test_only_the_newest_of_one_subject_goes_in(shelf: Resources) -> None:
    _write(shelf, Item("The pool closes at 9.", id="old"), Item("Park anywhere.", id="park"))
    _write(shelf, Item("Pool: until 10.", id="new"))
    assert set(_ids((await _asked(shelf))["used"])) == {"old", "park", "new"}  # unless it is asked for
    note = await _asked(shelf, newest=0.9)
    assert set(_ids(note["used"])) == {"park", "new"}
    (dropped,) = note["dropped"]
    assert (dropped["id"], dropped["reason"]) == ("old", "older than new")
    assert dropped["text"] == "The pool closes at 9." and dropped["version"] == 1


async def test_what_is_replaced_counts_as_new(shelf: Resources) -> None:
    _write(
        shelf, Item("Pool until 9.", id="a"), Item("Pool until 10.", id="b"), Item("Pool until 11.", id="a")
    )
    assert _ids((await _asked(shelf, newest=0.9))["used"]) == ["a"]


async def test_since_when_it_holds_goes_before_when_it_was_written(shelf: Resources) -> None:
    _write(
        shelf,
        Item("Pool until 9.", id="law", valid_from=NOW - 10),
        Item("Pool until 8.", id="archive", valid_from=NOW - 10_000),
    )
    assert _ids((await _asked(shelf, newest=0.9))["used"]) == ["law"]


async def test_two_of_the_same_time_stay(shelf: Resources) -> None:
    _write(shelf, *(Item(f"Pool, lane {i}.", id=str(i), valid_from=NOW - 10) for i in range(2)))
    assert set(_ids((await _asked(shelf, newest=0.9))["used"])) == {"0", "1"}


async def test_other_scopes_keep_their_own(shelf: Resources) -> None:
    _write(
        shelf,
        Item("Pool until 9.", id="here", scope="Bern"),
        Item("Pool until 10.", id="there", scope="Rome"),
    )
    note = await _asked(shelf, "pool in Bern or Rome?", newest=0.9)
    assert set(_ids(note["used"])) == {"here", "there"}


async def test_mandatory_norms_stay_and_repeal(shelf: Resources) -> None:
    _write(shelf, Item("Pool until 7.", id="bound", mandatory=True), Item("Pool until 9.", id="new"))
    assert _ids((await _asked(shelf, newest=0.9))["used"]) == ["bound", "new"]
    _write(shelf, Item("Pool until 8.", id="binding", mandatory=True))
    assert _ids((await _asked(shelf, newest=0.9))["used"]) == ["bound", "binding"]


async def test_those_that_go_take_nobodys_place(shelf: Resources) -> None:
    _write(shelf, Item("Pool pool pool pool 9.", id="old"), Item("Park at the pool pool pool.", id="park"))
    _write(shelf, Item("Pool pool, 10.", id="new"))
    note = await _asked(shelf, k=2, newest=0.99)
    assert set(_ids(note["used"])) == {"park", "new"} and _ids(note["dropped"]) == ["old"]


async def test_a_norm_of_the_request_is_the_newest(shelf: Resources) -> None:
    """So that "what would change" shows what the store would do once it has it."""
    _write(shelf, Item("Pool until 9.", id="old"))
    note = await _asked(shelf, newest=0.9, extra=[{"text": "Pool until 10."}])
    assert [entry["text"] for entry in note["used"]] == ["Pool until 10."] and _ids(note["dropped"]) == [
        "old"
    ]


async def test_as_of_a_time_it_is_the_newest_of_then(shelf: Resources) -> None:
    _write(shelf, Item("Pool until 8.", id="first"), Item("Pool until 9.", id="second"))
    assert shelf.stores
    then = shelf.stores.get("norms").history("second")[0].began
    _write(shelf, Item("Pool until 10.", id="third"))
    note = await _asked(shelf, newest=0.9, as_of=iso(then))
    assert _ids(note["used"]) == ["second"] and _ids(note["dropped"]) == ["first"]


@pytest.mark.parametrize("wrong", [0, 1.1, "yes"])
def test_a_cosine_is_wanted(shelf: Resources, wrong: object) -> None:
    with pytest.raises(RequestError, match="newest"):
        Plan.of("norms", [("norms", {"newest": wrong})], shelf)


async def test_the_newer_one_takes_the_place_of_the_one_that_goes(shelf: Resources) -> None:
    """However far from the question its own words are: else the subject would be lost."""
    _write(shelf, Item("Pool pool.", id="old"), Item("Pool pool park.", id="b"), Item("Pool fish.", id="c"))
    _write(shelf, Item("Pool: 10.", id="new"))
    note = await _asked(shelf, k=2, newest=0.99)
    assert _ids(note["used"]) == ["new", "b"] and _ids(note["dropped"]) == ["old"]
