"""Changes of a base's weights as files spell them: kohya, diffusers, peft, and artifacts of this suite."""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from pcs_ext.defense.audit.foreign import told
from pcs_ext.defense.audit.strength import Strength
from pcs_ext.errors import ArtifactError

Form = Literal["low-rank", "hadamard", "difference", "weight"]
_COMPONENTS = {
    "lora_unet_": "denoiser",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
    "lora_te_": "text_encoder",
    "unet.": "denoiser",
    "denoiser.": "denoiser",
    "text_encoder_2.": "text_encoder_2",
    "text_encoder.": "text_encoder",
    "base_model.model.": "",
}
_SUFFIX = re.compile(
    r"\.(lora_down\.weight|lora_up\.weight|lora_A\.weight|lora_B\.weight|lora\.down\.weight|lora\.up\.weight"
    r"|hada_w[12]_[ab]|diff|delta|alpha)$"
)
_NAMES = {
    "lora_down.weight": "down",
    "lora_A.weight": "down",
    "lora.down.weight": "down",
    "lora_up.weight": "up",
    "lora_B.weight": "up",
    "lora.up.weight": "up",
    "diff": "difference",
    "delta": "difference",
}
_OPAQUE = re.compile(r"lora_magnitude_vector|dora_scale|lokr_|oft_|hada_t|lora_mid")
"""Parts that change what the others mean, and that are not computed here."""
_LARGEST = 1 << 28
"""Numbers of a weight: four times those of the largest token table."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LayerChange:
    """What a file does to one weight of the base."""

    component: str
    """`denoiser`, `text_encoder`, `text_encoder_2`, or empty where the file does not say."""
    name: str
    """Path of the module (of the weight, for `weight`), with dots or, in kohya's files, underscores."""
    form: Form
    tensors: dict[str, Tensor]
    """`down r i...`, `up o r...`; `hada_w1_a`...; `difference`; `weight`."""
    scale: float = 1.0
    """What the product is multiplied by."""

    @property
    def rank(self) -> int | None:
        """Of the change; None: full."""
        if self.form == "low-rank":
            return self.tensors["down"].shape[0]
        return self.tensors["hada_w1_b"].shape[0] if self.form == "hadamard" else None

    def delta(self, weight: Tensor) -> Tensor:
        """What is added to the base's weight, float32, of its shape.

        Raises:
            ArtifactError: the shapes do not fit: made for another base, or damaged; or the change is not finite.
        """
        try:
            change = self._delta(weight.detach().float())
        except RuntimeError as error:
            raise ArtifactError(
                f"{told(self.name)} does not fit a weight of {tuple(weight.shape)} ({error}); was it made for another "
                "base?"
            ) from None
        return finite(change, self.name)

    def _delta(self, weight: Tensor) -> Tensor:
        parts = {key: tensor.float().to(weight.device) for key, tensor in self.tensors.items()}
        if self.form == "weight":
            return parts["weight"].reshape(weight.shape) - weight
        if self.form == "difference":
            return parts["difference"].reshape(weight.shape) * self.scale
        if self.form == "hadamard":
            product = (parts["hada_w1_a"] @ parts["hada_w1_b"]) * (parts["hada_w2_a"] @ parts["hada_w2_b"])
        else:
            product = parts["up"].flatten(1) @ parts["down"].flatten(1)
        return product.reshape(weight.shape) * self.scale

    def singular_values(self) -> Tensor | None:
        """Of the change itself, largest first; None where only the base tells it (`weight`).

        Raises:
            ArtifactError: the change is not finite.
        """
        if self.form == "weight":
            return None
        try:
            return finite(self._spectrum(), self.name)
        except RuntimeError:  # what LAPACK says of infinite numbers
            raise _overflow(self.name) from None

    def _spectrum(self) -> Tensor:
        if self.form == "low-rank":
            # Of up @ down without making it: the r x r core between the factors' orthonormal parts.
            left = torch.linalg.qr(self.tensors["up"].float().flatten(1)).R
            right = torch.linalg.qr(self.tensors["down"].float().flatten(1).T).R
            return torch.linalg.svdvals(left @ right.T) * abs(self.scale)
        shape = self.tensors["difference"] if self.form == "difference" else self._hadamard_shape()
        return torch.linalg.svdvals(self._delta(torch.zeros(shape.shape)).flatten(1))

    def _hadamard_shape(self) -> Tensor:
        return torch.empty(self.tensors["hada_w1_a"].shape[0], self.tensors["hada_w1_b"].shape[1])


def finite(values: Tensor, name: str) -> Tensor:
    """The values themselves.

    Raises:
        ArtifactError: one is infinite or no number. Every comparison with such a number is false, so that all probes
            behind it would find nothing.
    """
    if bool(values.isfinite().all()):
        return values
    raise _overflow(name)


def _overflow(name: str) -> ArtifactError:
    return ArtifactError(
        f"the change of {told(name)} is not finite in numbers of 32 bits, so it cannot be judged; it is no use."
    )


def parse_layers(
    tensors: Mapping[str, Tensor], *, strength: Strength | None = None
) -> tuple[list[LayerChange], list[str]]:
    """Changes by layer, and the keys that were not understood.

    Args:
        tensors: of the file.
        strength: of each layer, as settings beside the tensors say; None, and where they say nothing: alpha / rank
            where the file has a tensor alpha, else 1.

    Raises:
        ArtifactError: a layer's factors do not fit each other, or its strength cannot be told.
    """
    groups: dict[tuple[str, str], dict[str, Tensor]] = {}
    layers, unread = [], []
    for key, tensor in tensors.items():
        component, rest = _component(key)
        match = _SUFFIX.search(rest)
        if component is None or _OPAQUE.search(rest):
            unread.append(key)
        elif match is None:
            whole = rest.endswith((".weight", ".bias")) and component != "" and "lora" not in rest
            if whole:
                layers.append(LayerChange(component=component, name=rest, form="weight", tensors={"weight": tensor}))
            else:
                unread.append(key)
        else:
            groups.setdefault((component, rest[: match.start()]), {})[_NAMES.get(match[1], match[1])] = tensor
    opaque = {_module(key) for key in unread if _OPAQUE.search(key)}
    for (component, name), parts in groups.items():
        layer = _layer(component, name, parts, strength)
        if layer is None or any(name and module.endswith(name) for module in opaque):
            unread += [f"{component}.{name}.{part}" for part in parts]
        else:
            layers.append(layer)
    return layers, unread


def _component(key: str) -> tuple[str | None, str]:
    for prefix, component in _COMPONENTS.items():
        if key.startswith(prefix):
            return component, key.removeprefix(prefix)
    return None, key


def _module(key: str) -> str:
    rest = _component(key)[1]
    return re.sub(r"\.(lora_magnitude_vector(\.weight)?|dora_scale|lokr_\w+|oft_\w+(\.weight)?|hada_t\d|lora_mid.*)$",
                  "", rest)  # fmt: skip


def _layer(component: str, name: str, parts: dict[str, Tensor], strength: Strength | None) -> LayerChange | None:
    alpha = parts.pop("alpha", None)
    form: Form
    if parts.keys() == {"down", "up"}:
        form, products = "low-rank", [("up", "down")]
    elif parts.keys() == {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}:
        form, products = "hadamard", [("hada_w1_a", "hada_w1_b"), ("hada_w2_a", "hada_w2_b")]
    elif parts.keys() == {"difference"}:
        return LayerChange(component=component, name=name, form="difference", tensors=parts)
    else:
        return None
    for first, second in products:
        _check_product(parts[first], parts[second], name)
    scale = _scale(component, name, parts[products[0][1]].shape[0], alpha, strength)
    return LayerChange(component=component, name=name, form=form, tensors=parts, scale=scale)


def _scale(component: str, name: str, rank: int, alpha: Tensor | None, strength: Strength | None) -> float:
    """What settings say, else the tensor alpha over the rank, else 1."""
    if alpha is not None and alpha.numel() != 1:
        raise ArtifactError(f"alpha of {told(name)} has the shape {tuple(alpha.shape)}; expected one number. Damaged?")
    own = None if alpha is None else float(alpha) / max(rank, 1)
    said = None if strength is None else strength(component, name, rank)
    if own is not None and said is not None and not math.isclose(own, said, rel_tol=1e-3):
        raise ArtifactError(
            f"{told(name)} has two strengths: {own:.3g} by its tensor alpha, {said:.3g} by the settings beside it. "
            "Loaders differ in which one they take, so one audit cannot stand for the file."
        )
    scale = own if said is None else said
    return 1.0 if scale is None else scale


def _check_product(first: Tensor, second: Tensor, name: str) -> None:
    """Two factors `o r...` and `r i...` can be multiplied, and into no more numbers than a layer has.

    Raises:
        ArtifactError: else; a small file could ask for terabytes.
    """
    shapes = f"{tuple(first.shape)} and {tuple(second.shape)}"
    fits = min(first.dim(), second.dim()) >= 2 and first.flatten(1).shape[1] == second.shape[0] > 0
    if not fits:
        raise ArtifactError(f"the factors of {told(name)} are {shapes}, which cannot be multiplied; it is damaged.")
    if first.shape[0] * second.flatten(1).shape[1] > _LARGEST:
        raise ArtifactError(
            f"the factors of {told(name)} are {shapes}; no layer of a base is as large as their product."
        )
