"""The denoising objective: the loss of one batch, and the terms that recipes add to it."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters.base import AbstractAdapter
from pcs_ext.image.adapters.batch_reader import AbstractBatchReader
from pcs_ext.image.adapters.image_residual import ImageResidualAdapter
from pcs_ext.image.adapters.reference import ReferenceAdapter
from pcs_ext.image.attention import AttentionMaps, attention_program
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.balance import BalanceConfig, balanced, shown_parts
from pcs_ext.image.guidance import combine_guidance
from pcs_ext.image.likeness.config import ComposedConfig, IdentityConfig
from pcs_ext.image.masked_loss import MaskNormalisation, denoising_errors, masked_mean
from pcs_ext.image.noise import append_dims
from pcs_ext.image.residual_filter import SuppressConfig, suppressed
from pcs_ext.image.terms import AbstractTerm, Noised, Step, TermConfig, build_term
from pcs_ext.image.timesteps import TimestepSampling
from pcs_ext.image.types import Batch, Conditioning, LossTerms


@config
class ObjectiveConfig:
    """The denoising loss of DDPM (arXiv 2006.11239, eq. 14) and its usual changes."""

    denoising_weight: float = 1.0
    """Of the photos' denoising error; with 0 the denoiser is not asked, and terms about words alone are the loss."""
    snr_gamma: float | None = None
    """min-SNR weighting with this gamma (5 in the paper, arXiv 2303.09556); None weighs all timesteps alike."""
    prior_loss_weight: float = 0.0
    """Weight of the class images' loss (DreamBooth, eq. 2); 0 uses none."""
    mask_normalisation: MaskNormalisation | None = None
    """Limit the photos' loss to the subject's masks; None ignores masks."""
    forgetting_weight: float = 0.0
    """Times || |sum of the earlier subjects' updates| * this update ||^2 over all layers, elementwise: C-LoRA's
    self-regularisation (arXiv 2304.06027). Counts where `learn` is told of earlier subjects; 0 is off."""
    consolidation_weight: float = 0.0
    """Lambda of elastic weight consolidation (arXiv 1612.00796): what mattered to the phases before stays near; 0 is
    off."""
    consolidation_samples: int = 16
    """Micro-batches of each earlier phase that its importance is estimated from."""
    classification_weight: float = 0.0
    """Weight of telling the learned word from pictures of other classes (MC-TI, arXiv 2410.22317). Counts where `learn`
    is told of other classes; 0 is off."""
    classification_scale: float = 10.0
    """Times the cosines in that term."""
    prototype_weight: float = 0.0
    """Weight of how far the subject's words are, to CLIP, from the photos, the subject alone and its class noun (Lu et
    al., arXiv 2401.15708); 0 is off."""
    prototype_encoder: str = "toybox"
    """That CLIP, whose text tower must be the base's: `toybox`, a transformers folder or a hub id."""
    noise_offset: float = 0.0
    """Add this times one normal number per sample and channel to the noise, so that brightness can change."""
    suppress: SuppressConfig | None = None
    """Fine detail of the errors counts less (Inv-ReVersion); None: all frequencies count alike."""
    timesteps: TimestepSampling = TimestepSampling()
    """Which noise levels are visited."""
    train_guidance: float = 1.0
    """Predictions in training are guided from the concept's negative word to its positive one by this scale, as in
    sampling (DreamArtist, arXiv 2211.11337); 1: the plain prediction."""
    balance: BalanceConfig | None = None
    """Several subjects: the worst one's loss counts, and the others are kept (MagicTailor, arXiv 2410.13370); the phase
    needs an `ema_decay`. None: all count alike."""
    identity: IdentityConfig | None = None
    """Likeness of the clean pictures that predictions imply to their photos; None: it is not looked at."""
    composed: ComposedConfig | None = None
    """A subject in a style, learned where there are pictures of either alone; None: photos by themselves."""
    terms: tuple[TermConfig, ...] = ()
    """What is added to the loss, at most one of each kind."""

    def __post_init__(self) -> None:
        if self.balance is not None and (self.prior_loss_weight > 0 or self.train_guidance != 1):
            raise ConfigError(
                "a balance is about photos and plain predictions; set prior_loss_weight 0, train_guidance 1."
            )
        if self.identity is not None and (self.train_guidance != 1 or self.denoising_weight == 0):
            raise ConfigError("identity is read off the plain prediction; set train_guidance 1 and denoising_weight.")
        if self.train_guidance != 1 and any(term.kind == "attention" for term in self.terms):
            raise ConfigError("attention terms read the plain prediction's maps; set train_guidance to 1.")
        alone = self.denoising_weight == 0
        if alone and (self.prior_loss_weight > 0 or not (self.terms or self.prototype_weight)):
            raise ConfigError(
                "an objective without denoising needs a term or a prototype, and takes no class images; give it one "
                "and prior_loss_weight 0, or denoising_weight 1."
            )
        kinds = [term.kind for term in self.terms]
        if len(set(kinds)) < len(kinds):
            raise ConfigError(f"the objective's terms are {kinds}; expected each kind at most once.")


class DenoisingObjective:
    """The loss of one batch: `denoising`, and `prior` for its class images.

    With class images the total is mean(photos) + weight * mean(class images), as DreamBooth's two halves. The
    configured terms are added to them.

    Args:
        config: what counts.
        adapters: that train, by name; terms ask for them.
        averaged: a context in which the trained weights are their slow averages; a balance needs it.
        beside: further terms, of who knows more than a step shows.
    """

    def __init__(
        self,
        config: ObjectiveConfig,
        adapters: Mapping[str, AbstractAdapter] | None = None,
        averaged: Callable[[], contextlib.AbstractContextManager[None]] | None = None,
        beside: Sequence[AbstractTerm] = (),
    ) -> None:
        self.config, self.adapters, self.averaged = config, adapters or {}, averaged
        self.terms = [*(build_term(term) for term in config.terms), *beside]

    def __call__(
        self,
        backbone: AbstractBackbone,
        batch: Batch,
        latents: Tensor,
        conditioning: Conditioning,
        generator: torch.Generator,
        negative: Conditioning | None = None,
    ) -> LossTerms:
        """Loss terms of a batch, differentiable with respect to whatever of the backbone requires it.

        Args:
            backbone: predicts.
            batch: masks, valid areas and which rows are class images.
            latents: of the batch's images, `b c h w` (or `b c f h w`).
            conditioning: of the batch's captions.
            generator: of timesteps and noise, on the CPU: the same numbers on every device.
            negative: of what guidance in training goes away from; needed where `train_guidance` is not 1.
        """
        if self.config.denoising_weight == 0:
            return self._terms(backbone, batch, conditioning, {}, generator)
        latents = latents.to(backbone.device)
        noised = self._noised(backbone, latents, generator)
        told = self._told(conditioning, batch, generator)
        slow = self._by_averages(backbone, noised, told)
        recorded: dict[int, AttentionMaps] = {}
        with self._recording(backbone, recorded), self._referring(latents, batch, generator):
            prediction = self._predict(backbone, noised, told, negative)
        terms = self._terms(backbone, batch, conditioning, recorded, generator, noised, prediction)
        return self._denoising(backbone, batch, noised, prediction, slow) + terms

    def _noised(self, backbone: AbstractBackbone, latents: Tensor, generator: torch.Generator) -> Noised:
        """Noise, then timesteps, are drawn."""
        noise = self._noise(latents.shape, generator).to(backbone.device)
        timesteps = self.config.timesteps.draw(len(latents), backbone.schedule.alphas_cumprod, generator)
        timesteps = timesteps.to(backbone.device)
        return Noised(
            latents=backbone.schedule.add_noise(latents, noise, timesteps),
            timesteps=timesteps,
            target=backbone.schedule.target(latents, noise, timesteps),
        )

    def _denoising(
        self, backbone: AbstractBackbone, batch: Batch, noised: Noised, prediction: Tensor, slow: Tensor | None
    ) -> LossTerms:
        """The denoising error of photos, and of class images, or what a balance makes of it."""
        errors = denoising_errors(prediction, noised.target)
        if self.config.suppress is not None:
            errors = suppressed(prediction.float() - noised.target.float(), self.config.suppress).square()
        if self.config.snr_gamma is not None:
            weights = backbone.schedule.min_snr_weights(noised.timesteps, self.config.snr_gamma)
            errors = errors * append_dims(weights, errors)
        losses = masked_mean(errors, *self._mask(batch, errors))
        if batch.weights is not None:
            losses = losses * batch.weights.to(losses)
        if slow is not None:
            return self._balanced(
                losses, masked_mean(denoising_errors(prediction, slow), *self._mask(batch, errors)), batch
            )
        if batch.is_prior is None:
            return LossTerms({"denoising": self.config.denoising_weight * losses.mean()})
        prior = batch.is_prior.to(losses.device)
        return LossTerms(
            {
                "denoising": self.config.denoising_weight * losses[~prior].mean(),
                "prior": self.config.prior_loss_weight * losses[prior].mean(),
            }
        )

    def _by_averages(self, backbone: AbstractBackbone, noised: Noised, told: Conditioning) -> Tensor | None:
        """What the averaged weights answer to the same question, for a balance; before the graph of the step is built.

        Words are those of this step, as in the released code.
        """
        if self.config.balance is None:
            return None
        assert self.averaged is not None, "a balance needs the averaged weights"
        with torch.no_grad(), self.averaged():
            return backbone.predict(noised.latents, noised.timesteps, told)

    def _balanced(self, losses: Tensor, drifts: Tensor, batch: Batch) -> LossTerms:
        assert self.config.balance is not None
        worst, drift = balanced(losses, drifts, shown_parts(batch.part_masks, len(losses)).to(losses.device))
        return LossTerms({"denoising": worst, "preservation": self.config.balance.preservation * drift})

    def _told(self, conditioning: Conditioning, batch: Batch, generator: torch.Generator) -> Conditioning:
        """What the denoiser is told: a draw where prompts are distributions, and what adapters see in the photos."""
        if conditioning.deviation is not None:
            conditioning = conditioning.drawn(torch.randn(conditioning.states.shape, generator=generator))
        for adapter in self.adapters.values():
            if isinstance(adapter, ImageResidualAdapter):
                conditioning = adapter.told(conditioning, batch)
        return conditioning

    def _predict(
        self, backbone: AbstractBackbone, noised: Noised, conditioning: Conditioning, negative: Conditioning | None
    ) -> Tensor:
        noisy, timesteps = noised.latents, noised.timesteps
        if self.config.train_guidance == 1:
            return backbone.predict(noisy, timesteps, conditioning)
        assert negative is not None, "guidance in training needs the negative conditioning"
        both = Conditioning.cat([negative, conditioning])
        without, with_it = backbone.predict(torch.cat([noisy, noisy]), timesteps.repeat(2), both).chunk(2)
        return combine_guidance(without, with_it, self.config.train_guidance)

    @contextlib.contextmanager
    def _referring(self, latents: Tensor, batch: Batch, generator: torch.Generator) -> Iterator[None]:
        """Inside, adapters that look at a picture of the subject look at another photo of the batch, and those that
        read what batches say read this one."""
        looking = [adapter for adapter in self.adapters.values() if isinstance(adapter, ReferenceAdapter)]
        with contextlib.ExitStack() as stack:
            if looking:
                own = torch.ones(len(latents), dtype=torch.bool) if batch.is_prior is None else ~batch.is_prior
                others, at = latents.clone(), own.to(latents.device)
                others[at] = latents[at].roll(1, 0)
                for adapter in looking:
                    stack.enter_context(adapter.referring(others))
            for adapter in self.adapters.values():
                if isinstance(adapter, AbstractBatchReader):
                    stack.enter_context(adapter.reading(batch, latents, generator))
            yield

    @contextlib.contextmanager
    def _recording(self, backbone: AbstractBackbone, recorded: dict[int, AttentionMaps]) -> Iterator[None]:
        """Inside, attention maps are kept, by the sides that terms ask for."""
        with contextlib.ExitStack() as stack:
            for side in {term.maps_side for term in self.terms if term.maps_side is not None}:
                recorded[side] = AttentionMaps(side, exact=True)
                stack.enter_context(attention_program(backbone, recorded[side]))
            yield

    def _terms(
        self,
        backbone: AbstractBackbone,
        batch: Batch,
        conditioning: Conditioning,
        recorded: Mapping[int, AttentionMaps],
        generator: torch.Generator,
        noised: Noised | None = None,
        prediction: Tensor | None = None,
    ) -> LossTerms:
        values: dict[str, Tensor] = {}
        for term in self.terms:
            maps = None if term.maps_side is None else recorded.get(term.maps_side)
            step = Step(
                backbone=backbone,
                batch=batch,
                conditioning=conditioning,
                adapters=self.adapters,
                maps=maps,
                generator=generator,
                noised=noised,
                prediction=prediction,
            )
            values[term.name] = term(step)
        return LossTerms(values)

    def _noise(self, shape: torch.Size, generator: torch.Generator) -> Tensor:
        noise = torch.randn(shape, generator=generator)
        if self.config.noise_offset:
            offset = torch.randn(*shape[:2], *([1] * (len(shape) - 2)), generator=generator)
            noise = noise + self.config.noise_offset * offset
        return noise

    def _mask(self, batch: Batch, errors: Tensor) -> tuple[Tensor | None, MaskNormalisation]:
        """Subject mask times valid area, in latent cells."""
        normalisation = self.config.mask_normalisation
        mask = batch.valid
        if normalisation is not None and batch.masks is not None:
            mask = batch.masks if mask is None else mask * batch.masks
        if mask is None:
            return None, MaskNormalisation.PLAIN
        cells = torch.nn.functional.interpolate(mask.to(errors.device), size=errors.shape[-2:], mode="area")
        return cells, normalisation or MaskNormalisation.PER_SAMPLE_MEAN
