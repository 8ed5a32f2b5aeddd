"""What the endpoint offers to be measured: its models, and the alignments of each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from heedful.benchmarks.alignment_option import NO_ALIGNMENT, field_of
from heedful.benchmarks.load.client import LoadEndpoint
from heedful.benchmarks.load.records import BenchError


@dataclass(frozen=True, slots=True)
class LoadTarget:
    """A model under an alignment. `spec` is what goes into the body field `alignment`; None sends none.

    `plain` says that its text is one generation as it comes (no decoding strategy writes drafts beside it).
    """

    model: str
    alignment: str
    spec: Any
    plain: bool
    raw: bool
    """Whether the model takes raw completions."""


async def targets(
    endpoint: LoadEndpoint, models: Sequence[str], alignments: Sequence[str]
) -> list[LoadTarget]:
    """Every model under every alignment, as the options name them. Raises BenchError for what is not there."""
    listing = await endpoint.get("/models")
    entries = [e for e in (listing or {}).get("data", ()) if isinstance(e, dict)]
    known = {str(e.get("id")): e for e in entries}
    if not models:
        if not known:
            raise BenchError("--model: name one; the endpoint lists none")
        models = [next(iter(known))]
    about = await endpoint.get("/alignment") if any(a != NO_ALIGNMENT for a in alignments) else None
    found: dict[tuple[str, str], LoadTarget] = {}
    for model in models:
        can = known.get(model, {}).get("capabilities") or ()
        for name in _named(model, alignments, known):
            spec = field_of(name)
            label = name if isinstance(spec, str | None) else json.dumps(spec, separators=(",", ":"))
            plain = not _decodes(spec, about or {})
            found.setdefault((model, label), LoadTarget(model, label, spec, plain, "completion" in can))
    return list(found.values())


def _named(model: str, alignments: Sequence[str], known: dict[str, Any]) -> list[str]:
    names: list[str] = []
    for alignment in alignments:
        if alignment != "all":
            names.append(alignment)
            continue
        listed = [i.removeprefix(f"{model}@") for i in known if i.startswith(f"{model}@")]
        if not listed:
            raise BenchError(f"--alignment all: the endpoint lists no {model}@ALIGNMENT")
        names += listed
    return names


def _decodes(spec: Any, about: dict[str, Any]) -> bool:
    """Whether a decoding strategy other than `direct` writes the answer, by what GET /v1/alignment tells."""
    steps = spec.split("+") if isinstance(spec, str) else spec or []
    names = [next(iter(step), "") if isinstance(step, dict) else str(step).strip() for step in steps]
    named, strategies = about.get("alignments", {}), about.get("strategies", {})
    each = [step for name in names for step in named.get(name, [name])]
    return any(s != "direct" and strategies.get(s, {}).get("kind") == "decoding" for s in each)
