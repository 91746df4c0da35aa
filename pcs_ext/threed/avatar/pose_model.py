"""A denoiser of poses under text: a small transformer over the joints (as MDM's over frames, arXiv 2209.14916).

Texts are read as the sums of vectors of their words and of two and three words in a row, which the model learns itself;
words that no caption had say nothing.
Differs from the usual frozen text encoder: the synthetic set has no words that one would know more of, and in a
thousand steps a small model did not learn to read an encoder's states of words that this had hardly seen.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pcs_ext.config_io import config, from_jsonable, read_json
from pcs_ext.errors import ConfigError, InputError
from pcs_ext.image.guidance import combine_guidance
from pcs_ext.image.noise import NoiseSchedule
from pcs_ext.runtime import generator_for
from pcs_ext.threed.avatar.pose_vocabulary import PoseVocabulary
from pcs_ext.threed.avatar.rotations import matrices_of
from pcs_ext.threed.avatar.skeleton import NAMES
from pcs_ext.threed.stored import restored, store

MODEL_FILE = "poses.json"
"""By which a pose model's folder is known."""
_NUMBERS = 6
_OFFSET = 0.008


@config
class PoseModelConfig:
    """Sizes of a pose model."""

    width: int = 96
    """Of its tokens, a multiple of `heads`."""
    layers: int = 3
    heads: int = 4
    timesteps: int = 1000
    """Of its noise schedule."""

    def __post_init__(self) -> None:
        if self.width % (2 * self.heads) or min(self.layers, self.heads) < 1 or self.timesteps < 2:
            raise ConfigError(
                f"expected a width that is a multiple of twice the heads, layers and timesteps, got {self}."
            )


@config
class PoseModelFile:
    """What is stored beside the tensors."""

    model: PoseModelConfig
    """Sizes."""
    runs: tuple[str, ...]
    """What its vocabulary knows."""
    steps: int
    """Of its training."""
    seen: float
    """Share of fresh poses that do what their captions say, in [0, 1]."""
    held_out: float | None
    """The same for pairs of phrases that training never saw; None: there were none."""


def cosine_schedule(timesteps: int) -> NoiseSchedule:
    """abar_t of Nichol and Dhariwal (arXiv 2102.09672, eq. 17), predicting v; never quite 0 at the end."""
    place = (torch.arange(1, timesteps + 1, dtype=torch.float64) / timesteps + _OFFSET) / (1 + _OFFSET)
    abar = (
        torch.cos(place * torch.pi / 2).square()
        / torch.cos(torch.tensor(_OFFSET / (1 + _OFFSET) * torch.pi / 2, dtype=torch.float64)).square()
    )
    return NoiseSchedule(alphas_cumprod=abar.clamp(1e-5, 1 - 1e-5).float(), prediction_type="v_prediction")


class PoseModel(nn.Module):
    """v of noised poses `b j 6`, in units of the training set's spread, under words or none.

    Args:
        settings: sizes.
        vocabulary: which words it knows.
        seed: of the first weights.
    """

    middle: Tensor
    spread: Tensor

    def __init__(self, settings: PoseModelConfig, vocabulary: PoseVocabulary, seed: int = 0) -> None:
        super().__init__()
        self.settings, self.vocabulary = settings, vocabulary
        self.schedule = cosine_schedule(settings.timesteps)
        width, joints = settings.width, len(NAMES)
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            self.enter, self.leave = nn.Linear(_NUMBERS, width), nn.Linear(width, _NUMBERS)
            self.joint = nn.Parameter(torch.randn(joints, width) * 0.02)
            self.table = nn.Embedding(vocabulary.size, width, padding_idx=0)
            self.meant = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, joints * width))
            self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
            self.body = nn.ModuleList(
                nn.TransformerEncoderLayer(
                    width, settings.heads, 2 * width, 0.0, functional.gelu, batch_first=True, norm_first=True
                )
                for _ in range(settings.layers)
            )
        self.register_buffer("middle", torch.zeros(joints, _NUMBERS))
        self.register_buffer("spread", torch.ones(joints, _NUMBERS))

    def forward(self, noisy: Tensor, timesteps: Tensor, words: Tensor, silent: Tensor | None = None) -> Tensor:
        """v, `b j 6`.

        Args:
            noisy: `b j 6`.
            timesteps: `b`.
            words: `b n` of its vocabulary.
            silent: `b` bool: these rows hear no words; None: all hear theirs.
        """
        heard = words if silent is None else words * ~silent[:, None]
        meant = self.meant(self.table(heard).sum(1)).unflatten(1, (len(NAMES), -1))
        moment = self.time(_waves(timesteps, self.settings.width))
        tokens = self.enter(noisy) + self.joint + moment[:, None] + meant
        for layer in self.body:
            tokens = layer(tokens)
        return self.leave(tokens)

    def scaled(self, six: Tensor) -> Tensor:
        """Six numbers `b j 6` of rotations, in units of the training set's spread."""
        return (six - self.middle) / self.spread

    def rotations(self, scaled: Tensor) -> Tensor:
        """Inverse of `scaled`: rotations `b j 3 3`."""
        return matrices_of(scaled * self.spread + self.middle)

    @torch.no_grad()
    def draw(self, words: Tensor, *, seeds: Sequence[int], steps: int = 50, guidance_scale: float = 2.5) -> Tensor:
        """A pose for each text: rotations `b j 3 3` of every joint against its parent.

        DDIM (arXiv 2010.02502) under classifier-free guidance; a pose depends on its own text and seed alone.

        Args:
            words: `b n` of its vocabulary.
            seeds: `b`.
            steps: denoiser evaluations.
            guidance_scale: 1 = off.
        """
        shape = (len(NAMES), _NUMBERS)
        noisy = torch.stack([torch.randn(shape, generator=generator_for(seed, "pose")) for seed in seeds])
        visited = torch.linspace(self.schedule.num_train_timesteps - 1, 0, steps).round().long()
        clean = noisy
        for index, timestep in enumerate(visited):
            t = timestep.expand(len(noisy))
            v = self(noisy, t, words)
            if guidance_scale != 1.0:
                deaf = self(noisy, t, words, torch.ones(len(noisy), dtype=torch.bool))
                v = combine_guidance(deaf, v, guidance_scale)
            clean, noise = self.schedule.to_x0(v, noisy, t), self.schedule.to_epsilon(v, noisy, t)
            if index + 1 < len(visited):
                noisy = self.schedule.add_noise(clean, noise, visited[index + 1].expand(len(noisy)))
        return self.rotations(clean)


def save_pose_model(folder: Path, model: PoseModel, told: PoseModelFile) -> None:
    """Write `poses.json` and `poses.safetensors`; the folder appears whole or not at all."""
    store(folder, "poses", model, told)


def load_pose_model(folder: Path) -> tuple[PoseModel, PoseModelFile]:
    """What `save_pose_model` wrote, in eval mode.

    Raises:
        InputError: there is none, or it is damaged.
    """
    if not (folder / MODEL_FILE).is_file():
        raise InputError(f"{folder} holds no pose model; train one: pcs-ext 3d learn-poses -o {folder}.")
    model = restored(folder, "poses", PoseModelFile, lambda told: PoseModel(told.model, PoseVocabulary(told.runs)))
    told: Any = from_jsonable(PoseModelFile, read_json(folder / MODEL_FILE), where=str(folder / MODEL_FILE))
    return model.eval(), told


def _waves(timesteps: Tensor, width: int) -> Tensor:
    """Sines and cosines of timesteps, `b width`."""
    rates = torch.exp(-torch.arange(width // 2) / (width // 2) * torch.log(torch.tensor(10_000.0)))
    angle = timesteps[:, None].float() * rates
    return torch.cat([angle.sin(), angle.cos()], 1)
