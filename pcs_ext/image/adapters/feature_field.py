"""A subject seen from a given camera: FeatureNeRF inside transformer blocks (CustomDiffusion360, arXiv 2404.12333).

The denoiser also reads posed pictures of the subject, hardly noised. Between the attention to the text and the
feed-forward layer of some blocks, a field of what it thinks of them there is rendered from the camera of the picture
that is painted, and joined to that picture's own tokens.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError, UsageError
from pcs_ext.image.adapters.batch_reader import AbstractBatchReader
from pcs_ext.image.adapters.layers import to_storage
from pcs_ext.image.adapters.pass_adapter import AbstractPass, AbstractPassAdapter
from pcs_ext.image.adapters.tokens import check_placeholder
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.unet import recomputing_inside
from pcs_ext.image.cameras import Cameras
from pcs_ext.image.feature_nerf import FeatureNerf, Rendering, ball_points, normalised
from pcs_ext.image.predict_programs import Predict
from pcs_ext.image.prompt_programs import Encode
from pcs_ext.image.types import Batch, Conditioning

_VIEWS = "views."


@config
class FeatureFieldConfig:
    """Fields behind the text cross-attention of some blocks."""

    kind: Literal["feature_field"] = "feature_field"
    """Tag of this adapter in JSON."""
    placeholder: str = "<subject>"
    """The subject's word, which another adapter learns; prompts without it are answered by the base alone."""
    caption: str
    """Under which the references are read, with the placeholder in it."""
    every: int = 2
    """Every so many of the blocks get a field, the first among them; the released configuration's."""
    samples: int = 24
    """Points along a ray (released configuration)."""
    references: int = 5
    """Pictures that are looked up at once (released configuration)."""
    drop: float = 0.25
    """Share of photos that are learned without references (released configuration)."""
    noise: int = 50
    """References are noised to one of so many of the lowest timesteps while photos are learned (released
    configuration); later they are clean."""
    width: int = 128
    """Of what points know; ours."""
    init_seed: int = 0
    """Seed of the fields."""

    def __post_init__(self) -> None:
        check_placeholder(self.placeholder, 1)
        counts = (self.every, self.samples, self.references, self.noise, self.width)
        if min(counts) < 1 or not 0 <= self.drop < 1 or self.placeholder not in self.caption:
            raise ConfigError(
                f"every, samples, references, noise and width are at least 1, drop in [0, 1) and {self.placeholder} "
                f"stands in the caption; got {', '.join(map(str, counts))}, {self.drop} and {self.caption!r}."
            )


@dataclasses.dataclass
class _Look:
    """What a pass is told: from where each of its rows is seen, and by which references."""

    cameras: Cameras
    """Of the first rows, or one of all."""
    taken: Tensor
    """bool, for each of those: whether the row sees the references at all."""
    references: list[int]
    timestep: int
    noise: Tensor | None
    jitter: Tensor | None
    maps: dict[str, Tensor] | None = None
    """Of the references, kept where every pass asks for the same."""


class FeatureFieldAdapter(AbstractPassAdapter[FeatureNerf], AbstractBatchReader):
    """The fields, and the pictures they look up; state: `field.<block>.<tensor>`, `views.latents` (`n c h w`),
    `views.matrices`, `views.fovs` and `views.ball` (centre and radius), the last four absent until they are known.

    Without a camera nothing is added. Conditioning of single layers does not go together with this adapter.
    """

    def __init__(self, name: str, config: FeatureFieldConfig) -> None:
        super().__init__(name, prefix="field", kept=_VIEWS)
        self.config = config
        self.rendered: dict[str, tuple[Rendering, Tensor, tuple[int, int]]] = {}
        """Of the last pass, by block: what was rendered, for which of its rows, on how many rows and columns."""
        self._look: _Look | None = None

    @property
    def fields(self) -> dict[str, FeatureNerf]:
        """By the block that they stand in."""
        return self.networks

    @property
    def views(self) -> dict[str, Tensor]:
        """The pictures to look up, as they are stored; empty until they are known."""
        return self.kept

    def standing(self, backbone: AbstractBackbone) -> AbstractPass:
        """See `AbstractPassAdapter.standing`."""
        return _Pass(self, backbone)

    def built(self, backbone: AbstractBackbone) -> dict[str, FeatureNerf]:
        """See `AbstractPassAdapter.built`."""
        paths = backbone.cross_attention_paths()[:: self.config.every]
        if not paths:
            raise ConfigError(f"the denoiser of {backbone.name} has no text cross-attention to put a field behind.")
        fields: dict[str, FeatureNerf] = {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.init_seed)
            for path in paths:
                attention: Any = backbone.denoiser.get_submodule(path)
                width, text = attention.to_out[0].out_features, attention.to_k.in_features
                fields[path.removesuffix(".attn2")] = FeatureNerf(width, text, self.config.width).requires_grad_(False)
        return fields

    def eject(self) -> None:
        super().eject()
        self.rendered = {}

    def keep(self, latents: Tensor, cameras: Cameras, center: Tensor, radius: Tensor) -> None:
        """Pictures to look up, of squares.

        Args:
            latents: `n c h w`, clean.
            cameras: theirs, `n`.
            center, radius: of a ball that holds the subject.
        """
        ball = torch.cat([center, radius.reshape(1)])
        matrices, fovs = cameras.camera_to_world, cameras.fov
        known = {"latents": latents, "matrices": matrices, "fovs": fovs, "ball": ball}
        self.kept = {f"{_VIEWS}{key}": to_storage(value.float()) for key, value in known.items()}

    @property
    def cameras(self) -> Cameras:
        """Of the pictures that are looked up; their angles are not kept."""
        matrices, fovs = self.views["views.matrices"], self.views["views.fovs"]
        zeros = torch.zeros_like(fovs)
        return Cameras(camera_to_world=matrices, fov=fovs, azimuth=zeros, elevation=zeros)

    @property
    def ball(self) -> tuple[Tensor, Tensor]:
        """Centre and radius of where the subject is."""
        return self.views["views.ball"][:3], self.views["views.ball"][3]

    @contextlib.contextmanager
    def viewing(self, cameras: Cameras) -> Iterator[None]:
        """Inside, the subject is seen from these cameras: one for each row that names it, or one for all.

        References are the picture taken nearest to the first camera's direction, then those farthest from all taken.

        Raises:
            UsageError: no picture is known that could be looked up.
        """
        if not self.views:
            raise UsageError("this subject has no posed pictures to be seen by; learn it again.")
        references = spread(self.cameras.positions - self.ball[0], cameras.positions[0] - self.ball[0],
                            self.config.references)  # fmt: skip
        look = _Look(cameras, torch.ones(len(cameras), dtype=torch.bool), references, 0, None, None)
        before, self._look = self._look, look
        try:
            yield
        finally:
            self._look = before

    @contextlib.contextmanager
    def reading(self, batch: Batch, latents: Tensor, generator: torch.Generator) -> Iterator[None]:
        """See `AbstractBatchReader.reading`: each photo is seen from its camera, by references that are not in the
        batch."""
        if batch.cameras is None or not self.views:
            yield
            return
        self._look = self._drawn(batch.cameras, latents, generator)
        try:
            yield
        finally:
            self._look = None

    def _drawn(self, cameras: Cameras, latents: Tensor, generator: torch.Generator) -> _Look:
        """What a batch of photos is told, at random."""
        own = self.cameras.camera_to_world
        same = (own[:, None] - cameras.camera_to_world[None]).abs().amax((2, 3)) < 1e-6
        free = (~same.any(1)).nonzero()[:, 0].tolist() or list(range(len(own)))
        order = torch.randperm(len(free), generator=generator)[: self.config.references].tolist()
        references = [free[index] for index in order]
        taken = torch.rand(len(cameras), generator=generator) >= self.config.drop
        timestep = int(torch.randint(self.config.noise, (), generator=generator))
        noise = torch.randn(len(references), *latents.shape[1:], generator=generator)
        jitter = torch.rand(len(cameras), 1, self.config.samples, generator=generator)
        return _Look(cameras, taken, references, timestep, noise, jitter)

    @property
    def look(self) -> _Look | None:
        """What the pass is told now."""
        return self._look


def spread(positions: Tensor, first: Tensor, count: int) -> list[int]:
    """Indices of directions: the nearest to `first`, then again and again the one farthest from all that are taken.

    Args:
        positions: `n 3`, about the centre.
        first: `3`.
        count: how many at most.
    """
    directions = F.normalize(positions, dim=1)
    taken = [int((directions @ F.normalize(first, dim=0)).argmax())]
    while len(taken) < min(count, len(directions)):
        closeness = (directions @ directions[taken].T).amax(1)
        closeness[taken] = 2.0
        taken.append(int(closeness.argmin()))
    return taken


class _Pass(AbstractPass):
    """Around `encode_prompt`, to mark the subject's word, and around `predict`."""

    def __init__(self, adapter: FeatureFieldAdapter, backbone: AbstractBackbone) -> None:
        super().__init__(backbone, f"field_{adapter.name}")
        self.adapter = adapter

    def __call__(self, encode: Encode, prompts: Sequence[str], size: tuple[int, int] | None) -> Conditioning:
        told = encode(prompts, size=size)
        named = torch.tensor([float(self.adapter.config.placeholder in prompt) for prompt in prompts])
        return told.marked({self.word: named[:, None].expand(told.states.shape[:2])}) if named.any() else told

    def answered(
        self, predict: Predict, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning
    ) -> Tensor:
        """`predict`, the marked rows seen from their cameras."""
        self.adapter.rendered = {}
        marks, look = (conditioning.marks or {}).get(self.word), self.adapter.look
        if marks is None or look is None or self.adapter.scale == 0:
            return predict(noisy_latents, timesteps, conditioning)
        rows, which = _seen(marks.any(1), look)
        if not len(rows):
            return predict(noisy_latents, timesteps, conditioning)
        maps = self._maps(predict, noisy_latents, look)
        told = conditioning.states[rows.to(conditioning.states.device)]
        inside = lambda: self._inside(maps, look, rows, which, told, noisy_latents.shape)  # noqa: E731
        with recomputing_inside(self.backbone.denoiser, inside), inside():
            return predict(noisy_latents, timesteps, conditioning)

    @torch.no_grad()
    def _maps(self, predict: Predict, like: Tensor, look: _Look) -> dict[str, Tensor]:
        """What the blocks make of the references, by block, `n d h w`.

        Differs from the released code: no gradient flows through them.
        """
        if look.maps is not None:
            return look.maps
        latents = self.adapter.views["views.latents"][look.references].to(like)
        latents = F.interpolate(latents.float(), size=like.shape[-2:], mode="bilinear", antialias=True).to(like)
        times = torch.full((len(latents),), look.timestep, device=like.device)
        if look.noise is not None:
            latents = self.backbone.schedule.add_noise(latents, look.noise.to(like), times)
        told = self.backbone.encode_prompt([self.adapter.config.caption] * len(latents))
        maps: dict[str, Tensor] = {}

        def keep(path: str, hidden: Tensor) -> None:
            maps[path] = hidden.transpose(1, 2).unflatten(2, grid_of(hidden.shape[1], like.shape)).float()

        with self._hooked(keep):
            predict(latents, times, told)
        if look.noise is None:
            look.maps = maps
        return maps

    @contextlib.contextmanager
    def _hooked(self, heard: Any) -> Iterator[None]:
        """Inside, `heard(block, tokens)` is told each block's tokens behind its attention to the text, and may return
        what is added to them."""
        entered: dict[str, Tensor] = {}
        handles = []
        for path in self.adapter.fields:
            block: Any = self.backbone.denoiser.get_submodule(path)

            def enter(module: nn.Module, inputs: Any, path: str = path) -> None:
                entered[path] = inputs[0]

            def leave(module: nn.Module, inputs: Any, output: Tensor, path: str = path) -> Tensor | None:
                added = heard(path, output + entered.pop(path))
                return None if added is None else output + added

            handles += [block.norm2.register_forward_pre_hook(enter), block.attn2.register_forward_hook(leave)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _inside(
        self, maps: dict[str, Tensor], look: _Look, rows: Tensor, which: Tensor, told: Tensor, shape: torch.Size
    ) -> contextlib.AbstractContextManager[None]:
        adapter, ball = self.adapter, self.adapter.ball
        references = normalised(adapter.cameras[look.references], *ball)
        cameras = normalised(look.cameras[which], *ball)
        jitter = None if look.jitter is None else look.jitter[which]

        def added(path: str, hidden: Tensor) -> Tensor:
            side, field, at = grid_of(hidden.shape[1], shape), adapter.fields[path], rows.to(hidden.device)
            shaken = None if jitter is None else jitter.expand(-1, hidden.shape[1], -1)
            with torch.autocast(hidden.device.type, enabled=False):  # where rays go must not be rounded
                points = ball_points(cameras, side, adapter.config.samples, shaken).to(hidden.device)
                rendering = field.render(maps[path], references, points, told.float())
                moved = adapter.scale * field(hidden[at].float(), rendering)
            adapter.rendered[path] = rendering, rows, side
            return torch.zeros_like(hidden).index_put((at,), moved.to(hidden.dtype))

        return self._hooked(added)


def grid_of(tokens: int, shape: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of a block's tokens, for latents of a shape `... h w`."""
    shrunk = round((shape[-2] * shape[-1] / tokens) ** 0.5)
    return shape[-2] // shrunk, shape[-1] // shrunk


def _seen(named: Tensor, look: _Look) -> tuple[Tensor, Tensor]:
    """Rows of a pass that see the references, and for each which of the cameras is its own."""
    rows = named.cpu().nonzero()[:, 0]
    if len(look.cameras) == 1 and bool(look.taken[0]) and look.noise is None:
        return rows, torch.zeros_like(rows)
    if look.noise is None:  # one camera for each row that names the subject, guidance's rows in front of them
        return rows, torch.arange(len(rows)) % len(look.cameras)
    rows = rows[rows < len(look.cameras)]
    rows = rows[look.taken[rows]]
    return rows, rows
