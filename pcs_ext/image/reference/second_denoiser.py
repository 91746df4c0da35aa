"""A second denoiser that reads pictures' latents, and what pictures it is given beside which prompts."""

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.reference.base import context_width
from pcs_ext.image.reference.entering import entering
from pcs_ext.image.reference.inside import beside, read_of
from pcs_ext.image.types import Conditioning

LATENTS = "reference_latents"
"""Name of the latents in `Conditioning.shown`, and the beginning of the others'."""
_STATES, _POOLED = f"{LATENTS}_text", f"{LATENTS}_pooled"


@dataclasses.dataclass(frozen=True, kw_only=True)
class References:
    """Pictures of the rows that see some: `m` rows, `r` pictures each."""

    rows: Tensor
    """Which rows of the batch, `m`."""
    counted: Tensor
    """How strongly the pictures of every row of the batch count, `b`, 0 where there are none."""
    latents: Tensor
    """`m r c h w`."""
    states: Tensor
    """What they show in words, `m*r n d`."""
    added: dict[str, Tensor] | None
    """Pooled text and sizes, `m*r ...` (SDXL)."""

    @property
    def asked(self) -> Conditioning:
        """Of what they show, `m*r`, as a base's own denoiser is asked for them."""
        added = self.added or {}
        return Conditioning(states=self.states, pooled=added.get("text_embeds"), time_ids=added.get("time_ids"))

    def placed(self, found: Tensor, batch: int) -> Tensor:
        """Cells of the pictures `m*r cells width`, those of a row side by side, `batch r*cells width`; zeros in rows
        that have none."""
        wide = found.unflatten(0, (-1, self.latents.shape[1])).flatten(1, 2)
        return wide.new_zeros(batch, *wide.shape[1:]).index_copy(0, self.rows.to(wide.device), wide)


def with_references(told: Conditioning, latents: Tensor, counted: Tensor, said: Conditioning) -> Conditioning:
    """Conditioning that also holds pictures for a second denoiser, which `references_of` reads.

    Args:
        told: of `b` prompts.
        latents: `b r c h w`.
        counted: `b`, how strongly a row's count.
        said: of what every picture shows, `b*r` texts.
    """
    count = latents.shape[1]
    held = beside(told, LATENTS, latents.flatten(2), counted)
    held = beside(held, _STATES, said.states.unflatten(0, (-1, count)).flatten(1, 2), counted)
    return held if said.pooled is None else beside(held, _POOLED, said.pooled.unflatten(0, (-1, count)), counted)


def references_of(conditioning: Conditioning, channels: int) -> References | None:
    """What `with_references` put there; None: no row of the batch has any.

    Args:
        conditioning: of a batch.
        channels: of the latents, which are square.
    """
    held, said, pooled = (read_of(conditioning, name) for name in (LATENTS, _STATES, _POOLED))
    if held is None or said is None or not len(held.seen):
        return None
    rows, flat = held.seen, held.vectors[held.seen]
    count, side = flat.shape[1], round((flat.shape[2] / channels) ** 0.5)
    added = None
    if pooled is not None and conditioning.time_ids is not None:
        sizes = conditioning.time_ids[rows.to(conditioning.time_ids.device)].repeat_interleave(count, 0)
        added = {"text_embeds": pooled.vectors[rows].flatten(0, 1), "time_ids": sizes}
    return References(
        rows=rows,
        counted=held.strength,
        latents=flat.unflatten(2, (channels, side, side)),
        states=said.vectors[rows].unflatten(1, (count, -1)).flatten(0, 1),
        added=added,
    )


class ReferenceDenoiser(nn.Module):
    """A copy of a denoiser, of which what enters some self-attentions is kept; the weights behind the last are let go.

    Args:
        backbone: whose denoiser is copied, with nothing in it.
        paths: of those self-attentions, in forward order.
    """

    def __init__(self, backbone: AbstractBackbone, paths: Sequence[str]) -> None:
        super().__init__()
        self.net: Any = copy.deepcopy(backbone.denoiser).float()
        self.net.disable_gradient_checkpointing()
        self.paths = tuple(paths)
        self._let_go(context_width(backbone))

    def forward(
        self, noisy: Tensor, timesteps: Tensor, states: Tensor, added: dict[str, Tensor] | None
    ) -> dict[str, Tensor]:
        """Noisy latents `b c h w`, timesteps `b` and text states `b n d` -> by path, cells `b n width`."""
        with entering(self.net, self.paths) as kept:
            self.net(noisy, timesteps, encoder_hidden_states=states, added_cond_kwargs=added)
        return kept

    def _let_go(self, context: int) -> None:
        """Weights that no kept cell depends on are found by the gradient of a smallest picture, and dropped."""
        settings, device = self.net.config, next(self.net.parameters()).device
        side = 2 ** (len(settings["block_out_channels"]) - 1)
        noisy = torch.zeros(1, settings["in_channels"], side, side, device=device)
        added = None
        if settings.get("addition_embed_type") == "text_time":
            width = settings["projection_class_embeddings_input_dim"] - 6 * settings["addition_time_embed_dim"]
            added = {"text_embeds": noisy.new_zeros(1, width), "time_ids": noisy.new_zeros(1, 6)}
        named = dict(self.net.named_parameters())
        with torch.inference_mode(False), torch.enable_grad():
            for parameter in named.values():
                parameter.requires_grad_(True)
            cells = self(noisy, torch.zeros(1, device=device), noisy.new_zeros(1, 1, context), added)
            total = torch.stack([cell.sum() for cell in cells.values()]).sum()
            gradients = torch.autograd.grad(total, list(named.values()), allow_unused=True)
        for name, gradient in zip(named, gradients, strict=True):
            if gradient is None:
                owner, _, leaf = name.rpartition(".")
                self.net.get_submodule(owner)._parameters[leaf] = None

    def read(self, given: References, noisy: Tensor, times: Tensor, batch: int) -> dict[str, Tensor]:
        """What is kept of given pictures, side by side: by path `b r*cells width`, zeros in rows that have none.

        Args:
            given: the pictures.
            noisy: their latents as they enter, `m r c h w`.
            times: of every row that has some, `m`.
            batch: b.
        """
        like, count = next(self.parameters()), noisy.shape[1]
        added = None if given.added is None else {name: value.to(like) for name, value in given.added.items()}
        flat = noisy.flatten(0, 1).to(like)
        cells = self(flat, times.repeat_interleave(count), given.states.to(like), added)
        return {path: given.placed(found, batch) for path, found in cells.items()}
