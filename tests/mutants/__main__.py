"""`python -m tests.mutants`: break the code on purpose; a test has to fail each time.

In: mutations.toml. Out: a table on standard output, and exit code 1 if a mutation
survives, or no longer fits the code. Works on copies of the tree: the checkout itself
stays unchanged. With words as arguments, only mutations whose names contain one of them
are run.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[2]
LIST = Path(__file__).with_name("mutations.toml")
WORKERS = 2
LIMIT_S = 40.0
ALL_S = 600.0
FAILED = 1
"""Pytest's exit code for tests that ran and failed; a collection error is another."""


class BadList(Exception):
    """A mutation does not fit the code: correct the list."""


@dataclass(frozen=True, slots=True)
class Mutation:
    """One text of one file, its replacement, and the tests that have to catch it."""

    name: str
    file: str
    old: str
    new: str
    test: list[str]

    def apply(self, tree: Path) -> str:
        """Break the file; returns its text as it was. Raises BadList."""
        path = tree / self.file
        text = path.read_text()
        if text.count(self.old) != 1:
            raise BadList(
                f"{self.name!r}: `old` is in {self.file} {text.count(self.old)} times, "
                "and has to be there once"
            )
        path.write_text(text.replace(self.old, self.new))
        return text


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of a mutation: `trouble` is empty if a test caught it."""

    mutation: Mutation
    caught_by: str
    seconds: float
    trouble: str = ""


def read_list(path: Path = LIST) -> list[Mutation]:
    """The mutations of a list, in its order."""
    tables = tomllib.loads(path.read_text())["mutation"]
    return [Mutation(**table) for table in tables]


def check_fit(mutations: Sequence[Mutation], tree: Path) -> list[str]:
    """Says what is wrong with each mutation that can't be applied."""
    misfits = []
    for mutation in mutations:
        try:
            original = mutation.apply(tree)
        except (BadList, OSError) as error:
            misfits.append(str(error))
        else:
            (tree / mutation.file).write_text(original)
    return misfits


def run_tests(tree: Path, tests: Sequence[str], limit_s: float) -> tuple[int, str]:
    """Pytest's exit code in this tree, and its output; a negative code: out of time."""
    # Without caches: a file changes more often than their time stamps show. And with
    # one plugin: to load all that are installed takes three times as long.
    argv = [sys.executable, "-B", "-m", "pytest", "-x", "-q"]
    argv += ["-p", "pytest_django.plugin", "-p", "no:cacheprovider", *tests]
    environ = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    with (tree / "pytest.log").open("w+") as log:
        process = subprocess.Popen(
            argv, cwd=tree, env=environ, stdout=log, stderr=log, start_new_session=True
        )
        try:
            process.wait(limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        log.seek(0)
        return process.returncode, log.read()


def judge(mutation: Mutation, tree: Path, limit_s: float = LIMIT_S) -> Verdict:
    """Apply a mutation, run its tests, and restore the file."""
    started = time.monotonic()
    original = mutation.apply(tree)
    try:
        code, output = run_tests(tree, mutation.test, limit_s)
    finally:
        (tree / mutation.file).write_text(original)
    seconds = time.monotonic() - started
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)
    if code == FAILED and failed is not None:
        return Verdict(mutation, failed[1].rpartition("::")[2], seconds)
    if code < 0:
        return Verdict(mutation, "the time limit", seconds)
    if code == 0:
        return Verdict(mutation, "", seconds, "SURVIVED")
    return Verdict(mutation, "", seconds, f"ERROR: pytest ended with {code}\n{output}")


def copy_tree(target: Path) -> Path:
    """The files that git tracks or would add, as they are now."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],  # noqa: S607
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    return target


def run(mutations: Sequence[Mutation], trees: Sequence[Path]) -> list[Verdict]:
    """Judge all, one at a time in each tree. Those left after ALL_S are not caught."""
    over_at = time.monotonic() + ALL_S
    free: SimpleQueue[Path] = SimpleQueue()
    for tree in trees:
        free.put(tree)

    def judged(mutation: Mutation) -> Verdict:
        if time.monotonic() > over_at:
            return Verdict(mutation, "", 0.0, f"NOT RUN within {ALL_S:g} s")
        tree = free.get()
        try:
            return judge(mutation, tree)
        finally:
            free.put(tree)

    with ThreadPoolExecutor(len(trees)) as pool:
        return [_shown(verdict) for verdict in pool.map(judged, mutations)]


def _shown(verdict: Verdict) -> Verdict:
    result = verdict.trouble or verdict.caught_by
    _say(f"{verdict.seconds:5.1f} s  {verdict.mutation.name:<72}  {result}")
    return verdict


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main(words: Sequence[str]) -> int:
    """Run the list; 0 where every mutation was caught."""
    started = time.monotonic()
    mutations = [
        mutation
        for mutation in read_list()
        if not words or any(word in mutation.name for word in words)
    ]
    if not mutations:
        _say(f"No mutation has one of these words in its name: {', '.join(words)}")
        return 1
    with ExitStack() as opened:
        trees = [
            copy_tree(Path(opened.enter_context(TemporaryDirectory(prefix="mutants-"))))
            for _ in range(WORKERS)
        ]
        if misfits := check_fit(mutations, trees[0]):
            _say("\n".join(["The list does not fit the code:", *misfits]))
            return 1
        tests = sorted({test for mutation in mutations for test in mutation.test})
        code, output = run_tests(trees[0], tests, ALL_S)
        if code != 0:
            _say(f"{output}\nThe tests fail without any mutation: nothing is proven.")
            return 1
        _say(f"{len(tests)} tests pass without a mutation.")
        verdicts = run(mutations, trees)
    missed = [verdict for verdict in verdicts if verdict.trouble]
    seconds = time.monotonic() - started
    _say(f"{len(verdicts) - len(missed)} of {len(verdicts)} caught in {seconds:.0f} s.")
    for verdict in missed:
        _say(f"Not caught: {verdict.mutation.name} ({verdict.mutation.file})")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
