"""A subject in values alone, looked at as the base looks at its noun (Infusion, Zeng et al. 2024, arXiv 2404.14007).

The denoiser runs twice. First without the subject: where each word is looked at is kept. Then with it: the kept maps
stand in place of its own, and the noun's values gain what was learned. So the subject cannot move what the base lays
out.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters.base import AbstractAdapter
from pcs_ext.image.adapters.layers import check_name, check_state, copy_into, original, to_storage
from pcs_ext.image.adapters.tokens import check_placeholder
from pcs_ext.image.attention import attention_program
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.unet import recomputing_inside
from pcs_ext.image.predict_programs import Predict, add_prediction, remove_prediction
from pcs_ext.image.prompt_programs import Encode, add_program, find_program, remove_program
from pcs_ext.image.types import Conditioning

_PROGRAM = "value_residuals"


@config
class ValueResidualConfig:
    """A vector per text cross-attention, added to the noun's values there."""

    kind: Literal["value_residual"] = "value_residual"
    """Tag of this adapter in JSON."""
    placeholder: str = "<subject>"
    """What prompts write; the text encoder reads the noun in its place. The vector joins all tokens of the noun."""
    class_noun: str
    """What the subject is: "dog"."""

    def __post_init__(self) -> None:
        check_placeholder(self.placeholder, 1)
        if not self.class_noun.strip():
            raise ConfigError("a residual of values needs a class noun, such as dog.")


class ValueResidualAdapter(AbstractAdapter):
    """Vectors as wide as each cross-attention: 12,480 numbers on SD 1.x; state: `denoiser.<module path>.residual`.

    Prompts without the placeholder take one pass and are answered bit for bit as by the base. Conditioning that depends
    on the layer, and gradients through what is recomputed with it, do not go together with this adapter.
    """

    def __init__(self, name: str, config: ValueResidualConfig) -> None:
        self.name = check_name(name)
        self.config = config
        self.residuals: dict[str, nn.Parameter] = {}
        self._backbone: AbstractBackbone | None = None
        self._pending: dict[str, Tensor] | None = None
        self.scale = 1.0

    def inject(self, backbone: AbstractBackbone) -> None:
        """Stand around `encode_prompt` and `predict`.

        Raises:
            ArtifactError: loaded tensors do not fit this backbone.
        """
        assert self._backbone is None, f"adapter {self.name!r} is injected already"
        if not self.residuals:
            residuals = {path: nn.Parameter(torch.zeros(_width(backbone, path))) for path in _paths(backbone)}
            if self._pending is not None:
                _load(self.name, residuals, self._pending)
            self.residuals, self._pending = residuals, None
        for residual in self.residuals.values():
            residual.data = residual.data.to(backbone.device)
        program = find_program(backbone, _PROGRAM)
        if program is None:
            program = _TwoPasses(backbone)
            add_program(backbone, _PROGRAM, program, reads=program.reads)
            add_prediction(backbone, _PROGRAM, program.answered)
        assert isinstance(program, _TwoPasses)
        program.adapters[self.name] = self
        self._backbone = backbone

    def eject(self) -> None:
        assert self._backbone is not None, f"adapter {self.name!r} is not injected"
        program = find_program(self._backbone, _PROGRAM)
        assert isinstance(program, _TwoPasses)
        del program.adapters[self.name]
        if not program.adapters:
            remove_prediction(self._backbone, _PROGRAM)
            remove_program(self._backbone, _PROGRAM)
        self._backbone = None

    def parameters(self) -> Mapping[str, tuple[nn.Parameter, ...]]:
        assert self.residuals, f"adapter {self.name!r} has no parameters before it is injected"
        return {"denoiser": tuple(self.residuals.values())}

    def state_dict(self) -> dict[str, Tensor]:
        if self._pending is not None:
            return dict(self._pending)
        return {key: to_storage(tensor) for key, tensor in _tensors(self.residuals).items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        if self.residuals:
            _load(self.name, self.residuals, state)
        else:
            self._pending = {key: to_storage(tensor) for key, tensor in state.items()}

    def set_scale(self, scale: float) -> None:
        self.scale = scale


class _TwoPasses:
    """The one program of all such adapters in a backbone, around its prompts and its predictions."""

    def __init__(self, backbone: AbstractBackbone) -> None:
        self.backbone = backbone
        self.adapters: dict[str, ValueResidualAdapter] = {}

    def __call__(self, encode: Encode, prompts: Sequence[str], size: tuple[int, int] | None) -> Conditioning:
        plain = encode([self.reads(prompt) for prompt in prompts], size=size)
        marks = torch.zeros(*plain.states.shape[:2], len(self.adapters))
        for row, prompt in enumerate(prompts):
            for index, adapter in enumerate(self.adapters.values()):
                marks[row, self._positions(adapter, prompt, marks.shape[1]), index] = 1
        return plain if not marks.any() else plain.marked(dict(zip(self.adapters, marks.unbind(-1), strict=True)))

    def reads(self, text: str) -> str:
        """The text with nouns in place of their marks: what the encoder reads."""
        for adapter in self.adapters.values():
            text = text.replace(adapter.config.placeholder, adapter.config.class_noun)
        return text

    def _positions(self, adapter: ValueResidualAdapter, prompt: str, length: int) -> list[int]:
        found: list[int] = []
        for mark in re.finditer(re.escape(adapter.config.placeholder), prompt):
            start = 1 + self._count(self.reads(prompt[: mark.start()]))
            found += range(start, start + self._count(adapter.config.class_noun))
        return [position for position in found if position < length]

    def _count(self, text: str) -> int:
        return len(self.backbone.tokenizers[0](text, add_special_tokens=False).input_ids)

    def answered(
        self, predict: Predict, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning
    ) -> Tensor:
        """`predict`: twice where a subject is named."""
        named = {
            name: mark for name, mark in (conditioning.marks or {}).items() if name in self.adapters and mark.any()
        }
        if not any(self.adapters[name].scale for name in named):
            return predict(noisy_latents, timesteps, conditioning)
        maps: dict[str, Tensor] = {}

        def keep(path: str, probabilities: Tensor) -> Tensor:
            maps[path] = probabilities
            return probabilities

        with torch.no_grad(), attention_program(self.backbone, keep):
            predict(noisy_latents, timesteps, conditioning)
        inside = lambda: self._inside(maps, named)  # noqa: E731
        with recomputing_inside(self.backbone.denoiser, inside), inside():
            return predict(noisy_latents, timesteps, conditioning)

    @contextlib.contextmanager
    def _inside(self, maps: Mapping[str, Tensor], named: Mapping[str, Tensor]) -> Iterator[None]:
        def added(path: str, values: Tensor) -> Tensor:
            for name, mark in named.items():
                adapter = self.adapters[name]
                residual = (adapter.scale * adapter.residuals[path]).to(values)
                # Of a clip every frame has values, and all frames one prompt.
                here = mark.to(values).repeat_interleave(len(values) // len(mark), 0)
                values = values + here.unsqueeze(-1) * residual
            return values

        with (
            attention_program(self.backbone, lambda path, own: maps[path].to(own)),
            attention_program(self.backbone, added, at="values"),
        ):
            yield


def _paths(backbone: AbstractBackbone) -> tuple[str, ...]:
    return backbone.cross_attention_paths()


def _width(backbone: AbstractBackbone, path: str) -> int:
    return original(backbone.denoiser.get_submodule(path).to_v).out_features  # type: ignore[return-value]


def _tensors(residuals: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    return {f"denoiser.{path}.residual": residual for path, residual in residuals.items()}


def _load(name: str, residuals: Mapping[str, nn.Parameter], state: Mapping[str, Tensor]) -> None:
    check_state(name, _tensors(residuals), state)
    copy_into(_tensors(residuals), state)
