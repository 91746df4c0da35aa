"""Stylised pictures of posed renders: what StyleAvatar3D (arXiv 2305.19012) trains its generator on."""

import contextlib
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from pcs_ext.config_io import atomic_write_bytes, config
from pcs_ext.errors import ConfigError
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.image.blended import PutBack
from pcs_ext.image.image_to_image import encode_one_by_one, first_step
from pcs_ext.image.sample import SampleConfig, SampleHooks, build_scheduler, initial_noise, sample
from pcs_ext.image.subject import Artifact
from pcs_ext.reporter import Reporter
from pcs_ext.runtime import generator_for, seed_for
from pcs_ext.threed.cameras import Cameras, orbit
from pcs_ext.threed.geometry_control import GeometryControl, depth_pictures, normal_pictures
from pcs_ext.threed.posed_pictures import read_picture
from pcs_ext.threed.rasterize import project
from pcs_ext.threed.surface import SurfaceMesh
from pcs_ext.threed.surface_render import SeenSurface, look_at
from pcs_ext.threed.turntable import sheet
from pcs_ext.threed.view_prompts import ViewWords, directions

_AMBIENT = 0.55


@config
class ViewDataConfig:
    """Which pictures are made, and how far they may go from the renders."""

    count: int = 96
    """Of the pictures (the paper: hundreds of thousands)."""
    yaw: tuple[float, float] = (-180.0, 180.0)
    """Degrees; one picture falls into each of `count` equal pieces (the paper's range)."""
    pitch: tuple[float, float] = (-30.0, 30.0)
    """Degrees above the horizon (the paper's range)."""
    distance: float = 5.2
    """World units, to the middle of the cube the shape stands in."""
    fov: float = 28.0
    """Full vertical angle, degrees."""
    strength: float = 0.8
    """Noise that a picture starts from, as a share of the schedule: what guides its structure where there is no
    ControlNet."""
    tone: float = 0.7
    """Grey of the shape before it is painted."""
    background: float = 0.8
    """Grey around it while it is painted; white afterwards."""
    attributes: tuple[str, ...] = ()
    """Words of which `attributes_per_view` are drawn for each picture."""
    attributes_per_view: int = 0
    """The paper: 5 of 20."""
    hidden: tuple[tuple[str, str], ...] = (("back", "face, eyes, nose, mouth"), ("side", "two eyes"))
    """Direction -> negative prompt: what cannot be seen from there."""

    def __post_init__(self) -> None:
        if self.count < 2 or not 0 < self.strength <= 1 or self.yaw[0] >= self.yaw[1] or self.pitch[0] > self.pitch[1]:
            raise ConfigError(
                "expected 2 pictures or more, a strength in (0, 1], and ranges of yaw and pitch with their lower ends "
                f"first, got {self.count}, {self.strength}, {self.yaw}, {self.pitch}."
            )
        if not 0 <= self.attributes_per_view <= len(self.attributes):
            raise ConfigError(f"{self.attributes_per_view} attributes per view cannot be drawn of {self.attributes}.")

    def cameras(self, target: tuple[float, float, float], seed: int) -> Cameras:
        """Where the pictures are taken from."""
        generator = generator_for(seed, "view data")
        place = (torch.arange(self.count) + torch.rand(self.count, generator=generator)) / self.count
        yaw = self.yaw[0] + (self.yaw[1] - self.yaw[0]) * place
        pitch = self.pitch[0] + (self.pitch[1] - self.pitch[0]) * torch.rand(self.count, generator=generator)
        same = [self.distance] * self.count, [self.fov] * self.count
        return orbit(yaw, pitch, *same, target)

    def words(self, index: int, direction: str, seed: int) -> tuple[str, str]:
        """What is appended to a picture's prompt, and its negative prompt."""
        order = torch.randperm(len(self.attributes), generator=generator_for(seed, "attributes", index)).tolist()
        drawn = [self.attributes[place] for place in order[: self.attributes_per_view]]
        return "".join(f", {word}" for word in drawn), dict(self.hidden).get(direction, "")


class ViewMaker:
    """Makes the pictures of one shape, one by one; those that are there already stay.

    Args:
        folder: `NNNN.png` each, over white.
        mesh: the shape.
        cameras: of all pictures.
        settings: how.
        seed: of everything random.
    """

    def __init__(self, folder: Path, mesh: SurfaceMesh, cameras: Cameras, settings: ViewDataConfig, seed: int) -> None:
        self.folder, self.mesh, self.cameras = folder, mesh, cameras
        self.settings, self.seed, self.normals = settings, seed, mesh.vertex_normals()

    @torch.no_grad()
    def run(
        self,
        backbone: AbstractUnetBackbone,
        artifact: Artifact,
        prompt: str,
        words: ViewWords,
        control: GeometryControl | None,
        reporter: Reporter,
        *,
        side: int,
    ) -> Tensor:
        """All pictures, `n 3 side side` in [0, 1]; the files are as large as the base draws.

        Args:
            backbone: the subject's base, without it.
            artifact: the subject or style.
            prompt: with `{subject}`.
            words: for directions.
            control: tells the base the geometry; None: the render does, through the noise.
            reporter: hears the progress.
            side: pixels of what is returned.
        """
        names = directions(self.cameras, words)
        with artifact.applied(backbone):
            for index, name in enumerate(names):
                path = self.folder / f"{index:04d}.png"
                if not path.exists():
                    more, negative = self.settings.words(index, name, self.seed)
                    text = artifact.concept.prompt(prompt + getattr(words, name) + more)
                    negative = artifact.concept.negative_prompt(negative)
                    made = self._picture(backbone, index, text, negative, artifact.sampling, control)
                    atomic_write_bytes(path, sheet(made[None], columns=1))
                reporter.progress("3d pictures", index + 1, len(names))
        # One after another: thousands of pictures at the base's size would not fit into memory.
        return torch.cat([self._read(index, side) for index in range(len(names))])

    def _read(self, index: int, side: int) -> Tensor:
        picture = read_picture(self.folder / f"{index:04d}.png")
        return functional.interpolate(picture[None], (side, side), mode="bilinear", antialias=True)

    def _picture(
        self,
        backbone: AbstractUnetBackbone,
        index: int,
        prompt: str,
        negative: str,
        sampling: SampleConfig,
        control: GeometryControl | None,
    ) -> Tensor:
        side = backbone.resolution
        seen, picture = self.render(index, side)
        known = encode_one_by_one(backbone, picture[None] * 2 - 1)
        near = functional.max_pool2d(seen.covered[None, None].float(), 3, 1, 1)
        cells = functional.adaptive_max_pool2d(near, side // backbone.vae_factor).to(backbone.device)
        seed = seed_for(self.seed, "picture", index)
        scheduler = build_scheduler(backbone, sampling)
        share = 1.0 if control is not None else self.settings.strength
        first = first_step(scheduler.timesteps, share * backbone.schedule.num_train_timesteps)
        noise = initial_noise(backbone, [seed], sampling).to(known)
        put_back = PutBack(backbone, known, cells, sampling)
        hooks = SampleHooks(
            initial_latents=scheduler.add_noise(known, noise, scheduler.timesteps[first : first + 1]),
            first_step=first,
            started=put_back.started,
            on_step=put_back.on_step,
        )
        with self._told(backbone, control, seen, index):
            made = sample(backbone, [prompt], seeds=[seed], config=sampling, negative_prompts=[negative], hooks=hooks)
        return torch.where(seen.covered, made[0] * 0.5 + 0.5, torch.ones(()))

    def render(self, index: int, side: int) -> tuple[SeenSurface, Tensor]:
        """What one camera sees of the shape, and the shaded grey render `3 h w` in [0, 1]."""
        points = project(self.cameras, index, self.mesh.vertices, side, side)
        position = self.cameras.positions[index]
        seen = look_at(self.mesh, self.normals, points, position, (side, side))
        toward = functional.normalize(position - seen.places, dim=-1)
        facing = (seen.normals * toward).sum(-1, keepdim=True).clamp_min(0)
        layer = torch.full((side, side, 3), self.settings.background)
        layer[seen.covered] = (self.settings.tone * (_AMBIENT + (1 - _AMBIENT) * facing)).expand(-1, 3)
        return seen, layer.permute(2, 0, 1)

    def _told(
        self, backbone: AbstractUnetBackbone, control: GeometryControl | None, seen: SeenSurface, index: int
    ) -> contextlib.AbstractContextManager[None]:
        if control is None:
            return contextlib.nullcontext()
        if control.kind == "depth":
            return control.showing(backbone, depth_pictures(seen.depth[None], seen.covered[None]))
        normals = torch.zeros(1, *seen.covered.shape, 3)
        normals[0][seen.covered] = seen.normals
        return control.showing(backbone, normal_pictures(normals, seen.covered[None], self.cameras[[index]]))
