"""`protect`: a folder of photos in, a folder of protected photos out; killed at any moment, it goes on."""

import contextlib
import dataclasses
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pcs_ext.config_io import config_hash, file_sha256, to_jsonable
from pcs_ext.defense.budget import Norm
from pcs_ext.defense.canvas import Canvas
from pcs_ext.defense.choice import resolve_method
from pcs_ext.defense.engine import Protection
from pcs_ext.defense.evaluation import NAME as EVALUATION
from pcs_ext.defense.evaluation import Plan, drop_stale, evaluate_protection, load_judge, resolve_plan
from pcs_ext.defense.expectation import expect
from pcs_ext.defense.faces import load_detector
from pcs_ext.defense.files import Format, fitting, output_names
from pcs_ext.defense.following import follow
from pcs_ext.defense.metadata import MetadataPolicy
from pcs_ext.defense.method import Defense
from pcs_ext.defense.page import PAGE, write_page
from pcs_ext.defense.photos import OwnPhoto, mask_path, read_own_photo
from pcs_ext.defense.regions import Region, on_faces, on_subject
from pcs_ext.defense.report import TOYBOX_WARNING, Report
from pcs_ext.defense.sets import Pair
from pcs_ext.defense.surrogate import Surrogate
from pcs_ext.defense.written import UNCHANGED, write_protected
from pcs_ext.errors import Interrupted, UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.checkpoint import CheckpointFolder
from pcs_ext.image.class_images import ClassImages
from pcs_ext.image.concept import Concept
from pcs_ext.image.data import overlooked, photo_paths, read_photo
from pcs_ext.image.evaluate.encoders import ImageEncoder
from pcs_ext.image.learn import preset_of
from pcs_ext.image.recipes.presets import SAMPLING
from pcs_ext.reporter import Reporter, SilentReporter


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What `protect` may be told beside photos, method and models."""

    noun: str = "person"
    """What the photos show, in one or two words: fills the prompts."""
    format: Format = "png"
    """png and webp keep every sample; jpeg does not, and its loss is measured."""
    quality: int = 95
    """Lowest quality of jpeg; raised until nine tenths of the perturbation survive. Other formats do not read it."""
    metadata: MetadataPolicy = "clean"
    """What of the photo's metadata is kept."""
    region: Region = "all"
    """Where photos may change."""
    faces: str = ""
    """Who finds faces, for `region` (empty: cascade) and for FDFR and ISM of attacks (empty: they are not measured):
    cascade or MODULE:FUNCTION, see `faces.load_detector`."""
    clean: Path | None = None
    """Other photos of the same subject, for the surrogates to train on; None: the photos themselves."""
    seed: int = 0
    """Of everything random."""
    batch: int = 0
    """Photos per backward pass: speed on accelerators against memory; results do not depend on it beyond rounding. 0:
    one, but more for small models."""
    device: str = "auto"
    precision: str = "auto"


def protect(
    photos: Sequence[Path] | Path | str,
    *,
    output: Path | str,
    recipe: str | Defense = "aspl",
    base: str | AbstractBackbone | Sequence[str | AbstractBackbone] = "toybox",
    levels: float = 0,
    steps: int = 0,
    norm: Norm | None = None,
    config: Path | None = None,
    options: Options | None = None,
    attack: str | Plan = "",
    encoder: Path | None = None,
    reporter: Reporter | None = None,
) -> Report:
    """Write protected copies of photos, difference strips and `report.json`; the originals are only read.

    The same call goes on after an interruption and skips what is done. With the same seed the files are the same,
    byte for byte on the CPU, however often it was interrupted.

    Args:
        photos: a folder, or photo files.
        output: folder; must not be one the photos lie in.
        recipe: name in `RECIPES`, or a `Defense`.
        base: model to protect against, or several for ensembles: names, folders, files, or loaded backbones.
        levels: budget in 8-bit levels; 0 takes the recipe's.
        steps: gradient steps in all; 0 takes the recipe's.
        norm: kind of the budget; None takes the recipe's.
        config: the method as a JSON file, instead of `recipe`.
        options: the rest.
        attack: quick, full, a JSON file or a `Plan`: then train attackers on the first base, measure what they learn
            and write `evaluation.json` and `report.html`; empty: nobody attacks.
        encoder: transformers folder of the image encoder that judges attacks; None: the embedded base's own.
        reporter: hears warnings, events and progress.

    Raises:
        PhotoError, UsageError, ConfigError, InputError, ModelError: before anything is computed, with what to do.
        DivergedError: a gradient was not finite.
        Interrupted: Ctrl-C; what was done is kept.
    """
    output, reporter, options = Path(output), reporter or SilentReporter(), options or Options()
    bases = [base] if isinstance(base, (str, AbstractBackbone)) else list(base)
    warnings = (TOYBOX_WARNING,) if any(_name(b) == "toybox" for b in bases) else ()
    for text in (*warnings, *overlooked(photos)):
        reporter.event("warning", text)
    method = resolve_method(recipe, preset_of(bases[0]), levels=levels, steps=steps, norm=norm, config=config)
    plan = resolve_plan(attack) if attack else None
    if plan is None:
        _without_attack(method, options, encoder)
    judge = None if plan is None else load_judge(_name(bases[0]), encoder)
    paths = _checked(photo_paths(photos), output, options)
    for path in paths if plan is not None else []:
        read_photo(path)  # attackers read photos as trainers do, who refuse more of them
    loading: dict[str, Any] = {"device": options.device, "precision": options.precision, "reporter": reporter}
    backbones = [b if isinstance(b, AbstractBackbone) else load_backbone(b, **loading) for b in bases]
    method = resolve_method(recipe, preset_of(backbones[0]), levels=levels, steps=steps, norm=norm, config=config)
    job = _Job(paths, output, method, backbones, options, warnings, reporter)
    try:
        job.run()
        drop_stale(output, {name: entry["output_sha256"] for name, entry in job.current.items()}, PAGE)
        if plan is not None and judge is not None:
            job.attack(plan, judge)
        elif not (output / EVALUATION).is_file():  # else the page that is there is still true
            job.page(None)
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; the photos done so far are in {output}. The same command goes on.") from None
    return job.report


def _without_attack(method: Defense, options: Options, encoder: Path | None) -> None:
    """Refuse what only attackers would read."""
    if encoder is not None:
        raise UsageError(f"--encoder {encoder} judges attacks, and there are none: add --attack, or leave it out.")
    if options.clean is not None and method.training is None:
        raise UsageError(
            f"--clean {options.clean}: {method.id} trains no surrogate and there are no attacks, so nobody looks at "
            "clean photos; add --attack, choose a recipe that trains (aspl, fsmg, metacloak...), or leave it out."
        )
    if options.faces and options.region != "faces":
        raise UsageError(
            f"--faces {options.faces}: nobody looks for faces without --region faces or --attack; add one of them, or "
            "leave it out."
        )


def _name(base: str | AbstractBackbone) -> str:
    return base if isinstance(base, str) else base.name


def _checked(paths: Sequence[Path], output: Path, options: Options) -> list[Path]:
    """The photos, each decoded once, so that a bad one is named before a model loads."""
    # A link keeps its own name, and a mask beside it counts; what it leads to is protected once.
    own: dict[Path, Path] = {}
    for path in paths:
        own.setdefault(path.resolve(), Path(os.path.abspath(path)))
    paths, place = list(own.values()), output.resolve()
    inside = [path for path in paths if place in (path.resolve().parent, path.parent.resolve())]
    if inside:
        raise UsageError(
            f"--output {output} is where {inside[0].name} lies; originals are never touched: choose another."
        )
    if output.exists() and not output.is_dir():
        raise UsageError(f"--output {output} is a file; expected a folder.")
    if not 1 <= options.quality <= 100 or options.batch < 0 or not options.noun.strip():
        raise UsageError("quality must be 1 to 100, batch 0 or more and the noun a word or two.")
    if options.faces or options.region == "faces":
        load_detector(options.faces or "cascade")  # a wrong name is told now
    output_names(paths, options.format)
    for path in paths:
        _read(path, options)
    for path in [] if options.clean is None else photo_paths(options.clean):
        read_own_photo(path)
    return paths


def _read(path: Path, options: Options) -> OwnPhoto:
    photo = read_own_photo(path, metadata=options.metadata, mask=options.region == "mask")
    return fitting(photo, options.format)


class _Job:
    """State of one call of `protect`."""

    def __init__(
        self,
        paths: Sequence[Path],
        output: Path,
        method: Defense,
        backbones: Sequence[AbstractBackbone],
        options: Options,
        warnings: tuple[str, ...],
        reporter: Reporter,
    ) -> None:
        self.paths, self.output, self.method, self.backbones = list(paths), output, method, list(backbones)
        self.options, self.reporter = options, reporter
        # What changes speed or measurements alone does not make other photos.
        idle = {"device", "precision", "batch"} | ({"faces"} if options.region != "faces" else set())
        idle |= {"quality"} if options.format != "jpeg" else set()
        self.clean = [] if options.clean is None or method.training is None else photo_paths(options.clean)
        settings = {
            "method": to_jsonable(method),
            "bases": [{"name": b.name, "fingerprint": b.fingerprint, "precision": str(b.dtype)} for b in backbones],
            "options": {k: v for k, v in to_jsonable(options).items() if k not in idle}
            | {"clean": [file_sha256(path) for path in self.clean]},
        }
        self.detector = load_detector(options.faces or "cascade") if options.region == "faces" else None
        self.report = Report.load(output, settings, warnings)
        self.digests = {path: file_sha256(path) for path in self.paths}
        masked = self.paths if options.region == "mask" else []
        self.masks = {path: file_sha256(mask_path(path)) for path in masked}
        self.names = output_names(self.paths, options.format)

    def run(self) -> None:
        """Group by group; a group is skipped when all its photos are done, and else computed whole, because surrogates
        learn from all of it."""
        missing = [path for path in self.paths if not self._is_done(path)]
        for path in missing:
            self.report.check_free(self.names[path])
        for path in set(self.paths) - set(missing):  # their folder may have been renamed
            self.report.photos[self.names[path]]["photo"] = os.path.relpath(path, self.output.resolve())
        done = len(self.paths) - len(missing)
        self.reporter.event("protect", f"{self.method.id}: {len(missing)} photos to do, {done} done before")
        if missing:
            self._expect(missing)
        for first in range(0, len(self.paths), self.method.group):
            group = self.paths[first : first + self.method.group]
            wanted = [path for path in group if path in missing]
            if wanted:
                self._group(group, wanted)
        self.report.save()
        shutil.rmtree(self.output / ".protecting", ignore_errors=True)

    def _is_done(self, path: Path) -> bool:
        return self.report.is_done(self.names[path], self.digests[path], self.masks.get(path))

    def _expect(self, missing: Sequence[Path]) -> None:
        """Tell how long it will take, by a try on the first photo with surrogates that are thrown away; gray class
        pictures cost what others do."""
        surrogates = [self._surrogate(b, str(index), prior=False) for index, b in enumerate(self.backbones)]
        found = expect(
            self.method, surrogates, Canvas(_read(missing[0], self.options), self.method.budget), len(missing)
        )
        if found is not None:
            self.reporter.event(
                "expected",
                f"expected on this machine: about {found.minutes:.1f} minutes for all, "
                f"{found.peak_mb:,.0f} MB of memory",
                minutes=found.minutes,
                peak_mb=found.peak_mb,
            )

    @property
    def current(self) -> dict[str, dict[str, Any]]:
        """Entries of this call's photos, by file name of the output, in the photos' order."""
        return {self.names[path]: self.report.photos[self.names[path]] for path in self.paths}

    def attack(self, plan: Plan, judge: ImageEncoder) -> None:
        """Let attackers learn from the photos and write what came of it."""
        clean = self.options.clean
        found = evaluate_protection(
            plan,
            [Pair(path, self.output / self.names[path]) for path in self.paths],
            self.output,
            backbone=self.backbones[0],
            encoder=judge,
            noun=self.options.noun.strip(),
            budget=self.method.budget,
            references=[] if clean is None else photo_paths(clean),
            faces=self.options.faces,
            limited=lambda path: self._canvas(path).photo,
            reporter=self.reporter,
        )
        self.page(found)

    def page(self, found: dict[str, Any] | None) -> None:
        """Write the page about this call's photos, and what attackers got, if there were any."""
        page = write_page(dataclasses.replace(self.report, photos=self.current), found, self.output / PAGE)
        self.reporter.event("page", f"{page}", path=str(page))

    def _canvas(self, path: Path) -> Canvas:
        """The photo, limited to its region."""
        photo, options = _read(path, self.options), self.options
        if self.detector is not None:
            photo = on_faces(photo, self.detector)
        elif options.region == "subject":
            photo = on_subject(photo, Canvas(photo, self.method.budget), self.backbones[0], options.noun.strip())
        return Canvas(photo, self.method.budget)

    def _group(self, group: Sequence[Path], wanted: Sequence[Path]) -> None:
        started = time.monotonic()
        canvases = [self._canvas(path) for path in group]
        reference = [Canvas(read_own_photo(path), self.method.budget) for path in self.clean]
        surrogates = [self._surrogate(backbone, str(index)) for index, backbone in enumerate(self.backbones)]
        with contextlib.ExitStack() as stack:
            for surrogate in surrogates:
                stack.enter_context(surrogate.active())
            protection = Protection(
                canvases, surrogates, self.method, seed=self.options.seed, reference=reference, batch=self.options.batch
            )
            saved = self._climb(protection)
            seconds = (time.monotonic() - started) / len(group)
            for canvas in canvases:
                if canvas.photo.path in wanted:
                    self._write(canvas, protection, seconds)
        shutil.rmtree(saved, ignore_errors=True)  # not before all is written: a full disk must not cost the work

    def _climb(self, protection: Protection) -> Path:
        """Optimise; returns the folder of what was saved on the way."""
        keys = [canvas.key for canvas in protection.canvases]
        masks = [self.masks.get(canvas.photo.path) for canvas in protection.canvases]
        digest = config_hash([self.report.settings, keys, masks])
        checkpoints = CheckpointFolder(self.output / ".protecting" / digest, config_hash=digest, reporter=self.reporter)
        with checkpoints.writing():
            found = checkpoints.latest()
            if found is not None:
                protection.load_state(found.tensors, found.state)
            follow(protection, checkpoints, self.reporter, f"protect {len(keys)} photos")
        return checkpoints.folder

    def _write(self, canvas: Canvas, protection: Protection, seconds: float) -> None:
        name, path = self.names[canvas.photo.path], canvas.photo.path
        entry: dict[str, Any] = {
            "photo": os.path.relpath(path, self.output.resolve()),
            "sha256": canvas.photo.sha256,
            "output": name,
            "state": "pending",
        }
        if path in self.masks:
            entry["mask_sha256"] = self.masks[path]
        self.report.check_free(name)
        self.report.put(entry)
        measured = write_protected(canvas, protection, self.output / name, self.options.format, self.options.quality)
        entry |= {"state": "done", **measured, "seconds": round(seconds, 3)}
        self.report.put(entry)
        if not measured["changed"]:
            self.reporter.event("warning", f"{self.output / name} is not protected: {UNCHANGED}")
        for note in (note for note in measured["notes"] if note != UNCHANGED):
            self.reporter.event("note", f"{self.output / name}: {note}", output=name)
        self.reporter.event("protected", f"{self.output / name}", output=name, **measured["budget"]["measured"])

    def _surrogate(self, backbone: AbstractBackbone, name: str, *, prior: bool = True) -> Surrogate:
        method, training = self.method, self.method.training
        mode = "rare" if method.token else "plain"
        concept = Concept(class_noun=self.options.noun.strip(), mode=mode, token=method.token)
        class_images, prompt = None, concept.class_prompt("a photo of {subject}")
        if not prior:
            class_images = ClassImages(torch.zeros(1, 3, backbone.resolution, backbone.resolution), prompt)
        elif training is not None and training.prior_loss_weight > 0:
            reads = training.first_steps + method.rounds * (training.clean_steps + training.protected_steps)
            class_images = ClassImages.generate(
                backbone,
                prompt=prompt,
                count=min(training.class_images, max(reads, 1)),
                config=SAMPLING[preset_of(backbone)],
                seed=self.options.seed,
                reporter=self.reporter,
            )
        return Surrogate(
            backbone,
            [concept.prompt(prompt) for prompt in method.prompts],
            training=training,
            class_images=class_images,
            seed=self.options.seed,
            name=name,
        )
