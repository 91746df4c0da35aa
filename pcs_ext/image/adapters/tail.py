"""HiPer (Han et al. 2023, arXiv 2303.08767): trained vectors take the last positions of an encoded prompt."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters.base import AbstractAdapter
from pcs_ext.image.adapters.layers import check_name, check_state, copy_into, to_storage
from pcs_ext.image.adapters.tokens import check_placeholder
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.prompt_programs import Encode, add_program, remove_program
from pcs_ext.image.types import Conditioning


@config
class TailConfig:
    """Trained vectors behind the text."""

    kind: Literal["tail"] = "tail"
    """Tag of this adapter in JSON."""
    placeholder: str = "<subject>"
    """Marks the prompts that get the vectors; it is taken out of them before they are encoded."""
    num_vectors: int = 5
    """Positions replaced, counted from the end."""
    initializer: str = "a photo"
    """Prompt whose own last states the vectors start at."""

    def __post_init__(self) -> None:
        check_placeholder(self.placeholder, self.num_vectors)
        if not self.initializer.strip():
            raise ConfigError("the initializer of a tail is a prompt such as 'a photo of a dog'; got an empty one.")


class TailAdapter(AbstractAdapter):
    """`n d` vectors in the place of the last states; state: `tail.weight` and `tail.initial`.

    At scale s the states are original + s (trained - original). The encoder's text has no identifier word, and
    prompts without the placeholder are encoded as before.
    """

    def __init__(self, name: str, config: TailConfig) -> None:
        self.name = check_name(name)
        self.config = config
        self._weight: nn.Parameter | None = None
        self._initial = torch.empty(0)
        self._backbone: AbstractBackbone | None = None
        self._pending: dict[str, Tensor] | None = None
        self._scale = 1.0

    def inject(self, backbone: AbstractBackbone) -> None:
        """Put a program around `encode_prompt`.

        Raises:
            ConfigError: more vectors than a prompt has positions.
            ArtifactError: loaded tensors do not fit this backbone.
        """
        assert self._backbone is None, f"adapter {self.name!r} is injected already"
        if self._weight is None:
            with torch.no_grad():
                states = backbone.encode_prompt([self.config.initializer]).states[0].float()
            if len(states) <= self.config.num_vectors:
                raise ConfigError(
                    f"a prompt has {len(states)} positions; num_vectors {self.config.num_vectors} is more."
                )
            self._initial = states[-self.config.num_vectors :].clone()
            self._weight = nn.Parameter(self._initial.clone())
            if self._pending is not None:
                self._load(self._pending)
            self._pending = None
        self._weight.data = self._weight.data.to(backbone.device)
        add_program(backbone, self._key, self._program, reads=self._reads)
        self._backbone = backbone

    def eject(self) -> None:
        assert self._backbone is not None, f"adapter {self.name!r} is not injected"
        remove_program(self._backbone, self._key)
        self._backbone = None

    @property
    def _key(self) -> str:
        return f"tail {self.name}"

    def _program(self, encode: Encode, prompts: Sequence[str], size: tuple[int, int] | None) -> Conditioning:
        marked = torch.tensor([self.config.placeholder in prompt for prompt in prompts])
        plain = encode([self._reads(prompt) for prompt in prompts], size=size)
        return plain.with_states(lambda states: self._replace(states, marked)) if marked.any() else plain

    def _reads(self, text: str) -> str:
        """The text without the placeholder."""
        word = self.config.placeholder
        return " ".join(text.replace(word, " ").split()) if word in text else text

    def _replace(self, states: Tensor, marked: Tensor) -> Tensor:
        assert self._weight is not None
        count = self.config.num_vectors
        tail = states[:, -count:]
        new = torch.lerp(tail, self._weight.to(states.dtype).expand_as(tail), self._scale)
        chosen = torch.where(marked.to(states.device)[:, None, None], new, tail)
        return torch.cat([states[:, :-count], chosen], dim=1)

    def parameters(self) -> Mapping[str, tuple[nn.Parameter, ...]]:
        assert self._weight is not None, f"adapter {self.name!r} has no parameters before it is injected"
        return {"embedding": (self._weight,)}

    def state_dict(self) -> dict[str, Tensor]:
        if self._pending is not None:
            return dict(self._pending)
        return {key: to_storage(tensor) for key, tensor in self._tensors().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        if self._weight is None:
            self._pending = {key: to_storage(tensor) for key, tensor in state.items()}
        else:
            self._load(state)

    def set_scale(self, scale: float) -> None:
        self._scale = scale

    def _tensors(self) -> dict[str, Tensor]:
        assert self._weight is not None
        return {"tail.weight": self._weight, "tail.initial": self._initial}

    def _load(self, state: Mapping[str, Tensor]) -> None:
        check_state(self.name, self._tensors(), state)
        copy_into(self._tensors(), state)
