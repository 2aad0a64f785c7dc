"""The compiled programs: the table that takes every write, and peers in Go and Rust.

In: sources beside this file. Out: a program's path, built at its first use; or None,
and in `left_out` a sentence that says why it can't be built here.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
BUILT = HERE.parent / "var" / "bench"
LONGEST_S = 600

left_out: dict[str, str] = {}
"""By program, why it is not there."""

_GO = ["go", "build", "-o", str(BUILT)]
_CARGO = ["cargo", "build", "--quiet", "--release", "--target-dir", str(BUILT / "rust")]
_COMMANDS: dict[str, tuple[Path, Sequence[str]]] = {
    "table": (HERE, [*_GO, "table.go"]),
    "gateway": (HERE / "peers" / "go", [*_GO, "./gateway"]),
    "consumer": (HERE / "peers" / "go", [*_GO, "./consumer"]),
    "rust/release/gateway": (HERE / "peers" / "rust", _CARGO),
}


@functools.cache
def program(name: str) -> Path | None:
    """The path of a program, which is built where it is outdated."""
    folder, command = _COMMANDS[name]
    if shutil.which(command[0]) is None:
        leave_out(name, f"{command[0]} is not installed")
        return None
    BUILT.mkdir(parents=True, exist_ok=True)
    sys.stderr.write(f"building {name}\n")
    try:
        done = subprocess.run(  # noqa: S603 our own command
            command, cwd=folder, capture_output=True, text=True, timeout=LONGEST_S
        )
    except subprocess.TimeoutExpired:
        leave_out(name, f"{command[0]} took over {LONGEST_S} s")
        return None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no reason was given"]
        leave_out(name, f"{command[0]} failed: {lines[-1][:120]}")
        return None
    return BUILT / name


def leave_out(name: str, why: str) -> None:
    """Record and print that a contender is not there."""
    left_out[name] = why
    sys.stderr.write(f"left out: {name}: {why}\n")
