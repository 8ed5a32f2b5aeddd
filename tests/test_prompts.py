"""Prompt files: found by name and version, checked when they are loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from heedful.prompts import PromptError, Prompts, UnknownPrompt
from heedful.prompts.yaml_file import load_yaml


def _write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_highest_version_unless_one_is_named(tmp_path: Path) -> None:
    for version in (1, 2, 10):
        _write(tmp_path, f"house/style.v{version}.md", f"version {version}")
    prompts = Prompts(tmp_path)
    assert prompts.get("house/style").render() == "version 10"
    assert prompts.get("house/style@2").id == "house/style@2"
    assert prompts.names("house/") == ["house/style"]


def test_a_users_folder_replaces_ours_by_name_and_version(tmp_path: Path) -> None:
    _write(tmp_path, "principles/hhh.v1.md", "{% block system %}Be brief.{% endblock %}")
    assert Prompts(tmp_path).get("principles/hhh").render("system") == "Be brief."
    assert "Be helpful" in Prompts().get("principles/hhh").render("system")


def test_data_and_variables_reach_the_body(tmp_path: Path) -> None:
    text = "---\nvariables: [who]\ndata: {greeting: Hello}\n---\n{{ greeting }}, {{ who }}!"
    _write(tmp_path, "hello.v1.md", text)
    assert Prompts(tmp_path).get("hello").render(who="{{ you }}") == "Hello, {{ you }}!"


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ("one\ntwo {{ missing }}", 2, "undeclared variable 'missing'"),
        ("---\nsource: x\ndata: [1\nvariables: []\n---\nbody", 4, "front matter"),
        ("---\nsource: x\ncolour: red\n---\nbody", 3, "unknown key 'colour'"),
        ("---\nsource: x\nbody", 1, "not closed"),
        ("---\nvariables: [a]\n---\n{{ a }}\n{% if a %}", 5, "Unexpected end of template"),
        ("a\n{% include 'x' %}", 2, "may not include"),
        ("a\nb\n{{ a.b | nofilter }}", 3, "No filter named 'nofilter'"),
    ],
)
def test_a_bad_file_is_named_with_its_line(tmp_path: Path, text: str, line: int, told: str) -> None:
    path = _write(tmp_path, "bad.v1.md", text)
    with pytest.raises(PromptError, match=told) as error:
        Prompts(tmp_path)
    assert str(error.value).startswith(f"{path}:{line}: ")


def test_a_file_without_a_version_is_refused(tmp_path: Path) -> None:
    _write(tmp_path, "style.md", "body")
    with pytest.raises(PromptError, match="name it NAME.vVERSION.md"):
        Prompts(tmp_path)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="no such folder"):
        Prompts(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["nothing", "principles/hhh@99", "principles/hhh@x"])
def test_unknown_names_and_versions(prompts: Prompts, name: str) -> None:
    with pytest.raises(UnknownPrompt):
        prompts.get(name)


@pytest.mark.parametrize(
    "attack", ["{{ who.__class__.__mro__ }}", "{{ who.append(1) }}", "{{ ''.__class__ }}"]
)
def test_templates_can_not_leave_the_sandbox(tmp_path: Path, attack: str) -> None:
    _write(tmp_path, "attack.v1.md", f"---\nvariables: [who]\n---\n{attack}")
    with pytest.raises(PromptError):
        Prompts(tmp_path).get("attack").render(who=[1])


def test_yaml_knows_true_and_false_and_no_other_booleans() -> None:
    told = load_yaml("on: {flagged: off}\nwell: [true, False, yes, 'no']")
    assert told == {"on": {"flagged": "off"}, "well": [True, False, "yes", "no"]}
