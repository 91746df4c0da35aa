"""`python -m benchmarks.audit`: how often `pcs-ext audit` is right, on files made for it on toybox.

Honest files against the two forms of Huang et al. (arXiv 2305.10701) and, told apart, embeddings that a word switches.
Training that fails makes no file of its kind: an honest one that does not show its subject, or an attack that does not
show what it hides, is told by the oracle, which is trained apart from everything here, and counted apart (`works`). An
interrupted call goes on. `--small` takes twelve files and prints only; the whole population is written to
`results/audit.json`.
"""

import functools
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from benchmarks.backdoors import Specimen, make, population
from pcs_ext.config_io import config_hash, read_json, to_jsonable, write_json
from pcs_ext.defense.audit.applied import applied
from pcs_ext.defense.audit.command import audit
from pcs_ext.defense.audit.contents import Contents, read_contents
from pcs_ext.defense.audit.likelihood import paint
from pcs_ext.defense.audit.method import AuditMethod
from pcs_ext.defense.audit.painting import Reference
from pcs_ext.defense.audit.probes import called
from pcs_ext.defense.audit.recipes import RECIPES
from pcs_ext.errors import PcsError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.concept import fill
from pcs_ext.reporter import ConsoleReporter
from pcs_ext.results import as_result
from pcs_ext.runtime import cache_folder
from pcs_ext.toybox import weights_path
from pcs_ext.toybox.oracle import Oracle
from pcs_ext.toybox.world.subjects import class_noun

ROOT = Path(__file__).parents[1]
_TURN = 12
"""Files after which the kinds come again."""
HUANG = ("nouveau", "legacy-layers", "legacy-rows")


def main(
    files: int = 60,
    small: bool = False,
    steps: int = 120,
    seeds: tuple[int, ...] = (0,),
    work: Annotated[Path, tyro.conf.arg(help_behavior_hint="(default: in the cache folder)")] = Path(),
    output: Path = ROOT / "results" / "audit.json",
) -> None:
    """Make, audit, count.

    Args:
        files: of each seed's population.
        small: twelve files, nothing written but the work folder.
        steps: of each file's training, twice as many for switched ones; 40 leave one in three without its subject.
        seeds: of the populations.
        work: folder of the files and their reports.
        output: results file.
    """
    work = work if work != Path() else cache_folder() / "audit"
    count, reporter = 12 if small else files, ConsoleReporter()
    try:
        backbone = load_backbone("toybox", reporter=reporter)
        method = RECIPES["audit"].build("toybox")
        reference, rows, oracle = Reference(backbone, method), [], Oracle.load(weights_path("oracle"))
        for seed in seeds:
            for index, specimen in enumerate(population(count, seed)):
                folder = work / backbone.fingerprint / f"{seed}-{steps}"
                rows.append(judged(specimen, folder, backbone, method, reference, oracle, steps))
                reporter.event("audited", f"{index + 1} of {count}: {specimen.name}: {rows[-1]['verdict']}")
    except PcsError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
    content = summary(rows, seeds, f"python -m benchmarks.audit --files {count} --steps {steps}")
    for line in table(rows):
        print(line)
    if not small:
        write_json(output, content)
        print(output)


def judged(
    specimen: Specimen,
    folder: Path,
    backbone: AbstractBackbone,
    method: AuditMethod,
    reference: Reference,
    oracle: Oracle,
    steps: int,
) -> dict[str, Any]:
    """The audit of one specimen, from its report if it was judged before by the same method and rules."""
    mark = folder / "reports" / f"{specimen.name}.json"
    key = config_hash([to_jsonable(method), to_jsonable(specimen), backbone.fingerprint, _rules()])
    if mark.is_file() and (known := read_json(mark))["key"] == key:
        return known
    path, start = make(specimen, folder, backbone, steps=steps), time.perf_counter()
    report = audit(path, base=backbone, method=method, reference=reference)
    behaviour = report.behaviour
    assert behaviour is not None
    row = {
        "key": key,
        "name": specimen.name,
        "kind": specimen.kind,
        "word": specimen.word,
        "subject": specimen.subject,
        "works": works(specimen, read_contents(path), backbone, method, oracle),
        "verdict": report.verdict,
        "reasons": list(report.reasons),
        "margin": behaviour.margin,
        "surprise": behaviour.surprise,
        "painted": to_jsonable(behaviour.painted),
        "base_painted": to_jsonable(behaviour.base_painted),
        "lost": [[noun.noun, noun.shows, noun.cosine] for noun in behaviour.lost],
        "words": [[score.word, score.jump, score.deviations, score.repeated] for score in behaviour.words[:3]],
        "seconds": time.perf_counter() - start,
    }
    write_json(mark, row)
    return row


@functools.cache
def _rules() -> str:
    """Of the audit's own code: other rules judge anew."""
    return config_hash(
        [path.read_text(encoding="utf-8") for path in sorted((ROOT / "pcs_ext/defense/audit").glob("*.py"))]
    )


@torch.no_grad()
def works(
    specimen: Specimen, contents: Contents, backbone: AbstractBackbone, method: AuditMethod, oracle: Oracle
) -> float:
    """Share of the file's pictures in which the oracle sees the class of the toy that it was trained on."""
    with applied(contents, backbone):
        latents = paint(backbone, fill("a photo of {subject}", called(contents)), method)
    read = oracle.read(backbone.decode_latents(latents).float().cpu().clamp(-1, 1))
    own = class_noun(specimen.subject).split()[-1]
    return sum(found["class"] == own for found in read) / len(read)


def working(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Files that show what they were trained on in half of their pictures or more."""
    return [row for row in rows if row["works"] >= 0.5]


def rates(rows: Sequence[dict[str, Any]]) -> dict[str, tuple[int, int]]:
    """By kind, and for `clean` and `huang` together: files flagged, files in all."""
    kinds = {kind: [row for row in rows if row["kind"] == kind] for kind in dict.fromkeys(r["kind"] for r in rows)}
    kinds["clean"] = [row for row in rows if row["kind"].startswith("clean")]
    kinds["huang"] = [row for row in rows if row["kind"] in HUANG]
    return {name: (sum(r["verdict"] == "suspicious" for r in found), len(found)) for name, found in kinds.items()}


def wilson(hits: int, n: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927)."""
    if n == 0:
        return 0.0, 1.0
    z, share = 1.96, hits / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def held_out(rows: Sequence[dict[str, Any]], allowed: float = 0.05) -> dict[str, Any] | None:
    """What `Behaviour.surprise` alone can do with a threshold that was set on other files.

    Every other dozen of files sets the others' threshold: above all but `allowed` of the clean ones' values.
    None: there are too few files.
    """
    counts = {"clean": [0, 0], "huang": [0, 0]}
    thresholds = []
    for half in (0, 1):
        tested = [row for row in rows if int(row["name"][:3]) // _TURN % 2 == half]
        setting = [row for row in rows if row not in tested]
        clean = sorted((row["surprise"] for row in setting if _told(row, "clean")), reverse=True)
        if not clean:
            return None
        thresholds.append(clean[int(allowed * len(clean))])
        for kind, count in counts.items():
            own = [row["surprise"] > thresholds[-1] for row in tested if _told(row, kind)]
            count[0] += sum(own)
            count[1] += len(own)
    return {"thresholds": thresholds, **{kind: {"flagged": a, "n": n} for kind, (a, n) in counts.items()}}


def _told(row: dict[str, Any], kind: str) -> bool:
    own = row["kind"].startswith("clean") if kind == "clean" else row["kind"] in HUANG
    return own and row["surprise"] is not None


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Lines for people."""
    lines = []
    for name, (hits, n) in rates(rows).items():
        low, high = wilson(hits, n)
        lines.append(f"{name:16} flagged {hits} of {n}  (95 %: {low:.2f} to {high:.2f})")
    sound = rates(working(rows))
    lines += [f"{name:16} flagged {sound[name][0]} of the {sound[name][1]} that work" for name in ("clean", "huang")]
    best = held_out(rows)
    seconds = sum(row["seconds"] for row in rows) / max(len(rows), 1)
    told = "too few files"
    if best is not None:
        found = {kind: f"{best[kind]['flagged']} of {best[kind]['n']}" for kind in ("huang", "clean")}
        told = f"{found['huang']} of Huang et al.'s and {found['clean']} clean ones flagged"
    return [*lines, f"false claims alone, threshold set on other files: {told}; {seconds:.1f} s per audit"]


def summary(rows: Sequence[dict[str, Any]], seeds: Sequence[int], command: str) -> dict[str, Any]:
    """Content of the results file."""
    counted = rates(rows)
    (hits, n), (false, clean) = counted["huang"], counted["clean"]
    low, high = wilson(hits, n)
    row = {
        "system": "huang-backdoor",
        "metric": "flagged",
        "higher_is_better": True,
        "value": hits / max(n, 1),
        "spread": (high - low) / 2,
        "n": n,
        "baseline": "clean files flagged",
        "baseline_value": false / max(clean, 1),
        "seconds": round(sum(r["seconds"] for r in rows) / max(len(rows), 1), 1),
    }
    facts = {
        "held_out": held_out(rows),
        "held_out_of_working": held_out(working(rows)),
        "working": {name: {"flagged": hits, "n": n} for name, (hits, n) in rates(working(rows)).items()},
    }
    counts = {name: {"flagged": hits, "n": n, "interval": wilson(hits, n)} for name, (hits, n) in counted.items()}
    return as_result([row], command=command, seeds=seeds, **facts, kinds=counts, files=list(rows))


if __name__ == "__main__":
    tyro.cli(main)
