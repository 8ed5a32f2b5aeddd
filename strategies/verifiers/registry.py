"""Verifiers by name: ours, listed here, and third parties' through the entry-point group `heedful.verifiers`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from heedful.strategies.errors import RequestError, StrategyError
from heedful.strategies.plugins import Plugins
from heedful.strategies.run import Resources
from heedful.strategies.verifiers.base import Verifier

BUILTIN = {
    "command": "heedful.strategies.verifiers.command:Command",
    "evidence": "heedful.strategies.verifiers.evidence:Evidence",
    "guard": "heedful.strategies.verifiers.guard:Guard",
    "http": "heedful.strategies.verifiers.http:Http",
    "norms": "heedful.strategies.verifiers.norms:NormsKept",
    "policy": "heedful.strategies.verifiers.policy:Policy",
    "reward": "heedful.strategies.verifiers.reward:Reward",
    "rules": "heedful.strategies.verifiers.rules:Rules",
    "self": "heedful.strategies.verifiers.self_critique:SelfCritique",
    "toxicity": "heedful.strategies.verifiers.toxicity:Toxicity",
}


def _check(name: str, cls: type) -> None:
    if Verifier not in cls.__mro__:
        raise StrategyError(f"verifier {name!r} must derive from Verifier")
    for each in ("verify", "needs"):
        if getattr(cls, each) is getattr(Verifier, each):
            raise StrategyError(f"verifier {name!r} must define `{each}`")


VERIFIERS: Plugins[Verifier] = Plugins(
    "verifier", "heedful.verifiers", BUILTIN, _check, code="verifier_not_found"
)


def configured(name: str, spec: Mapping[str, Mapping[str, Any] | None], resources: Resources) -> Verifier:
    """One of the configuration's own verifiers, `spec` being its kind and options.

    Raises RequestError for one that can't be built, or that takes the name of another.
    """
    if name in VERIFIERS.names():
        raise RequestError(f"there is a verifier {name!r} already; choose another name")
    if len(spec) != 1:
        raise RequestError("give one verifier with its options")
    ((kind, options),) = spec.items()
    return VERIFIERS.build(kind, options or {}).ready(resources)


async def close_all(verifiers: Iterable[Verifier]) -> None:
    for verifier in verifiers:
        await verifier.close()
