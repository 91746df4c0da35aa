"""What `benchmarks.edit_systems` asks of every edit that trains nothing, and of what it is to improve on."""

import dataclasses
import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from benchmarks.arms import Claim, Figures
from benchmarks.condition_runs import AS_IT_IS, PLAIN, pixels_of, scenes_of
from benchmarks.subjects import EXAMPLES, learned
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.concept import fill
from pcs_ext.image.data import find_photos
from pcs_ext.image.edits.dci import DciConfig
from pcs_ext.image.edits.diptych import DiptychConfig
from pcs_ext.image.edits.diptych_pictures import draw_diptychs
from pcs_ext.image.edits.freecontrol import FreeControlConfig, follow_structure
from pcs_ext.image.edits.freecure import FreeCureConfig
from pcs_ext.image.edits.heeding_pictures import HeedingConfig, draw_heeding
from pcs_ext.image.edits.one_by_one import one_by_one
from pcs_ext.image.edits.portrait_diffusion import PortraitDiffusionConfig, restyle
from pcs_ext.image.edits.sag import SagConfig, led_hooks, likeness_to
from pcs_ext.image.edits.settings import resolve_edit
from pcs_ext.image.edits.style_aligned import StyleAlignedConfig, sample_aligned
from pcs_ext.image.evaluate import Judges, load_image_text_encoder
from pcs_ext.image.photo_reader import encoder_folder
from pcs_ext.image.sample import SampleConfig, sample
from pcs_ext.reporter import Reporter
from pcs_ext.runtime import generator_for
from pcs_ext.toybox.world.render import render_rgb
from pcs_ext.toybox.world.sampling import attributes, sample_scene
from pcs_ext.toybox.world.scene import Scene
from pcs_ext.toybox.world.subjects import SUBJECTS, class_noun, novel_views
from pcs_ext.toybox.world.vocabulary import ACCESSORIES, CLASSES, CONTEXTS, STYLES

ONE_STEP, RECOLOURED = "one-step estimate", "colours matched"
_SET = 4
"""Pictures that shall share a style."""
_VIEWS = 64
LEARNED = 6
"""Subjects that are learned: the first so many."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """What all trials share.

    Args:
        backbone: the base.
        judges: read pictures.
        reporter: hears of subjects that are learned.
    """

    backbone: AbstractBackbone
    judges: Judges
    reporter: Reporter

    def read(self, pictures: Tensor) -> list[dict[str, str]]:
        """What the oracle sees."""
        assert self.judges.attributes is not None
        return self.judges.attributes(pictures)

    def encode(self, pictures: Tensor) -> Tensor:
        """Unit vectors `n d` of the self-supervised encoder."""
        assert self.judges.dino is not None
        return self.judges.dino.encode_images(pictures)

    @torch.no_grad()
    def plain(self, prompts: Sequence[str], seeds: Sequence[int], sampling: SampleConfig) -> Tensor:
        """What the base makes of prompts, `n 3 h w`."""
        return sample(self.backbone, prompts, seeds=seeds, config=sampling).float().cpu()


class Trial(Protocol):
    """One edit, what it is compared with, and what is measured of both."""

    @property
    def claim(self) -> Claim:
        """The edit is its arm."""
        ...

    @property
    def config(self) -> Any:
        """The edit's settings."""
        ...

    def make(self, arm: str, index: int, seed: int) -> tuple[Tensor, Figures]:
        """A picture, or several side by side, `3 h w`, and its figures; more is better by all of them."""
        ...


class StyledSets:
    """Four toys of different classes in one style named by words: how alike a set is, by DINO as in the paper."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.config = stage, resolve_edit("style-aligned", StyleAlignedConfig, "toybox")
        self.claim = Claim("style-aligned", (PLAIN,), ("consistency",), "stylealigned")

    def make(self, arm: str, index: int, seed: int) -> tuple[Tensor, Figures]:
        order = torch.randperm(len(CLASSES), generator=generator_for("edits", "sets", index)).tolist()
        classes, style = [CLASSES[number] for number in order[:_SET]], _styles(index)
        off = {} if arm == self.claim.arm else {"attend": False, "normalise": False, "group_norm": False}
        config = dataclasses.replace(self.config, **off)
        prompts = [f"{style} a {name}" for name in classes]
        made = sample_aligned(self.stage.backbone, prompts, seed=1000 * seed + index, config=config)
        codes = self.stage.encode(made)
        alike = [float(codes[a] @ codes[b]) for a, b in itertools.combinations(range(_SET), 2)]
        read = self.stage.read(made)
        asked = [_share(seen, {"class": name, "style": style}) for seen, name in zip(read, classes, strict=True)]
        return _side_by_side(made), {"consistency": statistics.fmean(alike), "asked": statistics.fmean(asked)}


class LedToStyle:
    """A prompt that names no style, led to a picture in one: whether the oracle reads it, and what the prompt says."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.config = stage, resolve_edit("sag", SagConfig, "toybox")
        self.claim = Claim("sag", (PLAIN, ONE_STEP), ("style",))
        folder = encoder_folder(self.config.encoder, self.config.id, "settings")
        self.encoder = load_image_text_encoder(folder, "cpu")

    def make(self, arm: str, index: int, seed: int) -> tuple[Tensor, Figures]:
        reference, scene = _styled(index), _content(index)
        shown, seed = render_rgb([reference]), 1000 * seed + index
        prompt = f"a {_toy(scene)} {scene.context}"
        if arm == PLAIN:
            made = self.stage.plain([prompt], [seed], self.config.sampling)
        else:
            steps = self.config.estimate_steps if arm == self.claim.arm else 1
            config = dataclasses.replace(self.config, estimate_steps=steps)
            loss = likeness_to(shown[0], self.encoder, config)
            hooks = led_hooks(self.stage.backbone, loss, config)
            made = one_by_one(self.stage.backbone, prompt, hooks, seeds=[seed], sampling=config.sampling)
        seen = self.stage.read(made)[0]
        likeness = float(self.stage.encode(made)[0] @ self.stage.encode(shown)[0])
        figures = {"style": float(seen["style"] == reference.style), "asked": _share(seen, _said(scene))}
        return _side_by_side(torch.cat([shown, made])), {**figures, "likeness": likeness}


class Restyled:
    """A photo painted in the manner of another picture: its style, where class and view of the photo remain."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.config = resolve_edit("portrait-diffusion", PortraitDiffusionConfig, "toybox")
        self.claim = Claim("portrait-diffusion", (RECOLOURED, AS_IT_IS), ("style on the toy",))

    def make(self, arm: str, index: int, seed: int) -> tuple[Tensor, Figures]:
        # Nothing is random here: seeds are other pictures.
        content, style = _content(index, seed), _styled(index, seed)
        photo, manner = render_rgb([content]), render_rgb([style])
        if arm == self.claim.arm:
            made = restyle(self.stage.backbone, photo, manner, config=self.config, prompt="a toy")
        else:
            made = photo if arm == AS_IT_IS else _recoloured(photo, manner)
        seen, truth = self.stage.read(made)[0], attributes(content)
        taken = float(seen["style"] == style.style)
        kept = float(all(seen[name] == truth[name] for name in ("class", "view")))
        figures = {"style": taken, "toy": kept, "style on the toy": taken * kept}
        return _side_by_side(torch.cat([photo, manner, made])), figures


class Followed:
    """The structure of a photo with other words: the view read as in the photo, the colour and place as asked."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.config = stage, resolve_edit("freecontrol", FreeControlConfig, "toybox")
        self.claim = Claim("freecontrol", (PLAIN, AS_IT_IS), ("asked in pose",))

    def make(self, arm: str, index: int, seed: int) -> tuple[Tensor, Figures]:
        scene, other = _content(index), _content(index + 500)
        photo, noun, seed = render_rgb([scene]), scene.objects[0].class_name, 1000 * seed + index
        wanted = {"color": str(other.objects[0].color), "context": other.context}
        prompt = f"a photo of a {wanted['color']} {noun} {wanted['context']}"
        if arm == self.claim.arm:
            plain = f"a photo of a {noun}"
            made = follow_structure(
                self.stage.backbone, photo, picture_prompt=plain, phrase=noun, class_prompt=plain, prompt=prompt,
                seeds=[seed], config=self.config,
            )  # fmt: skip
        else:
            made = photo if arm == AS_IT_IS else self.stage.plain([prompt], [seed], self.config.sampling)
        seen = self.stage.read(made)[0]
        posed = float(seen["view"] == attributes(scene)["view"])
        asked = _share(seen, wanted)
        return _side_by_side(torch.cat([photo, made])), {
            "pose": posed, "asked": asked, "asked in pose": posed * asked, "class": float(seen["class"] == noun),
        }  # fmt: skip


class Subjects:
    """The held-out subjects in turn, and prompts that ask each for something."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self._views: dict[str, Tensor] = {}

    def name(self, index: int) -> str:
        """Of a run."""
        return list(SUBJECTS)[index % len(SUBJECTS)]

    def views(self, name: str) -> Tensor:
        """Encodings of true views, `n d`."""
        if name not in self._views:
            true = novel_views(name, _VIEWS, generator_for("edits", name), resolution=self.stage.backbone.resolution)
            self._views[name] = self.stage.encode(true.images)
        return self._views[name]

    def likeness(self, name: str, made: Tensor) -> float:
        """Mean cosine to true views."""
        return float((self.stage.encode(made) @ self.views(name).T).mean())


class Beside(Subjects):
    """A subject drawn beside its photo, by a base that was never taught it, against the plain class word."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage)
        self.config = resolve_edit("diptych", DiptychConfig, "toybox")
        self.claim = Claim("diptych", (PLAIN,), ("likeness",), "diptych-prompting")

    def make(self, arm: str, index: int, seed: int) -> tuple[Tensor, Figures]:
        name, context = self.name(index), CONTEXTS[index % len(CONTEXTS)]
        noun, seed = class_noun(name), 1000 * seed + index
        prompt = f"a photo of {{subject}} {context}"
        if arm == PLAIN:
            made = self.stage.plain([fill(prompt, noun)], [seed], self.config.sampling)
        else:
            drawn = draw_diptychs(
                find_photos(EXAMPLES / name)[0],
                [prompt],
                noun=noun,
                seeds=[seed],
                config=self.config,
                base=self.stage.backbone,
            )
            made = pixels_of(drawn[0].image)[None]
        seen = self.stage.read(made)[0]
        asked = float(seen["context"] == context)
        return made[0], {
            "likeness": self.likeness(name, made), "asked": asked, "class": float(seen["class"] == noun),
        }  # fmt: skip


class Heeded(Subjects):
    """Learned subjects (dreambooth-lora, `image_subjects`') asked for a place and a thing to wear: what is read of it.

    Args:
        stage: what trials share.
        edit: `dci` or `freecure`; FreeCure is told to bring back the thing to wear.
    """

    def __init__(self, stage: Stage, edit: str) -> None:
        super().__init__(stage)
        kinds = {"dci": DciConfig, "freecure": FreeCureConfig}
        self.config: HeedingConfig = resolve_edit(edit, kinds[edit], "toybox")
        self.claim = Claim(edit, (PLAIN,), ("worn" if edit == "freecure" else "asked",))

    def make(self, arm: str, index: int, seed: int) -> tuple[Tensor, Figures]:
        name = self.name(index % LEARNED)
        artifact = learned(name, seed, self.stage.backbone, self.stage.reporter)
        worn, context = ACCESSORIES[1 + index % (len(ACCESSORIES) - 1)], CONTEXTS[index % len(CONTEXTS)]
        prompt, seed = f"a photo of {{subject}} {worn} {context}", 1000 * seed + index
        if arm == PLAIN:
            with artifact.applied(self.stage.backbone):
                made = self.stage.plain([artifact.concept.prompt(prompt)], [seed], self.config.sampling)
        else:
            words = worn if isinstance(self.config, FreeCureConfig) else ""
            drawn = draw_heeding(
                artifact, [prompt], seeds=[seed], config=self.config, words=words, base=self.stage.backbone
            )
            made = pixels_of(drawn[0].image)[None]
        seen = self.stage.read(made)[0]
        figures = {"worn": float(seen["accessory"] == worn), "place": float(seen["context"] == context)}
        return made[0], {
            "asked": statistics.fmean(figures.values()), **figures, "likeness": self.likeness(name, made),
        }  # fmt: skip


def single_trials(stage: Stage) -> list[Trial]:
    """Those of one thing in a picture."""
    return [
        StyledSets(stage), LedToStyle(stage), Restyled(stage), Followed(stage), Beside(stage), Heeded(stage, "dci"),
        Heeded(stage, "freecure"),
    ]  # fmt: skip


def _styles(index: int) -> str:
    """One after the other, photos left out."""
    return STYLES[1 + index % (len(STYLES) - 1)]


def _content(index: int, turn: int = 0) -> Scene:
    """A photo of one plain toy: always the same ones."""
    return scenes_of(f"edit contents {turn} {index}", 1, 0.0)[0]


def _styled(index: int, turn: int = 0) -> Scene:
    """A picture in a style."""
    return sample_scene(generator_for("edit styles", turn, index), style=_styles(index), two_objects=0.0)


def _toy(scene: Scene) -> str:
    toy = scene.objects[0]
    return f"{toy.color} {toy.class_name}"


def _said(scene: Scene) -> dict[str, str]:
    toy = scene.objects[0]
    return {"class": toy.class_name, "color": str(toy.color), "context": scene.context}


def _share(seen: Mapping[str, str], wanted: Mapping[str, str]) -> float:
    """Of the wanted attributes, how many are read."""
    return statistics.fmean(seen[name] == value for name, value in wanted.items())


def _recoloured(photo: Tensor, manner: Tensor) -> Tensor:
    """The photo with the other picture's mean and spread in every channel."""
    own, other = (torch.std_mean(image, dim=(2, 3), keepdim=True) for image in (photo, manner))
    return ((photo - own[1]) / own[0].clamp_min(1e-3) * other[0] + other[1]).clamp(-1, 1)


def _side_by_side(pictures: Tensor) -> Tensor:
    """`n 3 h w` as one `3 h n*w`."""
    return torch.cat(list(pictures.cpu()), dim=-1)
