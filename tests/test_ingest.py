"""Files read into stores: formats, bad lines, and imports that are run again."""

from __future__ import annotations

from pathlib import Path

import pytest

from heedful.retrieval import InvalidItem, Item
from heedful.retrieval.embedding.scripted import word_embedder
from heedful.retrieval.ingest import export_lines, import_items, parse, starter
from heedful.retrieval.store.store import Store


def texts(content: str, format: str) -> list[str]:
    parsed = parse(content, format)
    assert not parsed.problems
    return [item.text for item in parsed.items]


def test_json_lines_with_every_field() -> None:
    line = (
        '{"text": "Drive on the left", "id": "uk-1", "scope": "UK", "tags": ["road", "b"], "mandatory": true, '
        '"valid_from": "2020-01-01", "valid_until": "2030-01-01T00:00:00+01:00", "meta": {"n": 1}}'
    )
    (item,) = parse(line, "jsonl").items
    assert (item.id, item.scope, item.tags, item.mandatory) == ("uk-1", "UK", ("b", "road"), True)
    assert item.valid_from == 1577836800.0 and item.valid_until == 1893452400.0
    # What is written out is read in again as the same.
    assert parse(b"".join(export_lines([item])).decode(), "jsonl").items == [item]


def test_demonstrations_by_the_usual_names() -> None:
    lines = '{"prompt": "Hi?", "response": "Hello."}\n\n{"instruction": "2+2", "output": "4"}\n'
    items = parse(lines, "jsonl").items
    assert [(i.kind, i.text, i.answer) for i in items] == [("demo", "Hi?", "Hello."), ("demo", "2+2", "4")]


def test_bad_lines_are_reported_by_number() -> None:
    lines = [
        '{"text": "good"}',
        "{oops",
        '{"text": ""}',
        '{"text": "x", "colour": "red"}',
        '{"text": "x", "valid_from": "tomorrow"}',
        '{"text": "x", "valid_from": "2021-01-01", "valid_until": "2020-01-01"}',
        "[1]",
        '{"text": "y", "id": "1"}',
        '{"text": "z", "id": "1"}',
        '{"text": "bad \\ud800"}',
        '{"text": "d", "kind": "demo"}',
    ]
    parsed = parse("\n".join(lines), "jsonl")
    assert [item.text for item in parsed.items] == ["good", "y"]
    assert [line for line, _ in parsed.problems] == [2, 3, 4, 5, 6, 7, 9, 10, 11]
    told = dict(parsed.problems)
    assert "colour" in told[4] and "ISO 8601" in told[5] and "line 8" in told[9]


def test_csv_with_quotes_and_broken_rows() -> None:
    content = 'text,source,mandatory\n"Be kind,\nalways",Home,true\nshort\n"Be fair",,no\n'
    parsed = parse(content, "csv")
    assert [(i.text, i.source, i.mandatory) for i in parsed.items] == [
        ("Be kind,\nalways", "Home", True),
        ("Be fair", "", False),
    ]
    assert [line for line, _ in parsed.problems] == [4]


def test_fields_by_other_names_and_fields_of_ones_own() -> None:
    line = '{"principle": "Be fair", "location": "Bern", "chapter": 3}'
    rename = {"principle": "text", "location": "scope"}
    assert parse(line, "jsonl", rename=rename).problems
    (item,) = parse(line, "jsonl", rename=rename, extra_to_meta=True, defaults={"source": "Law"}).items
    assert (item.text, item.scope, item.source, item.meta) == ("Be fair", "Bern", "Law", {"chapter": 3})


def test_markdown_is_a_rule_per_heading() -> None:
    content = """Before all: be kind.

# Handbook

## Guests
Greet them.

Offer tea.

## Keys
```
# not a heading
```
### Lost keys
# Closing time
"""
    assert texts(content, "markdown") == [
        "Before all: be kind.",
        "Guests: Greet them.\n\nOffer tea.",
        "Keys: ```\n# not a heading\n```",
        "Lost keys",
        "Closing time",
    ]


def test_plain_text_is_a_rule_per_paragraph() -> None:
    content = "\ufeffFirst rule\ngoes on.\n\n  \nSecond rule.\r\n\r\nThird."
    assert texts(content, "text") == ["First rule goes on.", "Second rule.", "Third."]


def test_unknown_formats_are_refused() -> None:
    with pytest.raises(InvalidItem, match="jsonl, csv, markdown, text"):
        parse("", "xml")


def test_an_import_that_was_cut_off_goes_on(tmp_path: Path) -> None:
    seen: list[str] = []
    store = Store.create(tmp_path / "n.db", word_embedder(seen=seen))
    items = [Item(f"rule {i}") for i in range(600)]

    def stop(step: str, share: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_items(store, items, stop)
    assert 0 < len(store) < 600
    there = len(store)
    seen.clear()
    done = import_items(store, items)
    assert (done.added, done.unchanged) == (600 - there, there)
    assert len(seen) == 600 - there
    assert import_items(store, items).unchanged == 600
    store.close()


def test_the_starter_sets_are_whole() -> None:
    norms, demos = starter("norms"), starter("demos")
    assert len(norms) >= 80 and {t for n in norms for t in n.tags} >= {
        "safety",
        "privacy",
        "fairness",
        "health",
    }
    assert len(demos) >= 60 and all(d.kind == "demo" and d.answer for d in demos)
    assert len({n.text for n in norms}) == len(norms)
