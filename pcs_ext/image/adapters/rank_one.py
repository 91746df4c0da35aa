"""Gated rank-one edits with locked keys (Perfusion, Tewel et al. 2023, arXiv 2305.01644)."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters.layer_adapter import Found, LayerAdapter, TrainedLayer
from pcs_ext.image.adapters.targets import TEXT_KEYS_AND_VALUES, matching_layers
from pcs_ext.image.adapters.tokens import check_placeholder
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.concept import neutral_captions
from pcs_ext.image.prompt_programs import Encode, add_program, remove_program
from pcs_ext.image.types import Conditioning

_CAPTION = "a photo of a "


@config
class RankOneConfig:
    """What cross-attention keys and values make of one word: keys of the class word, values that are learned."""

    kind: Literal["rank_one"] = "rank_one"
    """Tag of this adapter in JSON."""
    placeholder: str = "<subject>"
    """The learned word; an adapter of kind embedding before this one brings it."""
    class_noun: str = "object"
    """Whose keys the word has, and whose values it starts at."""
    threshold: float = 0.75
    """beta: relative similarity at which the gate is half open."""
    temperature: float = 0.1
    """tau of the gate, positive."""
    explicit: bool = False
    """No gate: the weights themselves are edited, so that the word gets o and the edit of other inputs is as large as
    their share of it (DemoCaricature, arXiv 2312.04364); threshold and temperature are not asked."""

    def __post_init__(self) -> None:
        check_placeholder(self.placeholder, 1)
        if self.temperature <= 0 or not self.class_noun.strip():
            raise ConfigError(
                f"rank_one needs a positive temperature and a class noun; got {self.temperature}, {self.class_noun!r}."
            )


class Direction:
    """The word's input i under the metric C^-1, C being the uncentred covariance of encoded words.

    All in float32, whatever autocast says: C^-1 is so badly conditioned that in bfloat16 the energy comes out half as
    large again, and gates while training would be others than those in use.

    Args:
        inverse: C^-1, `d d`, float32.
    """

    def __init__(self, inverse: Tensor) -> None:
        self.inverse = inverse
        self.vector: Tensor | None = None

    def point(self, vector: Tensor) -> None:
        """Turn to the word's present encoding, `d`, float32."""
        self.vector = vector
        with _exactly(vector):
            self._dual = self.inverse @ vector
            self._energy = (vector @ self._dual).clamp_min(1e-12)

    def share(self, inputs: Tensor) -> Tensor:
        """(e C^-1 i) / (i C^-1 i), `... 1`: 1 at the word itself, 0 at what is orthogonal to it."""
        with _exactly(inputs):
            return (inputs.float() @ self._dual / self._energy).unsqueeze(-1)


def _exactly(values: Tensor) -> torch.autocast:
    """Outside of autocast, which casts the operands of a product again after `.float()`."""
    return torch.autocast(values.device.type, enabled=False)


class RankOneLayer(TrainedLayer):
    """h = W e' + gate o, with e' = e - share i and gate = sigmoid((share - beta) / tau) (equations 4 and 5).

    Explicit ones: h = (W + (o - W i) (C^-1 i)^T / (i^T C^-1 i)) e = W e + share (o - W i), as in ROME (Meng et al.
    2022, arXiv 2202.05262, eq. 2).

    Differs from the paper, which follows i by a moving average: i is the word's present encoding in a neutral caption,
    so that it is a function of what is stored.
    """

    mergeable = False

    def __init__(self, base: nn.Linear, target: Tensor, config: RankOneConfig, *, trains: bool) -> None:
        super().__init__()
        self.base_layer: nn.Module | None = None
        self.config = config
        self.direction: Direction | None = None
        if trains:
            self.target = nn.Parameter(target.clone())
        else:
            self.register_buffer("target", target.clone(), persistent=False)
        self.target: Tensor
        """o, `out`."""
        self.scale = 1.0

    def below(self) -> nn.Module:
        assert self.base_layer is not None, "this layer stands nowhere"
        return self.base_layer

    def set_below(self, module: nn.Module | None) -> None:
        self.base_layer = module

    def tensors(self) -> dict[str, nn.Parameter]:
        return {"target": self.target} if isinstance(self.target, nn.Parameter) else {}

    def merge(self, weight: Tensor) -> Tensor:
        raise AssertionError("a gated edit is no change of a weight; callers look at `mergeable` first")

    def gate(self, share: Tensor) -> Tensor:
        """In (0, 1): 0.924 at the word, 0.00055 where share is 0, with the paper's beta and tau."""
        return ((share - self.config.threshold) / self.config.temperature).sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """`... in` -> `... out` in the base's dtype."""
        base = self.below()(x)
        if self.scale == 0 or self.direction is None or self.direction.vector is None:
            return base
        share = self.direction.share(x)
        with _exactly(x):
            removed = share * (self.weight.float() @ self.direction.vector)
        edit = (share if self.config.explicit else self.gate(share)) * self.target - removed
        return base + (self.scale * edit).to(base.dtype)


class RankOneAdapter(LayerAdapter[RankOneLayer]):
    """Rank-one edits of all keys and values; state: `denoiser.<path to to_v>.target`.

    Unlike other adapters this one changes the base a little before it is trained: the component along the word is
    taken from every input; an explicit one gives it what the class noun has. It is ejected without a trace as all are.
    """

    def __init__(self, name: str, config: RankOneConfig) -> None:
        super().__init__(name)
        self.config = config
        self._backbone: AbstractBackbone | None = None
        self._direction: Direction | None = None
        self._start = torch.empty(0)

    def inject(self, backbone: AbstractBackbone) -> None:
        """As `LayerAdapter.inject`, and a program on prompts that follows the word.

        Raises:
            ConfigError: the placeholder is no word of the backbone.
        """
        if backbone.token_count(self.config.placeholder) != 1:
            raise ConfigError(
                f"{self.config.placeholder!r} is not one word of {backbone.name}; put an adapter of kind embedding "
                "with this placeholder and one vector before the rank_one adapter."
            )
        with torch.no_grad():
            self._direction = Direction(inverse_covariance(backbone))
            self._start = _encoded(backbone.encode_prompt, backbone, self.config.class_noun)
            self._direction.point(_encoded(backbone.encode_prompt, backbone, self.config.placeholder))
        super().inject(backbone)
        for layer in self.layers().values():
            layer.direction = self._direction
        add_program(backbone, self._key, self._program)
        self._backbone = backbone

    def eject(self) -> None:
        assert self._backbone is not None, f"adapter {self.name!r} is not injected"
        remove_program(self._backbone, self._key)
        super().eject()
        self._backbone = None

    @property
    def _key(self) -> str:
        return f"rank_one {self.name}"

    def _program(self, encode: Encode, prompts: Sequence[str], size: tuple[int, int] | None) -> Conditioning:
        assert self._backbone is not None
        assert self._direction is not None
        with torch.no_grad():
            self._direction.point(_encoded(encode, self._backbone, self.config.placeholder))
        return encode(prompts, size=size)

    def _find(self, backbone: AbstractBackbone) -> Found:
        return {"denoiser": matching_layers("denoiser", backbone.denoiser, TEXT_KEYS_AND_VALUES)}

    def _make(self, bases: Mapping[str, nn.Module]) -> dict[str, RankOneLayer]:
        layers: dict[str, RankOneLayer] = {}
        for path, base in bases.items():
            assert isinstance(base, nn.Linear)
            assert base.bias is None, f"{path} has a bias, which a rank-one edit of its weight does not know"
            target = base.weight.detach().float() @ self._start
            layers[path] = RankOneLayer(base, target, self.config, trains=path.endswith("to_v")).eval()
        return layers


def _encoded(encode: Encode, backbone: AbstractBackbone, word: str) -> Tensor:
    """The state at the last token of a word in a neutral caption, `d`, float32."""
    prompt = _CAPTION + word
    return encode([prompt]).states[0, backbone.token_count(prompt)].float()


def inverse_covariance(backbone: AbstractBackbone) -> Tensor:
    """C^-1 over the encoded words of neutral captions, `d d`, float32, on the backbone's device.

    Differs from the paper, whose C comes from 100,000 captions of a data set: from 180 of ours, with 1 % of its mean
    diagonal added, because they do not span all directions.
    """
    captions = neutral_captions()
    states = backbone.encode_prompt(captions).states.double()
    words = torch.cat([state[1 : 1 + backbone.token_count(text)] for state, text in zip(states, captions, strict=True)])
    covariance = words.T @ words / len(words)
    floor = 0.01 * covariance.diagonal().mean()
    eye = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
    return torch.linalg.inv(covariance + floor * eye).float()
