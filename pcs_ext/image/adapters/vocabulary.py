"""New words for a frozen text encoder: a tokenizer that knows them and a token table with extra rows for them.

Both keep the words in groups, one per adapter. Ids follow the order of the groups, so table and tokenizer agree when
the same groups are added and removed in the same order.
"""

import abc
import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AddedToken

from pcs_ext.errors import UsageError
from pcs_ext.image.adapters.layers import AdapterLayer, copy_into
from pcs_ext.image.backbone import AbstractBackbone


def vector_tokens(placeholder: str, num_vectors: int) -> tuple[str, ...]:
    """`<x>`, `<x>_1`, `<x>_2`, ...: the tokens one placeholder stands for (the naming diffusers uses)."""
    return (placeholder, *(f"{placeholder}_{index}" for index in range(1, num_vectors)))


class ExtendedTokenizer:
    """A tokenizer with new words. A prompt with `<x>` becomes one with all tokens of `<x>`.

    Everything but the calls that take text is the copied tokenizer's own.
    """

    def __init__(self, base: Any, groups: Mapping[str, tuple[str, ...]]) -> None:
        self.base = base
        """The original tokenizer, never changed."""
        self.groups = dict(groups)
        """Adapter name -> its tokens; the first is the placeholder that prompts use."""
        self._extended = copy.deepcopy(base)
        tokens = [token for group in self.groups.values() for token in group]
        _check_new(base, tokens)
        # normalized=False: the text is matched as typed, before the tokenizer lowercases it.
        self._extended.add_tokens([AddedToken(token, normalized=False, special=False) for token in tokens])

    @property
    def first_id(self) -> int:
        """Id of the first new token."""
        return len(self.base)

    def expand(self, text: str) -> str:
        """The text with every multi-vector placeholder written out."""
        for group in self.groups.values():
            if len(group) > 1:
                text = re.sub(re.escape(group[0]) + r"(?!_\d)", lambda _, group=group: " ".join(group), text)
        return text

    def _expanded(self, text: Any) -> Any:
        if isinstance(text, str):
            return self.expand(text)
        return [self._expanded(item) for item in text]

    def __call__(self, text: Any, *args: Any, **kwargs: Any) -> Any:
        """As the original tokenizer, after expansion."""
        return self._extended(self._expanded(text), *args, **kwargs)

    def encode(self, text: Any, *args: Any, **kwargs: Any) -> Any:
        """As the original tokenizer, after expansion."""
        return self._extended.encode(self._expanded(text), *args, **kwargs)

    def tokenize(self, text: str, *args: Any, **kwargs: Any) -> list[str]:
        """As the original tokenizer, after expansion."""
        return self._extended.tokenize(self.expand(text), *args, **kwargs)

    def __len__(self) -> int:
        return len(self._extended)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_extended":  # absent while copy or pickle rebuild the object
            raise AttributeError(name)
        return getattr(self._extended, name)


def _check_new(tokenizer: Any, tokens: Sequence[str]) -> None:
    vocabulary = tokenizer.get_vocab()
    taken = [token for token in tokens if token in vocabulary or len(tokenizer.tokenize(token)) == 1]
    taken += [token for token in tokens if tokens.count(token) > 1]
    if taken:
        raise UsageError(
            f"placeholder tokens {sorted(set(taken))} are already words of the model or used twice; choose a token the "
            "model does not know, for example <my-dog>."
        )


def with_group(tokenizer: Any, name: str, tokens: Sequence[str]) -> ExtendedTokenizer:
    """The tokenizer with one more group of words.

    Raises:
        UsageError: a token is already known, or the name is taken.
    """
    if isinstance(tokenizer, ExtendedTokenizer):
        if name in tokenizer.groups:
            raise UsageError(f"an adapter named {name!r} has words in this model already; give each its own name.")
        return ExtendedTokenizer(tokenizer.base, {**tokenizer.groups, name: tuple(tokens)})
    return ExtendedTokenizer(tokenizer, {name: tuple(tokens)})


def without_group(tokenizer: ExtendedTokenizer, name: str) -> Any:
    """The tokenizer without a group; the original object when it was the last."""
    groups = {key: tokens for key, tokens in tokenizer.groups.items() if key != name}
    return ExtendedTokenizer(tokenizer.base, groups) if groups else tokenizer.base


class Rows(nn.Module, abc.ABC):
    """Where the rows of one adapter's new tokens come from, in one text encoder."""

    def __init__(self, initial: Tensor) -> None:
        super().__init__()
        self.register_buffer("initial", initial.detach().clone())
        self.initial: Tensor
        """`n d`, float32: the rows at scale 0."""
        self.scale = 1.0
        """1 as trained."""

    @abc.abstractmethod
    def forward(self) -> Tensor:
        """Rows `n d`, or `b n d` for the `b` sequences that are being encoded, float32."""

    def tensors(self) -> dict[str, Tensor]:
        """All that is stored."""
        return {**dict(self.named_parameters()), **dict(self.named_buffers())}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `tensors` gave, in place, so that optimisers keep pointing at their parameters."""
        copy_into(self.tensors(), tensors)


class TokenRows(Rows):
    """Trained rows, the same for every prompt.

    At scale s the encoder reads `initial + s (weight - initial)`: 1 as trained, 0 the word the rows started from.
    """

    def __init__(self, initial: Tensor) -> None:
        super().__init__(initial)
        self.weight = nn.Parameter(initial.detach().clone())

    def forward(self) -> Tensor:
        """Rows `n d`, float32."""
        return self.weight if self.scale == 1 else torch.lerp(self.initial, self.weight, self.scale)


class SubspaceRows(Rows):
    """Rows that move along given directions alone: origin + coordinates x directions.

    Stored are the rows themselves. Loaded, they are the new origin, and the coordinates start at 0 again.

    Args:
        initial: `n d`.
        directions: `k d`.
    """

    def __init__(self, initial: Tensor, directions: Tensor) -> None:
        super().__init__(initial)
        self.register_buffer("origin", self.initial.clone())
        self.register_buffer("directions", directions.detach().clone())
        self.origin: Tensor
        self.directions: Tensor
        self.coordinates = nn.Parameter(torch.zeros(len(initial), len(directions)))

    def rows(self) -> Tensor:
        """As trained, `n d`."""
        return self.origin + self.coordinates @ self.directions

    def forward(self) -> Tensor:
        """Rows `n d`, float32."""
        # Under autocast the product would be rounded to half precision.
        with torch.autocast(self.origin.device.type, enabled=False):
            return self.rows() if self.scale == 1 else torch.lerp(self.initial, self.rows(), self.scale)

    @torch.no_grad()
    def tensors(self) -> dict[str, Tensor]:
        """`weight`, the rows, and `initial`."""
        return {"weight": self.rows(), "initial": self.initial}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            self.origin.copy_(tensors["weight"])
            self.initial.copy_(tensors["initial"])
            self.coordinates.zero_()


class ExtendedEmbedding(AdapterLayer):
    """The frozen token table with rows for new ids.

    New rows are a parameter of their own: nothing an optimiser does to them, weight decay included, can reach a row of
    the original table.
    """

    def __init__(self, base: nn.Embedding, first_id: int) -> None:
        super().__init__()
        self.base_layer = base
        self.first_id = first_id
        """New ids start here; the tokenizer decides it (a table may have unused rows above)."""
        self.groups = nn.ModuleDict()
        """Adapter name -> Rows, in the tokenizer's order."""
        self.eos_token_ids: list[tuple[nn.Module, int]] = []
        """Modules whose end mark was set, with what they had before."""

    def below(self) -> nn.Module:
        return self.base_layer

    def set_below(self, module: nn.Module | None) -> None:
        assert isinstance(module, nn.Embedding), "a token table stands only in front of the original one"
        self.base_layer = module

    def merge(self, weight: Tensor) -> Tensor:
        """The table itself: new rows are no change of it."""
        return weight

    def forward(self, input_ids: Tensor) -> Tensor:
        """Token ids `...` -> rows `... d` in the dtype of the original table."""
        is_new = input_ids >= self.first_id
        old = self.base_layer(input_ids.masked_fill(is_new, 0))
        new = _look_up([group() for group in self.groups.values()], (input_ids - self.first_id).clamp_min(0))
        return torch.where(is_new.unsqueeze(-1), new.to(old.dtype), old)


def _look_up(groups: Sequence[Tensor], places: Tensor) -> Tensor:
    """Rows at `places` in the groups laid end to end.

    Args:
        groups: `n d`, or `b n d` where each of the `b` sequences has rows of its own.
        places: `b tokens`, or `tokens`.
    """
    if all(rows.dim() == 2 for rows in groups):
        return F.embedding(places, torch.cat(list(groups)))
    each = [rows if rows.dim() == 3 else rows.expand(len(places), -1, -1) for rows in groups]
    rows = torch.cat(each, dim=1)
    return rows.gather(1, places.unsqueeze(-1).expand(-1, -1, rows.shape[-1]))


def extend_encoder(encoder: nn.Module, tokenizer: ExtendedTokenizer, name: str, rows: Rows) -> None:
    """Give a text encoder the rows of the tokenizer's newest group."""
    table = encoder.get_input_embeddings()  # type: ignore[operator]
    if not isinstance(table, ExtendedEmbedding):
        table = ExtendedEmbedding(table, tokenizer.first_id).eval()
        encoder.set_input_embeddings(table)  # type: ignore[operator]
        # CLIP configs with end mark 2 mean "pool at the largest id", which would now be the new token.
        poolers = [module for module in encoder.modules() if "eos_token_id" in vars(module)]
        table.eos_token_ids = [(module, module.eos_token_id) for module in poolers]  # type: ignore[misc]
        for module in poolers:
            module.eos_token_id = tokenizer.eos_token_id
    rows.to(table.weight.device)
    table.groups[name] = rows


def restore_encoder(encoder: nn.Module, name: str) -> None:
    """Take the rows of a group out; after the last, the original table object is back."""
    table = encoder.get_input_embeddings()  # type: ignore[operator]
    assert isinstance(table, ExtendedEmbedding), "the token table was replaced behind the adapter's back"
    del table.groups[name]
    if not table.groups:
        for module, eos_token_id in table.eos_token_ids:
            module.eos_token_id = eos_token_id  # type: ignore[assignment]
        encoder.set_input_embeddings(table.below())  # type: ignore[operator]


def token_positions(backbone: AbstractBackbone, tokens: Sequence[str], prompts: Sequence[str]) -> Tensor:
    """Where words that are one token each stand in padded prompts, `b n` bool, on the backbone's device."""
    tokenizer = backbone.tokenizers[0]
    length = tokenizer.model_max_length
    ids = tokenizer(
        list(prompts), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
    ).input_ids
    own = torch.tensor([tokenizer.convert_tokens_to_ids(token) for token in tokens])
    return torch.isin(ids, own).to(backbone.device)
