"""vLLM's CUDA wheel cut down to what one kind of card needs, so that it travels in a tenth of its size.

Left out: FlashAttention 2 (a Hopper card takes 3), kernels of models that are not measured, the Rust front end,
headers of kernels that are compiled on the machine. Of the kernels that stay, the machine code for other cards goes:
each fat binary ends earlier, and what stood behind it is zeros, which take no room once compressed. Members are
compressed with LZMA, which pip reads as any other.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import re
import struct
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

LEFT_OUT = re.compile(
    r"vllm/(vllm-rs|third_party/(deep_gemm|fmha_sm100|flashmla|triton_kernels_src|tml_fa4)/.*"
    r"|vllm_flash_attn/(_vllm_fa2_C\.abi3\.so|cute/.*)"
    r"|_(deepselect|flashkda|flashmla|flashmla_extension|qutlass)_C\.abi3\.so"
    r"|entrypoints/serve/instrumentator/static/.*|.*\.(jpg|png))"
)
_MAGIC, _PTX, _CODE = 0xBA55ED50, 1, 2  # of CUDA's fat binaries; kinds of their entries
_HEADER = struct.Struct("<IHHQ")  # magic, version, size of this header, size of what follows
_ENTRY = struct.Struct("<HHIQ")  # kind, attributes, size of this header, size of what follows
_ARCH = 28  # where an entry has its architecture, in bytes from its start


@dataclass(frozen=True, slots=True)
class CardCode:
    """Code for one architecture (90: compute capability 9.0): where it lies in a file with its header, in bytes."""

    kind: int
    arch: int
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class FatBinary:
    """A kernel's code for several cards. `start` of its header, `first` of its entries and their `end`, in bytes."""

    start: int
    first: int
    end: int
    entries: tuple[CardCode, ...]


def trimmed(wheel: Path, folder: Path, arch: int) -> Path:
    """The wheel for cards of `arch`, in `folder`. Raises ValueError where none of its kernels run on them."""
    out = folder / wheel.name
    record: list[tuple[str, str, int | str]] = []
    name = f"{wheel.name.split('-')[0]}-{wheel.name.split('-')[1]}.dist-info/RECORD"
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(out, "w", zipfile.ZIP_LZMA) as target:
        for info in source.infolist():
            if info.is_dir() or info.filename == name or LEFT_OUT.fullmatch(info.filename):
                continue
            data = source.read(info)
            if info.filename.endswith(".so"):
                data = pruned(data, arch)
            info.compress_type = zipfile.ZIP_LZMA
            target.writestr(info, data)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            record.append((info.filename, f"sha256={digest}", len(data)))
        lines = StringIO()
        csv.writer(lines, lineterminator="\n").writerows([*record, (name, "", "")])  # some names have commas
        target.writestr(name, lines.getvalue())
    return out


def denser(wheel: Path, folder: Path) -> Path:
    """The same wheel in `folder`, compressed better."""
    out = folder / wheel.name
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(out, "w", zipfile.ZIP_LZMA) as target:
        for info in source.infolist():
            data = source.read(info)
            info.compress_type = zipfile.ZIP_LZMA
            target.writestr(info, data)
    return out


def pruned(library: bytes, arch: int) -> bytes:
    """A shared library without the code for other cards, as long as before.

    A kernel that has none for this card keeps its smallest entry, so that it stays what it was: not for this card.
    """
    out, any_kept, binaries = bytearray(library), False, list(fat_binaries(library))
    for binary in binaries:
        kept = _runs(binary.entries, arch)
        any_kept |= bool(kept)
        kept = kept or [min(binary.entries, key=lambda e: e.size)]
        code = b"".join(library[e.start : e.start + e.size] for e in kept)
        struct.pack_into("<Q", out, binary.start + 8, len(code))
        out[binary.first : binary.end] = code.ljust(binary.end - binary.first, b"\0")
    if binaries and not any_kept:
        raise ValueError(f"none of these kernels run on compute capability {arch / 10}")
    return bytes(out)


def _runs(entries: Sequence[CardCode], arch: int) -> list[CardCode]:
    """What a card takes: its own code, else code of its generation, else the newest PTX that it can compile."""
    older = [e for e in entries if e.arch <= arch]
    code = [e for e in older if e.kind == _CODE and e.arch // 10 == arch // 10]
    found = code or [e for e in older if e.kind == _PTX]
    return [e for e in found if e.arch == max(f.arch for f in found)]


def fat_binaries(library: bytes) -> Iterator[FatBinary]:
    """Those of a library's section of them, where it has one."""
    position, end = _section(library, b".nv_fatbin")
    while position + _HEADER.size <= end:
        magic, _, header, size = _HEADER.unpack_from(library, position)
        if magic != _MAGIC:
            position += 8  # they are padded
            continue
        place, close, entries = position + header, position + header + size, []
        while place < close:
            kind, _, own, length = _ENTRY.unpack_from(library, place)
            (arch,) = struct.unpack_from("<I", library, place + _ARCH)
            entries.append(CardCode(kind, arch, place, own + length))
            place += own + length
        yield FatBinary(position, position + header, close, tuple(entries))
        position = close + -close % 8


def _section(library: bytes, name: bytes) -> tuple[int, int]:
    """Start and end of a section of a 64-bit ELF file, in bytes; (0, 0) where there is none."""
    if library[:5] != b"\x7fELF\x02":
        return 0, 0
    (table,) = struct.unpack_from("<Q", library, 0x28)
    size, count, names = struct.unpack_from("<HHH", library, 0x3A)
    heads = [struct.unpack_from("<IIQQQQ", library, table + i * size) for i in range(count)]
    text = heads[names][4]
    for label, _, _, _, offset, length in heads:
        start = text + label
        if library[start : library.index(b"\0", start)] == name:
            return offset, offset + length
    return 0, 0
