"""The mutations: each fits the code as it is, and the runner tells what became of it."""

from __future__ import annotations

import pytest

from tests.mutants import __main__ as mutants
from tests.mutants.__main__ import BadList, Mutation

MUTATIONS = mutants.read_list()
CODE = "def twice(number):\n    return 2 * number\n"
TEST = "import code_\n\ndef test_three_twice():\n    assert code_.twice(3) == 6\n"


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A tree of a module and a test of it."""
    monkeypatch.delenv("DJANGO_SETTINGS_MODULE")  # it has none
    (tmp_path / "code_.py").write_text(CODE)
    (tmp_path / "test_code.py").write_text(TEST)
    return tmp_path


def mutation(old: str, new: str) -> Mutation:
    return Mutation("It is broken", "code_.py", old, new, ["test_code.py"])


@pytest.mark.parametrize("one", MUTATIONS, ids=lambda one: one.name)
def test_a_mutation_fits_the_code_as_it_is(one, tmp_path):
    target = tmp_path / one.file
    target.parent.mkdir(parents=True)
    target.write_text((mutants.ROOT / one.file).read_text())
    original = one.apply(tmp_path)
    assert target.read_text() != original
    assert one.test
    for test in one.test:
        path, _, name = test.partition("::")
        assert f"def {name}" in (mutants.ROOT / path).read_text()


def test_there_are_sixty_mutations_or_more_and_no_two_of_a_name():
    names = {one.name for one in MUTATIONS}
    assert len(names) == len(MUTATIONS) >= 60


@pytest.mark.parametrize("old", ["nothing of the kind", "number"])
def test_a_text_that_is_not_there_once_is_an_error_of_the_list(tree, old):
    with pytest.raises(BadList, match="has to be there once"):
        mutation(old, "x").apply(tree)
    assert (tree / "code_.py").read_text() == CODE


@pytest.mark.parametrize(
    ("new", "caught_by", "trouble"),
    [
        ("3 * number", "test_three_twice", ""),
        ("number * 2", "", "SURVIVED"),
        ("2 *", "", "ERROR"),
    ],
    ids=["caught", "survives", "no code at all"],
)
def test_what_became_of_a_mutation_is_told_and_the_file_restored(
    tree, new, caught_by, trouble
):
    verdict = mutants.judge(mutation("2 * number", new), tree)
    assert (verdict.caught_by, verdict.trouble.partition(":")[0]) == (
        caught_by,
        trouble,
    )
    assert (tree / "code_.py").read_text() == CODE


def test_a_mutation_that_never_ends_is_caught(tree):
    endless = mutation("return 2 * number", "while True: pass")
    assert mutants.judge(endless, tree, limit_s=3).caught_by == "the time limit"


def test_what_is_late_is_not_run_and_not_caught(tree, monkeypatch):
    monkeypatch.setattr(mutants, "ALL_S", -1.0)
    (verdict,) = mutants.run([mutation("2", "3")], [tree])
    assert verdict.trouble.startswith("NOT RUN")


def test_a_survivor_fails_the_run(tree, monkeypatch, capsys):
    for new, code in (("3 * number", 0), ("number * 2", 1)):
        listed = [mutation("2 * number", new)]
        monkeypatch.setattr(mutants, "read_list", lambda listed=listed: listed)
        monkeypatch.setattr(mutants, "copy_tree", lambda _: tree)
        assert mutants.main([]) == code
    assert "Not caught: It is broken (code_.py)" in capsys.readouterr().out


def test_a_mutation_that_does_not_fit_ends_the_run_before_any_test(
    tree, monkeypatch, capsys
):
    listed = [mutation("3 * number", "x"), mutation("2 * number", "3 * number")]
    monkeypatch.setattr(mutants, "read_list", lambda: listed)
    monkeypatch.setattr(mutants, "copy_tree", lambda _: tree)
    monkeypatch.setattr(mutants, "run_tests", None)
    assert mutants.main([]) == 1
    assert "`old` is in code_.py 0 times" in capsys.readouterr().out
    assert (tree / "code_.py").read_text() == CODE


def test_words_that_fit_no_mutation_prove_nothing(capsys):
    assert mutants.main(["no such word"]) == 1
    assert "No mutation has one of these words" in capsys.readouterr().out
