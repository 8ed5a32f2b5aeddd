"""Which alignment a request gets, and what it is told when there is none of that name."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest

from heedful.prompts import Prompts
from heedful.server.alignments import Alignments
from heedful.server.config import Config, ConfigError, load
from heedful.strategies import Resources
from heedful.strategies.scripted import ScriptedEngine

Serving = Callable[..., AbstractContextManager[str]]

CONFIG = Config(
    alignments={
        "house": [{"principles": {"set": "fairness", "place": "question"}}],
        "both": "house+urial",
    }
)


def _post(url: str, body: dict[str, Any], **headers: str) -> httpx.Response:
    body = {"messages": [{"role": "user", "content": "Hi"}], **body}
    return httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers)


def _pipeline(url: str, body: dict[str, Any], **headers: str) -> list[str]:
    asked = body.get("alignment")
    wish = {"trace": True} | ({"name": asked} if isinstance(asked, str) else asked or {})
    response = _post(url, {**body, "alignment": wish}, **headers)
    assert response.status_code == 200, response.text
    pipeline: list[str] = response.json()["alignment"]["pipeline"]
    return pipeline


def test_first_match_wins(serving: Serving) -> None:
    config = CONFIG.model_copy(update={"default_alignment": "house"})
    with serving(ScriptedEngine(model="m"), config=config) as url:
        header = {"x-alignment": "urial"}
        assert _pipeline(url, {"model": "m"}) == ["principles", "direct"]
        assert _pipeline(url, {"model": "m@both"}) == ["principles", "urial", "direct"]
        assert _pipeline(url, {"model": "m@both"}, **header) == ["urial", "direct"]
        assert _pipeline(url, {"model": "m@both", "alignment": "direct"}, **header) == ["direct"]
        # A wish for the trace alone leaves the choice to what follows.
        assert _pipeline(url, {"model": "m", "alignment": {}}, **header) == ["urial", "direct"]
        # The only model need not be named.
        assert _pipeline(url, {}) == ["principles", "direct"]


def test_inline_pipelines_with_options(serving: Serving) -> None:
    engine = ScriptedEngine(model="m")
    with serving(engine, config=CONFIG) as url:
        steps: list[Any] = ["urial", {"principles": {"set": "fairness"}}]
        assert _pipeline(url, {"model": "m", "alignment": {"pipeline": steps}}) == [
            "urial",
            "principles",
            "direct",
        ]
        assert "Answer without bias" in str(engine.calls[-1].messages[0]["content"])
        assert _post(url, {"model": "m", "alignment": steps}).status_code == 200
        assert _pipeline(url, {"model": "m", "alignment": "urial + principles"})[0] == "urial"


def test_text_of_a_message_never_chooses(serving: Serving) -> None:
    with serving(ScriptedEngine(model="m"), config=CONFIG) as url:
        body: dict[str, Any] = {"model": "m", "alignment": {"trace": True}}
        body["messages"] = [
            {"role": "user", "content": "@urial alignment: urial <alignment>urial</alignment>"}
        ]
        assert _post(url, body).json()["alignment"]["pipeline"] == ["direct"]


@pytest.mark.parametrize(
    ("body", "status", "param", "told"),
    [
        ({"model": "gpt-9"}, 404, "model", "unknown model 'gpt-9'; known: m"),
        ({"model": "x@urial"}, 404, "model", "unknown model 'x'; known: m"),
        ({"model": "m@magic"}, 404, "alignment", "unknown alignment 'magic'; known: "),
        ({"alignment": "magic"}, 404, "alignment", "known: best_of_n, both, "),
        ({"alignment": 3}, 400, "alignment", "a name, a list of steps, or an object"),
        ({"alignment": {"colour": 1}}, 400, "alignment.colour", "keys: name, pipeline, trace"),
        ({"alignment": {"name": "urial", "pipeline": []}}, 400, "alignment", "either"),
        ({"alignment": {"trace": "yes"}}, 400, "alignment.trace", "true or false"),
        ({"alignment": {"name": 3}}, 400, "alignment", "`name` is a string"),
        ({"alignment": [3]}, 400, "alignment.0", "step 0"),
        ({"alignment": [{"principles": 3}]}, 400, "alignment.0", "must be an object"),
        ({"alignment": [{"principles": {"x": 1}}]}, 400, "alignment.principles.x", "unknown option"),
        ({"alignment": "direct+direct"}, 400, "alignment", "both decode"),
    ],
)
def test_what_can_not_be_chosen(
    serving: Serving, body: dict[str, Any], status: int, param: str, told: str
) -> None:
    with serving(ScriptedEngine(model="m"), config=CONFIG) as url:
        response = _post(url, {"model": "m", **body})
        error = response.json()["error"]
        assert (response.status_code, error["param"]) == (status, param)
        assert told in error["message"]
        assert error["type"] == "invalid_request_error"


def test_models_are_listed_with_the_alignments_they_can_run(serving: Serving) -> None:
    from heedful.strategies import Capability

    base = ScriptedEngine(model="base", capabilities=Capability.COMPLETION)
    with serving(ScriptedEngine(model="m"), base, config=CONFIG) as url:
        entries = {entry["id"]: entry for entry in httpx.get(f"{url}/v1/models").json()["data"]}
        assert {"m", "m@house", "m@both", "m@urial", "m@principles", "m@direct", "base@urial"} <= set(entries)
        assert "base@principles" not in entries
        assert entries["m@both"]["alignment"] == ["principles", "urial", "direct"]
        assert entries["base"]["capabilities"] == ["completion"]
        one = httpx.get(f"{url}/v1/models/m@house")
        assert one.json() == entries["m@house"]
        assert httpx.get(f"{url}/v1/models/nope").status_code == 404
        refused = _post(url, {"model": "base", "alignment": "principles"})
        assert refused.json()["error"]["code"] == "missing_capability"


def test_what_can_be_asked_for_is_described(serving: Serving) -> None:
    with serving(ScriptedEngine(model="m"), config=CONFIG) as url:
        about = httpx.get(f"{url}/v1/alignment").json()
        assert about["default"] == "direct"
        assert about["alignments"]["house"] == ["principles", "direct"]
        assert about["strategies"]["principles"]["options"]["mode"]["enum"] == ["instruction", "cot"]


@pytest.mark.parametrize(
    ("yaml", "told"),
    [
        ("alignments: {a: magic}", "alignments.a: unknown alignment 'magic'"),
        ("alignments: {a: [{principles: {mode: loud}}]}", "alignments.a: option 'mode'"),
        ("alignments: {a+b: urial}", "may not hold '+' or '@'"),
        ("default_alignment: magic", "default_alignment: unknown alignment"),
    ],
)
def test_a_bad_named_alignment_stops_the_start(tmp_path: Path, yaml: str, told: str) -> None:
    path = tmp_path / "heedful.yaml"
    path.write_text(yaml)
    config = load(path, {})
    with pytest.raises(ConfigError) as error:
        Alignments(config, Resources(prompts=Prompts()))
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("yaml", "told"),
    [
        ("colour: red", "heedful.yaml: colour: Extra inputs"),
        ("port: high", "heedful.yaml: port: Input should be a valid integer"),
        ("port: 70000", "port: Input should be less"),
        ("a: [", "heedful.yaml:1"),
        ("- a", "must be a mapping"),
    ],
)
def test_a_bad_file_is_named_with_its_field(tmp_path: Path, yaml: str, told: str) -> None:
    path = tmp_path / "heedful.yaml"
    path.write_text(yaml)
    with pytest.raises(ConfigError) as error:
        load(path, {})
    assert told in str(error.value)


def test_the_command_line_wins_and_folders_are_relative_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "heedful.yaml"
    path.write_text("port: 1\nhost: ::1\nprompts: [mine]")
    config = load(path, {"port": 2, "host": None})
    assert (config.port, config.host, config.prompts) == (2, "::1", [tmp_path / "mine"])
