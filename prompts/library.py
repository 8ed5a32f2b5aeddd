"""Loads and checks prompt files.

A file `urial/default.v2.md` holds version 2 of the prompt `urial/default`:

    ---
    source: who says it should read like this
    variables: [question]        # what the body may use, besides the front matter's own `data`
    data: {…}                    # anything the body or a strategy reads: demonstrations, stops, options
    ---
    {% block ask %}…{{ question }}…{% endblock %}

Blocks are a prompt's parts; a body without blocks is the one part `body`. Bodies are rendered in Jinja's
sandbox, where an undefined variable is an error and no file can be read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from heedful.prompts.use import Use, unfit
from heedful.prompts.yaml_file import YamlError, decoded, load_yaml

_NAME = re.compile(r"(?P<name>.+)\.v(?P<version>[0-9]+)\.md")
_ENVIRONMENT = ImmutableSandboxedEnvironment(
    undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
)
_KEYS = {"source", "variables", "data"}


class PromptError(Exception):
    """A prompt file that can't be used; the message names file and line."""

    def __init__(self, path: Path, line: int, problem: str) -> None:
        super().__init__(f"{path}:{line}: {problem}")
        self.path, self.line = path, line


class UnknownPrompt(LookupError):
    """No prompt of that name (or version)."""


@dataclass(frozen=True)
class Prompt:
    """One version of one prompt. `id` is what traces show: `name@version`."""

    name: str
    version: int
    path: Path
    body: str
    data: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""

    @property
    def id(self) -> str:
        return f"{self.name}@{self.version}"

    @cached_property
    def _template(self) -> Any:
        return _ENVIRONMENT.from_string(self.body)

    @property
    def parts(self) -> list[str]:
        return list(self._template.blocks) or ["body"]

    def unfit(self, use: Use) -> str | None:
        """Why it can't be put to a use, or None where it can. Found out once."""
        if use not in self._unfit:
            self._unfit[use] = unfit(self, use, _ENVIRONMENT)
        return self._unfit[use]

    @cached_property
    def _unfit(self) -> dict[Use, str | None]:
        return {}

    def render(self, part: str = "body", /, **variables: Any) -> str:
        """The text of one part, white space around it removed. Raises PromptError where rendering fails."""
        if not variables and part in self._fixed:
            return self._fixed[part]
        text = self._rendered(part, variables)
        if not variables:
            self._fixed[part] = text
        return text

    @cached_property
    def _fixed(self) -> dict[str, str]:
        """Parts rendered without variables: the same for every request."""
        return {}

    def _rendered(self, part: str, variables: dict[str, Any]) -> str:
        template = self._template
        values = {**self.data, **variables}
        try:
            if part == "body" and not template.blocks:
                return str(template.render(values)).strip()
            if part not in template.blocks:
                raise PromptError(self.path, 1, f"has no block {part!r}; blocks: {', '.join(self.parts)}")
            return "".join(template.blocks[part](template.new_context(values))).strip()
        except TemplateError as error:
            raise PromptError(self.path, getattr(error, "lineno", None) or 1, str(error)) from error


class Prompts:
    """All prompts of one or several folders; a later folder's file replaces an earlier one's of the same id.

    Everything is read and checked at once, so a bad file stops the start and not a request.
    """

    def __init__(self, *folders: Path) -> None:
        self._versions: dict[str, dict[int, Prompt]] = {}
        for prompts in (_ours(), *map(_in, folders)):
            for prompt in prompts:
                self._versions.setdefault(prompt.name, {})[prompt.version] = prompt

    def get(self, reference: str) -> Prompt:
        """The prompt `name` (its highest version) or `name@version`. Raises UnknownPrompt."""
        name, _, version = reference.partition("@")
        versions = self._versions.get(name)
        if versions is None:
            raise UnknownPrompt(f"unknown prompt {name[:200]!r}; known: {', '.join(self.names())}")
        if not version:
            return versions[max(versions)]
        if (found := next((v for v in versions if str(v) == version), None)) is None:
            raise UnknownPrompt(
                f"prompt {name!r} has no version {version[:20]!r}; versions: {sorted(versions)}"
            )
        return versions[found]

    def names(self, under: str = "") -> list[str]:
        """All names, or those in one folder."""
        return sorted(n for n in self._versions if n.startswith(under))


@cache
def _ours() -> tuple[Prompt, ...]:
    """Those that ship with heedful: read, checked and compiled once for a process."""
    return _in(Path(__file__).parent)


def _in(folder: Path) -> tuple[Prompt, ...]:
    if not folder.is_dir():
        raise PromptError(folder, 1, "no such folder")
    return tuple(_load(path, folder) for path in sorted(folder.rglob("*.md")))


def _load(path: Path, folder: Path) -> Prompt:
    match = _NAME.fullmatch(path.relative_to(folder).as_posix())
    if match is None:
        raise PromptError(path, 1, "name it NAME.vVERSION.md, like house/style.v1.md")
    try:
        lines = decoded(path.read_bytes()).replace("\r\n", "\n").replace("\r", "\n").split("\n")
    except OSError as error:
        raise PromptError(path, 1, str(error.strerror)) from error
    except YamlError as error:
        raise PromptError(path, error.line, str(error)) from error
    front, start = _front_matter(path, lines)
    # Blank lines stand in for the front matter, so that Jinja counts lines as the file does.
    body = "\n" * start + "\n".join(lines[start:])
    data = front.get("data") or {}
    variables = front.get("variables") or []
    if not isinstance(data, dict) or not isinstance(variables, list):
        raise PromptError(path, 1, "`data` must be a mapping and `variables` a list")
    _check_body(path, body, {*data, *variables})
    return Prompt(match["name"], int(match["version"]), path, body, data, str(front.get("source") or ""))


def _front_matter(path: Path, lines: list[str]) -> tuple[dict[str, Any], int]:
    if lines[0].strip() != "---":
        return {}, 0
    end = next((i for i, line in enumerate(lines[1:], 1) if line.strip() == "---"), None)
    if end is None:
        raise PromptError(path, 1, "the front matter is not closed by a line `---`")
    try:
        front = load_yaml("\n".join(lines[1:end])) or {}
    except YamlError as error:
        raise PromptError(path, error.line + 1, f"front matter: {error}") from error
    if not isinstance(front, dict):
        raise PromptError(path, 2, "the front matter must be a mapping")
    if unknown := sorted(set(map(str, front)) - _KEYS):
        line = next((i for i, text in enumerate(lines, 1) if text.startswith(unknown[0])), 2)
        raise PromptError(path, line, f"unknown key {unknown[0]!r}; keys: {', '.join(sorted(_KEYS))}")
    return front, end + 1


def _check_body(path: Path, body: str, declared: set[str]) -> None:
    try:
        tree = _ENVIRONMENT.parse(body)
        _ENVIRONMENT.compile(tree)
    except TemplateSyntaxError as error:
        raise PromptError(path, error.lineno, error.message or "syntax error") from error
    # Jinja's own finder gives names without lines; a name stored anywhere (loop, set, macro) counts as known.
    stored = {n.name for n in tree.find_all(nodes.Name) if n.ctx != "load"}
    stored |= {"loop", "self", "caller", *_ENVIRONMENT.globals, *(m.name for m in tree.find_all(nodes.Macro))}
    for name in tree.find_all(nodes.Name):
        if name.ctx == "load" and name.name not in stored | declared:
            known = ", ".join(sorted(declared)) or "none"
            raise PromptError(path, name.lineno, f"undeclared variable {name.name!r}; declared: {known}")
    for forbidden in tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)):
        raise PromptError(path, forbidden.lineno, "prompts may not include other templates")
