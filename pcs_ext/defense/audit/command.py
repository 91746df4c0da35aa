"""`pcs-ext audit`: a file from a stranger in, a verdict with reasons out."""

from collections.abc import Collection, Sequence
from pathlib import Path

from pcs_ext.defense.audit.contents import Contents, claimed_words, facts, read_contents
from pcs_ext.defense.audit.foreign import told
from pcs_ext.defense.audit.method import AuditMethod
from pcs_ext.defense.audit.painting import Reference
from pcs_ext.defense.audit.probes import Behaviour, probe
from pcs_ext.defense.audit.recipes import RECIPES
from pcs_ext.defense.audit.structure import REPLACED, changed_words, layer_facts, token_facts
from pcs_ext.defense.audit.verdict import BLIND, AuditReport, judge_behaviour
from pcs_ext.defense.audit.vocabulary import is_ordinary_word
from pcs_ext.errors import UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.learn import preset_of
from pcs_ext.reporter import Reporter, SilentReporter

_UNCALIBRATED = "thresholds were set on toybox; on {base} nobody has measured how often they are wrong"


def audit(
    path: Path,
    *,
    base: str | AbstractBackbone = "",
    noun: str = "",
    words: Sequence[str] = (),
    method: AuditMethod | None = None,
    reference: Reference | None = None,
    device: str = "auto",
    precision: str = "auto",
    reporter: Reporter | None = None,
) -> AuditReport:
    """Inspect a file.

    The base is never taken from the file: what a stranger names there would be fetched.

    Args:
        path: `.safetensors` file or folder.
        base: to probe on: a name, folder, file or loaded backbone; empty: the file is only read.
        noun: what the file is said to show; empty: what it says itself.
        words: to try beside those of the base's vocabulary.
        method: probes and thresholds; None takes those of `RECIPES`.
        reference: of the same loaded base and method, to share between audits.
        device: where to run.
        precision: of the base's weights.
        reporter: hears what is going on.

    Raises:
        ArtifactError: no such file, a pickle, damaged, or made for another base.
        UsageError: the base and the file are of different families.
    """
    reporter = reporter or SilentReporter()
    contents = read_contents(path)
    if not base:
        return _report(contents, None, noun, method or RECIPES["audit"].build("toybox"), None)
    loaded = isinstance(base, AbstractBackbone)
    backbone = base if loaded else load_backbone(base, device=device, precision=precision, reporter=reporter)
    if contents.family and contents.family != backbone.family:
        raise UsageError(f"the file is for a {contents.family} base, {backbone.name} is {backbone.family}.")
    method = method or RECIPES["audit"].build(preset_of(backbone))
    reporter.event("audit", f"probing {path} on {backbone.name}")
    reference = reference or Reference(backbone, method)
    behaviour = probe(contents, backbone, method, reference, noun=noun, words=words)
    return _report(contents, backbone, noun, method, behaviour)


def _report(
    contents: Contents,
    backbone: AbstractBackbone | None,
    noun: str,
    method: AuditMethod,
    behaviour: Behaviour | None,
) -> AuditReport:
    reasons, remarks, blind = [], [], list(BLIND)
    words = [] if backbone is None else changed_words(contents, backbone)
    if backbone is None or behaviour is None:
        blind.insert(0, "everything that shows only when it is run: give --base with the model it is meant for")
    else:
        reasons, remarks = judge_behaviour(behaviour, method)
        replaced, moved = _table_words(words, claimed_words(contents, noun))
        reasons = taken_words(contents, backbone) + replaced + reasons
        remarks = moved + remarks
        if backbone.name != "toybox":
            blind.insert(0, _UNCALIBRATED.format(base=backbone.name))
    if contents.unread:
        blind.insert(0, f"{len(contents.unread)} tensors of a kind it cannot apply, such as {told(contents.unread[0])}")
    remarks = [*contents.notes, *remarks]
    return AuditReport(
        verdict="only read" if behaviour is None else "suspicious" if reasons else "nothing found",
        reasons=tuple(reasons),
        remarks=tuple(remarks),
        blind=tuple(blind),
        file=facts(contents),
        layers=layer_facts(contents.layers),
        tokens={} if backbone is None else {t.placeholder: token_facts(t, backbone) for t in contents.tokens},
        changed_words=tuple(words),
        base="" if backbone is None else backbone.name,
        behaviour=behaviour,
        method=method,
    )


def taken_words(contents: Contents, backbone: AbstractBackbone) -> list[str]:
    """Learned tokens that are called by ordinary words alone: loaders put them in their place."""
    names = dict.fromkeys(name for token in contents.tokens for name in (token.placeholder, *token.also))
    found = []
    for name in names:
        words = name.split()
        if words and all(is_ordinary_word(backbone.tokenizers[0], word) for word in words):
            what = "is an ordinary word" if len(words) == 1 else "are ordinary words"
            found.append(f'"{told(name)}" {what} of the base: prompts that only mean the word would call it')
    return found


def _table_words(words: list[tuple[str, float]], claimed: Collection[str]) -> tuple[list[str], list[str]]:
    """Reason and remark about the token table's rows of words that the file does not name itself."""
    replaced = [f"{word} ({share:.0%})" for word, share in words if word not in claimed and share >= REPLACED]
    moved = [f"{word} ({share:.0%})" for word, share in words if word not in claimed and share < REPLACED]
    return (
        [f"rows of ordinary words in the token table are replaced: {_some(replaced)}"] if replaced else [],
        [f"rows of ordinary words in the token table were moved: {_some(moved)}"] if moved else [],
    )


def _some(words: list[str]) -> str:
    return ", ".join(words[:6]) + (f" and {len(words) - 6} more" if len(words) > 6 else "")
