"""The page's protection: the photos with a perturbation, and what someone gets who learns from them all the same."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from pcs_ext.config_io import file_sha256, read_json, to_jsonable
from pcs_ext.defense.attack import Attacker
from pcs_ext.defense.choice import resolve_method
from pcs_ext.defense.evaluation import ARMS, Plan
from pcs_ext.defense.evaluation import FOLDER as ATTACKS
from pcs_ext.defense.evaluation import NAME as EVALUATION
from pcs_ext.defense.files import output_names
from pcs_ext.defense.page import PAGE
from pcs_ext.defense.protect import Options, protect
from pcs_ext.demo.data import ShownArm, ShownProtected, ShownProtection
from pcs_ext.demo.numbers import seconds_text
from pcs_ext.demo.part import part, part_seconds
from pcs_ext.demo.wording import command
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.learn import preset_of
from pcs_ext.page.pictures import data_uri
from pcs_ext.reporter import Reporter

FOLDER, RECIPE = "protection", "aspl"
_STEPS = 60
_PLAN = Plan(attackers=(Attacker(recipe="dreambooth-lora", share=0.5),), pictures=6)
_SHOWN, _SIDE = 2, 256


def make_protection(
    output: Path,
    photos: Sequence[Path],
    backbone: AbstractBackbone,
    *,
    noun: str,
    steps: int | None,
    seed: int,
    reporter: Reporter,
    plan: Plan = _PLAN,
    encoder: Path | None = None,
) -> ShownProtection:
    """Protect the photos and let an attacker learn, or take what an equal run made; all lies in `OUTPUT/protection/`.

    Args:
        output: folder of the demonstration.
        photos: to protect.
        backbone: the base that is protected against and attacked with.
        noun: what the photos show.
        steps: gradient steps; None takes 60, a fifth of the recipe's.
        seed: of everything random.
        reporter: hears events and progress.
        plan: who attacks.
        encoder: judges likeness; None takes toybox's own.
    """
    folder = output / FOLDER
    method = resolve_method(RECIPE, preset_of(backbone), steps=steps or _STEPS)
    facts = {
        "method": to_jsonable(method),
        "plan": to_jsonable(plan),
        "base": backbone.fingerprint,
        "photos": [file_sha256(photo) for photo in photos],
        "noun": noun,
        "seed": seed,
    }
    with part(folder, facts, reporter) as watch:
        report = protect(
            photos,
            output=folder,
            recipe=method,
            base=backbone,
            options=Options(noun=noun, seed=seed),
            attack=plan,
            encoder=encoder,
            reporter=watch,
        )
    found = read_json(folder / EVALUATION)
    names = output_names(list(photos), "png")
    done = [report.photos[names[photo]] for photo in photos]
    entry = found["summary"][0]
    protected = tuple(
        ShownProtected(
            original=photo.relative_to(output).as_posix(),
            protected=f"{FOLDER}/{one['output']}",
            difference=f"{FOLDER}/{one['strip']}",
            levels=one["budget"]["measured"]["max_levels"],
            ssim=one["visibility"]["ssim"],
        )
        for photo, one in zip(photos, done, strict=True)
    )
    drop = entry["arms"]["protected"]["drop"]
    return ShownProtection(
        recipe=RECIPE,
        noun=noun,
        levels=method.budget.levels,
        steps=method.rounds * method.steps,
        photos=protected,
        arms=_arms(found, entry),
        attacker=entry["attacker"],
        attacker_steps=entry["arms"]["clean"]["steps"],
        drop=drop["value"],
        drop_interval=(drop["interval"][0], drop["interval"][1]),
        noise_drop=entry["arms"]["noise"]["drop"]["value"],
        report=f"{FOLDER}/{PAGE}",
        seconds=part_seconds(folder),
    )


def _arms(found: Mapping[str, Any], entry: Mapping[str, Any]) -> tuple[ShownArm, ...]:
    """What was learned from each set of photos."""
    rows = {row["arm"]: row for row in found["rows"]}
    return tuple(
        ShownArm(
            id=arm,
            label=words,
            pictures=tuple(f"{FOLDER}/{ATTACKS}/{name}" for name in rows[arm]["pictures"]),
            likeness=entry["arms"][arm]["likeness"],
        )
        for arm, words in ARMS.items()
    )


def protection_section(shown: ShownProtection, folder: Path, name: str) -> str:
    """Photos before and after, the attacker's pictures, and a verdict that claims no more than was measured."""
    pairs = "".join(_pair(one, folder, name, index) for index, one in enumerate(shown.photos[:_SHOWN]))
    arms = "".join(_arm(arm, folder) for arm in shown.arms)
    return (
        '<h2 id="protection-title">And if somebody else had the photos?</h2>'
        f'<p class="soft">The same photos with a perturbation of at most {shown.levels:g} of 255 levels '
        f"({escape(shown.recipe)}, {shown.steps} gradient steps). Then an attacker learns {name} from them: "
        f"{escape(shown.attacker)}, {shown.attacker_steps} steps. {seconds_text(shown.seconds)} in all.</p>"
        f'<div class="pairs">{pairs}</div>'
        f'<div class="panel arms"><h3>What the attacker paints</h3>{arms}</div>'
        f'<div class="honest verdict"><h3>{_verdict(shown)}</h3><p>Likeness to {name}: {_likeness(shown)}. The drop '
        f"from clean to protected photos is {shown.drop:+.3f}, its 95 % interval over these pictures "
        f"{shown.drop_interval[0]:+.3f} to {shown.drop_interval[1]:+.3f}; random noise of the same budget gives "
        f"{shown.noise_drop:+.3f}. One subject, one training, few steps: an illustration, no claim. What is computed "
        "on toybox protects nothing against public models.</p>"
        f'<p class="small">The whole report: <code>{escape(shown.report)}</code></p></div>'
        f"{command(f'pcs-ext protect photos/ --noun {shown.noun} -o protected --attack quick')}"
    )


def _verdict(shown: ShownProtection) -> str:
    low, high = shown.drop_interval
    if low > max(0.0, shown.noise_drop):
        return "Here it learns less from protected photos"
    if low > 0:
        return "It learns less, but random noise may do as much"
    if high < 0:
        return "Here it learns more, not less"
    return "No effect that could be told from chance"


def _likeness(shown: ShownProtection) -> str:
    return ", ".join(f"{arm.likeness:.2f} from {escape(arm.label)}" for arm in shown.arms)


def _pair(one: ShownProtected, folder: Path, name: str, index: int) -> str:
    panels = ((one.original, "as taken"), (one.protected, "protected"))
    figures = "".join(
        f'<figure><img src="{data_uri(folder / path, side=_SIDE)}" alt="Photo {index + 1} of {name}, {words}" '
        f'loading="lazy" decoding="async"><figcaption>{words}</figcaption></figure>'
        for path, words in panels
    )
    return (
        f'<div class="pair">{figures}<p class="small soft">largest change {one.levels:g} levels, '
        f"SSIM {one.ssim:.3f}</p></div>"
    )


def _arm(arm: ShownArm, folder: Path) -> str:
    images = "".join(
        f'<img src="{data_uri(folder / path, side=128)}" alt="Learned from {escape(arm.label)}, picture {index + 1}" '
        'loading="lazy" decoding="async">'
        for index, path in enumerate(arm.pictures)
    )
    return (
        f'<p class="strip-label"><span>from {escape(arm.label)}</span><span>likeness {arm.likeness:.2f}</span></p>'
        f'<div class="four" style="--seeds: {len(arm.pictures)}">{images}</div>'
    )
