"""Runs a command while two loops of ours keep the machine busy: python busy.py COMMAND ..."""

from __future__ import annotations

import subprocess
import sys


def main() -> int:
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        return subprocess.run(sys.argv[1:]).returncode
    finally:
        for loop in loops:
            loop.kill()


if __name__ == "__main__":
    sys.exit(main())
