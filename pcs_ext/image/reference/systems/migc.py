"""MIGC (Zhou et al. 2024, arXiv 2402.05408): several things, each described and in a box; no photos.

In the denoiser's middle and its first upward block with cross-attention, in the first half of the noise levels, the
text cross-attention of a picture is taken apart: what the prompt says of the ground, and of every thing what its own
description says in its box (*instance shading*: the base's cross-attention, and an *enhancement attention* to the
description and the box). A *layout attention* makes one more, and a *shading aggregation controller* mixes them.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.attention import token_grid
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.cpu_attention import attend
from pcs_ext.image.backbones.joint import in_heads, side_by_side
from pcs_ext.image.backbones.unet import recomputing_inside
from pcs_ext.image.predict_programs import Predict
from pcs_ext.image.reference.asked import Asked
from pcs_ext.image.reference.base import AbstractReferenceAdapter, Reading, check_context, context_width, query_widths
from pcs_ext.image.reference.boxes import known_boxes
from pcs_ext.image.reference.inside import answering, beside, read_of
from pcs_ext.image.reference.shading import EnhancementAttention, LayoutAttention, ShadingAggregation
from pcs_ext.image.reference.shown import Sees
from pcs_ext.image.types import Conditioning

_STATES, _ENDS, _BOXES = "reference_descriptions", "reference_description_ends", "reference_things"


@config
class MIGCConfig:
    """Shadings of things and how they are mixed. Defaults are the released code's, where nothing else is said."""

    kind: Literal["migc"] = "migc"
    """Tag in JSON."""
    heads: int = 8
    """Of both attentions."""
    places: int = 30
    """For shadings, so that there may be two things fewer."""
    share: float = 0.5
    """Of the noise levels, from pure noise on, in which things are shaded (section 4.1)."""

    def __post_init__(self) -> None:
        if self.heads < 1 or self.places < 3 or not 0 < self.share <= 1:
            raise ConfigError(
                f"heads must be at least 1, places at least 3 and share in (0, 1], got {self.heads}, {self.places} and "
                f"{self.share}."
            )


class Shading(nn.Module):
    """One cross-attention taken apart.

    Args:
        width: of the cells.
        context: of text states.
        config: of the adapter.
    """

    def __init__(self, width: int, context: int, config: MIGCConfig) -> None:
        super().__init__()
        self.enhance = EnhancementAttention(width, context, config.heads)
        self.layout = LayoutAttention(width, config.heads)
        self.mix = ShadingAggregation(width, config.places)

    def forward(
        self, cells: Tensor, ground: Tensor, things: Tensor, described: Tensor, boxes: Tensor, regions: Tensor
    ) -> Tensor:
        """What takes the place of the attention's output, `b n width`.

        Args:
            cells: what the attention reads, `b n width`.
            ground: its output for the prompt, `b n width`.
            things: its output for every thing's description, `b r n width`.
            described: the end of every description, `b r context`.
            boxes: `b r 4`; without extent where there is no thing.
            regions: how much of every cell lies in each box, `b r rows columns`.
        """
        flat = regions.flatten(2).to(cells)
        outside = 1 - flat.amax(1, keepdim=True)
        shaded = (things + self.enhance(cells, described, boxes)) * flat.unsqueeze(-1)
        free = ground * outside[:, 0, :, None]
        whole = self.layout(cells, torch.cat([flat, outside], dim=1))
        shadings = torch.cat([free[:, None], shaded, whole[:, None]], dim=1)
        where = torch.cat([outside, flat, torch.ones_like(outside)], dim=1).unflatten(2, regions.shape[-2:])
        always = torch.ones(len(boxes), 1, dtype=torch.bool, device=boxes.device)
        return self.mix(shadings, where, torch.cat([always, known_boxes(boxes), always], dim=1))


class MIGC(AbstractReferenceAdapter):
    """A shading beside some of the base's cross-attentions; the base stays as it is.

    Differs from MIGC in that descriptions are the nouns of the albums, where the paper has phrases that a parser found
    in captions; that the loss against attention outside of boxes is left out; that things keep their order, where the
    released code shuffles their places in the controller; that the layout attention knows all boxes, where that code
    leaves out the first; and that places for things that are not there do not take part in the mean.

    Args:
        config: of the adapter.
        widths: of what asks in every cross-attention that is taken apart, by its path.
        context: of text states.
    """

    sees: Sees = "nothing"
    asks_noun = True
    asks_masks = True
    asks_boxes = True
    several = True
    enters = True

    def __init__(self, config: MIGCConfig, widths: Mapping[str, int], context: int) -> None:
        super().__init__()
        self.config, self.width, self.context = config, 0, context
        self.names = {path: path.replace(".", "_") for path in widths}
        self.shadings = nn.ModuleDict({self.names[p]: Shading(width, context, config) for p, width in widths.items()})

    @classmethod
    def untrained(cls, config: MIGCConfig, backbone: AbstractBackbone, reading: Reading, seed: int) -> "MIGC":
        """Nothing of it is the base's."""
        widths = query_widths(backbone)
        upward = [path.split(".attentions.")[0] for path in widths if path.startswith("up_blocks.")]
        chosen = ("mid_block.", f"{upward[0]}." if upward else "mid_block.")
        return cls(config, {p: w for p, w in widths.items() if p.startswith(chosen)}, context_width(backbone))

    def check(self, backbone: AbstractBackbone) -> None:
        """See `AbstractReferenceAdapter.check`."""
        check_context("migc", self.context, backbone)

    def _told(self, asked: Asked) -> Conditioning:
        """See `AbstractReferenceAdapter.conditioned`. Pictures are not looked at; nouns are descriptions."""
        told, given = asked.encoded(), asked.shown.boxes
        if given is None:
            return told
        boxes = given.float().to(told.states.device)
        boxes = boxes * (known_boxes(boxes) & asked.present).unsqueeze(-1)
        if not known_boxes(boxes).any():
            return told
        if boxes.shape[1] > self.config.places - 2:
            raise ConfigError(
                f"this adapter has room for {self.config.places - 2} things, got {boxes.shape[1]}; say fewer boxes."
            )
        nouns = [noun for own in asked.shown.nouns for noun in own]
        described = asked.encode(nouns, size=asked.size)
        states = described.states.unflatten(0, boxes.shape[:2])
        ends = described.states[torch.arange(len(nouns)), self._ends(asked.backbone, nouns)].unflatten(
            0, boxes.shape[:2]
        )
        strength = asked.scale * known_boxes(boxes).any(1).to(states)
        told = beside(told, _STATES, states.flatten(1, 2), strength)
        return beside(beside(told, _ENDS, ends, strength), _BOXES, boxes, strength)

    def _ends(self, backbone: AbstractBackbone, texts: list[str]) -> list[int]:
        """Where each text's end mark stands: its state is what the text encoder makes of the whole text."""
        tokenizer = backbone.tokenizers[0]
        limit = tokenizer.model_max_length
        return [len(tokenizer(text, truncation=True, max_length=limit).input_ids) - 1 for text in texts]

    @contextlib.contextmanager
    def inserted(self, backbone: AbstractBackbone, scale: float = 1.0) -> Iterator[None]:
        """See `AbstractReferenceAdapter.inserted`: attentions are taken apart while rows with things are denoised."""
        with super().inserted(backbone, scale), answering(backbone, _BOXES, self._answered(backbone)):
            yield

    def _answered(self, backbone: AbstractBackbone) -> Any:
        def answered(predict: Predict, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
            boxes = read_of(conditioning, _BOXES)
            early = timesteps.expand(len(noisy)) >= (1 - self.config.share) * backbone.schedule.num_train_timesteps
            if boxes is None or not bool(early.any()):
                return predict(noisy, timesteps, conditioning)
            strength = boxes.strength * early.to(boxes.strength)
            states, ends = read_of(conditioning, _STATES), read_of(conditioning, _ENDS)
            assert states is not None
            assert ends is not None
            things = _Things(states.vectors, ends.vectors, boxes.vectors, strength, (noisy.shape[2], noisy.shape[3]))
            within = lambda: self._apart(backbone, things)  # noqa: E731
            with recomputing_inside(backbone.denoiser, within), within():
                return predict(noisy, timesteps, conditioning)

        return answered

    @contextlib.contextmanager
    def _apart(self, backbone: AbstractBackbone, things: "_Things") -> Iterator[None]:
        handles = []
        try:
            for path, name in self.names.items():
                shading = cast(Shading, self.shadings[name])
                handles.append(backbone.denoiser.get_submodule(path).register_forward_hook(things.hook(shading)))
            yield
        finally:
            for handle in handles:
                handle.remove()


class _Things:
    """What a batch is told of things."""

    def __init__(self, states: Tensor, ends: Tensor, boxes: Tensor, strength: Tensor, size: tuple[int, int]) -> None:
        self.states, self.ends, self.boxes, self.strength, self.size = states, ends, boxes, strength, size

    def hook(self, shading: Shading) -> Any:
        """For a cross-attention."""

        def apart(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            cells = inputs[0].to(self.states)
            grid = token_grid(cells.shape[1], self.size)
            regions = covered(self.boxes, *grid)
            things = self.attended(module, cells)
            made = shading(cells, output.to(cells), things, self.ends, self.boxes, regions)
            return torch.lerp(output, made.to(output), self.strength.to(output)[:, None, None])

        return apart

    def attended(self, attention: Any, cells: Tensor) -> Tensor:
        """What the base's attention makes of the cells for every description, `b r n width`."""
        count = self.boxes.shape[1]
        read = self.states.unflatten(1, (count, -1)).flatten(0, 1)
        weight = attention.to_k.weight.dtype
        query = in_heads(attention.to_q(cells.to(attention.to_q.weight.dtype)), attention.heads)
        keys, values = (in_heads(layer(read.to(weight)), attention.heads) for layer in (attention.to_k, attention.to_v))
        found = side_by_side(attend(query.repeat_interleave(count, 0), keys, values, attention.scale))
        for layer in attention.to_out:
            found = layer(found)
        return found.to(cells).unflatten(0, (-1, count))


def covered(boxes: Tensor, rows: int, columns: int) -> Tensor:
    """How much of every cell lies in each box, `b r rows columns` in [0, 1]."""

    def along(first: Tensor, last: Tensor, count: int) -> Tensor:
        starts = torch.arange(count, device=boxes.device).to(boxes)
        low, high = (first * count).unsqueeze(-1), (last * count).unsqueeze(-1)
        return (torch.minimum(starts + 1, high) - torch.maximum(starts, low)).clamp(0, 1)

    across, down = along(boxes[..., 0], boxes[..., 2], columns), along(boxes[..., 1], boxes[..., 3], rows)
    return down.unsqueeze(-1) * across.unsqueeze(-2)
