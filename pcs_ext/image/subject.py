"""A learned subject: load it, put it into a backbone, generate with it."""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pcs_ext.artifact import ArtifactData
from pcs_ext.config_io import from_jsonable
from pcs_ext.errors import ArtifactError, UsageError
from pcs_ext.image.adapters import AdapterConfig, build_adapter
from pcs_ext.image.adapters.base import AbstractAdapter, injected
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.concept import Concept
from pcs_ext.image.levels import pixels_of, to_pil
from pcs_ext.image.png import write_png
from pcs_ext.image.sample import SampleConfig, SampleHooks, sample
from pcs_ext.reporter import Reporter, SilentReporter

Steering = Callable[[Sequence[AbstractAdapter]], contextlib.AbstractContextManager[Any]]
"""`adapters -> a context` in which they know where their subjects shall be, or from where they are seen."""


@dataclasses.dataclass(frozen=True)
class GeneratedImage:
    """One image with the facts that reproduce it."""

    image: Image.Image
    prompt: str
    """As the user wrote it, with `{subject}`."""
    facts: dict[str, Any]
    """Seed, steps, guidance, scheduler, base and artifact hash."""

    def save(self, path: str | Path) -> None:
        """Write a PNG whose text chunks `prompt` and `pcs_ext` hold the facts; of a base's place its name alone."""
        facts = {**self.facts, "base": _without_place(self.facts["base"])} if "base" in self.facts else self.facts
        info = PngInfo()
        info.add_itxt("prompt", self.prompt)
        info.add_itxt("pcs_ext", json.dumps(facts))
        write_png(Path(path), self.image, info)


def _without_place(base: str) -> str:
    """A base as pictures that are given away name it: folders of a machine say who works there."""
    place = Path(base).expanduser()
    return place.name if place.is_absolute() or place.exists() else base


class Artifact:
    """A learned subject on disk or in memory."""

    def __init__(self, data: ArtifactData) -> None:
        self.data = data
        self.concept: Concept = from_jsonable(Concept, data.concept, where="the artifact's concept")
        self.sampling: SampleConfig = from_jsonable(
            SampleConfig, data.recipe["sampling"], where="the artifact's sampling settings"
        )

    @classmethod
    def load(cls, path: str | Path) -> "Artifact":
        """Read a folder written by `learn`.

        Raises:
            ArtifactError: missing, corrupt, foreign or of an unknown version.
        """
        return cls(ArtifactData.load(Path(path)))

    def adapters(self) -> list[AbstractAdapter]:
        """The artifact's adapters with their trained tensors, not yet injected."""
        built = []
        for name, settings in self.data.adapters.items():
            adapter = build_adapter(name, from_jsonable(AdapterConfig, settings, where=f"adapter {name!r}"))
            adapter.load_state_dict(self.data.tensors_of(name))
            built.append(adapter)
        return built

    @contextlib.contextmanager
    def applied(self, backbone: AbstractBackbone, *, scale: float = 1.0) -> Iterator[AbstractBackbone]:
        """The backbone with this subject in it; on exit the backbone is as before, bit for bit.

        Raises:
            ArtifactError: the artifact was learned on a backbone of another family.
        """
        with self.inside(backbone) as adapters:
            for adapter in adapters:
                adapter.set_scale(scale)
            yield backbone

    @contextlib.contextmanager
    def inside(self, backbone: AbstractBackbone) -> Iterator[list[AbstractAdapter]]:
        """Likewise; gives the adapters, for who changes their scales meanwhile.

        Raises:
            ArtifactError: the artifact was learned on a backbone of another family.
        """
        if backbone.family != self.data.base_family:
            raise ArtifactError(
                f"this subject was learned on a {self.data.base_family} base ({self.data.base_name}); "
                f"{backbone.name} is of family {backbone.family}. Learn it again with --base {backbone.name}."
            )
        adapters = self.adapters()
        with injected(backbone, *adapters):
            yield adapters

    def backbone(self, base: str | None = None, *, device: str = "auto", precision: str = "auto") -> AbstractBackbone:
        """The base this subject was learned on (or another of its family)."""
        return load_backbone(base or self.data.base_name, device=device, precision=precision)

    def generate(
        self,
        prompts: str | Sequence[str],
        *,
        seeds: Sequence[int] = (0,),
        negative_prompt: str = "",
        steps: int | None = None,
        guidance_scale: float | None = None,
        scale: float = 1.0,
        base: str | AbstractBackbone | None = None,
        hooks: SampleHooks | None = None,
        steering: Steering | None = None,
        device: str = "auto",
        precision: str = "auto",
        reporter: Reporter | None = None,
    ) -> list[GeneratedImage]:
        """Images of the subject: for each prompt, one per seed, in that order.

        Args:
            prompts: texts with `{subject}` where the subject goes.
            seeds: an image depends on its prompt, its seed and the settings, not on what is generated beside it.
            negative_prompt: what to stay away from; only with guidance.
            steps: denoising steps; None takes the recipe's.
            guidance_scale: 1 = off; None takes the recipe's.
            scale: strength of the subject, 1 as trained, 0 the plain base.
            base: another base of the same family, or one already loaded.
            hooks: what reaches into the sampling.
            steering: what tells the subject's adapters more than words do; entered before sampling.
            device: auto, cuda, mps or cpu.
            precision: auto, fp32, bf16 or fp16.
            reporter: hears the progress.

        Raises:
            UsageError: no prompt, no seed, a prompt without `{subject}`, or one so long that its subject is not read.
        """
        prompts = (prompts,) if isinstance(prompts, str) else tuple(prompts)
        if not prompts or not seeds:
            raise UsageError("generate needs at least one prompt and one seed, got none.")
        texts = [self.concept.prompt(prompt) for prompt in prompts]
        negative = self.concept.negative_prompt(negative_prompt)
        config = _override(self.sampling, num_inference_steps=steps, guidance_scale=guidance_scale)
        backbone = (
            base if isinstance(base, AbstractBackbone) else self.backbone(base, device=device, precision=precision)
        )
        with self.inside(backbone) as adapters, contextlib.ExitStack() as told, torch.inference_mode():
            check_length(backbone, texts, reporter or SilentReporter(), name=self.concept.name)
            for adapter in adapters:
                adapter.set_scale(scale)
            if steering is not None:
                told.enter_context(steering(adapters))
            images = sample(
                backbone,
                [text for text in texts for _ in seeds],
                seeds=[seed for _ in texts for seed in seeds],
                config=config,
                negative_prompts=[negative] * (len(texts) * len(seeds)) if negative else None,
                hooks=hooks,
                reporter=reporter or SilentReporter(),
            )
        common = {"base": backbone.name, "artifact": self.data.content_hash, "negative_prompt": negative_prompt}
        common |= dataclasses.asdict(config)
        return [
            GeneratedImage(to_pil(image), prompt, {"seed": seed, "scale": scale, **common})
            for image, (prompt, seed) in zip(images, [(p, s) for p in prompts for s in seeds], strict=True)
        ]


def check_length(backbone: AbstractBackbone, texts: Sequence[str], reporter: Reporter, *, name: str = "") -> None:
    """Say which prompts are longer than the text encoder reads: what comes behind has no effect.

    Args:
        backbone: with the learned words among its tokens.
        texts: as it reads them.
        reporter: hears of each that is cut.
        name: the subject's, in the texts.

    Raises:
        UsageError: what is cut off is the subject.
    """
    limit = backbone.tokenizers[0].model_max_length - 2
    for text in dict.fromkeys(texts):
        if (count := backbone.token_count(text)) <= limit:
            continue
        shown = text if len(text) < 80 else f"{text[:77]}..."
        before, named, _ = text.partition(name) if name else (text, "", "")
        if named and backbone.token_count(before + named) > limit:
            raise UsageError(
                f"the prompt {shown!r} has {count} tokens, of which {limit} are read, and its subject stands behind "
                "these. Write {subject} further to the front, or shorten the prompt."
            )
        reporter.event("prompt", f"the prompt {shown!r} has {count} tokens, of which {limit} are read")


def _override(config: SampleConfig, **changes: Any) -> SampleConfig:
    return dataclasses.replace(config, **{key: value for key, value in changes.items() if value is not None})


def as_tensor(made: GeneratedImage) -> torch.Tensor:
    """`3 h w` in [-1, 1]."""
    levels = torch.frombuffer(bytearray(made.image.convert("RGB").tobytes()), dtype=torch.uint8)
    return pixels_of(levels.reshape(made.image.height, made.image.width, 3).permute(2, 0, 1))


def save_mask(mask: torch.Tensor, path: Path) -> None:
    """Write a mask `1 h w` in [0, 1] as a gray PNG, 1 white."""
    write_png(path, Image.fromarray((mask[0].clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()))


def save_images(images: Sequence[GeneratedImage], folder: Path) -> list[Path]:
    """Write images as `00000.png`, `00001.png`, ...; numbers go on after files that are already there.

    Args:
        images: what to write.
        folder: where; the name of a PNG instead is that of the only image.
    """
    if folder.suffix.lower() == ".png" and not folder.is_dir() and len(images) == 1:
        images[0].save(folder)
        return [folder]
    taken = [int(path.stem) for path in folder.glob("*.png") if path.stem.isdigit()]
    first = max(taken, default=-1) + 1
    paths = [folder / f"{first + index:05d}.png" for index in range(len(images))]
    for image, path in zip(images, paths, strict=True):
        image.save(path)
    return paths
