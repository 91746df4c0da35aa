"""How a phase learns from rewards."""

from typing import Literal

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError


@config
class RewardConfig:
    """Pictures are made in every step, judged, and what makes them better is learned."""

    method: Literal["feedback", "policy"]
    """feedback: the judge's gradient through the last prediction and the decoder (ReFL, arXiv 2304.05977). policy: the
    probability of paths to good pictures grows, no gradient of the judge is needed (DDPO, arXiv 2305.13301)."""
    identity: float = 0.0
    """Weight of the cosine to the mean of the photos, by `identity_encoder`."""
    text: float = 0.0
    """Weight of the cosine to the prompt with the class noun in the subject's place, by `encoder`."""
    prompts: tuple[str, ...]
    """What is asked for, with `{subject}`."""
    encoder: str = "openai/clip-vit-large-patch14"
    """A CLIP: `toybox`, a transformers folder or a hub id."""
    identity_encoder: str = ""
    """Any image encoder: `toybox/dino`, a folder or a hub id; empty: the CLIP."""
    pictures: int = 1
    """Made in every step; of a policy all for one prompt, at least two, which are compared with each other."""
    steps: int = 20
    """Of sampling, by DDIM."""
    guidance_scale: float = 1.0
    """Of sampling; 1: none."""
    last: tuple[float, float] = (0.0, 0.5)
    """feedback: part of the steps, from the end, among which the one whose prediction is judged is drawn."""
    visited: int = 5
    """policy: how many steps of a path are learned from, drawn anew in every step; never the last, which has no
    noise."""
    denoising: float = 1.0
    """Weight of the photos' denoising error beside the reward; 0: none."""

    def __post_init__(self) -> None:
        if not self.prompts or not all("{subject}" in prompt for prompt in self.prompts):
            raise ConfigError(f"a reward needs prompts with {{subject}} in them, got {list(self.prompts)}.")
        if min(self.identity, self.text, self.denoising) < 0 or self.identity + self.text == 0:
            raise ConfigError(
                f"identity and text are weights, one of them above 0, and denoising is none below 0; got "
                f"{self.identity}, {self.text} and {self.denoising}."
            )
        policy = self.method == "policy"
        if min(self.pictures, self.steps) < 1 + policy:
            raise ConfigError(
                "a reward needs pictures and steps, of a policy at least two of each; got "
                f"{self.pictures} pictures and {self.steps} steps."
            )
        if policy and not 1 <= self.visited < self.steps:
            raise ConfigError(
                f"a policy visits 1 to all but the last of its {self.steps} steps, got {self.visited}; set visited."
            )
        if not 0 <= self.last[0] < self.last[1] <= 1:
            raise ConfigError(f"last are two rising parts of the steps in [0, 1], got {list(self.last)}.")
