"""What a weight adapter of few numbers is told: its method, size and places."""

from typing import Literal

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters.targets import TargetPreset, check_patterns

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
    """Of the update, in [0, 1), lora only; active where gradients are recorded: the frozen backbone is in eval mode in
    training too. Draws from torch's default
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
