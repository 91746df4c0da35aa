"""MC2: subjects of any kind predict the same picture side by side, and their words learn to look at different parts.

Jiang et al. 2024, arXiv 2404.05268. No code is published and the formulas could not be read: what is known is that all
single-subject models denoise one latent, that before a step the latents move down the gradient of a loss that parts the
places which different subjects' words look at (and joins those of one subject's words), and that predictions are added
as in composable diffusion. The overlap used here, and every number, are ours.
"""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters import injected
from pcs_ext.image.attention import AttentionMaps, attention_program
from pcs_ext.image.attention_edits import progress_at
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.edits.members import Composed, Member, encoded
from pcs_ext.image.guidance import combine_terms
from pcs_ext.image.recipes import Preset
from pcs_ext.image.sample import Predict, SampleConfig, SampleHooks, initial_noise, sample
from pcs_ext.image.types import Conditioning


@config
class Mc2Config:
    """How subjects are kept apart. Every number is ours."""

    id: str
    """Key in `EDITS`."""
    sampling: SampleConfig
    """A scheduler whose latents keep their variance: ddim or dpmsolver++."""
    strength: float = 1.0
    """Scale of the subjects' adapters, 1 as trained."""
    scale: float = 30.0
    """Step on the loss; the latents move by scale (1 - abar_t) times its gradient, as in layout guidance."""
    iterations: int = 1
    """Moves before a step."""
    last: float = 0.5
    """Share of the sampling in which the latents are moved, in [0, 1]."""
    together: float = 0.5
    """Weight of the term that joins the places of one subject's words, beside 1 for parting the subjects."""
    side: int = 16
    """The coarsest maps of at least so many cells per side are looked at: 16 of 512 pixels, where SDXL has 32."""
    base_weight: float = 0.0
    """Of the plain scene's guidance, beside an equal share of the rest, 1 - base_weight, for every subject; [0, 1]."""

    def __post_init__(self) -> None:
        small = min(self.strength, self.scale, self.iterations, self.together) < 0
        if small or not 0 <= self.last <= 1 or not 0 <= self.base_weight <= 1 or self.side < 1:
            raise ConfigError(
                f"strength {self.strength}, scale {self.scale}, iterations {self.iterations}, last {self.last}, "
                f"together {self.together}, side {self.side} or base_weight {self.base_weight} is out of range; "
                "expected 0 or more, shares in [0, 1], and a side of 1 or more."
            )
        if self.sampling.scheduler == "euler":
            raise ConfigError("mc2 moves latents that keep their variance; expected ddim or dpmsolver++.")


def mc2(preset: Preset) -> Mc2Config:
    """One move before each step of the first half; maps of 16 cells per side (toybox: 8)."""
    small = preset == "toybox"
    sampling = SampleConfig(
        scheduler="ddim", num_inference_steps=25 if small else 50, guidance_scale=5.0 if small else 7.5
    )
    return Mc2Config(id="mc2", sampling=sampling, side=8 if small else 16)


@torch.no_grad()
def compose_apart(
    backbone: AbstractBackbone,
    prompt: str,
    members: Sequence[Member],
    *,
    seed: int,
    config: Mc2Config,
    negative_prompt: str = "",
) -> Composed:
    """A picture of a scene that all members predict together.

    Args:
        backbone: without adapters.
        prompt: the scene in plain words.
        members: of any kind; boxes do not matter.
        seed: of the noise.
        config: how.
        negative_prompt: what all stay away from.
    """
    shape = initial_noise(backbone, [seed], config.sampling).shape
    guided = config.sampling.guidance_scale != 1.0
    choir = Choir(backbone, members, (shape[-2], shape[-1]), config, negative_prompt if guided else None)
    picture = sample(
        backbone, [prompt], seeds=[seed], config=config.sampling, negative_prompts=[negative_prompt],
        hooks=SampleHooks(predict=choir.joined, before_step=choir.part if config.iterations else None),
    )  # fmt: skip
    return Composed(picture, choir.places())


class Choir:
    """All members over one latent: what they predict together, and where their words look.

    Args:
        backbone: without adapters.
        members: who.
        size: rows and columns of the latents.
        config: how.
        negative_prompt: None without guidance.
    """

    def __init__(
        self,
        backbone: AbstractBackbone,
        members: Sequence[Member],
        size: tuple[int, int],
        config: Mc2Config,
        negative_prompt: str | None,
    ) -> None:
        self.backbone, self.members, self.size, self.config = backbone, members, size, config
        for member in members:
            for adapter in member.adapters:
                adapter.set_scale(config.strength)
        self._told = [encoded(backbone, member, negative_prompt, size) for member in members]
        self._looks: list[Tensor] = []

    def part(self, step: int, timestep: Tensor, latents: Tensor) -> Tensor:
        """`SampleHooks.before_step`: moves the latents until the members' words look at different places."""
        if progress_at(self.backbone, timestep) >= self.config.last:
            return latents
        variance = 1 - float(self.backbone.schedule.alphas_cumprod[round(float(timestep))])
        for _ in range(self.config.iterations):
            with torch.enable_grad():
                moving = latents.detach().requires_grad_(True)
                loss = self.loss(moving, timestep)
                (gradient,) = torch.autograd.grad(loss, moving)
            latents = latents - self.config.scale * variance * gradient
        return latents

    def loss(self, latents: Tensor, timestep: Tensor) -> Tensor:
        """How much the places of different members overlap and those of one member's words differ, 0-d."""
        maps = [self._maps(member, told, latents, timestep) for member, told in
                zip(self.members, self._told, strict=True)]  # fmt: skip
        self._looks = [own.mean(0).detach() for own in maps]
        return parting_loss(maps, self.config.together)

    def _maps(self, member: Member, told: Conditioning, latents: Tensor, timestep: Tensor) -> Tensor:
        """Where a member's own words look, `words rows columns`."""
        maps = AttentionMaps(self.config.side, size=self.size, exact=True)
        with injected(self.backbone, *member.adapters), attention_program(self.backbone, maps):
            self.backbone.predict(latents, timestep.expand(1), told[[told.batch_size - 1]])
        return maps.maps()[0, list(member.own)]

    def joined(self, predict: Predict) -> Predict:
        """`SampleHooks.predict`: e(no words) + w0 (e(scene) - e(no words)) + sum of w (e_i(own) - e_i(no words))."""
        weight = (1 - self.config.base_weight) / len(self.members)

        def together(latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
            base = predict(latents, timesteps, conditioning)
            own: list[Tensor] = []
            for member, told in zip(self.members, self._told, strict=True):
                with injected(self.backbone, *member.adapters):
                    own.append(self.backbone.predict(latents, timesteps, told))
            if len(base) == 1:
                return combine_terms(self.config.base_weight * base, [(weight, one, 0 * one) for one in own])
            terms = [(self.config.base_weight, base[1:], base[:1]), *((weight, one[1:], one[:1]) for one in own)]
            return torch.cat([base[:1], combine_terms(base[:1], terms)])

        return together

    def places(self) -> Tensor:
        """Where each member's words looked last, against the others, `members rows columns` of zeros and ones.

        All ones where nobody was asked: without moves everyone is everywhere.
        """
        if not self._looks:
            return torch.ones(len(self.members), *self.size)
        looks = torch.stack([own / own.sum() for own in self._looks])
        wide = torch.nn.functional.interpolate(looks[None], size=self.size, mode="bilinear")[0]
        return torch.nn.functional.one_hot(wide.argmax(0), len(looks)).permute(2, 0, 1).float().cpu()


def parting_loss(maps: Sequence[Tensor], together: float) -> Tensor:
    """Mean overlap of every two members' places, plus `together` times the mean (1 - overlap) of one member's words.

    Args:
        maps: per member, `words rows columns`, not negative.
        together: weight of the second part; members of one word have none.
    """
    whole = [own.mean(0) for own in maps]
    apart = [overlap(a, b) for a, b in itertools.combinations(whole, 2)]
    within = [1 - overlap(a, b) for own in maps for a, b in itertools.combinations(own.unbind(0), 2)]
    loss = torch.stack(apart).mean()
    return loss + together * torch.stack(within).mean() if within else loss


def overlap(one: Tensor, other: Tensor) -> Tensor:
    """Sum of the smaller over sum of the larger of two maps, each divided by its maximum, 0-d in [0, 1].

    1 for maps that are alike up to scale, 0 for maps that share no cell. Differentiable.
    """
    one, other = (each / each.amax().clamp_min(1e-8) for each in (one, other))
    return torch.minimum(one, other).sum() / torch.maximum(one, other).sum().clamp_min(1e-8)
