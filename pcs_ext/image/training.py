"""From a recipe's phase to the loss function that `fit` minimises: batches, caches, parameter groups."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters.base import AbstractAdapter
from pcs_ext.image.adapters.image_words import ImageWordsAdapter, showing
from pcs_ext.image.adapters.tokens import TokenAdapter
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.class_images import ClassImages
from pcs_ext.image.consolidation import Consolidation
from pcs_ext.image.contrast import Contrast
from pcs_ext.image.data import SubjectDataset
from pcs_ext.image.degradation import degraded
from pcs_ext.image.forgetting import Forgetting
from pcs_ext.image.guided import guided
from pcs_ext.image.hiding import hidden
from pcs_ext.image.latent_cache import LatentCache
from pcs_ext.image.likeness.composed import composed_term
from pcs_ext.image.likeness.identity import IdentityTerm
from pcs_ext.image.objectives import DenoisingObjective
from pcs_ext.image.photo_reader import reader_for
from pcs_ext.image.prototype import Prototype
from pcs_ext.image.recipes.base import Phase
from pcs_ext.image.regional import regional
from pcs_ext.image.terms.base import AbstractTerm
from pcs_ext.image.types import Batch, Conditioning, LossTerms, ParameterGroup


def parameter_groups(phase: Phase, adapters: Mapping[str, AbstractAdapter]) -> list[ParameterGroup]:
    """The groups a phase trains, in the order of its learning rates.

    Weight decay is not for what words are made of, the group `embedding`: neither rows nor networks that give them.

    Raises:
        ConfigError: a learning rate names a group the adapter does not have, or nothing at all would train.
    """
    groups: dict[str, ParameterGroup] = {}
    for key, learning_rate in phase.learning_rates.items():
        adapter_name, _, group_name = key.partition("/")
        available = adapters[adapter_name].parameters()
        if group_name and group_name not in available:
            raise ConfigError(
                f"phase {phase.name!r}: adapter {adapter_name!r} has groups {sorted(available)}, not {group_name!r}."
            )
        for name in [group_name] if group_name else sorted(available):
            decay = 0.0 if name == "embedding" else phase.weight_decay
            groups[f"{adapter_name}/{name}"] = ParameterGroup(
                name=f"{adapter_name}/{name}",
                parameters=tuple(available[name]),
                learning_rate=learning_rate,
                weight_decay=decay,
            )
    if not any(group.parameters for group in groups.values()):
        raise ConfigError(f"phase {phase.name!r} trains nothing; give at least one adapter a learning rate.")
    return list(groups.values())


@contextlib.contextmanager
def only_trainable(groups: Sequence[ParameterGroup], adapters: Iterable[AbstractAdapter] = ()) -> Iterator[None]:
    """Inside, of all the adapters' parameters exactly the groups' require gradients; afterwards none does."""
    for adapter in adapters:
        for kept in adapter.parameters().values():
            for parameter in kept:
                parameter.requires_grad_(False)
    parameters = [parameter for group in groups for parameter in group.parameters]
    for parameter in parameters:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(False)
            parameter.grad = None


class PromptCache:
    """Conditioning by prompt while no text parameter trains; otherwise the prompts are encoded in every step."""

    def __init__(self, backbone: AbstractBackbone, *, enabled: bool) -> None:
        self.backbone = backbone
        self.enabled = enabled
        self._known: dict[tuple[str, tuple[int, int] | None], Conditioning] = {}

    def __call__(self, prompts: Sequence[str], size: tuple[int, int] | None = None) -> Conditioning:
        """Conditioning of the prompts, differentiable exactly when the cache is off.

        Args:
            prompts: texts.
            size: height and width of the pictures; None: the base's.
        """
        if not self.enabled:
            return self.backbone.encode_prompt(prompts, size=size)
        with torch.no_grad():
            for prompt in dict.fromkeys(prompts):
                if (prompt, size) not in self._known:
                    self._known[prompt, size] = self.backbone.encode_prompt([prompt], size=size)
            known = [self._known[prompt, size] for prompt in prompts]
            if any(one.per_layer is not None for one in known):
                # What depends on timesteps is encoded for all rows at once; apart it would be for each of them.
                return self.backbone.encode_prompt(prompts, size=size)
        return Conditioning.cat(known)


class PhaseLoss:
    """The loss of one phase as `fit` wants it: `(step, micro_step, generator) -> LossTerms`."""

    def __init__(
        self,
        phase: Phase,
        backbone: AbstractBackbone,
        photos: SubjectDataset,
        class_images: ClassImages | None,
        groups: Sequence[ParameterGroup],
        latents: LatentCache,
        forgetting: Forgetting | None = None,
        contrast: Contrast | None = None,
        adapters: Mapping[str, AbstractAdapter] | None = None,
        averaged: Callable[[], contextlib.AbstractContextManager[None]] | None = None,
        consolidation: Consolidation | None = None,
    ) -> None:
        self.phase = phase
        self.forgetting, self.consolidation = forgetting, consolidation
        self.contrast = contrast
        self.backbone = backbone
        self.photos = photos
        self.class_images = class_images if phase.objective.prior_loss_weight > 0 else None
        self.latents = latents
        text_trains = any(group.name.split("/")[1] not in ("denoiser", "content", "image") for group in groups)
        self.adapters = adapters or {}
        of_photos = any(isinstance(adapter, ImageWordsAdapter) for adapter in self.adapters.values())
        self.prompts = PromptCache(backbone, enabled=not (text_trains or of_photos))
        self.objective = DenoisingObjective(phase.objective, self.adapters, averaged, self._likenesses())
        weighs = phase.objective.prototype_weight > 0
        encoder = phase.objective.prototype_encoder
        self.prototype = Prototype(backbone, photos.concept, encoder) if weighs else None
        self.reader = reader_for(self.adapters.values(), backbone.device)

    def _likenesses(self) -> list[AbstractTerm]:
        """Terms about who is seen, which need an encoder or photos of their own choice."""
        asked, terms = self.phase.objective, list[AbstractTerm]()
        if asked.identity is not None:
            terms.append(IdentityTerm(asked.identity, self.backbone.device))
        if asked.composed is not None:
            word = self.adapters[asked.composed.style]
            assert isinstance(word, TokenAdapter), "a recipe is checked before it is learned"
            term = composed_term(asked.composed, self.photos, word.tokens[0], self.backbone)
            terms += [] if term is None else [term]
        return terms

    def __call__(self, step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
        """Loss terms of one micro-batch; everything random comes from `generator`."""
        batch = self.photos.batch(self.phase.batch_size, generator)
        if self.phase.unconditional:
            batch = dataclasses.replace(batch, captions=("",) * len(batch.captions))
        if self.phase.degrade is not None:
            batch = degraded(batch, self.phase.degrade.strength(step, self.phase.fit.steps), generator)
        if self.phase.hide is not None:
            batch = hidden(batch, self.phase.hide, generator)
        if self.phase.guide is not None:
            batch = guided(batch, self.phase.guide.at(step, self.phase.fit.steps), generator)
        if self.class_images is not None:
            batch = stack(batch, self.class_images.batch(self.phase.batch_size, generator))
        if self.reader is not None:
            batch = dataclasses.replace(batch, features=self.reader(batch))
        with showing(self.adapters.values(), batch.features):
            conditioning, negative = self.prompts(batch.captions, _size(batch)), self._negative(batch)
        latents = self.latents(batch)
        with regional(self.backbone.denoiser, self.photos.augmentation.pack):
            terms = self.objective(self.backbone, batch, latents, conditioning, generator, negative)
        if self.forgetting is not None:
            terms += LossTerms({"forgetting": self.phase.objective.forgetting_weight * self.forgetting()})
        if self.consolidation is not None:
            weight = self.phase.objective.consolidation_weight
            terms += LossTerms({"consolidation": weight * self.consolidation()})
        if self.prototype is not None:
            terms += LossTerms({"prototype": self.phase.objective.prototype_weight * self.prototype(batch)})
        if self.contrast is not None:
            told_apart = self.contrast(batch.captions[0], generator)
            terms += LossTerms({"classification": self.phase.objective.classification_weight * told_apart})
        return terms

    def _negative(self, batch: Batch) -> Conditioning | None:
        """Of the captions with the negative word in place of the subject's."""
        if self.phase.objective.train_guidance == 1:
            return None
        concept = self.photos.concept
        away = [caption.replace(concept.name, concept.negative) for caption in batch.captions]
        return self.prompts(away, _size(batch))


def _size(batch: Batch) -> tuple[int, int]:
    """Height and width of its pictures."""
    return batch.images.shape[-2], batch.images.shape[-1]


def weights_of(photos: Tensor, count: int) -> Tensor:
    """What `count` class images count beside photos: each what its photo counts, in turn."""
    return photos[torch.arange(count) % len(photos)]


def stack(photos: Batch, prior: Batch) -> Batch:
    """One batch of photos followed by class images, for a single forward pass."""
    count = len(photos.captions), len(prior.captions)
    is_prior = torch.tensor([False] * count[0] + [True] * count[1])
    ones = torch.ones(count[1], 1, *photos.images.shape[-2:])
    return Batch(
        images=torch.cat([photos.images, prior.images]),
        captions=photos.captions + prior.captions,
        masks=None if photos.masks is None else torch.cat([photos.masks, ones]),
        part_masks=None
        if photos.part_masks is None
        else torch.cat([photos.part_masks, torch.zeros(count[1], *photos.part_masks.shape[1:])]),
        valid=None if photos.valid is None else torch.cat([photos.valid, ones]),
        is_prior=is_prior,
        weights=None if photos.weights is None else torch.cat([photos.weights, weights_of(photos.weights, count[1])]),
        keys=None if photos.keys is None or prior.keys is None else photos.keys + prior.keys,
        cameras=photos.cameras,
        guides=None
        if photos.guides is None
        else torch.cat([photos.guides, torch.zeros(count[1], *photos.guides.shape[1:])]),
    )
