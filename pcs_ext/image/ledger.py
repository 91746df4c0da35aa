"""Subjects learned one after another on one base, all usable together (Continual Diffusion, arXiv 2304.06027).

LEDGER/ledger.json    the subjects in their order
LEDGER/NAME/          one artifact per subject, learned on top of all before it
"""

import contextlib
import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from pcs_ext.artifact import ArtifactData
from pcs_ext.config_io import read_json, write_json
from pcs_ext.errors import ArtifactError, UsageError
from pcs_ext.image.adapters.low_rank import LowRankAdapter
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.concept import fill
from pcs_ext.image.data import find_photos
from pcs_ext.image.learn import learn, preset_of
from pcs_ext.image.levels import to_pil
from pcs_ext.image.recipes.base import Recipe
from pcs_ext.image.recipes.c_lora import c_lora
from pcs_ext.image.sample import sample
from pcs_ext.image.subject import Artifact, GeneratedImage
from pcs_ext.reporter import Reporter

_FILE = "ledger.json"
_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")


@dataclasses.dataclass(frozen=True)
class Plasticity:
    """How much a subject could still change."""

    name: str
    update: float
    """Frobenius norm of its update over all layers."""
    overlap: float
    """Share of its update, in squares, that lies where earlier updates are largest (their upper half), in [0, 1]; 0.5
    is chance, less means that it made way. 0 for the first."""


class Ledger:
    """A folder of subjects in the order they were learned.

    Args:
        folder: made on the first `add`.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    @property
    def names(self) -> tuple[str, ...]:
        """The subjects, first learned first.

        Raises:
            ArtifactError: the folder is no ledger, or lists a subject that is not there.
        """
        if not (self.folder / _FILE).exists():
            return ()
        names = read_json(self.folder / _FILE).get("subjects")
        if not isinstance(names, list) or not all(isinstance(name, str) and _NAME.fullmatch(name) for name in names):
            raise ArtifactError(f"{self.folder / _FILE} is no list of subjects; expected what `continual add` wrote.")
        missing = [name for name in names if not (self.folder / name).is_dir()]
        if missing:
            raise ArtifactError(
                f"{self.folder} lists {', '.join(missing)}, but the folder is gone; later subjects were learned on top "
                "of it. Put it back."
            )
        return tuple(names)

    def artifacts(self) -> list[Artifact]:
        """All subjects, in order.

        Raises:
            ArtifactError: one is damaged, or was learned on top of others than stand before it now.
        """
        found = [Artifact(ArtifactData.load(self.folder / name)) for name in self.names]
        hashes = [artifact.data.content_hash for artifact in found]
        for index, (name, artifact) in enumerate(zip(self.names, found, strict=True)):
            if artifact.data.training.get("after") != hashes[:index]:
                raise ArtifactError(
                    f"{name} was learned on top of other subjects than those that stand before it in {self.folder}; "
                    "expected the ledger as `continual add` left it."
                )
        return found

    def add(
        self,
        photos: Sequence[Path] | Path | str,
        *,
        name: str,
        noun: str,
        base: str | AbstractBackbone = "",
        steps: int | None = None,
        seed: int = 0,
        recipe: Recipe | None = None,
        device: str = "auto",
        precision: str = "auto",
        reporter: Reporter | None = None,
    ) -> Artifact:
        """Learn one more subject, on top of all that are there. Interrupted, the same call goes on.

        Args:
            photos: as for `learn`.
            name: small letters, digits and hyphens; prompts write `{name}`.
            noun: what the subject is; only lists and measurements use it.
            base: of the first subject, later ones take the same; empty: toybox for the first.
            steps: None takes the recipe's.
            seed: of everything random.
            recipe: another one than C-LoRA, to compare with; its adapters get names of their own here.
            device, precision, reporter: as for `learn`.

        Raises:
            UsageError: the name is taken or unusable, another base than the first subject's, or the photos' own folder.
            PhotoError: a photo that cannot be used; before the base is loaded.
        """
        earlier = self.artifacts()
        self._check_name(name)
        found = find_photos(photos)
        if any(photo.path.resolve().parent == self.folder.resolve() for photo in found):
            raise UsageError(f"{self.folder} is where {found[0].path.name} lies; expected a folder of its own.")
        chosen = base or (earlier[0].data.base_name if earlier else "toybox")
        loaded = isinstance(chosen, AbstractBackbone)
        backbone = chosen if loaded else load_backbone(chosen, device=device, precision=precision)
        if earlier and backbone.fingerprint != earlier[0].data.base_fingerprint:
            begun = earlier[0].data.base_name
            raise UsageError(f"{self.folder} was begun on {begun}, not on {backbone.name}; expected that base again.")
        value = recipe or c_lora(noun, preset_of(backbone), token=f"<{name}>")
        target = self.folder / name
        if self._is_learned(target, earlier):
            artifact = Artifact(ArtifactData.load(target))
        else:
            artifact = learn(
                [photo.path for photo in found],
                noun=noun,
                output=target,
                recipe=_own_names(value, name),
                base=backbone,
                steps=steps,
                seed=seed,
                after=earlier,
                overwrite=True,
                reporter=reporter,
            )
        write_json(self.folder / _FILE, {"schema_version": 1, "subjects": [*self.names, name]})
        return artifact

    def _check_name(self, name: str) -> None:
        taken = ", ".join(self.names) or "(none yet)"
        if not _NAME.fullmatch(name) or name in self.names:
            raise UsageError(
                f"a subject cannot be named {name!r}: expected small letters, digits and hyphens, beginning with a "
                f"letter, and none of those that are there: {taken}."
            )

    def _is_learned(self, target: Path, earlier: Sequence[Artifact]) -> bool:
        """Whether a run was killed between writing the artifact and listing it."""
        if not target.is_dir():
            return False
        after = Artifact(ArtifactData.load(target)).data.training.get("after")
        return after == [artifact.data.content_hash for artifact in earlier]

    def base(self, *, device: str = "auto", precision: str = "auto") -> AbstractBackbone:
        """The base of all subjects, loaded.

        Raises:
            ArtifactError: there is no subject yet.
        """
        return load_backbone(self._some()[0].data.base_name, device=device, precision=precision)

    def _some(self) -> list[Artifact]:
        artifacts = self.artifacts()
        if not artifacts:
            raise ArtifactError(f"{self.folder} holds no subjects; expected a ledger. Add one with `continual add`.")
        return artifacts

    @contextlib.contextmanager
    def applied(self, backbone: AbstractBackbone) -> Iterator[AbstractBackbone]:
        """The backbone with all subjects in it; on exit it is as before."""
        with contextlib.ExitStack() as stack:
            for artifact in self.artifacts():
                stack.enter_context(artifact.applied(backbone))
            yield backbone

    def prompt(self, text: str) -> str:
        """`text` with every `{name}` of a subject replaced by its words.

        Raises:
            UsageError: no subject is named, or one that is not there.
            ArtifactError: there is no subject yet.
        """
        asked = re.findall(r"{([^{}]*)}", text)
        known = dict(zip(self.names, self._some(), strict=True))
        unknown = [name for name in asked if name not in known]
        if unknown or not asked:
            raise UsageError(
                f"prompt {text!r} names {', '.join(unknown) or 'no subject'}; expected one or more of "
                f"{', '.join(f'{{{name}}}' for name in known)}."
            )
        for name in dict.fromkeys(asked):
            text = fill(text.replace(f"{{{name}}}", "{subject}"), known[name].concept.name)
        return text

    def generate(
        self, prompts: Sequence[str], *, seeds: Sequence[int] = (0,), backbone: AbstractBackbone | None = None,
        device: str = "auto", precision: str = "auto", reporter: Reporter | None = None,
    ) -> list[GeneratedImage]:  # fmt: skip
        """Images of one or several subjects, with all of them applied; per prompt one per seed.

        Raises:
            UsageError: as `prompt`, or no seed.
        """
        if not seeds:
            raise UsageError("generate needs at least one seed, got none.")
        texts, artifacts = [self.prompt(prompt) for prompt in prompts], self.artifacts()
        base = backbone or self.base(device=device, precision=precision)
        asked = [(prompt, text, seed) for prompt, text in zip(prompts, texts, strict=True) for seed in seeds]
        sampling = artifacts[-1].sampling
        with self.applied(base), torch.inference_mode():
            images = sample(base, [text for _, text, _ in asked], seeds=[seed for *_, seed in asked], config=sampling,
                            reporter=reporter)  # fmt: skip
        facts: dict[str, Any] = {"base": base.name, "ledger": [artifact.data.content_hash for artifact in artifacts]}
        facts |= dataclasses.asdict(sampling)
        return [
            GeneratedImage(to_pil(image), prompt, {"seed": seed, **facts})
            for image, (prompt, _, seed) in zip(images, asked, strict=True)
        ]

    @torch.no_grad()
    def plasticity(self, backbone: AbstractBackbone) -> list[Plasticity]:
        """How much every subject changed the weights, and whether where earlier ones had: the price of not forgetting.

        A penalty on overlap drives later updates towards zero (arXiv 2410.00700); watch `update` fall.
        """
        reports, earlier = [], {}
        with contextlib.ExitStack() as stack:
            for name, artifact in zip(self.names, self.artifacts(), strict=True):
                adapters = artifact.adapters()
                for adapter in adapters:
                    adapter.inject(backbone)
                    stack.callback(adapter.eject)
                updates = {
                    path: layer.update()
                    for adapter in adapters
                    if isinstance(adapter, LowRankAdapter)
                    for path, layer in adapter.layers().items()
                }
                reports.append(Plasticity(name, _norm(updates), _overlap(updates, earlier)))
                earlier = {path: earlier.get(path, 0) + update for path, update in updates.items()} | {
                    path: update for path, update in earlier.items() if path not in updates
                }
        return reports


def _norm(updates: dict[str, torch.Tensor]) -> float:
    return sum(float(update.square().sum()) for update in updates.values()) ** 0.5


def _overlap(updates: dict[str, torch.Tensor], earlier: dict[str, torch.Tensor]) -> float:
    inside = total = 0.0
    for path, update in updates.items():
        if path in earlier:
            large = earlier[path].abs() > earlier[path].abs().median()
            inside += float(update[large].square().sum())
            total += float(update.square().sum())
    return inside / total if total else 0.0


def _own_names(recipe: Recipe, name: str) -> Recipe:
    """Adapters named after the subject: those of several subjects are in the backbone together."""
    own = {adapter: f"{adapter}_{name.replace('-', '_')}" for adapter in recipe.adapters}
    phases = tuple(
        dataclasses.replace(
            phase, learning_rates={_renamed(key, own): rate for key, rate in phase.learning_rates.items()}
        )
        for phase in recipe.phases
    )
    return dataclasses.replace(
        recipe, adapters={own[key]: value for key, value in recipe.adapters.items()}, phases=phases
    )


def _renamed(key: str, own: dict[str, str]) -> str:
    adapter, slash, group = key.partition("/")
    return f"{own[adapter]}{slash}{group}"
