"""PACGen's sampling: inside its box a subject's own weights predict, outside the base does.

Li et al. 2023, arXiv 2306.17154 (regionally guided sampling). The other half, photos in which the subject is moved
about, is the recipe `pacgen`. Differs from the paper: boxes are kept by Cones 2's bias on attention instead of GLIGEN's
trained adapter layers, which no base here has; and with several subjects each has a region.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError, UsageError
from pcs_ext.image.adapters import injected
from pcs_ext.image.attention_edits import progress_at
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.concept import SUBJECT
from pcs_ext.image.edits.boxes import Box
from pcs_ext.image.edits.cones_2 import Cones2Config, LayoutBias, biased
from pcs_ext.image.edits.members import Composed, Member, Player
from pcs_ext.image.edits.regions import disjoint
from pcs_ext.image.phrases import phrase_positions
from pcs_ext.image.recipes import Preset
from pcs_ext.image.sample import Predict, SampleConfig, SampleHooks, initial_noise, sample
from pcs_ext.image.subject import Artifact
from pcs_ext.image.types import Conditioning


@config
class PacgenConfig:
    """How boxes are kept and filled."""

    id: str
    """Key in `EDITS`."""
    sampling: SampleConfig
    """Of the one pass."""
    strength: float = 1.0
    """Scale of the subject's adapters, 1 as trained."""
    suppressed: str = "collage"
    """Words that the subject's weights stay away from inside its box, beside the negative prompt: photos in which a
    cut-out was moved about teach its edges, too. The paper has such a word; which is recalled, not checked."""
    last: float = 1.0
    """Share of the sampling, from pure noise on, in which boxes are filled, in [0, 1]; then all is the base's."""
    layout_scale: float = 0.08
    """Strength of Cones 2's bias that keeps nouns and subjects in their boxes."""

    def __post_init__(self) -> None:
        if self.strength < 0 or self.layout_scale < 0 or not 0 <= self.last <= 1:
            raise ConfigError(
                f"strength {self.strength}, layout_scale {self.layout_scale} or last {self.last} is out of range; "
                "expected 0 or more, 0 or more, and a share in [0, 1]."
            )


def pacgen_regions(preset: Preset) -> PacgenConfig:
    """All steps; sampler and guidance are ours. `toybox` suppresses nothing: no caption of its has "collage"."""
    small = preset == "toybox"
    return PacgenConfig(
        id="pacgen",
        sampling=SampleConfig(
            scheduler="ddim", num_inference_steps=25 if small else 50, guidance_scale=5.0 if small else 7.5
        ),
        suppressed="" if small else "collage",
    )


@torch.no_grad()
def compose_regionally(
    backbone: AbstractBackbone,
    prompt: str,
    members: Sequence[Member],
    *,
    seed: int,
    config: PacgenConfig,
    negative_prompt: str = "",
) -> Composed:
    """A picture of a scene whose boxes are filled by their members.

    Args:
        backbone: without adapters.
        prompt: the scene in plain words.
        members: one or more, each with a box.
        seed: of the noise.
        config: how.
        negative_prompt: what all stay away from.

    Raises:
        UsageError: a member without a box.
    """
    boxes = [member.box for member in members if member.box is not None]
    if len(boxes) < len(members):
        raise UsageError("pacgen draws every subject in a box; give each one.")
    shape = initial_noise(backbone, [seed], config.sampling).shape
    size = (shape[-2], shape[-1])
    regions = disjoint(torch.zeros(len(boxes), *size), boxes, growth=0)
    guided = config.sampling.guidance_scale != 1.0
    layout = Cones2Config(id="cones-2", sampling=config.sampling, scale=config.layout_scale, recurrence=False)
    negative = ", ".join(part for part in (negative_prompt, config.suppressed) if part)
    players = [
        Player(backbone, member, region[None], negative_prompt=negative, guided=guided, strength=config.strength,
               layout=layout)
        for member, region in zip(members, regions, strict=True)
    ]  # fmt: skip
    bias = LayoutBias(backbone, boxes, [member.noun for member in members], size, layout, rows=[int(guided)])
    hooks = SampleHooks(
        predict=lambda predict: filled(backbone, biased(backbone, bias)(predict), predict, players, config.last)
    )
    picture = sample(
        backbone, [prompt], seeds=[seed], config=config.sampling, negative_prompts=[negative_prompt], hooks=hooks
    )
    return Composed(picture, regions)


def filled(
    backbone: AbstractBackbone, scene: Predict, plain: Predict, players: Sequence[Player], last: float
) -> Predict:
    """Predictions of the scene with every player's own inside its region; outside they are the scene's, bit for bit.

    Args:
        backbone: whose schedule says how far sampling is.
        scene: predicts outside of the regions.
        plain: predicts everything from `last` on.
        players: with regions that do not meet.
        last: share of the sampling.
    """

    def predict(latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        if progress_at(backbone, timesteps.flatten()[0]) >= last:
            return plain(latents, timesteps, conditioning)
        drawn = scene(latents, timesteps, conditioning)
        for player in players:
            drawn = torch.where(player.region > 0, player.predict(latents, timesteps), drawn)
        return drawn

    return predict


def lone_member(backbone: AbstractBackbone, artifact: Artifact, text: str, box: Box) -> Member:
    """A subject that is the only one of its scene.

    Args:
        backbone: its base, without adapters.
        artifact: what it learned.
        text: the scene, with `{subject}`.
        box: where it stands.

    Raises:
        UsageError: the text does not name it.
    """
    adapters, concept = artifact.adapters(), artifact.concept
    prompt, plain = concept.prompt(text), concept.class_prompt(text)
    with injected(backbone, *adapters):  # learned words are tokens of the base only now
        own = phrase_positions(backbone, prompt, concept.name)
    noun = phrase_positions(backbone, plain, concept.class_noun, behind=text.partition(SUBJECT)[0])
    return Member(adapters, prompt, own, [], noun, box)
