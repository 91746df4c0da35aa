"""The proof: what attackers learn from clean photos, from protected ones and from ones with random noise, as they are
and after each laundering."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pcs_ext.config_io import (
    config,
    file_sha256,
    from_jsonable,
    read_json,
    to_jsonable,
    write_json,
)
from pcs_ext.defense.attack import Attacker, Scene, attack, nobody
from pcs_ext.defense.budget import Budget
from pcs_ext.defense.laundering import LAUNDERINGS, JpegFile, Laundering, Mixed
from pcs_ext.defense.naturalness import NaturalModel
from pcs_ext.defense.photos import read_own_photo
from pcs_ext.defense.sets import Limited, Pair, Sets
from pcs_ext.errors import ConfigError, UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.class_images import ClassImages
from pcs_ext.image.concept import fill
from pcs_ext.image.evaluate import load_image_encoder, square_images
from pcs_ext.image.evaluate.encoders import ImageEncoder
from pcs_ext.image.evaluate.metrics import bootstrap_interval, drift
from pcs_ext.image.learn import preset_of
from pcs_ext.image.recipes.presets import SAMPLING
from pcs_ext.reporter import Reporter

ARMS = {"clean": "clean photos", "protected": "protected photos", "noise": "photos with random noise"}
"""Which photos an attacker has: the originals, the protected ones, or originals with random noise of the same budget;
in words."""
UNLAUNDERED = "as shared"
FOLDER, NAME = "attacks", "evaluation.json"
_TOYBOX_ENCODER = Path(__file__).parents[1] / "toybox" / "weights" / "dino"
_NATURAL_PICTURES = 32


@config
class Plan:
    """Which attacks are tried."""

    attackers: tuple[Attacker, ...]
    """All of them try every condition."""
    launderings: tuple[Laundering, ...] = ()
    """Beside the photos as they are."""
    noise_laundered: bool = False
    """Whether random noise is laundered too; else it is tried as it is."""
    seeds: tuple[int, ...] = (0,)
    """Trainings, one per seed."""
    prompts: tuple[str, ...] = ("a photo of {subject}",)
    """Of the pictures that are judged."""
    pictures: int = 4
    """Per prompt, training and condition."""

    def __post_init__(self) -> None:
        if not self.attackers or not self.seeds or not self.prompts or self.pictures < 1:
            raise ConfigError("an evaluation needs at least one attacker, seed, prompt and picture.")
        names = [laundering.name for laundering in self.launderings]
        if len(set(names)) < len(names) or len(set(self.attackers)) < len(self.attackers):
            raise ConfigError("an evaluation names a laundering or an attacker twice; give each once.")

    @property
    def trainings(self) -> int:
        """Models trained, at most (equal sets of photos are learned once)."""
        conditions = 3 + len(self.launderings) * (3 if self.noise_laundered else 2)
        return conditions * len(self.attackers) * len(self.seeds)


_PROMPTS = ("a photo of {subject}", "a photo of {subject} on the grass")
PLANS: dict[str, Plan] = {
    "quick": Plan(
        attackers=(Attacker(recipe="dreambooth-lora", share=0.5),), launderings=(JpegFile(quality=75),), pictures=8
    ),
    "full": Plan(
        attackers=(
            Attacker(recipe="dreambooth-lora"),
            Attacker(recipe="dreambooth"),
            Attacker(recipe="textual-inversion"),
        ),
        launderings=LAUNDERINGS,
        noise_laundered=True,
        prompts=_PROMPTS,
        pictures=8,
    ),
}
"""By name: quick (5 short trainings) and full (72 whole ones)."""


def resolve_plan(plan: str | Plan) -> Plan:
    """The plan behind a name, a JSON file or a value.

    Raises:
        UsageError: neither a known name nor a file.
        ConfigError: the JSON does not fit.
    """
    if isinstance(plan, Plan):
        return plan
    if plan in PLANS:
        return PLANS[plan]
    if not plan.endswith(".json"):
        raise UsageError(
            f"--attack {plan!r} is unknown; expected one of {', '.join(PLANS)}, or a plan as a .json file."
        )
    return from_jsonable(Plan, read_json(Path(plan)), where=plan)


def load_judge(base: str, encoder: Path | None) -> ImageEncoder:
    """The image encoder that judges likeness: the named folder, or what ships with the embedded base.

    Raises:
        UsageError: another base and no encoder.
        ModelError: the folder holds none.
    """
    if encoder is None and base != "toybox":
        raise UsageError(
            f"attacks on {base} need an image encoder to judge what they get: give --encoder with a transformers "
            "folder, such as a download of facebook/dino-vits16."
        )
    return load_image_encoder(_TOYBOX_ENCODER if encoder is None else encoder)


def evaluate_protection(
    plan: Plan,
    pairs: Sequence[Pair],
    output: Path,
    *,
    backbone: AbstractBackbone,
    encoder: ImageEncoder,
    noun: str,
    budget: Budget,
    references: Sequence[Path] = (),
    attacks: Path | None = None,
    faces: str = "",
    limited: Limited = read_own_photo,
    reporter: Reporter,
) -> dict[str, Any]:
    """Attack and measure; writes `evaluation.json` and returns its content. Goes on after interruptions.

    Args:
        plan: what is tried.
        pairs: photos before and after protection.
        output: folder of the job; attackers work in its `attacks/`.
        backbone: the base that attackers start from, without adapters.
        encoder: judges likeness.
        noun: of the subject.
        budget: that random noise uses to the full.
        references: clean photos that likeness and loss are measured on; empty: the originals.
        attacks: where attackers work, instead of in the job's own folder: several jobs on the same photos may share
            it, so that what all of them compare with is attacked once.
        faces: who finds faces (`faces.load_detector`), for FDFR and ISM; empty: they are not measured.
        limited: an original with the mask that its protection had, so that random noise has the same.
        reporter: hears progress.

    Raises:
        PhotoError: a photo is too small to be learned from, or unreadable.
        Interrupted: Ctrl-C; the same call goes on.
    """
    place, shared = output / FOLDER, attacks or output / FOLDER
    originals = references or [pair.original for pair in pairs]
    scenes = {
        base: _scene(plan, originals, shared, model, encoder, noun, faces, reporter)
        for base, model in _models(plan, backbone, reporter).items()
    }
    scene = scenes[""]
    sets = Sets(pairs, place / "photos", backbone, budget, limited)
    base = nobody(scene, reporter)
    rows: list[dict[str, Any]] = []
    conditions = list(_conditions(plan, len(pairs)))
    for number, (attacker, laundering, arm, seed) in enumerate(conditions):
        label = UNLAUNDERED if laundering is None else _label(laundering, len(pairs))
        name = f"attack {number + 1} of {len(conditions)}: {attacker.label} on {ARMS[arm]}, {label}"
        own = scenes[attacker.base]
        outcome = attack(attacker, sets.photos(arm, laundering), own, seed=seed, reporter=reporter, name=name)
        rows.append({"attacker": attacker.label, "laundering": label, "arm": arm, "seed": seed, **to_jsonable(outcome)})
    content = {
        "base": backbone.name,
        "device": str(backbone.device),
        "encoder": encoder.id,
        "noun": noun,
        "plan": to_jsonable(plan),
        "references": len(scene.references),
        "held_out_references": bool(references),
        "photos": {pair.protected.name: file_sha256(pair.protected) for pair in pairs},
        "distances": _distances(pairs, backbone.resolution, encoder),
        "nobody": to_jsonable(base),
        "rows": rows,
        "summary": summarise(rows),
    }
    write_json(output / NAME, content)
    return content


def _models(plan: Plan, backbone: AbstractBackbone, reporter: Reporter) -> dict[str, AbstractBackbone]:
    """The bases that attackers start from, by what the plan calls them; "" is the first one protected against."""
    others = dict.fromkeys(attacker.base for attacker in plan.attackers if attacker.base)
    precision = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[backbone.dtype]
    loaded = {
        name: load_backbone(name, device=str(backbone.device), precision=precision, reporter=reporter)
        for name in others
    }
    return {"": backbone, **loaded}


@torch.no_grad()
def _distances(pairs: Sequence[Pair], side: int, encoder: ImageEncoder) -> dict[str, float]:
    """How different the encoder finds each protected photo from its original: 1 - cosine, in [0, 2]."""
    before, after = (encoder.encode_images(square_images(paths, side)) for paths in zip(*pairs, strict=True))
    distances = drift(before, after).clamp_min(0).tolist()
    return dict(zip([pair.protected.name for pair in pairs], distances, strict=True))


def drop_stale(output: Path, protected: Mapping[str, str], page: str) -> None:
    """Take the evaluation and its page away when they are about other files than those that lie there now.

    Args:
        output: folder of the job.
        protected: hashes of the protected photos by name.
        page: name of the page.
    """
    if (output / NAME).is_file() and read_json(output / NAME).get("photos") != dict(protected):
        (output / page).unlink(missing_ok=True)
        (output / NAME).unlink()


def _label(laundering: Laundering, photos: int) -> str:
    """How tables call it; with the numbers where a share is of no whole number of photos."""
    if isinstance(laundering, Mixed) and laundering.count(photos) != laundering.share * photos:
        return f"{laundering.name} ({laundering.count(photos)} of {photos})"
    return laundering.name


def _conditions(plan: Plan, photos: int) -> Iterator[tuple[Attacker, Laundering | None, str, int]]:
    def leaves_some(laundering: Laundering) -> bool:
        # Of a single photo, a half is all of it: what an attacker learns from originals says nothing of protection.
        return not isinstance(laundering, Mixed) or laundering.share == 1 or laundering.count(photos) < photos

    for attacker in plan.attackers:
        for laundering in (None, *filter(leaves_some, plan.launderings)):
            for arm in ARMS:
                if arm != "noise" or laundering is None or plan.noise_laundered:
                    for seed in plan.seeds:
                        yield attacker, laundering, arm, seed


def _scene(
    plan: Plan,
    references: Sequence[Path],
    place: Path,
    backbone: AbstractBackbone,
    encoder: ImageEncoder,
    noun: str,
    faces: str,
    reporter: Reporter,
) -> Scene:
    own = ClassImages.generate(
        backbone,
        prompt=fill("a photo of {subject}", noun),
        count=_NATURAL_PICTURES,
        config=SAMPLING[preset_of(backbone)],
        seed=0,
        reporter=reporter,
    )
    return Scene(
        backbone=backbone,
        noun=noun,
        references=square_images(references, backbone.resolution),
        reference_hashes=tuple(file_sha256(path) for path in references),
        encoder=encoder,
        natural=NaturalModel.of(own.images),
        prompts=plan.prompts,
        seeds=tuple(range(plan.pictures)),
        folder=place,
        faces=faces,
    )


def summarise(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per attacker and laundering: likeness, artefacts and loss of each arm, the drop in likeness against clean photos
    that were laundered alike, with its 95 % interval over pictures, and the share of the drop that the laundering left.

    The share is only told where the drop before laundering is beyond its own interval: a share of nothing is nothing.
    """
    found: list[dict[str, Any]] = []
    for attacker in dict.fromkeys(row["attacker"] for row in rows):
        before: dict[str, Any] | None = None
        own = [row for row in rows if row["attacker"] == attacker]
        for laundering in dict.fromkeys(row["laundering"] for row in own):
            arms = {arm: _pooled([r for r in own if (r["laundering"], r["arm"]) == (laundering, arm)]) for arm in ARMS}
            entry: dict[str, Any] = {"attacker": attacker, "laundering": laundering, "arms": {}}
            for arm, pooled in arms.items():
                if pooled is None or arms["clean"] is None:
                    continue
                values = pooled.pop("values")
                entry["arms"][arm] = {**pooled, "likeness": sum(values) / len(values), "n": len(values)}
                arms[arm] = {"values": values}
                if arm != "clean":
                    falls = [c - v for c, v in zip(arms["clean"]["values"], values, strict=True)]
                    drop = {"value": sum(falls) / len(falls), "interval": list(bootstrap_interval(falls))}
                    entry["arms"][arm]["drop"] = drop
            before = before or entry
            entry["left"] = _left(before, entry)
            found.append(entry)
    return found


def _pooled(rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Means over trainings; likeness of every picture, in the order that all arms share."""
    if not rows:
        return None
    means: dict[str, float | None] = {
        key: sum(row[key] for row in rows) / len(rows) for key in ("artefacts", "loss", "seconds")
    }
    scores = [row["faces"] for row in rows if row.get("faces") is not None]
    if scores:
        pictures = sum(score["pictures"] for score in scores)
        counted = [(score["ism"], score["faces"]) for score in scores if score["ism"] is not None]
        survivors = sum(faces for _, faces in counted)
        means["fdfr"] = 1 - sum(score["faces"] for score in scores) / pictures
        means["ism"] = sum(ism * faces for ism, faces in counted) / survivors if survivors else None
        means["faces"] = survivors
    return {**means, "steps": rows[0]["steps"], "values": [value for row in rows for value in row["likeness"]]}


def _left(before: dict[str, Any], entry: dict[str, Any]) -> float | None:
    drops = [found["arms"].get("protected", {}).get("drop") for found in (before, entry)]
    if None in drops or drops[0]["interval"][0] <= 0:
        return None
    return drops[1]["value"] / drops[0]["value"]
