"""Weight adapters of few numbers, through peft: LoRA, DoRA, LoHa, LoKr, OFT."""

from collections.abc import Mapping
from typing import Literal

from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters.base import AbstractAdapter
from pcs_ext.image.adapters.layers import attach, check_name, check_state, copy_into, detach, to_storage
from pcs_ext.image.adapters.low_rank_layers import LowRankLayer, build_layers
from pcs_ext.image.adapters.targets import TargetPreset, check_patterns, matching_layers
from pcs_ext.image.backbone import AbstractBackbone

Method = Literal["lora", "dora", "loha", "lokr", "oft"]
Component = Literal["denoiser", "text_encoder", "text_encoder_2", "motion"]


@config
class LowRankConfig:
    """W' = W + (alpha / rank) dW, with dW as the method has it; OFT: W' = W R^T with R block-orthogonal."""

    kind: Literal["low_rank"] = "low_rank"
    """Tag of this adapter in JSON."""
    method: Method = "lora"
    """lora: dW = B A (Hu et al. 2021, arXiv 2106.09685). dora: rows of W + B A rescaled to learned norms (Liu et al.
    2024, arXiv 2402.09353). loha: (A1 B1) * (A2 B2) elementwise; lokr: C kron (A B) (Yeh et al. 2023, arXiv
    2309.14859). oft: Cayley rotations of the inputs, block by block (Qiu et al. 2023, arXiv 2306.07280)."""
    rank: int = 16
    """Rank r of dW (loha: of each factor; lokr: of the second factor, which is stored full where that is smaller).
    oft: block size; a layer whose width it does not divide takes the largest divisor below it."""
    alpha: float | None = None
    """Scale numerator; None: alpha = rank. oft has none."""
    targets: TargetPreset | tuple[str, ...] = "attention"
    """Layers: a preset, or regular expressions searched in module paths (`text_model.` leads those of encoders)."""
    components: tuple[Component, ...] = ("denoiser",)
    """Parts of the backbone; `motion`: the temporal layers of a video backbone that has them apart."""
    dropout: float = 0.0
    """Of the layer's input, in [0, 1), lora only; active where gradients are recorded. Draws from torch's default
    generator, so a reproducible run must seed that."""
    use_rslora: bool = False
    """Scale alpha / sqrt(rank) instead of alpha / rank (Kalajdzievski 2023, arXiv 2312.03732); lora and dora."""
    lokr_factor: int = -1
    """Size of lokr's first factor; -1: near the square root (smallest file)."""
    lokr_decompose_both: bool = False
    """lokr: also give the first factor a rank."""
    oft_eps: float | None = None
    """oft: radius that the rotations' generators are projected into (constrained OFT); None: free."""
    init_seed: int = 0
    """Seed of the starting values."""

    def __post_init__(self) -> None:
        check_patterns(self.targets)
        if self.rank < 1 or (self.alpha is not None and self.alpha <= 0):
            raise ConfigError(f"rank must be at least 1 and alpha positive, got rank {self.rank}, alpha {self.alpha}.")
        if self.method == "oft" and (self.alpha is not None or self.rank < 2):
            raise ConfigError(
                "oft rotates blocks of at least 2 inputs and has no alpha; set rank >= 2, leave alpha out."
            )
        if not 0 <= self.dropout < 1 or (self.dropout > 0 and self.method != "lora"):
            raise ConfigError(f"dropout must be in [0, 1) and is for lora only, got {self.dropout} with {self.method}.")
        if self.use_rslora and self.method not in ("lora", "dora"):
            raise ConfigError(f"use_rslora is for lora and dora, not {self.method}.")
        if not self.components or len(set(self.components)) != len(self.components):
            raise ConfigError(f"components must be distinct and at least one, got {list(self.components)}.")

    @property
    def scaling(self) -> float:
        """What dW is multiplied by: alpha / rank, or alpha / sqrt(rank) with use_rslora; 1 for oft."""
        alpha = self.rank if self.alpha is None else self.alpha
        if self.method == "oft":
            return 1.0
        return alpha / self.rank**0.5 if self.use_rslora else alpha / self.rank


class LowRankAdapter(AbstractAdapter):
    """peft's layers in front of the targets.

    Each layer is built alone by peft around the original module and then chained by this class: peft's own injection
    into a whole model leaves traces (`peft_config`, gradient flags) and cannot stack different methods. At scale s a
    layer computes with W + s (W' - W), whatever the method.
    """

    def __init__(self, name: str, config: LowRankConfig) -> None:
        self.name = check_name(name)
        self.config = config
        self._layers: dict[str, dict[str, LowRankLayer]] = {}
        self._injected: list[tuple[nn.Module, str, LowRankLayer]] = []
        self._pending: dict[str, Tensor] | None = None
        self._scale = 1.0

    def inject(self, backbone: AbstractBackbone) -> None:
        """Attach. The backbone's outputs do not change until the adapter is trained.

        Raises:
            NoMatchingModulesError: the targets match nothing in one of the components.
            ConfigError: the backbone has no such component.
            ArtifactError: loaded tensors do not fit this backbone.
        """
        assert not self._injected, f"adapter {self.name!r} is injected already"
        modules = pick_components(backbone, self.config.components)
        found = {name: matching_layers(name, module, self.config.targets) for name, module in modules.items()}
        if not self._layers:
            self._build(found)
        for component, targets in found.items():
            assert targets.keys() == self._layers[component].keys(), "injected into a backbone of another layout"
            for path, (place, base) in targets.items():
                layer = self._layers[component][path]
                layer.to(device=base.weight.device)
                attach(modules[component], place, layer)
                self._injected.append((modules[component], place, layer))

    def _build(self, found: Mapping[str, Mapping[str, tuple[str, nn.Linear | nn.Conv2d]]]) -> None:
        flat = {f"{component}.{path}": base for component, t in found.items() for path, (_, base) in t.items()}
        built = build_layers(self.config, flat)
        layers = {component: {p: built[f"{component}.{p}"] for p in targets} for component, targets in found.items()}
        if self._pending is not None:
            _load(self.name, layers, self._pending)
        self._layers, self._pending = layers, None
        self.set_scale(self._scale)

    def layers(self) -> dict[str, LowRankLayer]:
        """The injected layers by `component.path`."""
        return {
            f"{component}.{path}": layer for component, found in self._layers.items() for path, layer in found.items()
        }

    def eject(self) -> None:
        assert self._injected, f"adapter {self.name!r} is not injected"
        for root, place, layer in self._injected:
            detach(root, place, layer)
        self._injected = []

    def parameters(self) -> Mapping[str, tuple[nn.Parameter, ...]]:
        assert self._layers, f"adapter {self.name!r} has no parameters before it is injected"
        return {
            component: tuple(parameter for layer in layers.values() for parameter in layer.tensors().values())
            for component, layers in self._layers.items()
        }

    def state_dict(self) -> dict[str, Tensor]:
        """`<component>.<module path>.<peft's tensor name>`, float32: `denoiser.mid_block...to_q.lora_A.weight`."""
        if self._pending is not None:
            return dict(self._pending)
        return {key: to_storage(tensor) for key, tensor in _tensors(self._layers).items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        if self._layers:
            _load(self.name, self._layers, state)
        else:
            self._pending = {key: to_storage(tensor) for key, tensor in state.items()}

    def set_scale(self, scale: float) -> None:
        self._scale = scale
        for layers in self._layers.values():
            for layer in layers.values():
                layer.scale = scale


def pick_components(backbone: AbstractBackbone, names: tuple[str, ...]) -> dict[str, nn.Module]:
    """The named parts of a backbone.

    Raises:
        ConfigError: it has no such part.
    """
    there = backbone.components()
    missing = [name for name in names if name not in there]
    if missing:
        raise ConfigError(f"backbone {backbone.name} has no component {', '.join(missing)}; it has {sorted(there)}.")
    return {name: there[name] for name in names}


def _tensors(layers: Mapping[str, Mapping[str, LowRankLayer]]) -> dict[str, nn.Parameter]:
    return {
        f"{component}.{path}.{key}": parameter
        for component, by_path in layers.items()
        for path, layer in by_path.items()
        for key, parameter in layer.tensors().items()
    }


def _load(name: str, layers: Mapping[str, Mapping[str, LowRankLayer]], state: Mapping[str, Tensor]) -> None:
    tensors = _tensors(layers)
    check_state(name, tensors, state)
    copy_into(tensors, state)
