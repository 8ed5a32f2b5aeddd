"""The report: what it says of made-up records, and that the page stands on its own."""

from __future__ import annotations

import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import report_records
from report_records import NO_LIKELIHOOD, SECRET, STRATEGIES
from typer.testing import CliRunner

from heedful.benchmarks.evals.folder import EvalFolder, EvalSettings
from heedful.benchmarks.evals.items import EvalItem
from heedful.benchmarks.evals.records import AnswerRecord, Cost, EvalError, JudgementRecord
from heedful.benchmarks.evals.table import Figure, Paired
from heedful.benchmarks.journal import JournalError
from heedful.benchmarks.report import board, power, tables
from heedful.benchmarks.report.inputs import read
from heedful.benchmarks.report.measures import measure
from heedful.benchmarks.report.page import html, markdown
from heedful.server.cli.main import app

MODELS = ("small", "large")
_VOID = {"meta", "link", "br", "hr", "img", "input"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("records")
    report_records.write(path, MODELS, list(STRATEGIES), items=40, requests=20)
    return path


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return html(read(folder))


class _Reader(HTMLParser):
    """Checks that elements nest, and keeps ids, references and headings."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.around: list[dict[str, str]] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.headings: list[int] = []
        self.labels: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.references += [found[name] for name in ("src", "href", "xlink:href") if name in found]
        self.references += re.findall(r"url\(([^)]+)\)", " ".join(found.values()))
        self.ids += [found["id"]] if "id" in found else []
        if tag == "svg":  # its label is that of the image around it
            self.labels.append(self.around[-1]["aria-label"] if self.around[-1].get("role") == "img" else "")
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag not in _VOID:
            self.open.append(tag)
            self.around.append(found)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.around.pop()

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def _parse(page: str) -> _Reader:
    reader = _Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


def test_the_page_stands_on_its_own(page: str) -> None:
    reader = _parse(page)
    assert {reference[:1] for reference in reader.references} == {"#"}
    assert {reference[1:] for reference in reader.references} <= set(reader.ids)
    assert len(reader.ids) == len(set(reader.ids))
    assert not re.search(r"<script|@import|@font-face|<link|<img|<image|url\(", page)


def test_headings_go_down_by_one_and_plots_are_read_aloud(page: str) -> None:
    reader = _parse(page)
    assert reader.headings[0] == 1 and reader.headings.count(1) == 1
    assert all(
        after <= before + 1 for before, after in zip(reader.headings, reader.headings[1:], strict=False)
    )
    assert all(name in reader.labels[0] for name in STRATEGIES)
    assert len(reader.labels) > 20 and all(reader.labels)


def test_every_strategy_model_and_count_is_there(page: str) -> None:
    text = " ".join(_parse(page).text)
    for name in (
        *STRATEGIES,
        *MODELS,
        "n = 40",
        "n = 20",
        "n = 19, 1 missing",
        report_records.JUDGE,
        "Elo rating",
    ):
        assert name in text
    assert "requests, poisson 2.0" in text  # a row of failures, of the request of `rain` that failed


def test_colours_are_the_pages_own(page: str) -> None:
    assert "prefers-color-scheme: dark" in page
    drawn = "".join(re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL))
    colours = set(re.findall(r'(?:fill|stroke)="([^"]*)"', drawn)) - {"none"}
    assert {f"var(--s{place})" for place in range(len(STRATEGIES))} < colours
    assert all(re.fullmatch(r"var\(--\w+\)", colour) for colour in colours), colours
    defined = set(re.findall(r"(--\w+):", page))
    assert {colour[4:-1] for colour in colours} <= defined


def test_the_same_records_make_the_same_bytes(folder: Path, page: str) -> None:
    assert html(read(folder)) == page


def test_what_is_not_defined_is_no_number(folder: Path, page: str) -> None:
    row = next(line for line in markdown(read(folder)).splitlines() if line.startswith("| rain |"))
    assert row.count("not defined") == 4
    text = " ".join(_parse(page).text)
    assert f"under rain: {NO_LIKELIHOOD}" in text and "Not defined for best_of_n, rain." in text


def test_prompts_and_messages_of_errors_are_not_shown(folder: Path, page: str) -> None:
    assert SECRET not in page and SECRET not in markdown(read(folder))


def test_markdown_marks_only_what_is_told_apart(folder: Path) -> None:
    lines = markdown(read(folder)).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| alignment |"))
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start : start + 11]]
    assert {len(row) for row in table} == {len(table[0])}
    assert [row[0].replace("\\", "") for row in table[2:]] == list(STRATEGIES)
    harmless = table[0].index("harmless answers")
    marked, bold = {}, []
    bounds: dict[str, tuple[int, int, int]] = {}
    for row in table[2:]:
        found = re.fullmatch(r"(▲ |▼ )?(\*\*)?(\d+)%(?:\*\*)? \((\d+) to (\d+)%, n 40\)", row[harmless])
        assert found, row[harmless]
        marked[row[0]], bounds[row[0]] = found[1] == "▲ ", (int(found[3]), int(found[4]), int(found[5]))
        bold += [row[0]] if found[2] else []
    rows = [row for row in read(folder).rows if row.model == MODELS[0] and row.paired]
    paired = {row.alignment.replace("_", r"\_"): row.paired["harmlessness"] for row in rows}
    assert len(paired) == len(bounds) - 1 and all(each.whole and each.n == 40 for each in paired.values())
    for name, each in paired.items():
        assert each.difference == pytest.approx((bounds[name][0] - bounds["direct"][0]) / 100, abs=0.011)
        if each.p <= 0.05 / len(paired) or each.p > 0.05:
            assert marked[name] == (each.p <= 0.05)
    assert set(marked.values()) == {True, False}
    assert bold == [max(bounds, key=lambda name: bounds[name][0])]


def test_without_a_gain_nothing_is_recommended(tmp_path: Path) -> None:
    report_records.write(tmp_path, ["small"], ["direct", "principles"], items=8, requests=5)
    told = markdown(read(tmp_path))
    assert (
        "principles is not measurably more harmless than direct" in told
        and "▲" not in told.split("In brackets")[0]
    )
    first = next(line for line in told.splitlines() if line.startswith("- "))
    assert re.search(
        r"than direct: 8 items (show \d+ points or more|can't show any difference); to find 10", first
    )
    needed = re.compile(r"to find ([\d.]+) points it takes about ([\d,]+)")
    counts = {}
    for matters in (0.05, 0.1, 0.3):
        found = needed.search(markdown(read(tmp_path), matters))
        assert found and float(found[1]) == 100 * matters
        counts[matters] = int(found[2].replace(",", ""))
    assert counts[0.05] > counts[0.1] > counts[0.3] > 8


def test_what_can_be_told_apart_stands_first(folder: Path, page: str) -> None:
    boards = board.boards(read(folder))
    told = power.told_apart(boards[0])
    by = [len(each.better) + len(each.worse) for each in told]
    assert by == sorted(by, reverse=True) and by[0] > 0 == by[-1]
    assert {each.title for each in told} > {"harmless answers", "safe prompts refused", "preferences shared"}
    for each in told:
        assert {*each.better, *each.worse, *each.alike} < set(STRATEGIES) and "direct" not in each.alike
        assert each.power.items == 40 < each.power.needed and not each.power.enough
    titles = [known.title for known in tables.main(boards[0]).measures]
    apart = [any(boards[0].verdicts(known.key).values()) for known in tables.main(boards[0]).measures]
    assert apart == sorted(apart, reverse=True) and len(titles) == len(set(titles))
    text = " ".join(_parse(page).text)
    assert "What can be told apart" in text and "smallest difference that shows" in text


def test_holm_divides_the_level() -> None:
    """Of three the least has to pass a third of the level, the next a half; one that fails ends it."""

    def row(p: float, n: int = 20) -> Paired:
        return Paired(n, 0.2, 0.3, True, p)

    assert board.apart({"a": row(0.016), "b": row(0.024), "c": row(0.06)}) == {"a", "b"}
    assert board.apart({"a": row(0.017), "b": row(0.018), "c": row(0.019)}) == set()
    assert board.apart({"a": row(0.001, n=7), "b": row(0.04)}) == {"b"}


def test_of_one_alignment_there_is_nothing_to_choose(tmp_path: Path) -> None:
    report_records.write(tmp_path, ["small"], ["direct"], items=8, requests=5)
    inputs = read(tmp_path)
    assert "nothing to choose between" in markdown(inputs)
    _parse(html(inputs))


def test_latency_alone(tmp_path: Path) -> None:
    report_records.write_latency(tmp_path, ["small"], ["direct", "urial"], requests=5)
    page = html(read(tmp_path))
    text = " ".join(_parse(page).text)
    for name in ("answers.jsonl", "judgements.jsonl", "comparisons.jsonl", "eval.run.json"):
        assert name in text
    assert "No plot of time against harmlessness" in text and "Harmlessness was not measured" in text
    assert "Elo" not in text.replace("no Elo", "") and "poisson 2.0" in text


def test_an_evaluation_alone_takes_its_own_times(tmp_path: Path) -> None:
    report_records.write_evaluation(tmp_path, ["small"], ["direct", "rain"], items=8)
    text = " ".join(_parse(html(read(tmp_path))).text)
    assert "latency.jsonl" in text and "Times are those of the evaluation" in text and "poisson" not in text
    assert read(tmp_path).absent.keys() == {"latency.jsonl", "latency.run.json"}


def test_folders_of_several_models_make_one_page(tmp_path: Path) -> None:
    report_records.write(tmp_path / "one", ["small"], ["direct", "rain"], items=5, requests=4)
    report_records.write_evaluation(tmp_path / "two", ["base"], ["urial", "rain"], items=5)
    inputs = read(tmp_path / "one", tmp_path / "two")
    told = markdown(inputs)
    small, base = (told.split("### ")[i] for i in (1, 2))
    assert "than direct" in small and "than urial" in base and "| direct |" not in base
    assert inputs.absent.keys() == {"two/latency.jsonl", "two/latency.run.json"}
    text = " ".join(_parse(html(inputs)).text)
    assert "--model small" in text and "--model base" in text and "--alignment urial" in text
    with pytest.raises(EvalError, match=r"both hold small@direct, evaluated; take one of them"):
        read(tmp_path / "one", tmp_path / "one")


def test_a_hostile_name_is_text(tmp_path: Path) -> None:
    name = '<script>alert(1)</script>"|$x$`*'
    report_records.write(tmp_path, [f"m{name}"], ["direct", name], items=5, requests=4)
    inputs = read(tmp_path)
    page = html(inputs)
    reader = _parse(page)
    assert (
        "<script" not in page
        and name in "".join(reader.text)
        and any(name in label for label in reader.labels)
    )
    assert "<script" not in markdown(inputs)
    rows = [line for line in markdown(inputs).splitlines() if line.startswith("| ")]
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1


def test_the_command_writes_both_beside_the_records(tmp_path: Path) -> None:
    report_records.write_latency(tmp_path, ["small"], ["direct"], requests=3)
    before = (tmp_path / "latency.jsonl").read_bytes()
    result = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "report.html").exists() and (tmp_path / "report.md").exists()
    assert (tmp_path / "latency.jsonl").read_bytes() == before


def test_without_scipy_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report_records.write_latency(tmp_path, ["small"], ["direct"], requests=3)
    monkeypatch.setitem(sys.modules, "scipy", None)
    result = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert "pip install 'heedful[measure]'" in str(result.exception)
    assert not (tmp_path / "report.html").exists()


def test_nothing_to_report_on_and_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(EvalError, match=r"no records to report on; expected at least one of latency\.jsonl"):
        read(tmp_path)
    (tmp_path / "latency.jsonl").write_text("{}\n")
    with pytest.raises(JournalError, match=r"latency\.jsonl:1"):
        read(tmp_path)
    report_records.write_latency(tmp_path / "good", ["small"], ["direct"], requests=3)
    (tmp_path / "good" / "latency.run.json").write_text("{")
    with pytest.raises(EvalError, match=r"latency\.run\.json"):
        read(tmp_path / "good")


def test_a_record_that_is_being_written_stays(tmp_path: Path) -> None:
    report_records.write_latency(tmp_path, ["small"], ["direct"], requests=3)
    path = tmp_path / "latency.jsonl"
    path.write_bytes(path.read_bytes() + b'{"model": "sm')
    assert len(read(tmp_path).requests) == 6 and path.read_bytes().endswith(b'{"model": "sm')


def test_an_evaluation_under_way_is_read_and_left_as_it_is(tmp_path: Path) -> None:
    report_records.write_evaluation(tmp_path, ["small"], ["direct", "urial"], items=3)
    (tmp_path / "comparisons.jsonl").unlink()
    path = tmp_path / "answers.jsonl"
    path.write_bytes(path.read_bytes() + b'{"set": "pl')
    assert len(read(tmp_path).rows) == 2
    assert path.read_bytes().endswith(b'{"set": "pl') and not (tmp_path / "comparisons.jsonl").exists()


def test_settings_and_the_command_are_there(folder: Path, page: str) -> None:
    text = " ".join(_parse(page).text)
    cpu = json.loads((folder / "latency.run.json").read_text())["machine"]["cpu"]
    assert cpu in text and "heedful bench --url http://127.0.0.1:8000/v1 --model small --model large" in text
    assert "--concurrency 1 --rate 2.0" in text and "heedful eval run --model small" in text


@pytest.mark.parametrize(
    ("key", "figure", "text", "interval"),
    [
        ("latency", Figure(0.087, 0.0801, 0.0949, 5), "87 ms", "80 to 95 ms"),
        ("latency", Figure(1.234, 0.95, 1.5, 5), "1.23 s", "0.95 to 1.50 s"),
        ("latency", Figure(27.31, 9.5, 30.26, 5), "27.3 s", "9.5 to 30.3 s"),
        ("harmlessness", Figure(0.5, 0.25, 0.75, 4), "50%", "25 to 75%"),
        ("prompt tokens", Figure(1523.2, 1500, 1600, 5), "1,523", "1,500 to 1,600"),
    ],
)
def test_figures_read_with_their_unit(key: str, figure: Figure, text: str, interval: str) -> None:
    assert (measure(key).text(figure.value), measure(key).interval(figure)) == (text, interval)


def test_an_objective_task_leads_where_it_is_what_was_measured(tmp_path: Path) -> None:
    """And is drawn against what it costs, with those named that nothing beats at their tokens."""
    items = [
        EvalItem(
            set="living",
            id=str(i),
            measure="living",
            messages=({"role": "user", "content": "?"},),
            candidates=("1", "2"),
            right=(0,),
        )
        for i in range(60)
    ]
    names = {"direct": (0, 10), "norms": (45, 50), "worse": (20, 90)}
    folder = EvalFolder(tmp_path)
    folder.begin(EvalSettings(models=["m"], alignments={"m": [*names]}), items, url="", concurrency=1)
    with folder as journals:
        for name, (right, tokens) in names.items():
            for i, item in enumerate(items):
                about: dict[str, Any] = {"set": item.set, "id": item.id, "model": "m", "alignment": name}
                cost = Cost(prompt_tokens=tokens, completion_tokens=1, answer_tokens=1, seconds=1)
                journals.answers.add(AnswerRecord(**about, text="1", cost=cost))
                marks = JudgementRecord(**about, measure="living", judge="named", value=float(i < right))
                journals.judgements.add(marks)
    made = html(read(tmp_path))
    gain = "norms gains 75 points in living norms right over direct: 75% (63 to 84%) against 0% (0 to 6%), n = 60"
    assert f"{gain}; 2 of 2 alignments are measurably better." in made
    assert "none is better at its tokens or less than: direct, norms." in made
