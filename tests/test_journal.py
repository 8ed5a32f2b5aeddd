"""Journals: records come back, a torn line does not, and a foreign one is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from heedful.benchmarks.evals.records import JudgementRecord
from heedful.benchmarks.journal import Journal, JournalError


def _judgement(id: str, value: float) -> JudgementRecord:
    return JudgementRecord(measure="m", judge="j", set="s", id=id, model="x", alignment="direct", value=value)


def test_a_killed_run_finds_what_it_had(tmp_path: Path) -> None:
    path = tmp_path / "new" / "judgements.jsonl"
    with Journal(path, JudgementRecord) as journal:
        journal.add(_judgement("1", 0.0))
        journal.add(_judgement("2", 0.5))
        journal.add(_judgement("1", 1.0))
    path.write_bytes(path.read_bytes() + b'{"measure": "m", "ju')  # killed while it wrote
    with Journal(path, JudgementRecord) as journal:
        assert [r.value for r in journal] == [1.0, 0.5]
        assert _judgement("2", 0).key in journal and _judgement("3", 0).key not in journal
        journal.add(_judgement("3", 0.25))
    with Journal(path, JudgementRecord) as journal:
        assert len(journal) == 3


def test_a_foreign_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "judgements.jsonl"
    with Journal(path, JudgementRecord) as journal:
        journal.add(_judgement("1", 0.0))
    path.write_bytes(path.read_bytes() + b'{"other": 1}\n')
    with pytest.raises(JournalError, match=r"judgements\.jsonl:2: .*`measure`"):
        Journal(path, JudgementRecord)
