"""Every command's help ends with examples that work, and says nothing that tells nothing."""

import re
import shlex

import pytest

from pcs_ext import cli
from pcs_ext.help_examples import EXAMPLES
from pcs_ext.verbs import chosen, examples, explained
from tests.support.command_line import run
from tests.test_docs import VERBS, idle

LINES = [(verb, line) for verb, lines in EXAMPLES.items() for line in lines]


def test_every_command_has_examples_of_its_own() -> None:
    assert set(VERBS) == set(EXAMPLES)
    for verb, lines in EXAMPLES.items():
        words = shlex.split(lines[0].replace("\\\n", " "), comments=True)
        assert (words[0], chosen(words[1:], VERBS)[0]) == ("pcs-ext", verb)


@pytest.mark.parametrize("line", [line for _, line in LINES])
def test_examples_are_understood(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "commands", lambda: {verb: idle(run) for verb, run in VERBS.items()})
    words = shlex.split(line.replace("\\\n", " "), comments=True)
    cli.main(words[1 : words.index(">") if ">" in words else None])


def test_help_ends_with_the_examples(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run("3d", "edit", "--help", capture=capsys)
    assert code == 0
    assert out.endswith(examples(EXAMPLES["3d edit"]))
    assert out.splitlines()[-3:] == [
        "Examples",
        f"  {EXAMPLES['3d edit'][0].splitlines()[0]}",
        "      -o rex_hat.glb",
    ]
    code, out, err = run("learn", "photos", "--help", "--noun", "dog", "-o", "rex", capture=capsys)
    assert (code, "Examples" in out, err) == (0, True, "")
    assert "Examples" not in run("learn", "photos", "--no-such-flag", capture=capsys)[1]


def test_help_keeps_sentences_whole_and_tells_only_defaults_that_say_something(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    shown = run("image", "--help", capture=capsys)[1]
    assert "without a subject toybox, a hub id, a diffusers folder or a .safetensors file." in shown
    assert "(default: 1.0)" in shown
    shown = run("learn", "--help", capture=capsys)[1]
    for nothing in ("(default: None)", "(default: )", "(default: '')", "(default: False)"):
        assert nothing not in shown
    assert "0 takes the recipe's.  " in shown
    assert "(default: dreambooth-lora)" in shown
    assert "(done unless this is given)" in run("panorama", "make", "--help", capture=capsys)[1]


@pytest.mark.parametrize("verb", VERBS)
def test_no_help_tells_a_default_that_tells_nothing(
    verb: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    shown = run(*verb.split(), "--help", capture=capsys)[1]
    assert not re.findall(r"\(default: (?:None|''|\(\)|False|)\)", shown)
    assert not re.findall(r"\b0 takes .*\(default: 0(?:\.0)?\)", shown)
    assert not re.findall(r"^│ --\S+ [A-Z]* *(?:\(default.*)?│$", shown, re.MULTILINE), "a flag without a sentence"


def test_the_explained_function_is_the_function() -> None:
    def add(one: int, other: int = 0, loud: bool = True) -> int:
        """Add.

        Args:
            one: a number
                of two lines.
            other: another.
            loud: say it.
        """
        return one + other

    same = explained(add)
    assert same(1, other=2) == add(1, other=2) == 3
    assert "one: a number of two lines." in (same.__doc__ or "")
    assert same.__name__ == "add"
