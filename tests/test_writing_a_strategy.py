"""The strategy in docs/writing-a-strategy.md, installed as a third party's package and used over HTTP."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import pytest

from heedful.strategies import Call, registry
from heedful.strategies.scripted import ScriptedEngine

DOCUMENT = Path(__file__).parent.parent / "docs" / "writing-a-strategy.md"
Serving = Callable[..., AbstractContextManager[str]]


@pytest.fixture
def brief(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Installs the document's module with its entry point; yields the code."""
    blocks = re.findall(r"```(python|toml)\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    code = next(text for _, text in blocks if "class Brief" in text)
    entry = next(text for kind, text in blocks if kind == "toml")
    (tmp_path / "brief_strategy.py").write_text(code)
    info = tmp_path / "brief_strategy-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: brief-strategy\nVersion: 1.0\n")
    group = '[project.entry-points."heedful.strategies"]'
    points = entry.replace(group, "[heedful.strategies]").replace('"', "")
    (info / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "brief_strategy", raising=False)
    registry.STRATEGIES.forget()
    yield code
    registry.STRATEGIES.forget()


def _words(call: Call) -> str:
    return "one two three four" if call.messages[-1]["content"] == "Count." else "one two"


def test_it_fits_on_a_screen(brief: str) -> None:
    assert len(brief.splitlines()) <= 60


def test_it_runs_beside_ours(brief: str, serving: Serving) -> None:
    engine = ScriptedEngine(_words, model="m")
    with serving(engine) as url:
        ids = {entry["id"] for entry in httpx.get(f"{url}/v1/models").json()["data"]}
        assert "m@brief" in ids
        body = {"model": "m", "messages": [{"role": "user", "content": "Count."}]}
        wish = {"pipeline": ["principles", {"brief": {"max_words": 2}}], "trace": True}
        answer = httpx.post(f"{url}/v1/chat/completions", json={**body, "alignment": wish}).json()
        assert answer["choices"][0]["message"]["content"] == "one two"
        assert answer["alignment"]["usage"]["brief"]["calls"] == 2
        assert [s["words"] for s in answer["alignment"]["trace"] if s["step"] == "brief"] == [4, 2]
        assert answer["usage"]["completion_tokens"] == len("one two three four") + len("one two")
        wish = {"pipeline": [{"brief": {"max_words": 0}}]}
        refused = httpx.post(f"{url}/v1/chat/completions", json={**body, "alignment": wish})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "alignment.brief.max_words")


def test_a_third_partys_that_can_not_be_loaded_says_so(brief: str, serving: Serving, tmp_path: Path) -> None:
    (tmp_path / "brief_strategy.py").write_text("class Brief: ...")
    with serving(ScriptedEngine(model="m")) as url:
        body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "alignment": "brief"}
        told = httpx.post(f"{url}/v1/chat/completions", json=body)
        assert told.status_code == 500
        assert "'brief' is no dataclass" in told.json()["error"]["message"]
        strategies = httpx.get(f"{url}/v1/alignment").json()["strategies"]
        assert "is no dataclass" in strategies["brief"]["error"]
        # ... and all else goes on.
        assert (
            httpx.post(f"{url}/v1/chat/completions", json={**body, "alignment": "direct"}).status_code == 200
        )
