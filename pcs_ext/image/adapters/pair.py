"""A style from one picture before and after it (Pair Customization, Jones et al. 2024, arXiv 2405.01536).

Two low-rank updates: one learns what the picture shows, the other what was done to it. Their down-projections are
fixed, different rows of one orthonormal basis per width, so that neither can read what the other reads. Only the
style's is used in the end, and as guidance: pictures are denoised as the base would, moved by what the style changes.
"""

import contextlib
import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters.base import AbstractAdapter
from pcs_ext.image.adapters.layers import check_name
from pcs_ext.image.adapters.low_rank import LowRankAdapter
from pcs_ext.image.adapters.low_rank_config import LowRankConfig
from pcs_ext.image.adapters.low_rank_layers import LowRankLayer, build_layers
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.predict_programs import Predict, add_prediction, remove_prediction
from pcs_ext.image.prompt_programs import Encode, add_program, remove_program
from pcs_ext.image.types import Conditioning


@config
class PairConfig:
    """Two LoRA on the denoiser's attention, and how the style's guides."""

    kind: Literal["pair"] = "pair"
    """Tag of this adapter in JSON."""
    phrase: str
    """What prompts say of the style: "in digital art style". Prompts without it are answered by the base."""
    rank: int = 64
    """Of each update; a layer with fewer than twice as many inputs gets half of them."""
    basis_seed: int = 0
    """Seed of the orthonormal bases."""
    strength: float = 0.8
    """Once learned, predictions are base(without the phrase) + strength * (style(with it) - base(without it)). The
    released code adds the difference to the guided prediction with weight 4 at guidance scale 5: 4 / 5."""

    def __post_init__(self) -> None:
        if not self.phrase.strip() or self.rank < 1:
            raise ConfigError(f"a pair needs a phrase for its style and a rank of at least 1, got {self.rank}.")

    def without(self, prompt: str) -> str:
        """The prompt without the phrase."""
        return re.sub(rf"\s*,?\s*{re.escape(self.phrase)}", "", prompt).strip(" ,")


class PairAdapter(AbstractAdapter):
    """Both updates; groups `denoiser` (style) and `content`; state: `style.<...>` and `content.<...>` as low_rank's.

    A new adapter trains: both updates act, whatever prompts say; `content_alone` and `style_beside` set what acts and
    learns in a pass (not under activation checkpointing, which would compute the pass again outside of them). A loaded
    one guides: content has no part any more.
    """

    def __init__(self, name: str, config: PairConfig) -> None:
        self.name = check_name(name)
        self.config = config
        self.content, self.style = (_HalfBasis(f"{name}_{part}", config, index) for index, part in enumerate(_PARTS))
        self._guide: _Guide | None = None
        self._learned = False
        self._backbone: AbstractBackbone | None = None
        self.scale = 1.0

    def narrow(self, targets: tuple[str, ...]) -> None:
        """Take those layers of the denoiser alone, by regular expressions; before it is injected."""
        assert self._backbone is None, f"adapter {self.name!r} is injected already"
        for half in (self.content, self.style):
            half.config = dataclasses.replace(half.config, targets=targets)

    def inject(self, backbone: AbstractBackbone) -> None:
        """Attach the updates; a loaded adapter stands around prompts and predictions, too.

        Raises:
            ArtifactError: loaded tensors do not fit this backbone.
        """
        assert self._backbone is None, f"adapter {self.name!r} is injected already"
        self.content.inject(backbone)
        self.style.inject(backbone)
        self._backbone = backbone
        if self._learned:
            self.content.set_scale(0.0)
            self._guide = _Guide(self, backbone)
        self.set_scale(self.scale)

    def eject(self) -> None:
        assert self._backbone is not None, f"adapter {self.name!r} is not injected"
        if self._guide is not None:
            self._guide.leave()
            self._guide = None
        self.style.eject()
        self.content.eject()
        self._backbone = None

    @contextlib.contextmanager
    def content_alone(self) -> Iterator[None]:
        """Inside, the style has no part."""
        self.style.set_scale(0.0)
        try:
            yield
        finally:
            self.style.set_scale(1.0)

    @contextlib.contextmanager
    def style_beside(self) -> Iterator[None]:
        """Inside, both act, and what passes through learns nothing of content."""
        flags = [(parameter, parameter.requires_grad) for parameter in self.parameters()["content"]]
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter, flag in flags:
                parameter.requires_grad_(flag)

    def parameters(self) -> Mapping[str, tuple[nn.Parameter, ...]]:
        return {"denoiser": self.style.parameters()["denoiser"], "content": self.content.parameters()["denoiser"]}

    def state_dict(self) -> dict[str, Tensor]:
        parts = zip(_PARTS, (self.content, self.style), strict=True)
        return {f"{part}.{key}": tensor for part, lora in parts for key, tensor in lora.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for part, lora in zip(_PARTS, (self.content, self.style), strict=True):
            own = {key.removeprefix(f"{part}."): value for key, value in state.items() if key.startswith(f"{part}.")}
            strangers = {key: value for key, value in state.items() if key.split(".")[0] not in _PARTS}
            lora.load_state_dict({**own, **strangers})
        self._learned = True
        if self._backbone is not None and self._guide is None:
            self.content.set_scale(0.0)
            self._guide = _Guide(self, self._backbone)

    def set_scale(self, scale: float) -> None:
        self.scale = scale
        self.style.set_scale(scale)
        if not self._learned:
            self.content.set_scale(scale)


_PARTS = ("content", "style")


class _HalfBasis(LowRankAdapter):
    """A LoRA whose down-projections are fixed rows of an orthonormal basis: the first ones, or those behind them."""

    def __init__(self, name: str, config: PairConfig, half: int) -> None:
        super().__init__(name, LowRankConfig(rank=config.rank))
        self.half, self.seed = half, config.basis_seed

    def _make(self, bases: Mapping[str, nn.Module]) -> dict[str, LowRankLayer]:
        of_rank: dict[int, dict[str, nn.Linear | nn.Conv2d]] = {}
        for path, base in bases.items():
            assert isinstance(base, nn.Linear), f"{path} is no linear layer"
            of_rank.setdefault(max(1, min(self.config.rank, base.in_features // 2)), {})[path] = base
        layers: dict[str, LowRankLayer] = {}
        for rank, alike in of_rank.items():
            layers |= build_layers(dataclasses.replace(self.config, rank=rank), alike)
        known: dict[int, Tensor] = {}
        for layer in layers.values():
            self._fix(layer.tensors()["lora_A.weight"], known)
            layer.mergeable = False  # strengths change from pass to pass
        return layers

    def _fix(self, down: nn.Parameter, known: dict[int, Tensor]) -> None:
        """Put the basis into a down-projection `rank width`, for good."""
        rank, width = down.shape
        if width not in known:
            known[width] = orthonormal(width, self.seed)
        down.data = known[width][self.half * rank : (self.half + 1) * rank].to(down).clone()
        down.requires_grad_(False)

    def parameters(self) -> Mapping[str, tuple[nn.Parameter, ...]]:
        """The up-projections."""
        return {"denoiser": tuple(layer.tensors()["lora_B.weight"] for layer in self.layers().values())}


def orthonormal(width: int, seed: int) -> Tensor:
    """Rows of an orthonormal basis, `width width`, float32."""
    drawn = torch.randn(width, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.linalg.qr(drawn).Q.float()


class _Guide:
    """Around `encode_prompt`, to know what says the phrase, and around `predict`, to move what it predicts."""

    def __init__(self, adapter: PairAdapter, backbone: AbstractBackbone) -> None:
        self.adapter, self.backbone = adapter, backbone
        add_program(backbone, self._name, self)
        add_prediction(backbone, self._name, self.answered)

    @property
    def _name(self) -> str:
        return f"pair_{self.adapter.name}"

    def leave(self) -> None:
        """Give both back."""
        remove_prediction(self.backbone, self._name)
        remove_program(self.backbone, self._name)

    def __call__(self, encode: Encode, prompts: Sequence[str], size: tuple[int, int] | None) -> Conditioning:
        said = encode(prompts, size=size)
        config = self.adapter.config
        rows = [config.phrase in prompt for prompt in prompts]
        if not any(rows):
            return said
        plain = encode([config.without(prompt) for prompt in prompts], size=size)
        return said.with_plain(plain, torch.tensor(rows))

    def answered(
        self, predict: Predict, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning
    ) -> Tensor:
        """`predict`: where a prompt says the phrase, of the base without it, moved towards the style with it."""
        plain, rows = conditioning.plain, conditioning.styled
        style, scale = self.adapter.style, self.adapter.scale
        if scale == 0:
            return predict(noisy_latents, timesteps, conditioning)
        style.set_scale(0.0)
        try:
            base = predict(noisy_latents, timesteps, conditioning if plain is None else plain)
        finally:
            style.set_scale(scale)
        if plain is None or rows is None or not rows.any():
            return base
        moved = base.clone()
        at = rows.to(base.device)
        styled = predict(noisy_latents[at], timesteps[at], conditioning[rows])
        moved[at] = base[at] + self.adapter.config.strength * (styled - base[at])
        return moved
