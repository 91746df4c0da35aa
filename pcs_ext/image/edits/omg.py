"""OMG's two passes: the base lays the scene out, then every subject is drawn by its own weights where it stands.

Kong et al. 2024, arXiv 2403.10983; the numbers are the released code's. Differs from it: masks come from the base's own
attention (or from boxes) instead of a detector and a segmenter, and inside a subject's region the words of the others
are shut off instead of left out of a prompt that the user writes.
"""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.attention import path_grid, self_attention_paths
from pcs_ext.image.attention_edits import AttentionEdit, Blend, branch_rows, edited, progress_at
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.edits.cones_2 import Cones2Config, LayoutBias, biased
from pcs_ext.image.edits.members import Composed, Member, Player
from pcs_ext.image.edits.regions import disjoint
from pcs_ext.image.locate import LocateConfig, word_maps
from pcs_ext.image.recipes import Preset
from pcs_ext.image.sample import Predict, SampleConfig, SampleHooks, initial_noise, sample
from pcs_ext.image.types import Conditioning


@config
class OmgConfig:
    """How subjects take their places. Durations are shares of the steps, from pure noise on, in [0, 1]."""

    id: str
    """Key in `EDITS`."""
    sampling: SampleConfig
    """Of both passes."""
    start: float = 0.32
    """When subjects take over their regions: later keeps the scene, earlier shapes subjects more (step 16 of 50)."""
    cross_maps: float = 1.0
    """How long the rest of the scene keeps the first pass's cross-attention maps."""
    self_maps: float = 0.4
    """How long it keeps its self-attention maps."""
    map_cells: int = 1024
    """Self-attention maps of layers with more cells than this are left alone (they would not fit into memory)."""
    strength: float = 0.8
    """Scale of the subjects' adapters, 1 as trained."""
    growth: int = 1
    """Latent cells by which regions are grown, for subjects larger than what the base drew in their place."""
    locate: LocateConfig = dataclasses.field(default_factory=LocateConfig)
    """How regions are read from the first pass's picture."""
    layout_scale: float = 0.08
    """Strength of Cones 2's layout bias in both passes, where boxes are given."""

    def __post_init__(self) -> None:
        shares = {name: getattr(self, name) for name in ("start", "cross_maps", "self_maps")}
        if not all(0 <= share <= 1 for share in shares.values()):
            raise ConfigError(f"{shares} is out of range; expected shares in [0, 1].")
        if self.growth < 0 or self.map_cells < 0 or self.strength < 0 or self.layout_scale < 0:
            raise ConfigError(
                f"growth {self.growth}, map_cells {self.map_cells}, strength {self.strength} or layout_scale "
                f"{self.layout_scale} is out of range; expected 0 or more."
            )


def omg(preset: Preset) -> OmgConfig:
    """Step 16 of 50, strength 0.8, cross-attention kept throughout and self-attention for 0.4.

    `toybox`: full strength from the first tenth on, since held-out subjects are shaped unlike what the base draws.
    """
    small = preset == "toybox"
    sampling = SampleConfig(
        scheduler="ddim", num_inference_steps=25 if small else 50, guidance_scale=5.0 if small else 7.5
    )
    if small:
        return OmgConfig(id="omg", sampling=sampling, start=0.1, strength=1.0)
    return OmgConfig(id="omg", sampling=sampling)


@torch.no_grad()
def compose(
    backbone: AbstractBackbone,
    prompt: str,
    members: Sequence[Member],
    *,
    seed: int,
    config: OmgConfig,
    negative_prompt: str = "",
) -> Composed:
    """A picture of a scene with every member in its region.

    Args:
        backbone: without adapters.
        prompt: the scene in plain words.
        members: who takes whose place.
        seed: of the noise.
        config: how.
        negative_prompt: what all stay away from.
    """
    noise = initial_noise(backbone, [seed], config.sampling)
    size = (noise.shape[-2], noise.shape[-1])
    clean: list[Tensor] = []
    first = sample(
        backbone, [prompt], seeds=[seed], config=config.sampling, negative_prompts=[negative_prompt],
        hooks=SampleHooks(
            predict=_layout(backbone, members, size, config, branches=1),
            decode=lambda latents: backbone.decode_latents(clean.append(latents) or latents),
        ),
    )  # fmt: skip
    regions = find_regions(backbone, clean[0], prompt, members, config)
    players = [player_of(backbone, member, region, negative_prompt, config)
               for member, region in zip(members, regions, strict=True) if region.any()]  # fmt: skip
    second: list[Tensor] = []
    sample(
        backbone, [prompt] * 2, seeds=[seed] * 2, config=config.sampling, negative_prompts=[negative_prompt] * 2,
        hooks=SampleHooks(
            predict=_second_pass(backbone, members, players, size, config),
            decode=lambda both: second.append(backbone.decode_latents(both[1:])) or both,
        ),
    )  # fmt: skip
    return Composed(second[0].float().cpu().clamp(-1, 1), regions[:, 0], first)


def find_regions(
    backbone: AbstractBackbone, latents: Tensor, prompt: str, members: Sequence[Member], config: OmgConfig
) -> Tensor:
    """Where the members' nouns are in a picture, `members 1 h w` of zeros and ones, no cell in two.

    Args:
        backbone: without adapters.
        latents: of the picture, clean, `1 c h w`.
        prompt: describes it in plain words.
        members: those with boxes have them; the others share what is left, each where its noun is looked for.
        config: how.
    """
    maps = word_maps(backbone, latents, prompt, config.locate)
    looks = torch.cat([maps[:, list(member.noun)].mean(1, keepdim=True) for member in members], dim=1)[0]
    return disjoint(looks, [member.box for member in members], config.growth, config.locate.threshold)[:, None]


def _layout(
    backbone: AbstractBackbone, members: Sequence[Member], size: tuple[int, int], config: OmgConfig, *, branches: int
):
    """Cones 2's bias on the plain nouns of members with boxes, or None when there is none."""
    placed = [(member.box, member.noun) for member in members if member.box is not None]
    if not placed:
        return None
    guided = config.sampling.guidance_scale != 1.0
    rows = [branch_rows(branch, branches, guided=guided)[-1] for branch in range(branches)]
    boxes, positions = [box for box, _ in placed], [at for _, at in placed]
    return biased(backbone, LayoutBias(backbone, boxes, positions, size, _layout_settings(config), rows=rows))


def _layout_settings(config: OmgConfig) -> Cones2Config:
    return Cones2Config(id="cones-2", sampling=config.sampling, scale=config.layout_scale, recurrence=False)


def player_of(
    backbone: AbstractBackbone, member: Member, region: Tensor, negative_prompt: str, config: OmgConfig
) -> Player:
    """A member as it acts in its region, `1 h w`."""
    return Player(
        backbone, member, region, negative_prompt=negative_prompt, guided=config.sampling.guidance_scale != 1.0,
        strength=config.strength, layout=_layout_settings(config),
    )  # fmt: skip


def _second_pass(
    backbone: AbstractBackbone,
    members: Sequence[Member],
    players: Sequence[Player],
    size: tuple[int, int],
    config: OmgConfig,
):
    """A `SampleHooks.predict` of two branches: the first pass again, and the scene with its subjects."""
    guided = config.sampling.guidance_scale != 1.0
    sources, targets = branch_rows(0, 2, guided=guided), branch_rows(1, 2, guided=guided)
    coarse = tuple(path for path in self_attention_paths(backbone) if _cells(backbone, path, size) <= config.map_cells)
    keep = Blend(sources, targets)
    edits = [
        AttentionEdit(program=keep, paths=backbone.cross_attention_paths(), last=config.cross_maps),
        AttentionEdit(program=keep, paths=coarse, last=config.self_maps),
    ]
    layout = _layout(backbone, members, size, config, branches=2)

    def wrap(predict: Predict) -> Predict:
        scene = edited(backbone, edits)(layout(predict) if layout is not None else predict)

        def composed(latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
            prediction = scene(latents, timesteps, conditioning)
            if progress_at(backbone, timesteps.flatten()[0]) < config.start:
                return prediction
            drawn = prediction[targets]
            for player in players:
                own = player.predict(latents[targets], timesteps[: len(targets)])
                drawn = torch.where(player.region > 0, own, drawn)
            return prediction.index_copy(0, torch.tensor(targets, device=prediction.device), drawn)

        return composed

    return wrap


def _cells(backbone: AbstractBackbone, path: str, size: tuple[int, int]) -> int:
    rows, columns = path_grid(backbone, path, size)
    return rows * columns
