"""CatVersion (Zhao et al. 2023, arXiv 2311.14631): learned keys and values beside those of the text's own words.

They stand in front in the last self-attentions of the text encoder, in prompts about the subject. What attention gives
is then (1 - a) times what it gave plus a times a mean of the learned values, a being the share that the learned keys
draw: a residual on the class noun's meaning.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters.base import AbstractAdapter
from pcs_ext.image.adapters.layers import (
    canonical_path,
    check_name,
    check_state,
    copy_into,
    original_modules,
    to_storage,
)
from pcs_ext.image.adapters.tokens import check_placeholder
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.prompt_programs import Encode, add_program, remove_program
from pcs_ext.image.types import Conditioning


@config
class TextPrefixConfig:
    """Learned keys and values in every text encoder; the defaults are the released code's: 4,608 numbers on SD 1.x."""

    kind: Literal["text_prefix"] = "text_prefix"
    """Tag of this adapter in JSON."""
    placeholder: str = "<subject>"
    """Marks the prompts that get them; it is taken out before they are encoded."""
    num_vectors: int = 1
    """Pairs of a key and a value per layer."""
    layers: int = 3
    """How many of the encoder's last self-attentions (of SDXL's, of those that condition the denoiser)."""
    init_std: float = 1.0
    """Standard deviation of the starting values."""
    init_seed: int = 0
    """Seed of those."""

    def __post_init__(self) -> None:
        check_placeholder(self.placeholder, self.num_vectors)
        if self.layers < 1 or self.init_std <= 0:
            raise ConfigError(f"layers must be at least 1 and init_std positive, got {self.layers}, {self.init_std}.")


class Prefix(nn.Module):
    """Key and value of one self-attention, `n d` each."""

    def __init__(self, width: int, config: TextPrefixConfig, generator: torch.Generator) -> None:
        super().__init__()
        shape = config.num_vectors, width
        self.key = nn.Parameter(config.init_std * torch.randn(shape, generator=generator))
        self.value = nn.Parameter(config.init_std * torch.randn(shape, generator=generator))


def attend_with_prefix(attention: Any, hidden: Tensor, prefix: Prefix) -> Tensor:
    """What a causal self-attention of CLIP gives when every position also sees the prefix, `b n d`.

    Args:
        attention: transformers' CLIPAttention.
        hidden: `b n d`.
        prefix: not shifted or scaled, and before no position's mask.
    """
    b, length, _ = hidden.shape

    def heads(states: Tensor) -> Tensor:
        return states.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)

    queries, keys, values = (
        projection(hidden) for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    keys, values = (
        torch.cat([own.to(states).expand(b, -1, -1), states], 1)
        for own, states in ((prefix.key, keys), (prefix.value, values))
    )
    seen = torch.ones(length, keys.shape[1], dtype=torch.bool, device=hidden.device).tril(len(prefix.key))
    mixed = F.scaled_dot_product_attention(heads(queries), heads(keys), heads(values), seen, scale=attention.scale)
    return attention.out_proj(mixed.transpose(1, 2).flatten(2))


class _Prefixed:
    """In place of one module's `forward`: the adapters' prefixes, one after another, on the rows they are meant for."""

    def __init__(self, module: Any) -> None:
        self.module, self.original = module, module.forward
        self.adapters: dict[str, tuple[TextPrefixAdapter, Prefix]] = {}

    def __call__(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Any]:
        output, weights = self.original(hidden_states, *args, **kwargs)
        for adapter, prefix in self.adapters.values():
            rows = adapter.rows()
            if rows is not None:
                told = attend_with_prefix(self.module, hidden_states, prefix).to(output.dtype)
                blended = torch.lerp(output, told, adapter.scale)
                output = torch.where(rows.to(output.device)[:, None, None], blended, output)
        return output, weights


class TextPrefixAdapter(AbstractAdapter):
    """Prefixes of text self-attentions; state: `<text encoder>.<module path>.{key,value}`.

    At scale s the attentions give original + s (with prefix - original).
    """

    scale = 1.0

    def __init__(self, name: str, config: TextPrefixConfig) -> None:
        self.name = check_name(name)
        self.config = config
        self._prefixes: dict[str, Prefix] = {}
        self._modules: list[Any] = []
        self._backbone: AbstractBackbone | None = None
        self._pending: dict[str, Tensor] | None = None
        self._marked: Tensor | None = None

    def inject(self, backbone: AbstractBackbone) -> None:
        """Stand in the self-attentions and around `encode_prompt`.

        Raises:
            ConfigError: an encoder has fewer layers than asked for.
            ArtifactError: loaded tensors do not fit this backbone.
        """
        assert self._backbone is None, f"adapter {self.name!r} is injected already"
        modules = self._find(backbone)
        if not self._prefixes:
            self._build(modules)
        assert modules.keys() == self._prefixes.keys(), "injected into a backbone of another layout"
        for key, module in modules.items():
            self._prefixes[key].to(backbone.device)
            if not isinstance(vars(module).get("forward"), _Prefixed):
                module.forward = _Prefixed(module)
            module.forward.adapters[self.name] = self, self._prefixes[key]
        add_program(backbone, self._key, self._program)
        self._modules, self._backbone = list(modules.values()), backbone

    def _find(self, backbone: AbstractBackbone) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for component, root in backbone.components().items():
            if not component.startswith("text_encoder"):
                continue
            attentions = [(path, module) for path, module in original_modules(root) if path.endswith(".self_attn")]
            if backbone.family == "sdxl":
                attentions = attentions[:-1]  # what conditions its denoiser are the states before the last layer
            if len(attentions) < self.config.layers:
                raise ConfigError(
                    f"{component} of {backbone.name} has {len(attentions)} self-attentions that count; layers is "
                    f"{self.config.layers}, expected at most that."
                )
            for path, module in attentions[-self.config.layers :]:
                found[f"{component}.{canonical_path(component, path)}"] = module
        return found

    def _build(self, modules: Mapping[str, Any]) -> None:
        generator = torch.Generator().manual_seed(self.config.init_seed)
        prefixes = {key: Prefix(module.embed_dim, self.config, generator) for key, module in modules.items()}
        if self._pending is not None:
            _load(self.name, prefixes, self._pending)
        self._prefixes, self._pending = prefixes, None

    def eject(self) -> None:
        assert self._backbone is not None, f"adapter {self.name!r} is not injected"
        for module in self._modules:
            del module.forward.adapters[self.name]
            if not module.forward.adapters:
                del module.forward
        remove_program(self._backbone, self._key)
        self._modules, self._backbone = [], None

    @property
    def _key(self) -> str:
        return f"text_prefix {self.name}"

    def rows(self) -> Tensor | None:
        """Which of the prompts that are encoded now get the prefixes, `b` bool; None: none is encoded, or none does."""
        return self._marked if self.scale != 0 else None

    def _program(self, encode: Encode, prompts: Sequence[str], size: tuple[int, int] | None) -> Conditioning:
        word = self.config.placeholder
        marked = torch.tensor([word in prompt for prompt in prompts])
        if not marked.any():
            return encode(prompts, size=size)
        with self._reading(marked):
            return encode([" ".join(prompt.replace(word, " ").split()) for prompt in prompts], size=size)

    @contextlib.contextmanager
    def _reading(self, marked: Tensor) -> Iterator[None]:
        self._marked = marked
        try:
            yield
        finally:
            self._marked = None

    def parameters(self) -> Mapping[str, tuple[nn.Parameter, ...]]:
        assert self._prefixes, f"adapter {self.name!r} has no parameters before it is injected"
        return {"embedding": tuple(p for prefix in self._prefixes.values() for p in prefix.parameters())}

    def state_dict(self) -> dict[str, Tensor]:
        if self._pending is not None:
            return dict(self._pending)
        return {key: to_storage(tensor) for key, tensor in _tensors(self._prefixes).items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        if self._prefixes:
            _load(self.name, self._prefixes, state)
        else:
            self._pending = {key: to_storage(tensor) for key, tensor in state.items()}

    def set_scale(self, scale: float) -> None:
        self.scale = scale


def _tensors(prefixes: Mapping[str, Prefix]) -> dict[str, nn.Parameter]:
    return {f"{key}.{name}": value for key, prefix in prefixes.items() for name, value in prefix.named_parameters()}


def _load(name: str, prefixes: Mapping[str, Prefix], state: Mapping[str, Tensor]) -> None:
    tensors = _tensors(prefixes)
    check_state(name, tensors, state)
    copy_into(tensors, state)
