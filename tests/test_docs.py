"""Pages say nothing of files that are not there, and no command that is none."""

import functools
import importlib.util
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pcs_ext import cli

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").rglob("*.md")]
VERBS = cli.commands()


def lines(page: Path) -> list[str]:
    """What stands indented or fenced, the parts of broken lines joined."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    return [line.strip() for line in re.findall(r"^(?: {4}|)((?:pcs-ext|python -m) .*)$", text, re.MULTILINE)]


def commands(page: Path) -> list[list[str]]:
    """The words of every `pcs-ext` command of a page, without comments, redirection, and brackets around flags."""
    found = []
    for line in lines(page):
        words = shlex.split(re.sub(r"\[(--[^\]]*)\]", r"\1", line), comments=True)
        if words[0] == "pcs-ext" and "..." not in words:
            found.append(words[1 : words.index(">") if ">" in words else None])
    return found


def idle(run: Callable[..., Any]) -> Callable[..., Any]:
    """A function with the same flags that does nothing."""

    @functools.wraps(run)
    def nothing(*_: Any, **__: Any) -> None:
        pass

    return nothing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert missing == []


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=lambda page: page.name)
def test_commands_are_understood(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "commands", lambda: {verb: idle(run) for verb, run in VERBS.items()})
    wrong = []
    for words in commands(page):
        try:
            cli.main(words)
        except SystemExit as end:
            if end.code:
                wrong.append(shlex.join(words))
    assert wrong == []


def test_a_wrong_flag_is_not_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "commands", lambda: {verb: idle(run) for verb, run in VERBS.items()})
    with pytest.raises(SystemExit):
        cli.main(["learn", "PHOTOS", "--noun", "dog", "-o", "rex", "--no-such-flag"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_modules_are_there(page: Path) -> None:
    named = set(re.findall(r"python -m ([a-z_.]+[a-z_])", page.read_text(encoding="utf-8")))
    ours = {name for name in named if name.split(".")[0] in ("pcs_ext", "benchmarks", "tests")}
    assert {name for name in ours if importlib.util.find_spec(name) is None} == set()
