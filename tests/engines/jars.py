"""The engines' jars: pom.xml in, a java command with their class path out.

The jars stay in a cache outside the checkout. Does not know which class is run.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

POM = Path(__file__).with_name("pom.xml")
ENGINES = ("kafka", "dynamodb")
OLDEST_JAVA = 17
# Many small JVMs on few cores: a quick start counts for more than peak speed.
JVM_OPTIONS = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx256m")


class EnginesUnavailable(Exception):
    """The real engines can't run here: install or connect what the message names."""


@functools.cache
def java() -> str:
    """The path of a Java that is new enough for both engines."""
    path = _program("java", f"install a JDK of version {OLDEST_JAVA} or newer")
    shown = subprocess.run([path, "--version"], capture_output=True, text=True)
    version = re.search(r"\d+", shown.stdout)
    if shown.returncode != 0 or version is None or int(version[0]) < OLDEST_JAVA:
        raise EnginesUnavailable(
            f"The engines need Java {OLDEST_JAVA} or newer, which {path} is not:"
            " install one and put it first on the PATH."
        )
    return path


def jvm(engine: str) -> list[str]:
    """The beginning of a command that runs a class of this engine."""
    # Sorted, since a directory's own order differs from machine to machine.
    class_path = ":".join(map(str, sorted((jars() / engine).glob("*.jar"))))
    return [java(), *JVM_OPTIONS, "-cp", class_path]


def jars() -> Path:
    """The folder with one folder of jars per engine; filled at the first call."""
    digest = hashlib.sha256(POM.read_bytes()).hexdigest()[:16]
    folder = _cache() / "engines" / digest
    if not folder.is_dir():
        _fill(folder)
    return folder


def _cache() -> Path:
    chosen = os.environ.get("PATIENT_PROFILE_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "patient-profile"


def _fill(folder: Path) -> None:
    """Fill a folder beside and rename it: a half-filled one never has the name."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as beside:
        whole = Path(beside) / "whole"
        for engine in ENGINES:
            _copy_dependencies(engine, whole / engine)
        try:
            whole.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another run was first, with the same jars
                raise


def _copy_dependencies(engine: str, folder: Path) -> None:
    mvn = _program("mvn", "install Maven")
    command = [mvn, "-B", "-q", "-f", str(POM), "-P", engine]
    copy = ["dependency:copy-dependencies", f"-DoutputDirectory={folder}"]
    done = subprocess.run([*command, *copy], capture_output=True, text=True)
    if done.returncode != 0:
        error = re.search(r"\[ERROR\] (.*)", done.stdout + done.stderr)
        raise EnginesUnavailable(
            f"Maven could not get the jars of {engine} (is Maven Central reachable?):"
            f" {error[1] if error else 'it gave no reason'}"
        )


def _program(name: str, remedy: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise EnginesUnavailable(f"The engines need {name} on the PATH: {remedy}.")
    return path
