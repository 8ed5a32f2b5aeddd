"""What docs/operate/deploy/ says of times and sizes agrees with the server's own, and its files can be read."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from heedful.server.app import openapi_document
from heedful.server.config import Config, load
from heedful.server.edge.listening import uvicorn_config

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "docs" / "operate" / "deploy"
DEFAULTS = Config()
IDLE = uvicorn_config(None, DEFAULTS).timeout_keep_alive


def _read(file: str) -> str:
    return (DEPLOY / file).read_text()


def _compose() -> dict[str, Any]:
    composed: dict[str, Any] = yaml.safe_load(_read("compose.yaml"))
    return composed


def _seconds(pattern: str, text: str) -> int:
    (found,) = set(re.findall(pattern, text))
    return int(found)


def test_the_example_configuration_is_one() -> None:
    assert load(DEPLOY / "heedful.yaml", {}).shutdown_grace == DEFAULTS.shutdown_grace


def test_streams_may_finish_before_they_are_killed() -> None:
    unit = _read("heedful.service")
    assert _seconds(r"TimeoutStopSec=(\d+)s", unit) > DEFAULTS.shutdown_grace
    assert "KillMode=mixed" in unit and "RestartPreventExitStatus=2" in unit
    for service in _compose()["services"].values():
        assert int(service["stop_grace_period"].removesuffix("s")) > DEFAULTS.shutdown_grace


@pytest.mark.parametrize("service", ["cpu", "gpu", "proxy"])
def test_a_container_may_do_nothing_that_it_need_not(service: str) -> None:
    settings = _compose()["services"][service]
    assert settings["read_only"] and settings["cap_drop"] == ["ALL"]
    assert settings["security_opt"] == ["no-new-privileges:true"]
    assert all(port.startswith("127.0.0.1:") for port in settings["ports"])
    assert settings["build"]["target"] == service
    stage = re.search(rf"^FROM runtime AS {service}\n(.*?)(?=^FROM|\Z)", _read("Dockerfile"), re.S | re.M)
    users = re.findall(r"^USER .*", stage[1], re.M) if stage else []
    assert users[-1:] == ["USER 10001:10001"]


def test_the_health_checks_ask_what_there_is() -> None:
    asked = set(re.findall(r"127\.0\.0\.1:8000(/[a-z/]+)", _read("Dockerfile") + _read("compose.yaml")))
    asked |= set(re.findall(r"http_health_check: \{ path: (\S+) \}", _read("envoy.yaml")))
    assert asked and asked <= set(openapi_document()["paths"])


def test_everything_that_the_wheel_is_built_from_reaches_the_builder() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())
    sent = set(re.findall(r"^!(\S+)$", _read("Dockerfile.dockerignore"), re.M))
    assert sent >= set(build["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"])
    assert sent >= {"pyproject.toml", build["project"]["readme"], *build["project"]["license-files"]}


def test_proxies_wait_as_long_as_the_longest_answer_and_let_go_of_idle_connections_first() -> None:
    nginx, envoy = _read("nginx.conf"), _read("envoy.yaml")
    assert _seconds(r"proxy_read_timeout (\d+)s;", nginx) > DEFAULTS.request_timeout
    assert _seconds(r"(?:stream_idle_timeout|\btimeout): (\d{3})s", envoy) > DEFAULTS.request_timeout
    assert _seconds(r"keepalive_timeout (\d+)s;", nginx) < IDLE
    assert _seconds(r"idle_timeout: (\d+)s }\n +# A replica", envoy) < IDLE
    assert _seconds(r"client_max_body_size (\d+)m;", nginx) * 1024 * 1024 == DEFAULTS.max_body_bytes


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_systemd_reads_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "heedful.service"  # whose program is there
    unit.write_text(_read("heedful.service").replace("/opt/heedful/bin/heedful", "/bin/true"))
    told = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True)
    assert told.returncode == 0 and not told.stderr, told.stderr
