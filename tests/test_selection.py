"""Which alignment a request gets, and what it is told when there is none of that name."""

from __future__ import annotations

import gc
import itertools
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import httpx
import pytest

from heedful.prompts import Prompts
from heedful.server.alignments import Alignments
from heedful.server.config import Config, ConfigError, load
from heedful.strategies import NotFound, RequestError, Resources, plugins
from heedful.strategies.registry import STRATEGIES
from heedful.strategies.scripted import ScriptedEngine
from heedful.strategies.verifiers.registry import VERIFIERS

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
        ({"alignment": "magic"}, 404, "alignment", "known: align3, best_of_n, blockwise, both, "),
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


def test_named_alignments_may_be_made_of_each_other_in_any_order() -> None:
    config = Config(
        alignments={
            "b": ["a", "urial"],
            "c": "b+a",
            "a": [{"principles": {"set": "fairness"}}],
            "urial": ["urial", "a"],  # the strategy: a name does not hide it from its own definition
        }
    )
    alignments = Alignments(config, Resources(Prompts(), None))
    for name, steps in (
        ("b", ["principles", "urial", "principles", "direct"]),
        ("c", ["principles", "urial", "principles", "principles", "direct"]),
    ):
        assert alignments.resolve(name).steps == steps


@pytest.mark.parametrize(
    ("named", "circle"),
    [
        ({"a": ["a"]}, "a → a"),
        ({"a": ["b"], "b": ["urial", "c"], "c": "a+urial"}, "a → b → c → a"),
        ({"x": "b", "b": ["c"], "c": ["b"]}, "b → c → b"),
    ],
)
def test_alignments_made_of_each_other_in_a_circle_stop_the_start(named: dict[str, Any], circle: str) -> None:
    with pytest.raises(ConfigError, match=circle):
        Alignments(Config(alignments=named), Resources(Prompts(), None))


def test_what_clients_name_is_kept_within_bounds() -> None:
    """The same alignment however it is spelled is one plan, and plans that nobody asks for again are dropped."""
    alignments = Alignments(CONFIG, Resources(Prompts(), None))
    plan = alignments.resolve("house+urial")
    assert all(alignments.resolve(f"{' ' * i}house +{' ' * i}urial") is plan for i in range(2000))
    known = ["direct", "principles", "urial", "house", "both"]
    names = ["+".join(each) for n in range(1, 5) for each in itertools.product(known[1:], repeat=n)]
    made = [weakref.ref(alignments.resolve(name).decoder[1]) for name in names]
    gc.collect()
    assert (
        len(names) == 340 and sum(ref() is not None for ref in made) <= 256 + 5
    )  # four stay, `plan` is held
    with pytest.raises(RequestError, match="64 steps at most"):
        alignments.resolve("+".join(["urial"] * 65))
    with pytest.raises(RequestError, match="64 steps at most"):
        alignments.resolve(["urial+urial"] * 33)
    with pytest.raises(NotFound) as unknown:
        alignments.resolve("x" * 1_000_000)
    assert len(unknown.value.message) < 1000


def test_packages_are_looked_through_once(monkeypatch: pytest.MonkeyPatch, serving: Serving) -> None:
    """A look at all installed packages takes tens of milliseconds, in which the event loop does nothing else."""
    looked: list[str] = []

    def spy(**params: str) -> Any:
        looked.append(params["group"])
        return entry_points(**params)

    monkeypatch.setattr(plugins, "entry_points", spy)
    STRATEGIES.forget()
    VERIFIERS.forget()
    engines = [ScriptedEngine(model=f"m{i}") for i in range(10)]
    with serving(*engines, config=CONFIG) as url:
        for _ in range(3):
            _pipeline(url, {"model": "m1", "alignment": "refine"})
            _pipeline(url, {"model": "m2", "alignment": "house+urial"})
            assert len(httpx.get(f"{url}/v1/models").json()["data"]) > 20
            assert httpx.get(f"{url}/v1/alignment").status_code == 200
    assert sorted(looked) == ["heedful.strategies", "heedful.verifiers"]
