"""The documents: what they say of settings, targets, commands, files and tests is so.

In: the Markdown files, and what they speak of. Reads the prose's code only: spans and
blocks. What a sentence means is for its reader to check.
"""

from __future__ import annotations

import ast
import re
import shlex
from functools import cache
from pathlib import Path
from typing import get_args

import pytest
from django.core.management import get_commands, load_command_class

import patientsite
from profiles.core import items, records, serializers
from profiles.core.updates import Receipt, Source
from profiles.kafka import dead_letters
from profiles.runtime import tracing

ROOT = Path(__file__).parent.parent
DECISIONS = sorted(ROOT.glob("docs/decisions/0*.md"))
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md"))]
PARTS = ["Status", "Context", "Decision", "Consequences", "Rejected"]

documents = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT))
)


@cache
def text(name: str) -> str:
    return (ROOT / name).read_text()


def code(document: Path) -> list[str]:
    """Each line of the code blocks, and each code span of the prose."""
    parts = re.split(r"^ *```.*$", document.read_text(), flags=re.M)
    spans = [span for part in parts[::2] for span in re.findall(r"`([^`]+)`", part)]
    blocks = [part.replace("\\\n", " ") for part in parts[1::2]]
    return spans + [line for block in blocks for line in block.splitlines()]


def section(name: str, title: str) -> str:
    """What stands under this heading, up to the next of any level."""
    return re.split(r"^#+ ", text(name).split(f"\n## {title}\n")[1], flags=re.M)[0]


def first_cells(name: str, title: str) -> set[str]:
    """The code spans in the first column of the tables of a section."""
    cells = re.findall(r"^\| (`.*?) \|", section(name, title), re.M)
    return {span for cell in cells for span in re.findall(r"`([^`]+)`", cell)}


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
    """The settings tables: variable to default."""
    ours, _, _ = text("docs/settings.md").partition("\n## Variables of make\n")
    rows = re.findall(r"^\| (`.*?) \| (.*?) \|", ours, re.M)
    return {name: value for names, value in rows for name in re.findall(r"\w+", names)}


# Settings


def test_settings_tables_and_settings_name_the_same_variables():
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


def test_every_field_is_in_the_contract():
    assert first_cells("docs/http.md", "Fields") == {
        *serializers.PatientProfile().fields
    }


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
def test_every_public_target_is_in_the_contributors_table(target):
    assert f"make {target}" in first_cells("CONTRIBUTING.md", "Make targets")


@documents
def test_named_manage_commands_exist_and_take_what_they_are_given(document):
    for line in code(document):
        for rest in re.findall(r"manage\.py ([a-z][^#|&;]*)", line):
            name, *arguments = shlex.split(rest)
            command = load_command_class(get_commands()[name], name)
            if arguments:
                command.create_parser("manage.py", name).parse_args(arguments)


# Formats


def in_code(pattern: str) -> set[str]:
    """What a pattern finds in the service's code."""
    files = ROOT.glob("profiles/**/*.py")
    return {found for path in files for found in re.findall(pattern, path.read_text())}


def test_every_dead_letter_code_is_a_format():
    named = first_cells("docs/formats.md", "Dead letter") - HEADERS
    assert named == {*get_args(records.Code)}


HEADERS = {f"dead-letter.{name}" for name in dead_letters._ORIGIN}


def test_every_dead_letter_header_is_a_format():
    assert first_cells("docs/formats.md", "Dead letter") >= HEADERS


def test_every_metric_is_a_format():
    kinds = {"Counter": "_total", "Gauge": "", "Histogram": ""}
    metrics = {
        name + suffix
        for kind, suffix in kinds.items()
        for name in in_code(rf'{kind}\(\s*"(profile_\w+)"')
    }
    assert metrics
    assert metrics == first_cells("docs/formats.md", "Metrics")


def test_the_fence_and_the_receipt_are_as_the_formats_say():
    source = Source("<topic id>", 3)
    fence = items.fence_name(source).replace(":3", ":<partition>")
    assert {fence, items.MARK} <= first_cells("docs/formats.md", "Item")
    example = re.search(r"for example `([^`]+)`", section("docs/formats.md", "Receipt"))
    assert example
    assert str(Receipt.parse(example[1])) == example[1]


def test_the_records_headers_are_formats():
    headers = first_cells("docs/formats.md", "Record")
    assert headers == {tracing.REQUEST_ID, tracing.TRACEPARENT}


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
    places = (ROOT, ROOT / "profiles", ROOT / "tests", ROOT / "devstack")
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


def test_the_readme_stays_under_150_lines():
    assert len(text("README.md").splitlines()) < 150


@documents
def test_no_cell_of_a_table_is_long(document):
    prose = "".join(re.split(r"^ *```.*$", document.read_text(), flags=re.M)[::2])
    rows = re.findall(r"^\|(.*)\|$", prose, re.M)
    cells = [cell.strip() for row in rows for cell in re.split(r"(?<!\\)\|", row)]
    assert [cell for cell in cells if len(cell) > LONGEST_CELL] == []


LONGEST_CELL = 200


@documents
def test_pictures_are_of_use_to_who_does_not_see_them(document):
    pictures = re.findall(r"!\[(.*?)\]\((\S+?)\)", document.read_text())
    assert all(words and (document.parent / at).exists() for words, at in pictures)


def test_the_architecture_stays_short():
    assert len(text("ARCHITECTURE.md").splitlines()) < 150


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


def test_decisions_are_listed_with_their_titles():
    listed = re.findall(r"^\| \[(\d+)\]\((\S+)\) \| (.+) \|$", text(INDEX), re.M)
    titles = [path.read_text().splitlines()[0] for path in DECISIONS]
    assert [f"# {number} {title}" for number, _, title in listed] == titles
    assert [link for _, link, _ in listed] == [path.name for path in DECISIONS]


INDEX = "docs/decisions/README.md"


def test_the_changelog_begins_with_the_version():
    version, *_ = re.findall(r"^## \[(.+?)\] - ", text("CHANGELOG.md"), re.M)
    assert version == patientsite.__version__


def test_the_changelog_has_no_other_headings_than_keep_a_changelog():
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert {*re.findall(r"^### (.+)$", text("CHANGELOG.md"), re.M)} <= kinds
