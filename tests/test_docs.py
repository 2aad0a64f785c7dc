"""The documents: what they say of settings, targets, commands, files and tests is so.

In: the Markdown files, and what they speak of. Reads the prose's code only: spans and
blocks. What a sentence means is for its reader to check.
"""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from functools import cache
from pathlib import Path

import pytest
from django.core.management import get_commands, load_command_class

from profiles.core import serializers

ROOT = Path(__file__).parent.parent
DECISIONS = sorted(ROOT.glob("docs/decisions/*.md"))
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md")), *DECISIONS]
PARTS = ["Status", "Context", "Decision", "Consequences", "Rejected"]

documents = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT))
)


@cache
def text(name: str) -> str:
    return (ROOT / name).read_text()


def code(document: Path) -> list[str]:
    """Each line of the code blocks, and each code span of the prose."""
    parts = re.split(r"^```.*$", document.read_text(), flags=re.M)
    spans = [span for part in parts[::2] for span in re.findall(r"`([^`]+)`", part)]
    blocks = [part.replace("\\\n", " ") for part in parts[1::2]]
    return spans + [line for block in blocks for line in block.splitlines()]


def section(name: str, title: str) -> str:
    """What stands under this heading, up to the next of any level."""
    return re.split(r"^#+ ", text(name).split(f"\n## {title}\n")[1], flags=re.M)[0]


def targets() -> dict[str, bool]:
    """The Makefile's targets, and whether `make help` lists them."""
    rules = re.findall(r"^([a-z-]+):(?!=)(.*)$", text("Makefile"), re.M)
    return {name: "##" in rest for name, rest in rules}


SETTINGS = ast.parse((ROOT / "patientsite/settings.py").read_text())
READS = [
    node
    for node in ast.walk(SETTINGS)
    if isinstance(node, ast.Call)
    and ast.unparse(node.func) in ("env", "os.environ.get")
    and isinstance(node.args[0], ast.Constant)
]


def variables() -> dict[str, str | None]:
    """What settings.py reads, with its default where that is a literal."""
    return {
        str(ast.literal_eval(call.args[0])): literal(call.args[1]) for call in READS
    }


def literal(node: ast.expr) -> str | None:
    return str(node.value) if isinstance(node, ast.Constant) else None


def table() -> dict[str, str]:
    """The settings table: variable to default."""
    rows = re.findall(r"^\| (`.*?) \| (.*?) \|", section("README.md", "Settings"), re.M)
    return {name: value for names, value in rows for name in re.findall(r"\w+", names)}


# Settings


def test_settings_table_and_settings_name_the_same_variables():
    assert table().keys() == variables().keys()


def test_each_variable_is_read_once_and_in_a_way_that_is_seen_here():
    attributes = [n.attr for n in ast.walk(SETTINGS) if isinstance(n, ast.Attribute)]
    direct = [call for call in READS if ast.unparse(call.func) != "env"]
    assert "getenv" not in attributes
    assert attributes.count("environ") == len(direct) + 1  # in `env` itself
    assert len(variables()) == len(READS)


@pytest.mark.parametrize("name", [name for name, value in variables().items() if value])
def test_a_default_is_the_one_in_the_table(name):
    assert f"`{variables()[name]}`" in table()[name]


def test_every_field_is_in_the_readme():
    for name in serializers.PatientProfile().fields:
        assert f"`{name}`" in section("README.md", "HTTP")


# Commands


@documents
def test_named_make_targets_exist(document):
    named = [
        m for line in code(document) for m in re.findall(r"\bmake ([a-z-]+)", line)
    ]
    assert {*named} <= targets().keys()


@pytest.mark.parametrize(
    "target", [name for name, listed in targets().items() if listed]
)
def test_every_public_target_is_in_the_readme(target):
    assert f"`make {target}`" in text("README.md")


@documents
def test_named_manage_commands_exist_and_take_what_they_are_given(document):
    for line in code(document):
        for rest in re.findall(r"manage\.py ([a-z][^#|&;]*)", line):
            name, *arguments = shlex.split(rest)
            command = load_command_class(get_commands()[name], name)
            if arguments:
                command.create_parser("manage.py", name).parse_args(arguments)


# Files, tests and links


@pytest.mark.parametrize(
    "package",
    [path.parent.name for path in ROOT.glob("profiles/[a-l,n-z]*/__init__.py")],
)
def test_every_package_is_in_the_architecture(package):
    assert f"`{package}/`" in section("ARCHITECTURE.md", "The packages")


@documents
def test_named_files_exist(document):
    """By path from the root, or by a name that some file has."""
    names = {name for line in code(document) for name in re.findall(NAMED, line)}
    places = (ROOT, ROOT / "profiles", ROOT / "tests", ROOT / "patientsite/local")
    missing = {n for n in names if not any((at / n).exists() for at in places)}
    assert missing == set()


NAMED = r"(?<![\w./-])((?:[\w.-]+/)*[\w-]+\.(?:py|yml|toml|md))(?![\w/.])"


def test_the_tests_that_hold_the_invariants_exist():
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", text("ARCHITECTURE.md"))
    assert len(named) > 10
    for file, test in named:
        assert f"\ndef {test}(" in (ROOT / "tests" / file).read_text()


@documents
def test_links_lead_somewhere(document):
    for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if "://" not in link:
            path, _, anchor = link.partition("#")
            target = document.parent / path if path else document
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


def anchors(document: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", document.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}


# Shape


def test_the_architecture_stays_short():
    assert len(text("ARCHITECTURE.md").splitlines()) < 150


def test_no_cell_of_the_architecture_is_a_paragraph():
    cells = re.findall(r"\|([^|\n]*)", text("ARCHITECTURE.md"))
    assert max(map(len, cells)) <= 200


@pytest.mark.parametrize("decision", DECISIONS, ids=lambda path: path.stem)
def test_a_decision_is_short_and_has_its_parts_in_order(decision):
    lines = decision.read_text().splitlines()
    assert len(lines) < 40
    assert re.fullmatch(rf"# {decision.name[:4]} .+", lines[0])
    parts = [re.match(r"\*\*(Status):\*\* |## (\w+)$", line) for line in lines]
    assert [part[1] or part[2] for part in parts if part] == PARTS


def test_decisions_are_numbered_without_gaps():
    numbers = [int(path.name[:4]) for path in DECISIONS]
    assert numbers == [*range(1, len(numbers) + 1)]


def test_the_changelog_begins_with_the_version():
    version = tomllib.loads(text("pyproject.toml"))["project"]["version"]
    assert re.findall(r"^## (\S+)", text("CHANGELOG.md"), re.M)[0] == version
