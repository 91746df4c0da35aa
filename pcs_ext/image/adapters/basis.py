"""Words made of the directions in which known names differ (Celeb Basis, Yuan et al. 2023, arXiv 2306.00926)."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters.layers import original
from pcs_ext.image.adapters.tokens import TokenAdapter, check_placeholder
from pcs_ext.image.adapters.vocabulary import Rows, vector_tokens
from pcs_ext.image.backbone import AbstractBackbone


@config
class BasisConfig:
    """A learned word of several tokens, each the mean of the names' tokens at its place plus principal components."""

    kind: Literal["basis"] = "basis"
    """Tag of this adapter in JSON."""
    placeholder: str = "<subject>"
    """What prompts write."""
    names: tuple[str, ...]
    """Those of other tokens than `num_vectors` are passed over, as in the paper."""
    num_vectors: int = 2
    """Tokens of a name, and of the word."""
    components: int = 512
    """Principal components per token, at most; there are as many as ways in which the names differ."""

    def __post_init__(self) -> None:
        check_placeholder(self.placeholder, self.num_vectors)
        if self.components < 1 or len(set(self.names)) < 3:
            raise ConfigError(
                f"a basis needs three or more different names and a component, got {len(set(self.names))} names and "
                f"{self.components} components."
            )


class BasisRows(Rows):
    """mean + coefficients times components, per token; coefficients train, and start at zero.

    Args:
        rows: of the names' tokens, `names n d`, float32.
        components: at most so many per token.
    """

    def __init__(self, rows: Tensor, components: int) -> None:
        mean = rows.mean(0)
        super().__init__(mean)
        _, spread, directions = torch.linalg.svd((rows - mean).transpose(0, 1), full_matrices=False)
        # Directions in which no names differ are none of the basis; each token has as many as the poorest.
        rank = int((spread > 1e-5 * spread.amax(-1, keepdim=True)).sum(-1).min())
        count = max(1, min(components, rank))
        # The largest number of a direction is positive: otherwise a basis is unique up to signs alone.
        kept = directions[:, :count]
        largest = kept.abs().argmax(-1, keepdim=True)
        self.register_buffer("basis", (kept * kept.gather(-1, largest).sign()).contiguous())
        self.basis: Tensor
        """`n k d`, orthonormal for each token."""
        self.coefficients = nn.Parameter(torch.zeros(mean.shape[0], count))

    def forward(self) -> Tensor:
        """Rows `n d`, float32."""
        return self.initial + self.scale * torch.einsum("nk,nkd->nd", self.coefficients, self.basis)


class BasisAdapter(TokenAdapter):
    """State: `text_encoder.coefficients`, `text_encoder.basis` and `text_encoder.initial`.

    Differs from the paper: coefficients are learned themselves. There a face's features give them by one linear map,
    which for a single subject is the same, and for several at once shares that map.
    """

    def __init__(self, name: str, config: BasisConfig) -> None:
        super().__init__(name, vector_tokens(config.placeholder, config.num_vectors))
        self.config = config

    def _build(self, backbone: AbstractBackbone, initial: Sequence[Tensor]) -> list[Rows]:
        pairs = zip(backbone.text_encoders, backbone.tokenizers, strict=True)
        return [BasisRows(self._of_names(encoder, tokenizer), self.config.components) for encoder, tokenizer in pairs]

    def _initial(self, encoder: nn.Module, tokenizer: Any) -> Tensor:
        return self._of_names(encoder, tokenizer).mean(0)

    def _of_names(self, encoder: nn.Module, tokenizer: Any) -> Tensor:
        """Rows of the tokens of all usable names, `names n d`, float32, on the CPU.

        Raises:
            ConfigError: fewer than three names have the right number of tokens.
        """
        table = original(encoder.get_input_embeddings()).weight  # type: ignore[operator]
        assert isinstance(table, Tensor)
        ids = [tokenizer(name, add_special_tokens=False).input_ids for name in self.config.names]
        usable = [own for own in ids if len(own) == self.config.num_vectors]
        if len(usable) < 3:
            raise ConfigError(
                f"of the {len(ids)} names {len(usable)} are {self.config.num_vectors} tokens of this base; a basis "
                "needs three. Give others as `names`, or another num_vectors."
            )
        return table.detach()[torch.tensor(usable, device=table.device)].float().cpu()
