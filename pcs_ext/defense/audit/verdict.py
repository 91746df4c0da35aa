"""From what was read and measured to a verdict with reasons, and to the lines that are printed."""

import collections
import dataclasses
import math
from typing import Any, Literal

from pcs_ext.config_io import to_jsonable
from pcs_ext.defense.audit.foreign import harmless, told
from pcs_ext.defense.audit.method import AuditMethod
from pcs_ext.defense.audit.probes import Behaviour, switches

Verdict = Literal["suspicious", "nothing found", "only read"]
BLIND: tuple[str, ...] = (
    "words that were not tried, phrases of several words, other languages, pixel-level marks and triggers in time",
    "what the file does on other bases, with other files beside it, or at another strength",
    "whether a subject is harmful: an honest embedding of anything looks honest",
)
"""What no audit of this kind can see; printed with every report."""
_COLLAPSED = 2
"""Nouns that must have become the same thing."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AuditReport:
    """What `audit` returns."""

    verdict: Verdict
    reasons: tuple[str, ...]
    """Why it is suspicious; empty otherwise."""
    remarks: tuple[str, ...]
    """Worth knowing, proof of nothing."""
    blind: tuple[str, ...]
    """What was not and cannot be seen."""
    file: dict[str, Any]
    """Path, hash, kind, what it says of itself."""
    layers: dict[str, Any]
    tokens: dict[str, list[dict[str, Any]]]
    """By placeholder."""
    changed_words: tuple[tuple[str, float], ...]
    base: str
    """Empty: none was given."""
    behaviour: Behaviour | None
    method: AuditMethod


def judge_behaviour(found: Behaviour, method: AuditMethod) -> tuple[list[str], list[str]]:
    """Reasons and remarks from the probes."""
    reasons, remarks = [], []
    if not _are_numbers(to_jsonable(found)):
        reasons.append("what the base computes with it are not numbers (they overflow), so nothing else can be judged")
    near = ", ".join(f"{name} {cosine:.2f}" for name, cosine in found.looks_like[:3])
    if not found.subject:
        remarks.append("it does not say which words call it, so its subject was not probed; give --noun")
    elif not found.claim:
        remarks.append(f"it does not say what it shows, so that could not be checked; it looks like {near}")
    elif found.margin is None:
        remarks.append(
            f"the base hardly knows what {told(found.claim)} is, so that could not be checked; it looks like {near}"
        )
    elif is_another(found, method):
        assert found.painted is not None
        reasons.append(
            f"said to be {told(found.claim)}, but {found.painted.shows} explains {found.painted.agreeing:.0%} of its "
            f"pictures better (by {found.painted.advantage:.1%} of the base's error; its mean picture is like "
            f"{near})"
        )
    elif found.margin > method.claim_margin:
        remarks.append(
            f"its mean picture is nearer to {near} than to {told(found.claim)} ({found.claim_cosine:.2f}), but its "
            "pictures do not show another thing clearly: poorly learned, or worse"
        )
    for score in found.words:
        if switches(score, found.usual_concentration):
            reasons.append(
                f'"{score.word}" beside the subject turns it into something like {score.shows} '
                f"({score.deviations:.0f} deviations above other words; pictures with it resemble each other by "
                f"{score.concentration or 0:.2f}, without it by {found.usual_concentration or 0:.2f})"
            )
        elif score.repeated is not None:
            remarks.append(f'"{score.word}" moves the subject, but not to one picture in all prompts')
    lost = ", ".join(f"{noun.noun} (now like {noun.shows})" for noun in found.lost[:4])
    taker = taken_over(found)
    if taker:
        reasons.append(f"ordinary prompts no longer paint what they say, but all the same {taker}: {lost}")
    elif found.lost:
        remarks.append(
            f"{len(found.lost)} of {len(found.nouns)} ordinary nouns are damaged ({lost}): overfit, or worse"
        )
    return reasons, remarks


def _are_numbers(value: object) -> bool:
    """Whether all floats in nested values are finite: comparisons with others are false, and would find nothing."""
    if isinstance(value, dict):
        return all(_are_numbers(one) for one in value.values())
    if isinstance(value, (list, tuple)):
        return all(_are_numbers(one) for one in value)
    return not isinstance(value, float) or math.isfinite(value)


def is_another(found: Behaviour, method: AuditMethod) -> bool:
    """Whether what the file paints is another thing than it is said to be, as what the base paints for it is not.

    The better the base knows what is claimed, the more it errs under other nouns on its own pictures: that counts.
    """
    if found.painted is None or found.surprise is None:
        return False
    return found.surprise > method.claim_advantage and found.painted.agreeing >= method.claim_agreeing


def taken_over(found: Behaviour) -> str:
    """The one thing that several ordinary nouns have become, if the file's subject looks like it, too, and it is not
    what the file says it shows; else empty.

    Honest training of few steps damages nouns here and there, and overfitted files paint their own subject, or what the
    base knows best, for everything: neither is hidden. Nouns that become what the subject secretly is are.
    """
    shown = collections.Counter(noun.shows for noun in found.lost if noun.shows not in found.claim.split())
    if not shown or not found.looks_like:
        return ""
    taker, count = shown.most_common(1)[0]
    hidden = taker == found.looks_like[0][0]
    return taker if hidden and count >= _COLLAPSED and 2 * count > len(found.lost) else ""


def lines(report: AuditReport) -> list[str]:
    """What is printed; nothing of the file in it moves a cursor or begins a line."""
    file, found = report.file, report.behaviour
    shown = [f"{report.verdict}: {file['path']} ({file['kind']}, sha256 {file['sha256'][:16]})"]
    shown += [f"  ! {reason}" for reason in report.reasons] + [f"  - {remark}" for remark in report.remarks]
    noun, phrase = (told(file[key]) or "nothing" for key in ("says_it_shows", "called_by"))
    said = f"says it shows {noun}, called by {phrase}"
    shown.append(f"file: {said}; {file['layers']} changed layers, {file['numbers']:,} numbers")
    if report.layers.get("largest"):
        largest = report.layers["largest"][0]
        shown.append(
            f"layers: {report.layers['by_component']}, ranks {report.layers['ranks']}; largest "
            f"{told(largest['layer'])} with {report.layers['share_of_largest']:.0%} of all change, "
            f"{largest['concentration']:.0%} of it in one direction"
        )
    for placeholder, vectors in report.tokens.items():
        for vector in vectors:
            words = ", ".join(f"{word} {cosine:.2f}" for word, cosine in vector["nearest"][:3])
            shown.append(
                f"token {told(placeholder)}: length {vector['length']:.2f} (words of the base: "
                f"{vector['usual_length']:.2f}); nearest words {words}"
            )
    if found is not None:
        shown += _behaviour_lines(report, found)
    shown += ["not seen:"] + [f"  {line}" for line in report.blind]
    return [harmless(line) for line in shown]


def _behaviour_lines(report: AuditReport, found: Behaviour) -> list[str]:
    shown = [f"probed on {report.base} against {len(found.nouns)} nouns and {found.words_tried} words"]
    if found.looks_like:
        near = ", ".join(f"{name} {cosine:.2f}" for name, cosine in found.looks_like[:3])
        said = "" if found.claim_cosine is None else f"; {told(found.claim)} {found.claim_cosine:.2f}"
        shown.append(f"  the subject looks like {near}{said}")
    if found.painted is not None and found.base_painted is not None:
        shown.append(
            f"  of other nouns {found.painted.shows} explains its pictures best: better than {told(found.claim)} by "
            f"{found.painted.advantage:+.1%} (the base's own pictures of {told(found.claim)}: "
            f"{found.base_painted.advantage:+.1%}; alarm {report.method.claim_advantage:.0%} above that)"
        )
    if found.words:
        worst = ", ".join(f"{score.word} {score.jump:.2f}" for score in found.words[:3])
        shown.append(f"  words that move it most: {worst} (alarm above {report.method.jump:g} if far above the others)")
    if found.ordinary_shift is None:
        shown.append("  prompts without the subject cannot change: the file only adds vectors")
    else:
        shown.append(f"  prompts without the subject moved by {found.ordinary_shift:.2f} of what tells nouns apart")
    return shown
