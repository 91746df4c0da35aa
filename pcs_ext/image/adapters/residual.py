"""A subject as what is added to its class noun's encoding (Cones 2, Liu et al. 2023, arXiv 2305.19327)."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError, UsageError
from pcs_ext.image.adapters.base import AbstractAdapter
from pcs_ext.image.adapters.full import FullAdapter, FullConfig
from pcs_ext.image.adapters.layers import check_name, check_state, to_storage
from pcs_ext.image.adapters.tokens import check_placeholder
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.concept import OBJECT_TEMPLATES, fill
from pcs_ext.image.prompt_programs import Encode, add_program, find_program, remove_program
from pcs_ext.image.types import Conditioning

_PROGRAM = "residuals"


@config
class ResidualConfig:
    """A vector per token of the class noun, added to the encoder's output there."""

    kind: Literal["residual"] = "residual"
    """Tag of this adapter in JSON."""
    placeholder: str = "<subject>"
    """Marks the nouns that are meant: "<subject> dog" is read as "dog" and gets the residual, "dog" does not."""
    class_noun: str
    """What the subject is, as prompts say it."""
    templates: tuple[str, ...] = OBJECT_TEMPLATES
    """Prompts over which the residual is averaged."""

    def __post_init__(self) -> None:
        check_placeholder(self.placeholder, 1)
        if not self.class_noun.strip() or not self.templates:
            raise ConfigError("a residual needs a class noun such as dog, and at least one template.")

    @property
    def words(self) -> str:
        """What prompts write: "<subject> dog"."""
        return f"{self.placeholder} {self.class_noun}"


class ResidualAdapter(AbstractAdapter):
    """Learned in the text encoders' weights, kept as a residual: `n d` numbers; state: `residual`.

    A new adapter puts trainable text encoders into the backbone and adds nothing. When it is ejected the difference
    they make to the noun, mean over the templates, becomes the residual, and the weights are forgotten; from then on,
    and after loading, it adds scale times the residual and trains nothing. Prompts without the placeholder are then
    encoded as if it were not there, so that several subjects go together. Pooled embeddings (SDXL) have no residual.
    """

    def __init__(self, name: str, config: ResidualConfig) -> None:
        self.name = check_name(name)
        self.config = config
        self._encoders: FullAdapter | None = None
        self._residual: Tensor | None = None
        self._backbone: AbstractBackbone | None = None
        self._before: dict[str, Tensor] = {}
        self._scale = 1.0

    def inject(self, backbone: AbstractBackbone) -> None:
        """Put trainable text encoders in, or what was learned around `encode_prompt`.

        Raises:
            ArtifactError: a loaded residual does not fit this backbone.
        """
        assert self._backbone is None, f"adapter {self.name!r} is injected already"
        if self._residual is None:
            components: Any = tuple(name for name in backbone.components() if name != "denoiser")
            self._encoders = FullAdapter(self.name, FullConfig(components=components))
            self._encoders.inject(backbone)
            self._encoders.set_scale(self._scale)
        else:
            self._check(backbone)
        program = find_program(backbone, _PROGRAM)
        if program is None:
            program = _Residuals(backbone)
            add_program(backbone, _PROGRAM, program, reads=program.reads)
        assert isinstance(program, _Residuals)
        program.adapters[self.name] = self
        self._backbone = backbone

    def eject(self) -> None:
        """Detach; what was trained becomes the residual."""
        backbone = self._backbone
        assert backbone is not None, f"adapter {self.name!r} is not injected"
        if self._encoders is not None:
            self._residual = self._difference(backbone)
            self._encoders.eject()
            self._encoders, self._before = None, {}
        program = find_program(backbone, _PROGRAM)
        assert isinstance(program, _Residuals)
        del program.adapters[self.name]
        if not program.adapters:
            remove_program(backbone, _PROGRAM)
        self._backbone = None

    def parameters(self) -> Mapping[str, tuple[nn.Parameter, ...]]:
        return {} if self._encoders is None else self._encoders.parameters()

    def state_dict(self) -> dict[str, Tensor]:
        if self._encoders is not None:
            assert self._backbone is not None
            return {"residual": to_storage(self._difference(self._backbone))}
        return {} if self._residual is None else {"residual": to_storage(self._residual)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        assert self._encoders is None, "a residual cannot be loaded while encoders train"
        expected = {"residual": state.get("residual", torch.empty(0)) if self._residual is None else self._residual}
        check_state(self.name, expected, state)
        self._residual = state["residual"].detach().float().clone()

    def set_scale(self, scale: float) -> None:
        self._scale = scale
        if self._encoders is not None:
            self._encoders.set_scale(scale)

    @torch.no_grad()
    def states_before(self, prompts: Sequence[str]) -> Tensor:
        """What the untrained encoders make of the prompts, `b n d`; computed once for each prompt."""
        assert self._backbone is not None, f"adapter {self.name!r} is not injected"
        for prompt in dict.fromkeys(prompts):
            if prompt not in self._before:
                self._before[prompt] = self._untrained([prompt])[0]
        return torch.stack([self._before[prompt] for prompt in prompts])

    def positions(self, prompt: str) -> list[int]:
        """Indices of the noun's tokens in what the encoder reads of a prompt, 0 being the start mark."""
        assert self._backbone is not None, f"adapter {self.name!r} is not injected"
        program = find_program(self._backbone, _PROGRAM)
        assert isinstance(program, _Residuals)
        return program.positions(prompt)[self.name]

    def added(self) -> Tensor | None:
        """What is added at the noun's tokens, `n d`; None while the encoders themselves have it."""
        return None if self._residual is None or self._encoders is not None else self._scale * self._residual

    def _untrained(self, prompts: Sequence[str]) -> Tensor:
        assert self._backbone is not None
        assert self._encoders is not None
        self._encoders.set_scale(0)
        try:
            return self._backbone.encode_prompt(prompts).states.float()
        finally:
            self._encoders.set_scale(self._scale)

    @torch.no_grad()
    def _difference(self, backbone: AbstractBackbone) -> Tensor:
        """Tuned minus untrained states at the noun, mean over the templates, `n d`."""
        prompts = [fill(template, self.config.words) for template in self.config.templates]
        moved = backbone.encode_prompt(prompts).states.float() - self._untrained(prompts)
        rows = [row[self.positions(prompt)] for row, prompt in zip(moved, prompts, strict=True)]
        return torch.stack(rows).mean(0).cpu()

    def _check(self, backbone: AbstractBackbone) -> None:
        assert self._residual is not None
        count = len(backbone.tokenizers[0](self.config.class_noun, add_special_tokens=False).input_ids)
        width = sum(encoder.config.hidden_size for encoder in backbone.text_encoders)
        check_state(self.name, {"residual": torch.empty(count, width)}, {"residual": self._residual})


class _Residuals:
    """The one prompt program of all residual adapters in a backbone: takes their marks out, adds what they learned."""

    def __init__(self, backbone: AbstractBackbone) -> None:
        self.backbone = backbone
        self.adapters: dict[str, ResidualAdapter] = {}

    def __call__(self, encode: Encode, prompts: Sequence[str], size: tuple[int, int] | None) -> Conditioning:
        plain = encode([self.reads(prompt) for prompt in prompts], size=size)
        places = [self.positions(prompt) for prompt in prompts]
        if not any(at and self.adapters[name].added() is not None for row in places for name, at in row.items()):
            return plain
        return plain.with_states(lambda states: self._add(states, places))

    def reads(self, text: str) -> str:
        """The text without marks: what the encoder reads."""
        for adapter in self.adapters.values():
            text = re.sub(rf"{re.escape(adapter.config.placeholder)}\s*", "", text)
        return text

    def positions(self, prompt: str) -> dict[str, list[int]]:
        """By adapter, the tokens that get its residual; of several mentions, those of all.

        Raises:
            UsageError: a mark without its noun behind it.
        """
        found: dict[str, list[int]] = {name: [] for name in self.adapters}
        for name, adapter in self.adapters.items():
            for mark in re.finditer(re.escape(adapter.config.placeholder), prompt):
                behind = prompt[mark.end() :].lstrip()
                noun = adapter.config.class_noun
                if not behind.lower().startswith(noun.lower()):
                    raise UsageError(f"{mark.group()} in {prompt!r} marks a noun; write {adapter.config.words!r}.")
                start = 1 + self._count(self.reads(prompt[: mark.start()]))
                found[name] += range(start, start + self._count(noun))
        return found

    def _count(self, text: str) -> int:
        return len(self.backbone.tokenizers[0](text, add_special_tokens=False).input_ids)

    def _add(self, states: Tensor, places: Sequence[Mapping[str, list[int]]]) -> Tensor:
        states = states.clone()
        for row, place in enumerate(places):
            for name, at in place.items():
                added = self.adapters[name].added()
                inside = [position for position in at if position < states.shape[1]]
                if added is not None and inside:
                    repeated = added.to(states).repeat(len(at) // len(added), 1)[: len(inside)]
                    states[row, inside] = states[row, inside] + repeated
        return states
