"""Words that act only at some noise levels and in some layers (MATTE, Agarwal et al. 2023, arXiv 2311.11919)."""

import re
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters.base import AbstractAdapter
from pcs_ext.image.adapters.layers import check_name, check_state
from pcs_ext.image.adapters.tokens import check_placeholder
from pcs_ext.image.attention import path_level
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.prompt_programs import Encode, add_program, remove_program
from pcs_ext.image.types import Conditioning

Depth = Literal["fine", "middle", "coarse"]


@config
class Attribute:
    """One word, and where it acts."""

    word: str
    """A token that another adapter learns."""
    otherwise: str = ""
    """What the denoiser reads in its place where it does not act; empty: nothing."""
    noise: tuple[float, float] = (0.0, 1.0)
    """From which part of the timesteps up to which: 0 is clean, 1 pure noise; the upper end is not included."""
    layers: tuple[Depth, ...] = ("fine", "middle", "coarse")
    """In which cross-attentions: of the largest maps, of the smallest, of those between."""

    def __post_init__(self) -> None:
        check_placeholder(self.word, 1)
        if not 0 <= self.noise[0] < self.noise[1] <= 1 or not self.layers:
            raise ConfigError(
                f"{self.word} must act in at least one kind of layer and from a lower to a higher part of the "
                f"timesteps within [0, 1]; got {list(self.layers)} and {list(self.noise)}."
            )


@config
class AttributesConfig:
    """A placeholder for several attributes' words, each read only where it acts."""

    kind: Literal["attributes"] = "attributes"
    """Tag of this adapter in JSON."""
    placeholder: str = "<subject>"
    """What prompts write for all of them, in their order. One of the words alone may be written, too."""
    attributes: tuple[Attribute, ...]
    """At least one."""

    def __post_init__(self) -> None:
        check_placeholder(self.placeholder, 1)
        words = [attribute.word for attribute in self.attributes]
        if not words or len({self.placeholder, *words}) != len(words) + 1:
            raise ConfigError(f"attributes take different words, none of them {self.placeholder!r}; got {words}.")

    def written(self, prompt: str, active: Sequence[bool]) -> str:
        """What of a prompt is read where these attributes act; other prompts as they are."""
        if not self.concerns(prompt):
            return prompt
        words = [attribute.word for attribute in self.attributes]
        text = prompt.replace(self.placeholder, " ".join(words))
        for attribute, acts in zip(self.attributes, active, strict=True):
            text = text if acts else text.replace(attribute.word, attribute.otherwise)
        return re.sub(r" +([,.]|$)", r"\1", re.sub(r" {2,}", " ", text)).strip()

    def concerns(self, prompt: str) -> bool:
        """Whether a prompt names the whole or one of the attributes."""
        return any(word in prompt for word in (self.placeholder, *(a.word for a in self.attributes)))


class AttributesAdapter(AbstractAdapter):
    """No parameters of its own: the words are those of embedding adapters beside it."""

    def __init__(self, name: str, config: AttributesConfig) -> None:
        self.name = check_name(name)
        self.config = config
        self._backbone: AbstractBackbone | None = None

    def inject(self, backbone: AbstractBackbone) -> None:
        """Stand around `encode_prompt`."""
        assert self._backbone is None, f"adapter {self.name!r} is injected already"
        program = _Attributes(backbone, self.config)
        add_program(backbone, f"attributes_{self.name}", program, reads=program.reads)
        self._backbone = backbone

    def eject(self) -> None:
        assert self._backbone is not None, f"adapter {self.name!r} is not injected"
        remove_program(self._backbone, f"attributes_{self.name}")
        self._backbone = None

    def parameters(self) -> Mapping[str, tuple[nn.Parameter, ...]]:
        return {}

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        check_state(self.name, {}, state)

    def set_scale(self, scale: float) -> None:
        """Nothing: the words themselves go back to what they started as."""


class _Attributes:
    """Around `encode_prompt`: prompts with attributes become conditioning per layer and timestep."""

    def __init__(self, backbone: AbstractBackbone, config: AttributesConfig) -> None:
        self.config, self.total = config, backbone.schedule.num_train_timesteps
        self.depths = layer_depths(backbone)

    def reads(self, text: str) -> str:
        """With every attribute acting."""
        return self.config.written(text, [True] * len(self.config.attributes))

    def active(self, timestep: float, depth: Depth) -> list[bool]:
        """Which attributes act there."""
        part = timestep / self.total
        return [a.noise[0] <= part < a.noise[1] and depth in a.layers for a in self.config.attributes]

    def __call__(self, encode: Encode, prompts: Sequence[str], size: tuple[int, int] | None) -> Conditioning:
        whole = encode([self.reads(prompt) for prompt in prompts], size=size)
        if not any(self.config.concerns(prompt) for prompt in prompts):
            return whole
        layered = _Layered(self, encode, prompts, size, whole)
        return Conditioning(states=whole.states, pooled=whole.pooled, time_ids=whole.time_ids, per_layer=layered)


class _Layered:
    """The conditioning of one prompt batch. Keeps what was encoded, with and without gradients apart."""

    def __init__(
        self,
        program: _Attributes,
        encode: Encode,
        prompts: Sequence[str],
        size: tuple[int, int] | None,
        whole: Conditioning,
    ) -> None:
        self.program, self.encode, self.prompts, self.size, self.whole = program, encode, list(prompts), size, whole
        self._known: dict[tuple[bool, str], Tensor] = {}

    def __call__(self, timesteps: Tensor, module_path: str) -> tuple[Tensor, Tensor]:
        times, grad = timesteps.tolist(), torch.is_grad_enabled()
        depths = self.program.depths
        self._encode([text for depth in dict.fromkeys(depths.values()) for text in self._texts(times, depth)], grad)
        states = torch.stack([self._known[grad, text] for text in self._texts(times, depths[module_path])])
        return states, states

    def _texts(self, times: list[float], depth: Depth) -> list[str]:
        active = [self.program.active(time, depth) for time in times]
        return [self.program.config.written(p, row) for p, row in zip(self.prompts, active, strict=True)]

    def _encode(self, texts: list[str], grad: bool) -> None:
        new = [text for text in dict.fromkeys(texts) if (grad, text) not in self._known]
        if new:
            states = self.encode(new, size=self.size).states
            self._known |= {(grad, text): row for text, row in zip(new, states, strict=True)}


def layer_depths(backbone: AbstractBackbone) -> dict[str, Depth]:
    """Cross-attentions of the largest maps are fine, of the smallest coarse, all others middle."""
    levels = {path: path_level(backbone, path) for path in backbone.cross_attention_paths()}
    names: dict[int, Depth] = dict.fromkeys(levels.values(), "middle")
    names[max(levels.values())] = "coarse"
    names[min(levels.values())] = "fine"
    return {path: names[level] for path, level in levels.items()}
