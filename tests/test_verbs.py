"""Which verb is meant, and what help lists."""

import pytest

from pcs_ext.cli import commands
from pcs_ext.errors import UsageError
from pcs_ext.verbs import chosen, group_overview, overview, summary, words_first
from tests.support.command_line import run


def nothing() -> None:
    """Do nothing.

    Slowly.
    """


VERBS = dict.fromkeys(["learn", "image", "image swap", "3d make", "3d render", "brew"], nothing)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["3d", "make", "rex"], ("3d make", ["rex"])),
        (["image", "swap", "a.png"], ("image swap", ["a.png"])),
        (["image", "rex", "swap"], ("image", ["rex", "swap"])),
        (["learn", "photos"], ("learn", ["photos"])),
    ],
)
def test_a_group_and_its_verb_are_one_word(given: list[str], expected: tuple[str, list[str]]) -> None:
    assert chosen(given, VERBS) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["lear"], "Did you mean learn?"),
        (["IMAGES"], "Did you mean image?"),
        (["render"], "Did you mean 3d render?"),
        (["train"], "Did you mean learn?"),
        (["cloak"], "no command 'cloak'. pcs-ext --help"),
        (["zzz"], "no command 'zzz'. pcs-ext --help"),
        (["3d", "maek"], "Did you mean 3d make? It has make, render"),
        (["3d"], "no command ''. It has make, render"),
    ],
)
def test_a_wrong_verb_names_the_nearest(given: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        chosen(given, VERBS)
    assert message in str(caught.value)


def test_the_overview_has_every_verb_once_under_its_heading() -> None:
    text = overview(VERBS, "the end", width=80, bold=False)
    lines = text.splitlines()
    for verb in VERBS:
        assert sum(line.startswith(f"  {verb:19} Do nothing") for line in lines) == 1
    assert lines.index("More") < lines.index(next(line for line in lines if line.startswith("  brew")))
    assert "Protect" not in lines, "headings without verbs are left out"
    assert "Slowly" not in text
    assert text.endswith("the end\n")
    assert "\x1b[1mMore\x1b[0m" in overview(VERBS, "", width=80, bold=True)


def test_help_fits_a_narrow_terminal() -> None:
    verbs = commands()
    assert all(summary(function) for function in verbs.values())
    for width in (40, 80):
        lines = overview(verbs, "", width=width, bold=False).splitlines()
        assert max(map(len, lines)) <= max(width, 44)
    assert "svg vectorize" in group_overview("svg", verbs, width=80)


@pytest.mark.parametrize("asked", [["svg", "--help"], ["svg", "-h"], ["help", "svg"]])
def test_a_group_lists_its_verbs(asked: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(*asked, capture=capsys)
    assert code == 0
    assert all(f"svg {verb}" in out for verb in ("customize", "make", "vectorize"))


def test_version_and_help_go_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version", capture=capsys) == (0, "pcs-ext 0.1.0\n", "")
    code, out, err = run("--help", capture=capsys)
    assert (code, err) == (0, "")
    assert run("help", capture=capsys)[1] == out
    code, out, err = run(capture=capsys)
    assert (code, out) == (2, "")
    assert err.startswith("usage: pcs-ext COMMAND")


def test_switches_take_no_value_and_have_one_name(capsys: pytest.CaptureFixture[str]) -> None:
    def words(verb: str) -> set[str]:
        return set(run(*verb.split(), "--help", capture=capsys)[1].replace("[", " ").replace("]", " ").split())

    assert {"--dry-run", "--overwrite"} <= words("learn")
    assert not {"--no-dry-run", "--no-overwrite"} & words("learn")
    assert "--no-viewer" in words("panorama make")
    assert "--viewer" not in words("panorama make")
    assert "--no-training-metadata" in words("export")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["rex", "--motion", "spin", "a text"], ["rex", "a text", "--motion", "spin"]),
        (["rex", "--overwrite", "a", "--fps=6", "b"], ["rex", "a", "b", "--overwrite", "--fps=6"]),
        (["--seeds", "1", "2", "--motion", "m", "a"], ["a", "--seeds", "1", "2", "--motion", "m"]),
        (["a", "--seeds", "1", "b"], ["a", "--seeds", "1", "b"]),
        (["-o", "out", "a", "--guidance-scale", "-1"], ["a", "-o", "out", "--guidance-scale", "-1"]),
        (["rex", "--wrong", "a", "b"], ["rex", "--wrong", "a", "b"]),
    ],
)
def test_words_may_stand_between_flags(typed: list[str], meant: list[str]) -> None:
    assert words_first(typed, commands()["video make"]) == meant


def test_every_verb_says_how_many_values_its_flags_take() -> None:
    for run_verb in commands().values():
        assert words_first(["a", "--help", "b"], run_verb) == ["a", "b", "--help"]
