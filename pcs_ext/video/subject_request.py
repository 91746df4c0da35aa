"""Photos in, a subject for clips out: one subject or several, by whatever its recipe learns from."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from pcs_ext.config_io import from_jsonable, read_json, to_jsonable
from pcs_ext.errors import UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.data import Photo, SubjectDataset, find_photos
from pcs_ext.image.evaluate.encoders import ImageEncoder, load_image_encoder
from pcs_ext.image.learn import learn as learn_subject
from pcs_ext.image.recipe_request import check_plan, recipe_part
from pcs_ext.image.recipes import Recipe
from pcs_ext.image.sample import check_side
from pcs_ext.image.types import ParameterGroup
from pcs_ext.reporter import Reporter
from pcs_ext.video.backbone import AbstractVideoBackbone
from pcs_ext.video.backbones.load import follows_flow, is_text_to_video, load_video_backbone
from pcs_ext.video.collages import collages
from pcs_ext.video.identity import IdentityConfig, IdentityLoss
from pcs_ext.video.mixture import MixtureConfig, MixtureLoss, VisualBranch
from pcs_ext.video.recipes import SUBJECTS, SubjectEntry
from pcs_ext.video.recipes.base import Preset
from pcs_ext.video.recipes.personalvideo import IDENTITY
from pcs_ext.video.recipes.videodreamer import MIXTURE
from pcs_ext.video.size import Size
from pcs_ext.video.subject_masks import with_masks
from pcs_ext.video.subject_run import SubjectRun

TOYBOX_CLIP = Path(__file__).parents[1] / "toybox" / "weights" / "clip"
"""The image and text encoder that judges where no other is given."""
_COLLAGES = 16
Beside = TypeVar("Beside")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SubjectRequest:
    """What `video learn` was asked for, of a recipe in `SUBJECTS`."""

    sources: tuple[Path, ...]
    """Photos and folders of them; one per subject where the recipe learns several."""
    recipe: str
    noun: str
    """One; or one per subject, with commas."""
    base: str
    motion_module: str | None = None
    image_encoder: Path | None = None
    frames: int | None = None
    size: Size | None = None
    steps: int | None = None
    config: Path | None = None
    checkpoint_activations: bool = False
    """See `image.learn`."""
    device: str = "auto"
    precision: str = "auto"

    @property
    def entry(self) -> SubjectEntry:
        """Of `SUBJECTS`."""
        return SUBJECTS[self.recipe]

    @property
    def nouns(self) -> list[str]:
        """Of each subject."""
        return [noun.strip() for noun in self.noun.split(",") if noun.strip()] if self.entry.several else [self.noun]

    def resolved(self) -> Recipe:
        """The recipe with what was asked for.

        Raises:
            UsageError: no noun, other counts of nouns and photos, or settings that are for clips.
        """
        if not self.noun.strip():
            raise UsageError("--noun is empty; say in one or two words what the subject is, such as dog or toy robot.")
        in_clips = self.entry.learns == "clips"
        if not in_clips and (self.frames or self.size or self.motion_module):
            raise UsageError(f"{self.recipe} learns from photos; it takes no --frames, --size or --motion-module.")
        if self.image_encoder and self.entry.learns == "photos":
            raise UsageError(f"{self.recipe} needs no image encoder; leave out --image-encoder.")
        if self.entry.several and len(self.nouns) != len(self.sources):
            raise UsageError(
                f"{self.recipe} learns several subjects: give a folder of photos and a noun for each (--noun "
                f'"robot, mug"); got {len(self.sources)} folders and {len(self.nouns)} nouns.'
            )
        preset: Preset = "toybox" if self.base == "toybox" else "sd"
        recipe = self.entry.build(self.noun.strip(), preset)
        if self.config is not None:
            recipe = self._configured(self.config, recipe)
        recipe = shortened(recipe, self.steps)
        if in_clips:
            settings = self._identity(recipe)
            sampling = dataclasses.replace(recipe.sampling, height=settings.height, width=settings.width)
            recipe = dataclasses.replace(recipe, sampling=sampling)
        recipe.validate()
        return recipe

    def _configured(self, config: Path, own: Recipe) -> Recipe:
        """The recipe of a file that is about this subject.

        Raises:
            UsageError: it is about another one, or for another base.
        """
        check_plan(config, self.noun, self.base)
        recipe: Recipe = from_jsonable(Recipe, recipe_part(read_json(config)), where=str(config))
        said, wanted = recipe.concept.class_noun, own.concept.class_noun
        if said != wanted:
            raise UsageError(
                f"{config} is about a {said}, and --noun {self.noun} about a {wanted}; make them the same."
            )
        return recipe

    def _beside(self, name: str, kind: type[Beside], usual: Beside) -> Beside:
        """What `plan` prints beside the recipe, as the file of `config` has it."""
        data = None if self.config is None else read_json(self.config)
        given = data.get(name) if isinstance(data, dict) else None
        return usual if given is None else from_jsonable(kind, given, where=f"{self.config}, {name}")

    def plan(self) -> dict[str, Any]:
        """What would be done, as plain JSON data. Loads no model."""
        recipe = self.resolved()
        photos = [str(photo.path) for group in self._groups() for photo in group]
        beside = {"identity": to_jsonable(self._identity(recipe))} if self.entry.learns == "clips" else {}
        if self.entry.learns == "mixture":
            beside = {"mixture": to_jsonable(self._beside("mixture", MixtureConfig, MIXTURE))}
        return {
            "photos": photos,
            "base": self.base,
            "motion_module": self.motion_module,
            "recipe": to_jsonable(recipe),
            **beside,
        }

    def run(self, output: Path, *, seed: int, overwrite: bool, reporter: Reporter) -> None:
        """Learn; killed or interrupted, the same request goes on where it stopped.

        Raises:
            PcsError: the request cannot be met; says what to do.
        """
        recipe, groups = self.resolved(), self._groups()
        how: Any = {"output": output, "seed": seed, "overwrite": overwrite, "reporter": reporter}
        how["checkpoint_activations"] = self.checkpoint_activations
        if self.entry.learns == "clips":
            self._in_clips(recipe, [photo for group in groups for photo in group], how)
            return
        load = load_video_backbone if is_text_to_video(self.base) else load_backbone
        base = load(self.base, device=self.device, precision=self.precision, reporter=reporter)
        if self.entry.masks:
            groups = [with_masks(group, base, noun) for group, noun in zip(groups, self.nouns, strict=True)]
        if self.entry.learns == "mixture":
            self._mixture(recipe, groups, base, how)
            return
        photos = [photo for group in groups for photo in group]
        if len(groups) > 1:
            photos = collages(groups, count=_COLLAGES, side=base.resolution, seed=seed)
        learn_subject(photos, noun=self.noun, recipe=recipe, base=base, **how)

    def _groups(self) -> list[list[Photo]]:
        """Photos by subject."""
        if not self.entry.several:
            return [find_photos(self.sources)]
        return [find_photos(source) for source in self.sources]

    def _encoder(self, device: torch.device, reporter: Reporter) -> ImageEncoder:
        if self.image_encoder is None and self.base != "toybox":
            reporter.event(
                "encoder",
                "note: pictures are judged by toybox's own CLIP, which has only seen toys; give --image-encoder, a "
                "folder of CLIP, for photos.",
            )
        return load_image_encoder(self.image_encoder or TOYBOX_CLIP, device)

    def _identity(self, recipe: Recipe) -> IdentityConfig:
        """How clips are made to learn from: as asked, else as the file of `config` says, else as usual.

        Raises:
            UsageError: another window than that in which clips have such subjects.
        """
        found = self._beside("identity", IdentityConfig, IDENTITY)
        if found.window != self.entry.window:
            raise UsageError(
                f"{self.config} has window {found.window:g}; clips have subjects of {self.recipe} in them for the last "
                f"{self.entry.window:g} of the denoising, so expected that."
            )
        usual = (found.height or recipe.sampling.height, found.width or recipe.sampling.width)
        height, width = self.size or usual
        return dataclasses.replace(found, frames=self.frames or found.frames, height=height, width=width)

    def _in_clips(self, recipe: Recipe, photos: Sequence[Photo], how: Any) -> None:
        if follows_flow(self.base):
            raise UsageError(
                f"{self.recipe} samples clips by DDIM while it learns, and {self.base} follows a flow; take an image "
                "base with --motion-module, or a ModelScope folder."
            )
        backbone: AbstractVideoBackbone = load_video_backbone(
            self.base, self.motion_module, device=self.device, precision=self.precision, reporter=how["reporter"]
        )
        settings = self._identity(recipe)
        for name, side in (("height", settings.height), ("width", settings.width)):
            if side is not None:
                check_side(name, side, backbone)
        encoder = self._encoder(backbone.device, how["reporter"])
        prompts = [recipe.concept.prompt(template) for template in recipe.concept.templates]
        images = [photo.image for photo in photos]
        SubjectRun(
            recipe=recipe,
            backbone=backbone,
            photos=photos,
            make_loss=lambda phase, adapters: (
                IdentityLoss(backbone, adapters, encoder, images, prompts, settings),
                (),
            ),
            settings=[settings, encoder.id, backbone.fingerprint],
            frames=settings.frames,
            **how,
        ).learn()

    def _mixture(self, recipe: Recipe, groups: Sequence[Sequence[Photo]], base: AbstractBackbone, how: Any) -> None:
        settings = dataclasses.replace(self._beside("mixture", MixtureConfig, MIXTURE), collage_side=base.resolution)
        photos = mixed(groups, recipe.concept.parts, settings, how["seed"])
        data = SubjectDataset(photos, recipe.concept, resolution=base.resolution, augmentation=recipe.augmentation)
        encoder = self._encoder(base.device, how["reporter"])
        with torch.no_grad():
            width = encoder.encode_images(data.batch(1, torch.Generator().manual_seed(0)).images).shape[1]
            text_width = base.encode_prompt([""]).states.shape[-1]

        def make_loss(phase: Any, adapters: Any) -> Any:
            visual = VisualBranch(width, text_width, seed=how["seed"]).to(base.device)
            group = ParameterGroup(
                name="visual", parameters=tuple(visual.parameters()), learning_rate=settings.visual_learning_rate
            )
            return MixtureLoss(base, data, encoder, visual, settings, phase.batch_size), (group,)

        SubjectRun(
            recipe=recipe,
            backbone=base,
            photos=[photo for group in groups for photo in group],
            make_loss=make_loss,
            settings=[settings, encoder.id, base.fingerprint],
            **how,
        ).learn()


def mixed(groups: Sequence[Sequence[Photo]], tokens: Sequence[str], settings: MixtureConfig, seed: int) -> list[Photo]:
    """Photos of each subject, captioned with its word alone, and pictures of all; as they are for a single subject."""
    if len(groups) == 1:
        return list(groups[0])
    alone = []
    for index, (photos, token) in enumerate(zip(groups, tokens, strict=True)):
        for photo in photos:
            assert photo.mask is not None, "masks were looked for before"
            parts = torch.zeros(len(groups), *photo.mask.shape[1:])
            parts[index] = photo.mask[0]
            alone.append(dataclasses.replace(photo, parts=parts, caption=f"a photo of a {token}"))
    return alone + collages(groups, count=settings.collages, side=settings.collage_side, seed=seed)


def shortened(recipe: Any, steps: int | None) -> Any:
    """A recipe of so many steps in all; None: as it is.

    Raises:
        UsageError: less than one.
    """
    if steps is None:
        return recipe
    if steps < 1:
        raise UsageError(f"--steps must be at least 1, got {steps}.")
    return recipe.with_steps(steps)
