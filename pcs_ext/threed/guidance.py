"""What a diffusion model says about rendered views, as loss terms, whatever the method."""

import abc
import contextlib
from collections.abc import Callable, Sequence
from typing import Annotated, TypeAlias

import torch
from pydantic import Discriminator
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters.base import AbstractAdapter, injected
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.image.types import Conditioning, LossTerms, ParameterGroup
from pcs_ext.threed.cameras import Cameras
from pcs_ext.threed.distillation import DistillationConfig, Repelled, distillation_loss
from pcs_ext.threed.multiview import MultiViewAdapter
from pcs_ext.threed.perp_neg import PerpNegPrompts
from pcs_ext.threed.variational import VariationalConfig, VariationalScore
from pcs_ext.threed.view_prompts import ViewPrompts, ViewWords

GuidanceConfig: TypeAlias = Annotated[DistillationConfig | VariationalConfig, Discriminator("kind")]
"""Every guidance's configuration; the field `kind` says which one a JSON object is."""


class AbstractGuidance(abc.ABC):
    """A frozen model and a prompt."""

    @abc.abstractmethod
    def terms(self, images: Tensor, cameras: Cameras, *, progress: float, generator: torch.Generator) -> LossTerms:
        """Loss terms of rendered views; their gradients in the images are what counts, not their values.

        Args:
            images: `b 3 h w` in [-1, 1], with a graph back to what trains.
            cameras: `b`.
            progress: share of training done, in [0, 1].
            generator: on the CPU.
        """

    def groups(self) -> list[ParameterGroup]:
        """What the guidance trains itself; only inside `applied`."""
        return []

    def applied(self) -> contextlib.AbstractContextManager[None]:
        """What must be in the backbone while `terms` is called; afterwards it is as before."""
        return contextlib.nullcontext()


class _Prompts:
    """Conditioning by camera, plain or with Perp-Neg."""

    def __init__(
        self, backbone: AbstractBackbone, prompt: str, negative: str, words: ViewWords, config: DistillationConfig
    ) -> None:
        kind = PerpNegPrompts if config.perp_neg else ViewPrompts
        with torch.no_grad():
            self.find = kind(backbone, prompt, negative_prompt=negative, words=words)

    def __call__(self, cameras: Cameras) -> tuple[tuple[Conditioning, Conditioning], Repelled | None]:
        negative, positive, *repelled = self.find(cameras)
        return (negative, positive), repelled[0] if repelled else None


class ScoreGuidance(AbstractGuidance):
    """SDS, SJC or x0 reconstruction; with a multi-view adapter, of the views of a set together.

    Args:
        backbone: with a subject's adapters already injected.
        prompt: with the subject's words in place; view words are appended.
        config: how the score is taken.
        negative_prompt: what to stay away from.
        words: for the directions.
        joint: makes the backbone view-joint; None judges every view alone.
        views: per set.
        seed: of kept noise.
    """

    def __init__(
        self,
        backbone: AbstractBackbone,
        prompt: str,
        config: DistillationConfig,
        *,
        negative_prompt: str = "",
        words: ViewWords | None = None,
        joint: MultiViewAdapter | None = None,
        views: int = 1,
        seed: int = 0,
    ) -> None:
        self.backbone, self.config, self.joint, self.views, self.seed = backbone, config, joint, views, seed
        self.prompts = _Prompts(backbone, prompt, negative_prompt, words or ViewWords(), config)

    def terms(self, images: Tensor, cameras: Cameras, *, progress: float, generator: torch.Generator) -> LossTerms:
        """See `AbstractGuidance.terms`."""
        prompts, repelled = self.prompts(cameras)
        together = contextlib.nullcontext()
        if self.joint is not None:
            assert isinstance(self.backbone, AbstractUnetBackbone), "a view-joint backbone is a UNet"
            together = self.joint.joined(self.backbone, cameras, self.views)
        with together:
            loss = distillation_loss(
                self.backbone,
                images,
                prompts,
                self.config,
                progress=progress,
                generator=generator,
                repelled=repelled,
                views=self.views,
                azimuth=cameras.azimuth,
                seed=self.seed,
            )
        return LossTerms({"score": loss})


class VariationalGuidance(AbstractGuidance):
    """VSD. Arguments as for `ScoreGuidance`; `seed` is that of the second score's starting values and of
    kept noise."""

    def __init__(
        self,
        backbone: AbstractUnetBackbone,
        prompt: str,
        config: VariationalConfig,
        *,
        negative_prompt: str = "",
        words: ViewWords | None = None,
        seed: int = 0,
    ) -> None:
        self.prompts = _Prompts(backbone, prompt, negative_prompt, words or ViewWords(), config.score)
        with torch.no_grad():
            self.plain = backbone.encode_prompt([prompt])
        self.score = VariationalScore(backbone, config, seed)

    def terms(self, images: Tensor, cameras: Cameras, *, progress: float, generator: torch.Generator) -> LossTerms:
        """See `AbstractGuidance.terms`."""
        prompts, repelled = self.prompts(cameras)
        plain = self.plain[[0] * len(images)]
        return self.score.terms(
            images, cameras, prompts, plain, progress=progress, generator=generator, repelled=repelled
        )

    def groups(self) -> list[ParameterGroup]:
        """The second score's."""
        return self.score.groups()

    def applied(self) -> contextlib.AbstractContextManager[None]:
        """With the second score's updates."""
        return self.score.applied()


class TurnTaking(AbstractGuidance):
    """A guidance whose subject is in the backbone only while it judges, so that others can take turns with it.

    Args:
        backbone: without any subject.
        adapters: the subject's, with their trained tensors.
        build: makes its guidance, with the subject in place; it must not train anything itself.
    """

    def __init__(
        self, backbone: AbstractBackbone, adapters: Sequence[AbstractAdapter], build: Callable[[], AbstractGuidance]
    ) -> None:
        self.backbone, self.adapters = backbone, tuple(adapters)
        with injected(backbone, *self.adapters):
            self.inner = build()
        assert not self.inner.groups(), "what takes turns trains nothing itself"

    def terms(self, images: Tensor, cameras: Cameras, *, progress: float, generator: torch.Generator) -> LossTerms:
        """See `AbstractGuidance.terms`."""
        with injected(self.backbone, *self.adapters):
            return self.inner.terms(images, cameras, progress=progress, generator=generator)


@config
class SingleViews:
    """Views that the subject's model judges one by one, beside a joint score of the plain base (Dream-in-4D, sec. 3.2).

    Identity comes from the one, shape from the other: the subject is not in the joint model.
    """

    guidance: DistillationConfig = DistillationConfig()
    """How the single score is taken."""
    weight: float = 1.0
    """Of the single score."""
    joint_weight: float = 2.0
    """Of the joint one (Dream-in-4D: 2 beside 1)."""
    farthest: float = 180.0
    """Degrees of azimuth up to which views are judged singly (Dream-in-4D, as an option: 145), in (0, 180]."""
    words: ViewWords = ViewWords()
    """For directions, in the single prompts."""

    def __post_init__(self) -> None:
        if self.weight < 0 or self.joint_weight < 0 or not 0 < self.farthest <= 180:
            raise ConfigError(
                f"expected weights of at least 0 and an azimuth in (0, 180], got {self.weight}, {self.joint_weight} "
                f"and {self.farthest}."
            )


class DividedGuidance(AbstractGuidance):
    """A joint score of sets and one of their single views, each with its own model in the base.

    Args:
        joint: judges sets.
        single: judges views alone.
        settings: how much each counts.
    """

    def __init__(self, joint: AbstractGuidance, single: AbstractGuidance, settings: SingleViews) -> None:
        self.joint, self.single, self.settings = joint, single, settings

    def terms(self, images: Tensor, cameras: Cameras, *, progress: float, generator: torch.Generator) -> LossTerms:
        """See `AbstractGuidance.terms`."""
        settings = self.settings
        judged = self.joint.terms(images, cameras, progress=progress, generator=generator)
        terms = {f"joint/{name}": settings.joint_weight * term for name, term in judged.terms.items()}
        near = (cameras.azimuth.abs() <= settings.farthest).nonzero()[:, 0]
        if len(near):
            alone = self.single.terms(images[near], cameras[near], progress=progress, generator=generator)
            # Means over views: those that are left out count as 0.
            share = settings.weight * len(near) / len(images)
            terms |= {f"single/{name}": share * term for name, term in alone.terms.items()}
        return LossTerms(terms)


def build_guidance(
    backbone: AbstractUnetBackbone,
    prompt: str,
    config: GuidanceConfig,
    *,
    negative_prompt: str = "",
    words: ViewWords | None = None,
    joint: MultiViewAdapter | None = None,
    views: int = 1,
    seed: int = 0,
) -> AbstractGuidance:
    """The guidance a configuration describes. Arguments as for `ScoreGuidance` and `VariationalGuidance`."""
    if isinstance(config, VariationalConfig):
        return VariationalGuidance(backbone, prompt, config, negative_prompt=negative_prompt, words=words, seed=seed)
    return ScoreGuidance(
        backbone, prompt, config, negative_prompt=negative_prompt, words=words, joint=joint, views=views, seed=seed
    )
