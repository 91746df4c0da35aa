"""`report.html`: one page that tells people what the protection of their photos is worth; it needs no network."""

from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from pcs_ext.config_io import atomic_write_text
from pcs_ext.defense.evaluation import ARMS, FOLDER, UNLAUNDERED
from pcs_ext.defense.report import STATEMENTS, Report
from pcs_ext.defense.written import STRIPS
from pcs_ext.page import style
from pcs_ext.page.pictures import data_uri

PAGE = "report.html"
_STRIPS = 6
"""Difference strips on the page at most; the others lie beside it."""
_SIDE = 128
_TITLE = {True: "What attackers learned", False: "What was done to your photos"}
_NOBODY = (
    '<h2 id="attacks-title">What it is worth is not known</h2><p>Nobody tried to learn these photos, so no effect was '
    "measured: the figures below say what was changed, and not what it keeps from anyone. Run the same command again "
    "with <code>--attack quick</code> to train attackers on the clean and on the protected photos.</p>"
)


def write_page(report: Report, found: dict[str, Any] | None, path: Path) -> Path:
    """Write the page.

    Args:
        report: of the job; its folder holds the difference strips.
        found: content of `evaluation.json`; None: nobody attacked, and the page says first that no effect is known.
        path: of the page.
    """
    method = report.job["method"]
    warning = "".join(f'<p class="warning">{escape(text)}</p>' for text in report.warnings)
    parts = {
        "title": f"{escape(method['id'])}: {_TITLE[found is not None].lower()}",
        "style": style() + _text("report.css"),
        "warning": warning,
        "header": _header(report, found),
        "attacks": _NOBODY if found is None else _attacks(found),
        "pictures": "" if found is None else _pictures(found, report.folder / FOLDER),
        "visible": _visible(report, found),
        "made": _made(report),
        "honest": _honest(report, found),
        "footer": _footer(found),
    }
    atomic_write_text(path, Template(_text("report.html")).substitute(parts))
    return path


def _text(name: str) -> str:
    return resources.files("pcs_ext.defense").joinpath(name).read_text(encoding="utf-8")


def _header(report: Report, found: dict[str, Any] | None) -> str:
    method, photos = report.job["method"], _done(report)
    budget, visible = method["budget"], [entry["visibility"] for entry in photos]
    sharpness = [v["psnr_db"] for v in visible if v["psnr_db"] is not None]
    changed = sum(entry.get("changed", True) for entry in photos)
    same = f", {len(photos) - changed} not changed at all" if changed < len(photos) else ""
    stats = [
        (str(changed), ("photos protected" if changed != 1 else "photo protected") + same),
        (f"{budget['levels']:g}", f"8-bit levels of budget ({escape(budget['norm'])})"),
        (f"{_mean(sharpness):.1f} dB" if sharpness else "equal", "PSNR to the originals, mean"),
        (f"{_mean([v['ssim'] for v in visible]):.3f}", "SSIM to the originals, mean"),
    ]
    items = "".join(f"<div><dt>{text}</dt><dd>{value}</dd></div>" for value, text in stats)
    return (
        f'<div class="mark-line"><b>pcs_ext</b><span>{escape(method["id"])} on {escape(_bases(report))}</span></div>'
        f"<h1>{_TITLE[found is not None]}</h1>"
        f'<div class="lede">{_lede(found)}</div>'
        f'<dl class="stats">{items}</dl>'
    )


def _lede(found: dict[str, Any] | None) -> str:
    if found is None:
        return "<p>They were changed within the budget. <b>No effect was measured.</b></p>"
    return "".join(_sentence(entry) for entry in found["summary"] if _is_plain(entry))


def _sentence(entry: dict[str, Any]) -> str:
    """What one attacker got from the photos as they are, in a sentence that claims no more than was measured."""
    arms = entry["arms"]
    drop, noise = arms["protected"]["drop"], arms["noise"]["drop"]
    low, high = drop["interval"]
    if low > 0:
        verdict = "its pictures are less like the subject after protected photos"
        verdict += ", by more than after random noise" if low > noise["value"] else ", but random noise may do as much"
    elif high < 0:
        verdict = "its pictures are <b>more</b> like the subject after protected photos"
    else:
        verdict = "<b>no effect</b> on likeness could be told from chance"
    return (
        f"<p><b>{escape(entry['attacker'])}</b>: likeness {arms['clean']['likeness']:.3f} from clean photos, "
        f"{arms['protected']['likeness']:.3f} from protected ones, {arms['noise']['likeness']:.3f} from random noise: "
        f"{verdict}.</p>"
    )


def _attacks(found: dict[str, Any]) -> str:
    tables = "".join(
        _table(attacker, [e for e in found["summary"] if e["attacker"] == attacker])
        for attacker in dict.fromkeys(entry["attacker"] for entry in found["summary"])
    )
    base = found["nobody"]
    where = "other clean photos of the subject" if found["held_out_references"] else "the original photos"
    return (
        '<h2 id="attacks-title">Before and after laundering</h2>'
        f'<p class="soft">Each attacker was trained on the clean photos, on the protected ones and on the originals '
        "with random noise of the same budget, as they are and after what may happen to them on the way. Likeness is "
        f"the mean cosine of the attacker's pictures to {where}, by {escape(found['encoder'])}: lower is better for "
        f"who is protected. Without any photo the base reaches {_mean(base['likeness']):.3f} for a plain "
        f"{escape(found['noun'])} (loss {base['loss']:.4f}, artefacts {base['artefacts']:.2f}).</p>{tables}"
        '<p class="small soft">Drop: likeness from clean photos laundered alike minus that from protected ones, paired '
        "by prompt and seed, with its 95 % bootstrap interval over pictures; another training may differ by more. "
        "Left: the drop's share that survived the laundering; not told where the drop before it is within chance. "
        "Loss: denoising loss of the attacker's model on the clean references, higher = knows them less. Artefacts: "
        "distance of the pictures' fine structure from the base's own pictures (NIQE's features), higher = worse "
        "pictures.</p>"
    )


def _table(attacker: str, entries: list[dict[str, Any]]) -> str:
    rows = "".join(_row(entry) for entry in entries)
    steps = entries[0]["arms"]["clean"]["steps"]
    heads: tuple[str, ...] = (
        "clean",
        "protected",
        "noise",
        "drop",
        "left",
        "loss<br>clean → protected",
        "artefacts<br>clean → protected",
    )
    if "fdfr" in entries[0]["arms"]["clean"]:
        heads += ("no face found (FDFR)<br>clean → protected", "same face (ISM)<br>clean → protected")
    return (
        f'<div class="panel" style="margin-top: 1.6rem"><h3>{escape(attacker)}</h3>'
        f'<p class="small soft">{steps} optimiser steps, {entries[0]["arms"]["clean"]["n"]} pictures per condition</p>'
        '<div class="scroll" tabindex="0"><table><thead><tr><th>likeness after</th>'
        + "".join(f"<th>{head}</th>" for head in heads)
        + f"</tr></thead><tbody>{rows}</tbody></table></div></div>"
    )


def _row(entry: dict[str, Any]) -> str:
    arms = entry["arms"]
    clean, protected = arms["clean"], arms["protected"]
    low, high = protected["drop"]["interval"]
    noise = f"{arms['noise']['likeness']:.3f}" if "noise" in arms else "–"
    left = "–" if entry["left"] is None else f"{entry['left']:.0%}"
    cells: tuple[str, ...] = (
        f"{clean['likeness']:.3f}",
        f"{protected['likeness']:.3f}",
        noise,
        f"{protected['drop']['value']:+.3f}<i>{low:+.3f} to {high:+.3f}</i>",
        left,
        f"{clean['loss']:.4f} → {protected['loss']:.4f}",
        f"{clean['artefacts']:.2f} → {protected['artefacts']:.2f}",
    )
    if "fdfr" in clean:
        cells += (f"{clean['fdfr']:.0%} → {protected['fdfr']:.0%}", f"{_same_face(clean)} → {_same_face(protected)}")
    kind = ' class="plain"' if _is_plain(entry) else ""
    return f"<tr{kind}><th>{escape(entry['laundering'])}</th>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _same_face(arm: dict[str, Any]) -> str:
    """Its mean is over pictures with a face alone, so their number stands beside it."""
    return "–" if arm["ism"] is None else f"{arm['ism']:.3f} ({arm['faces']})"


def _pictures(found: dict[str, Any], folder: Path) -> str:
    """Pictures of the first training of each condition: the plain ones open, the laundered ones folded; a section."""
    seed = found["rows"][0]["seed"]
    rows = [row for row in found["rows"] if row["seed"] == seed]
    parts = [
        '<h2 id="pictures-title">What they painted</h2><p class="soft">Unselected: the same prompts and random numbers '
        "in every row.</p>"
        + f'<div class="arms">{_strip("the base, without any photo", found["nobody"]["pictures"], folder)}</div>'
    ]
    for attacker in dict.fromkeys(row["attacker"] for row in rows):
        own = [row for row in rows if row["attacker"] == attacker]
        panels = []
        for laundering in dict.fromkeys(row["laundering"] for row in own):
            strips = "".join(
                _strip(f"from {ARMS[row['arm']]}", row["pictures"], folder)
                for row in own
                if row["laundering"] == laundering
            )
            strips = f'<div class="arms">{strips}</div>'
            plain = laundering == UNLAUNDERED
            panels.append(strips if plain else f"<details><summary>{escape(laundering)}</summary>{strips}</details>")
        parts.append(f'<div class="panel"><h3>{escape(attacker)}</h3>{"".join(panels)}</div>')
    return f'<section class="wide" aria-labelledby="pictures-title">{"".join(parts)}</section>'


def _strip(title: str, names: list[str], folder: Path) -> str:
    images = "".join(
        f'<img src="{data_uri(folder / name, side=_SIDE)}" alt="{escape(title)}, picture {index + 1}" '
        'loading="lazy" decoding="async">'
        for index, name in enumerate(names)
    )
    return f'<div class="arm"><p>{escape(title)}</p><div class="strip">{images}</div></div>'


def _visible(report: Report, found: dict[str, Any] | None) -> str:
    photos, distances = _done(report), {} if found is None else found["distances"]
    rows = "".join(_photo_row(entry, distances.get(entry["output"])) for entry in photos)
    # They show the originals: whoever deletes them before sharing the folder gets the page without them.
    shown = [entry for entry in photos if (report.folder / entry["strip"]).is_file()]
    strips = "".join(
        f'<figure><img src="{data_uri(report.folder / entry["strip"], side=0)}" alt="Original, protected and '
        f'difference of {escape(entry["output"])}"><figcaption>{escape(entry["output"])}</figcaption></figure>'
        for entry in shown[:_STRIPS]
    )
    rest = "" if len(shown) <= _STRIPS else f'<p class="soft">The strips of all photos lie in {STRIPS}/.</p>'
    return (
        '<h2 id="visible-title">What can be seen</h2><p class="soft">Measured on the decoded files.</p>'
        '<div class="scroll" tabindex="0"><table><thead><tr><th>file</th><th>largest change</th><th>mean change</th>'
        "<th>PSNR</th><th>SSIM</th><th>colour difference<br>(mean CIEDE2000)</th>"
        f"{'<th>perceptual distance<br>(1 − cosine)</th>' if distances else ''}</tr></thead><tbody>{rows}</tbody>"
        '</table></div><p class="small soft">A colour difference of 1 is just visible side by side on flat colours.'
        f'{_perceptual(found)}</p><div class="differences">{strips}</div>{rest}'
    )


def _perceptual(found: dict[str, Any] | None) -> str:
    if found is None:
        return ""
    return (
        f" The perceptual distance is that of the image encoder {escape(found['encoder'])} between original and "
        "protected photo, from 0 to 2."
    )


def _photo_row(entry: dict[str, Any], distance: float | None) -> str:
    visible, measured = entry["visibility"], entry["budget"]["measured"]
    within = "" if measured["within"] else "<i>above the budget</i>"
    noise = "equal" if visible["psnr_db"] is None else f"{visible['psnr_db']:.1f} dB"
    cells: tuple[str, ...] = (
        f"{measured['max_levels']:g} levels{within}",
        f"{visible['mean_levels']:.2f}",
        noise,
        f"{visible['ssim']:.4f}",
        f"{visible['ciede2000']:.2f}",
    )
    if distance is not None:
        cells += (f"{distance:.4f}",)
    notes = "".join(f"<span>{escape(note)}</span>" for note in entry["notes"])
    return f"<tr><th>{escape(entry['output'])}{notes}</th>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _made(report: Report) -> str:
    method = report.job["method"]
    facts = {
        "method": method["id"],
        "base": _bases(report),
        "objective": method["objective"]["kind"],
        "prompts": "; ".join(method["prompts"]) + f" (subject: {_subject(report)})",
        "budget": f"{method['budget']['levels']:g} levels, {method['budget']['norm']}",
        "gradient steps": f"{method['rounds']} x {method['steps']}",
        "surrogate": _surrogate(method["training"]),
        "transforms": ", ".join(t["kind"] for t in method["transforms"]) or "none",
        "quirks kept": "; ".join(method["quirks"]) or "none",
        "files": ", ".join(sorted({entry["encoding"]["format"] for entry in _done(report)})),
        "seed": str(report.job["options"]["seed"]),
    }
    items = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in facts.items())
    gains = "".join(
        f"<tr><th>{escape(entry['output'])}<span>{escape(gain['base'])}</span></th><td>{gain['clean']:.4f}</td>"
        f"<td>{gain['protected']:.4f}</td><td>{gain['random_noise']:.4f}</td></tr>"
        for entry in _done(report)
        for gain in entry["objective"]["surrogates"]
    )
    return (
        f'<h2 id="made-title">What was optimised</h2><dl class="facts">{items}</dl>'
        '<div class="scroll" tabindex="0"><table><thead><tr><th>objective, higher is what the method seeks</th>'
        f"<th>original</th><th>protected</th><th>random noise</th></tr></thead><tbody>{gains}</tbody></table></div>"
    )


def _surrogate(training: dict[str, Any] | None) -> str:
    if training is None:
        return "the frozen base"
    steps = (training["first_steps"], training["clean_steps"], training["protected_steps"])
    return (
        f"trained meanwhile ({training['adapter']['kind']}, learning rate {training['learning_rate']:g}; {steps[0]} "
        f"steps first, {steps[1]} on clean and {steps[2]} on protected photos per round)"
    )


def _honest(report: Report, found: dict[str, Any] | None) -> str:
    bases, summary = escape(_bases(report)), [] if found is None else found["summary"]
    launderings = ", ".join(dict.fromkeys(e["laundering"] for e in summary if not _is_plain(e))) or "none"
    others = _other_bases(found)
    tested = f"Attackers also started from {escape(', '.join(others))}; no other" if others else "No newer"
    facts = {
        0: f" Here: {escape(report.job['method']['id'])} on {bases}. {tested} model was tested"
        + (", and none of another family." if not others else "."),
        1: f" Here: {escape(launderings)}; the table above has the figures. What is not in it was not tested."
        if summary
        else " Here: nothing of it was tested.",
    }
    items = "".join(f"<li>{escape(text)}{facts.get(index, '')}</li>" for index, text in enumerate(STATEMENTS))
    return f'<h2 id="honest-title">What this does not do</h2><div class="honest"><ol>{items}</ol></div>'


def _footer(found: dict[str, Any] | None) -> str:
    if found is None:
        return "<p>Every number is in <code>report.json</code>.</p>"
    plan = found["plan"]
    seconds = sum(row["seconds"] for row in {tuple(row["pictures"]): row for row in found["rows"]}.values())
    return (
        f"<p>Attackers started from {escape(', '.join(_starts(found)))} on {escape(found['device'])}; training seeds "
        f"{', '.join(map(str, plan['seeds']))}; prompts {escape('; '.join(plan['prompts']))}; {plan['pictures']} "
        f"pictures each; {seconds / 60:.0f} minutes in all. Every number is in <code>report.json</code> and "
        f"<code>evaluation.json</code>, every picture and every set of photos in <code>{FOLDER}/</code>.</p>"
    )


def _other_bases(found: dict[str, Any] | None) -> list[str]:
    """Bases that the plan gives attackers of their own, each once."""
    attackers = [] if found is None else found["plan"]["attackers"]
    return list(dict.fromkeys(attacker["base"] for attacker in attackers if attacker["base"]))


def _starts(found: dict[str, Any]) -> list[str]:
    """All bases that attackers started from."""
    first = [found["base"]] if any(not attacker["base"] for attacker in found["plan"]["attackers"]) else []
    return [*first, *_other_bases(found)]


def _done(report: Report) -> list[dict[str, Any]]:
    return [report.photos[name] for name in sorted(report.photos) if report.photos[name]["state"] == "done"]


def _bases(report: Report) -> str:
    return ", ".join(base["name"] for base in report.job["bases"])


def _subject(report: Report) -> str:
    return " ".join(part for part in (report.job["method"]["token"], report.job["options"]["noun"]) if part)


def _is_plain(entry: dict[str, Any]) -> bool:
    return entry["laundering"] == UNLAUNDERED


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
