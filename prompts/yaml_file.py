"""YAML as people save it: what can't be read is told with its line and how to mend it."""

from __future__ import annotations

import codecs
import re
from typing import Any

import yaml

# What YAML allows beside line ends: no control characters, no lone surrogates.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class YamlError(ValueError):
    """A text that can't be read; `line` counts from 1."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(problem)
        self.line = line


class _Loader(yaml.SafeLoader):
    """YAML 1.2's true and false; `on`, `off`, `yes` and `no` are the words that they are."""


_BOOL = "tag:yaml.org,2002:bool"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOL]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_BOOL, re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))


def decoded(data: bytes) -> str:
    """A text file's content, a byte order mark left out. Raises YamlError where it is not UTF-8."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        if data.startswith(_UTF_16) or b"\0" in data[:4]:
            raise YamlError(1, "is UTF-16; save it as UTF-8") from error
        raise YamlError(
            line,
            f"is not UTF-8 (byte 0x{data[error.start]:02x}): save it as UTF-8, not as Latin-1 or the like",
        ) from error
    if "\0" in text[:4]:
        raise YamlError(1, "is UTF-16; save it as UTF-8")
    return text


def load_yaml(data: bytes | str) -> Any:
    """One document. Raises YamlError."""
    text = decoded(data) if isinstance(data, bytes) else data
    if bad := _FORBIDDEN.search(text):
        line = text.count("\n", 0, bad.start()) + 1
        raise YamlError(
            line, f"holds the character U+{ord(bad.group()):04X}, which YAML does not allow; delete it"
        )
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        raise YamlError(
            error.problem_mark.line + 1 if error.problem_mark else 1, str(error.problem)
        ) from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # a date such as 2026-13-45, say
        raise YamlError(1, f"a value can't be read: {error}") from error
    except RecursionError as error:
        raise YamlError(1, "is nested too deeply") from error
