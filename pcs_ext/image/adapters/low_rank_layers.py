"""peft's layers, built one by one around original modules, with a strength that means the same for every method."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcs_ext.image.adapters.layer_adapter import TrainedLayer
from pcs_ext.image.adapters.low_rank_config import LowRankConfig

_SLOT = "default"


class LowRankLayer(TrainedLayer):
    """A peft layer at strength `scale`: base + scale (adapted - base), linear in the weight for every method."""

    def __init__(self, tuner: Any, scaling: float | None, dropout: float = 0.0) -> None:
        super().__init__()
        self.tuner = tuner
        self.dropout = dropout
        """Share of the update's elements that are dropped where gradients are recorded; LoRA alone."""
        self.scale = 1.0
        self._scaling = scaling
        """peft's factor of dW at strength 1; None: the method is not linear in its factor (DoRA, OFT)."""

    @property
    def base_layer(self) -> nn.Module:
        """What `below` says, under the name by which peft's layers walk down a chain to the original."""
        return self.tuner.base_layer

    def below(self) -> nn.Module:
        return self.tuner.base_layer

    def set_below(self, module: nn.Module | None) -> None:
        self.tuner.base_layer = module

    def merge(self, weight: Tensor) -> Tensor:
        weight = weight.float()
        if self._scaling is not None:
            return weight + self.update()
        return torch.lerp(weight, self._merged(weight), self.scale)

    def update(self) -> Tensor:
        """What is added to the weight at the present strength, float32, differentiable; for linear methods."""
        assert self._scaling is not None, "this method's update is not linear in its factor"
        self.tuner.scaling[_SLOT] = self._scaling * self.scale
        return self.tuner.get_delta_weight(_SLOT)

    def _merged(self, weight: Tensor) -> Tensor:
        """At strength 1, where the method is not linear in its factor: DoRA, rows of W + dW at learned norms."""
        update = self.tuner.get_delta_weight(_SLOT)
        norm = (self.weight.float() + update).flatten(1).norm(dim=1)
        magnitude = self.tuner.lora_magnitude_vector[_SLOT].weight.flatten()
        return (weight + update) * (magnitude / norm).view(-1, *[1] * (weight.dim() - 1))

    def tensors(self) -> dict[str, nn.Parameter]:
        """The trained parameters under the names peft gives them in files."""
        named = self.tuner.named_parameters()
        return {_file_name(name): value for name, value in named if not name.startswith("base_layer.")}

    def forward(self, x: Tensor) -> Tensor:
        """As the base layer; same shapes and dtype."""
        if self.scale == 0:
            return self.below()(x)
        if self.dropout > 0 and torch.is_grad_enabled():
            return self._dropped(x)
        # Under autocast the matrix products pick their own precision; peft's cast to float32 would only be undone.
        self.tuner.cast_input_dtype_enabled = not torch.is_autocast_enabled(x.device.type)
        if self._scaling is not None:
            self.tuner.scaling[_SLOT] = self._scaling * self.scale
            return self.tuner(x)
        adapted = self._adapted(x)
        if self.scale == 1:
            return adapted
        return torch.lerp(self.below()(x), adapted, self.scale)

    def _adapted(self, x: Tensor) -> Tensor:
        return self.tuner(x)

    def _dropped(self, x: Tensor) -> Tensor:
        """With a part of the update left out, the rest scaled by 1 / (1 - p).

        Differs from peft, which drops elements of the layer's input: on the update, as MotionDirector's released code
        has it, q, k and v share one input instead of keeping a masked copy each for the backward pass.
        """
        assert self._scaling is not None, "dropout is for LoRA"
        down, up = self.tuner.lora_A[_SLOT], self.tuner.lora_B[_SLOT]
        base = self.below()(x)
        own = x if torch.is_autocast_enabled(x.device.type) else x.to(down.weight.dtype)
        update = up(down(own) * (self._scaling * self.scale / (1 - self.dropout))).to(base.dtype)
        return torch.addcmul(base, update, kept(update, self.dropout))


class LoraLinearLayer(LowRankLayer):
    """LoRA of a linear layer. Same values as peft's forward, with the scale folded into B and one sum less."""

    def forward(self, x: Tensor) -> Tensor:
        """As the base layer; same shapes and dtype."""
        down, up = self.tuner.lora_A[_SLOT].weight, self.tuner.lora_B[_SLOT].weight
        dropping = self.dropout > 0 and torch.is_grad_enabled()
        same = torch.is_autocast_enabled(x.device.type) or x.dtype == down.dtype
        if self.scale == 0 or dropping or not same:
            return super().forward(x)
        assert self._scaling is not None
        base, hidden = self.below()(x), F.linear(x, down)
        scaled = up.T * (self._scaling * self.scale)
        return torch.addmm(base.flatten(0, -2), hidden.flatten(0, -2), scaled).view_as(base)


def kept(like: Tensor, dropout: float) -> Tensor:
    """1 where dropout keeps an element, else 0; shape and dtype of `like`, from torch's default generator.

    On the CPU torch draws every element from a number of its own, which took a quarter of a MotionDirector step; 16
    bits decide as well (the share dropped is off by less than 1e-5), and one 64-bit number has them for four.
    """
    if like.device.type != "cpu":
        return torch.empty_like(like).bernoulli_(1 - dropout)
    bits = torch.empty(-(-like.numel() // 4), dtype=torch.int64, device=like.device).random_(-(2**63), None)
    least = round(dropout * 2**16) - 2**15
    mask = torch.empty_like(like, memory_format=torch.contiguous_format)
    return torch.ge(bits.view(torch.int16)[: like.numel()].view(like.shape), least, out=mask)


class OftLinearLayer(LowRankLayer):
    """OFT of a linear layer: its inputs are rotated before everything below."""

    def _merged(self, weight: Tensor) -> Tensor:
        return weight @ self.tuner.get_delta_weight(_SLOT).T


class OftConvLayer(LowRankLayer):
    """OFT of a convolution, rotating the flattened kernel.

    Differs from peft: its forward rotates image patches and adds them up again where they overlap, which does not
    return the input even when the rotation is the identity (kernels above 1 x 1). This is the formula its own merge
    uses: W' = W R^T over in*k*k inputs.
    """

    def _merged(self, weight: Tensor) -> Tensor:
        return weight + self._difference()

    def _difference(self) -> Tensor:
        """W R^T - W, float32."""
        weight = self.weight.float()
        rotation = self.tuner.get_delta_weight(_SLOT)
        return (weight.flatten(1) @ rotation.T).view_as(weight) - weight

    def _adapted(self, x: Tensor) -> Tensor:
        conv = self.tuner.get_base_layer()
        difference = self._difference().to(x.dtype)
        return self.below()(x) + F.conv2d(
            x, difference, stride=conv.stride, padding=conv.padding, dilation=conv.dilation, groups=conv.groups
        )


def build_layers(config: LowRankConfig, modules: Mapping[str, nn.Linear | nn.Conv2d]) -> dict[str, LowRankLayer]:
    """peft layers around the given modules, at peft's starting values drawn from `config.init_seed`, in float32.

    The modules themselves are left as they are. One `(path, seed)` gives the same values on every device.
    """
    groups: dict[int, dict[str, nn.Linear | nn.Conv2d]] = {}
    for path, module in modules.items():
        groups.setdefault(_rank(config, module), {})[path] = module
    layers: dict[str, LowRankLayer] = {}
    with _own_randomness(config.init_seed):
        for rank, members in groups.items():
            layers |= _build_group(config, rank, members)
    return {path: layers[path] for path in modules}


def _build_group(
    config: LowRankConfig, rank: int, modules: Mapping[str, nn.Linear | nn.Conv2d]
) -> dict[str, LowRankLayer]:
    from peft import inject_adapter_in_model

    # A flat holder: peft replaces the holder's entries and never sees the backbone.
    slots = {f"layer_{index}": module for index, module in enumerate(modules.values())}
    holder = nn.ModuleDict(slots)
    with _kept_gradient_flags(slots.values()):
        inject_adapter_in_model(_peft_config(config, rank, list(slots)), holder, _SLOT)
    return {path: _finish(config, holder[slot]) for path, slot in zip(modules, slots, strict=True)}


def _finish(config: LowRankConfig, tuner: Any) -> LowRankLayer:
    is_conv = isinstance(tuner.base_layer, nn.Conv2d)
    if config.method == "oft":
        layer = OftConvLayer(tuner, None) if is_conv else OftLinearLayer(tuner, None)
    elif config.method == "lora" and not is_conv:
        layer = LoraLinearLayer(tuner, config.scaling, config.dropout)
    else:
        layer = LowRankLayer(tuner, None if config.method == "dora" else config.scaling, config.dropout)
    for parameter in layer.tensors().values():
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
    # Only after the tensors were listed: a layer that stands nowhere holds no part of the backbone.
    layer.set_below(None)
    return layer.eval()


def _rank(config: LowRankConfig, module: nn.Linear | nn.Conv2d) -> int:
    if config.method != "oft":
        return config.rank
    width = module.weight[0].numel()
    return next(size for size in range(min(config.rank, width), 0, -1) if width % size == 0)


def _peft_config(config: LowRankConfig, rank: int, targets: list[str]) -> Any:
    import peft

    alpha = config.rank if config.alpha is None else config.alpha
    common: dict[str, Any] = {"target_modules": targets}
    if config.method == "oft":
        # Exact Cayley map; peft's default is a truncated series whose rotations are only nearly orthogonal.
        constraint = {} if config.oft_eps is None else {"coft": True, "eps": config.oft_eps}
        return peft.OFTConfig(r=0, oft_block_size=rank, use_cayley_neumann=False, **constraint, **common)
    if config.method == "loha":
        return peft.LoHaConfig(r=rank, alpha=alpha, **common)  # type: ignore[arg-type]
    if config.method == "lokr":
        return peft.LoKrConfig(
            r=rank,
            alpha=alpha,  # type: ignore[arg-type]
            decompose_factor=config.lokr_factor,
            decompose_both=config.lokr_decompose_both,
            **common,
        )
    dora, rslora = config.method == "dora", config.use_rslora
    return peft.LoraConfig(r=rank, lora_alpha=alpha, use_dora=dora, use_rslora=rslora, **common)  # type: ignore[arg-type]


@contextlib.contextmanager
def _own_randomness(seed: int) -> Iterator[None]:
    """peft draws starting values from torch's CPU generator: lend it one state and give the caller's back."""
    state = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.default_generator.set_state(state)


@contextlib.contextmanager
def _kept_gradient_flags(modules: Any) -> Iterator[None]:
    """peft freezes everything it wraps, also what another adapter trains."""
    flags = [(parameter, parameter.requires_grad) for module in modules for parameter in module.parameters()]
    yield
    for parameter, flag in flags:
        parameter.requires_grad_(flag)


def _file_name(name: str) -> str:
    """peft's file name of a parameter: without the slot, and DoRA's magnitude without its `.weight`."""
    name = name.replace(f".{_SLOT}", "")
    return name.removesuffix(".weight") if name.startswith("lora_magnitude_vector") else name
