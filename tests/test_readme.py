"""What the README says must hold: its configuration loads, and it tells of everything that there is."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from heedful.server.app import openapi_document
from heedful.server.config import Config
from heedful.strategies.registry import BUILTIN

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_the_configuration_reference_is_whole_and_loads() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    settings = yaml.safe_load(block)
    Config.model_validate(settings)
    assert set(settings) == set(Config.model_fields)


def test_every_strategy_and_endpoint_is_told() -> None:
    rows = {
        name
        for row in re.findall(r"^\| (.*?) \|", README, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", row)
    }
    assert set(BUILTIN) <= rows
    for path in openapi_document()["paths"]:
        told = path.removeprefix("/v1/completions").split("/{")[0]
        assert told in README or path.startswith("/v1/alignment/stores"), path


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (Path(__file__).parent.parent / target).exists(), target
