"""MultiBooth's regional customisation: one pass, in which every box's cells attend to a subject's own keys and values.

Zhu et al. 2024, arXiv 2404.14239, section 3.3; its code is not published. The other half, a word of controlled length
with a LoRA on keys and values, is the recipe `multibooth`. Differs from the paper: a box's prompt is the whole scene in
the subject's words, in which the others' are not looked at, instead of a prompt of its own that the user writes.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError, UsageError
from pcs_ext.image.adapters import injected
from pcs_ext.image.adapters.full import TrainedWeight
from pcs_ext.image.adapters.layers import AdapterLayer
from pcs_ext.image.attention import attention_program, token_grid
from pcs_ext.image.attention_edits import progress_at, with_rows
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.edits.boxes import box_cells
from pcs_ext.image.edits.members import SHUT, Composed, Member, encoded, named
from pcs_ext.image.recipes import Preset
from pcs_ext.image.sample import Predict, SampleConfig, SampleHooks, initial_noise, sample
from pcs_ext.image.types import Conditioning


@config
class MultiBoothConfig:
    """How subjects act in their boxes."""

    id: str
    """Key in `EDITS`."""
    sampling: SampleConfig
    """Of the one pass."""
    strength: float = 1.0
    """Scale of the subjects' adapters, 1 as trained."""
    last: float = 1.0
    """Share of the sampling, from pure noise on, in which boxes have their subjects' attention, in [0, 1]."""

    def __post_init__(self) -> None:
        if self.strength < 0 or not 0 <= self.last <= 1:
            raise ConfigError(
                f"strength {self.strength} or last {self.last} is out of range; expected 0 or more, and a share in "
                "[0, 1]."
            )


def multibooth_regions(preset: Preset) -> MultiBoothConfig:
    """All steps and all layers; sampler and guidance are ours (100 steps of DDIM at 7.5 are recalled, not checked)."""
    small = preset == "toybox"
    return MultiBoothConfig(
        id="multibooth",
        sampling=SampleConfig(
            scheduler="ddim", num_inference_steps=25 if small else 100, guidance_scale=5.0 if small else 7.5
        ),
    )


@torch.no_grad()
def compose_in_boxes(
    backbone: AbstractBackbone,
    prompt: str,
    members: Sequence[Member],
    *,
    seed: int,
    config: MultiBoothConfig,
    negative_prompt: str = "",
) -> Composed:
    """A picture of a scene whose boxes are their members'.

    Args:
        backbone: without adapters.
        prompt: the scene in plain words.
        members: each with a box.
        seed: of the noise.
        config: how.
        negative_prompt: what all stay away from.

    Raises:
        UsageError: a member without a box, or with weights other than cross-attention keys and values.
    """
    shape = initial_noise(backbone, [seed], config.sampling).shape
    size = (shape[-2], shape[-1])
    row = 1 if config.sampling.guidance_scale != 1.0 else 0
    answers = RegionalAnswers(backbone, members, size, strength=config.strength, row=row)
    picture = sample(
        backbone, [prompt], seeds=[seed], config=config.sampling, negative_prompts=[negative_prompt],
        hooks=SampleHooks(predict=_answered(backbone, answers, config)),
    )  # fmt: skip
    return Composed(picture, answers.inside(size).float())


def _answered(backbone: AbstractBackbone, answers: "RegionalAnswers", config: MultiBoothConfig):
    def wrap(predict: Predict) -> Predict:
        def answered(latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
            if progress_at(backbone, timesteps.flatten()[0]) >= config.last:
                return predict(latents, timesteps, conditioning)
            answers.turn_to(timesteps[:1])
            with (
                attention_program(backbone, answers.ask, at="queries"),
                attention_program(backbone, answers.answer, at="output"),
            ):
                return predict(latents, timesteps, conditioning)

        return answered

    return wrap


class RegionalAnswers:
    """Two programs on cross-attention: `ask` keeps the queries, `answer` replaces the output inside the boxes.

    A cell in several boxes gets the mean of their answers (ours; the paper's rule could not be read). Outside of all
    boxes outputs stay as they are, bit for bit.

    Args:
        backbone: without adapters.
        members: each with a box.
        size: rows and columns of the latents.
        strength: scale of their adapters.
        row: of the batch that is theirs; the others stay.

    Raises:
        UsageError: a member without a box, or with weights other than cross-attention keys and values.
    """

    def __init__(
        self, backbone: AbstractBackbone, members: Sequence[Member], size: tuple[int, int], *, strength: float, row: int
    ) -> None:
        if any(member.box is None for member in members):
            raise UsageError(
                "multibooth draws every subject in a box; give each a --box, or leave --arrange at columns."
            )
        self.backbone, self.members, self.size, self.row = backbone, members, size, row
        for member in members:
            for adapter in member.adapters:
                adapter.set_scale(strength)
            check_keys_and_values(backbone, member)
        self._told = [encoded(backbone, member, None, size) for member in members]
        self._queries: dict[str, Tensor] = {}
        self._known: list[dict[str, tuple[Tensor, Tensor]]] = []

    def turn_to(self, timestep: Tensor) -> None:
        """Compute every member's keys and values for a timestep `1`; only words that depend on it change them."""
        if self._known and all(told.per_layer is None for told in self._told):
            return
        self._known = []
        for member, told in zip(self.members, self._told, strict=True):
            with injected(self.backbone, *member.adapters):
                self._known.append({path: self._project(path, told, timestep) for path in self._paths()})

    def _project(self, path: str, told: Conditioning, timestep: Tensor) -> tuple[Tensor, Tensor]:
        module = self.backbone.denoiser.get_submodule(path)
        keys, values = told.at(timestep, path)
        return module.to_k(keys.to(self.backbone.dtype)), module.to_v(values.to(self.backbone.dtype))

    def _paths(self) -> tuple[str, ...]:
        return self.backbone.cross_attention_paths()

    def ask(self, path: str, queries: Tensor) -> Tensor:
        """Keep the row's queries."""
        self._queries[path] = queries[self.row : self.row + 1]
        return queries

    def answer(self, path: str, output: Tensor) -> Tensor:
        """The row's output with every box's cells answered by its member."""
        module, queries = self.backbone.denoiser.get_submodule(path), self._queries.pop(path)
        inside = self.inside(token_grid(queries.shape[1], self.size)).flatten(1)[..., None].to(output)
        own = [
            attend(module, queries, *known[path], hidden=member.others)
            for member, known in zip(self.members, self._known, strict=True)
        ]
        count = inside.sum(0)
        mean = sum(i * o for i, o in zip(inside, own, strict=True)) / count.clamp_min(1)
        return with_rows(output, [self.row], torch.where(count > 0, mean, output[self.row]))

    def inside(self, grid: tuple[int, int]) -> Tensor:
        """Which cells belong to whom, `members rows columns` bool."""
        return torch.stack([box_cells(member.box, grid) for member in self.members if member.box is not None])


def attend(module: Any, queries: Tensor, keys: Tensor, values: Tensor, *, hidden: Sequence[int]) -> Tensor:
    """What an attention module answers to queries `1 q d` with keys and values `1 n d`, after its output projection.

    Args:
        module: of diffusers, without a residual sum.
        queries, keys, values: after their projections, all heads side by side.
        hidden: keys that are not looked at.
    """
    query, key, value = (module.head_to_batch_dim(part) for part in (queries, keys, values))
    scores = module.scale * (query.float() @ key.float().transpose(-1, -2))
    scores = torch.where(named(hidden, scores), scores + SHUT, scores)
    mixed = module.batch_to_head_dim(torch.bmm(scores.softmax(-1).to(value.dtype), value))
    projection, dropout = module.to_out
    return dropout(projection(mixed)) / module.rescale_output_factor


def check_keys_and_values(backbone: AbstractBackbone, member: Member) -> None:
    """See that all a member changed of the denoiser is keys and values of the text cross-attentions.

    Raises:
        UsageError: it changed more, which cannot act in a part of one pass.
    """
    allowed = {f"{path}.{name}" for path in backbone.cross_attention_paths() for name in ("to_k", "to_v")}
    with injected(backbone, *member.adapters):
        hooked = [path for path, m in backbone.denoiser.named_modules() if m._forward_hooks or m._forward_pre_hooks]
        changed = [path for path, m in backbone.denoiser.named_modules() if isinstance(m, AdapterLayer)]
        trained = [path for path, p in backbone.denoiser.named_parameters() if isinstance(p, TrainedWeight)]
    wrong = [path for path in (*changed, *hooked, *trained) if not any(_within(path, one) for one in allowed)]
    if wrong:
        raise UsageError(
            f"multibooth draws all subjects in one pass, so they may change cross-attention keys and values alone; one "
            f"of these changed {wrong[0]} as well. Learn it with --recipe multibooth or custom-diffusion, or take "
            "--method omg."
        )


def _within(path: str, allowed: str) -> bool:
    return path == allowed or path.startswith(f"{allowed}.")
