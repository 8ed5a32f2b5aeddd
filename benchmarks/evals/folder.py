"""The folder of one evaluation: its settings, its items, and the journals of what came back."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import msgspec

from heedful.benchmarks.evals.items import EvalItem
from heedful.benchmarks.evals.records import AnswerRecord, Comparison, EvalError, JudgementRecord, Score
from heedful.benchmarks.journal import Journal, JournalError, Record, read
from heedful.benchmarks.machine import machine

R = TypeVar("R", bound=Record)
_SETTINGS, _ITEMS = "eval.run.json", "items.jsonl"


class EvalSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What makes two runs the same measurement. `alignments` is by model: what a model can run differs."""

    models: list[str]
    alignments: dict[str, list[str]]
    baseline: str = "direct"
    sets: list[str] = []
    limit: int | None = None
    seed: int = 0
    max_tokens: int = 64
    temperature: float = 0.0
    judge_model: str | None = None
    inline: dict[str, list[Any]] = {}


class About(msgspec.Struct, frozen=True, kw_only=True):
    """eval.run.json: the settings, and where they were measured. The machine is the client's."""

    settings: EvalSettings
    url: str
    concurrency: int
    version: str
    machine: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Journals:
    """The four journals, open."""

    answers: Journal[AnswerRecord]
    scores: Journal[Score]
    judgements: Journal[JudgementRecord]
    comparisons: Journal[Comparison]


@dataclass(frozen=True, slots=True)
class Records:
    """What the four journals hold, read without a change to them; nothing of a file that is not there."""

    answers: list[AnswerRecord]
    scores: list[Score]
    judgements: list[JudgementRecord]
    comparisons: list[Comparison]


class EvalFolder:
    """`with Folder(path) as journals`. Raises EvalError for files that are not an evaluation's."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open = ExitStack()

    def begin(self, settings: EvalSettings, items: Sequence[EvalItem], *, url: str, concurrency: int) -> None:
        """Takes a fresh folder, or one of the same settings and items to go on in. Raises EvalError for another's."""
        if (self.path / _SETTINGS).exists():
            self._compare(settings, items)
            return
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / _ITEMS).write_bytes(b"".join(msgspec.json.encode(item) + b"\n" for item in items))
        about = About(
            settings=settings,
            url=url,
            concurrency=concurrency,
            version=version("heedful"),
            machine=machine(),
        )
        # Last, and in one go: a folder that has it is whole.
        part = self.path / f"{_SETTINGS}.part"
        part.write_bytes(msgspec.json.format(msgspec.json.encode(about), indent=2) + b"\n")
        part.rename(self.path / _SETTINGS)

    def about(self) -> About:
        try:
            return msgspec.json.decode((self.path / _SETTINGS).read_bytes(), type=About)
        except (OSError, msgspec.DecodeError) as error:
            raise EvalError(f"{self.path} holds no evaluation ({_SETTINGS}: {error})") from error

    def items(self) -> list[EvalItem]:
        try:
            lines = (self.path / _ITEMS).read_bytes().splitlines()
            return [msgspec.json.decode(line, type=EvalItem) for line in lines]
        except (OSError, msgspec.DecodeError) as error:
            raise EvalError(f"{self.path / _ITEMS}: {error}") from error

    def records(self) -> Records:
        """Raises JournalError for a bad line."""
        return Records(
            self._read("answers.jsonl", AnswerRecord),
            self._read("scores.jsonl", Score),
            self._read("judgements.jsonl", JudgementRecord),
            self._read("comparisons.jsonl", Comparison),
        )

    def _read(self, name: str, kind: type[R]) -> list[R]:
        path = self.path / name
        return read(path, kind) if path.exists() else []

    def _compare(self, settings: EvalSettings, items: Sequence[EvalItem]) -> None:
        had, asked = msgspec.to_builtins(self.about().settings), msgspec.to_builtins(settings)
        for name, value in asked.items():
            if had[name] != value:
                raise EvalError(
                    f"{self.path} holds a run with {name} = {_short(had[name])}, and this one has "
                    f"{_short(value)}; take another --out, or the same settings to go on"
                )
        if self.items() != list(items):
            raise EvalError(
                f"{self.path} holds a run over other items of the same sets (a file has changed); take another --out"
            )

    def __enter__(self) -> Journals:
        try:
            return Journals(
                self._open.enter_context(Journal(self.path / "answers.jsonl", AnswerRecord)),
                self._open.enter_context(Journal(self.path / "scores.jsonl", Score)),
                self._open.enter_context(Journal(self.path / "judgements.jsonl", JudgementRecord)),
                self._open.enter_context(Journal(self.path / "comparisons.jsonl", Comparison)),
            )
        except JournalError as error:
            self._open.close()
            raise EvalError(str(error)) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()


def _short(value: Any) -> str:
    return msgspec.json.encode(value).decode()
