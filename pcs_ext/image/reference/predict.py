"""Keep what a hypernetwork tells of a photo as a learned subject (HyperDreamBooth, arXiv 2307.06949, section 4.3).

The numbers that were predicted stay as they are in the base; beside them a LoRA of a higher rank learns the photo in a
few steps (*rank-relaxed fast finetuning*), by the same loop as any recipe. The result is a subject like any other.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from pcs_ext.artifact import ArtifactData
from pcs_ext.config_io import check_output, file_sha256, to_jsonable
from pcs_ext.errors import ConfigError, UsageError
from pcs_ext.image.adapters import LiDBConfig, LowRankConfig, build_adapter, injected
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.concept import Concept
from pcs_ext.image.data import Photo, find_photos
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.learn import learn, preset_of
from pcs_ext.image.recipes import Phase, Preset, Recipe
from pcs_ext.image.recipes.presets import SAMPLING
from pcs_ext.image.reference.files import OpenedAdapter, open_adapter, read_settings
from pcs_ext.image.reference.reference import seen_by
from pcs_ext.image.reference.shown import Shown
from pcs_ext.image.reference.systems.hyperdreambooth import HyperDreamBooth
from pcs_ext.image.subject import Artifact
from pcs_ext.reporter import Reporter, SilentReporter

PREDICTED, RELAXED = "predicted", "relaxed"
"""Adapters of the subject: the hypernetwork's numbers, and what is tuned beside them."""


def predict_subject(
    adapter: Path,
    photos: Path | str | Sequence[Path | str],
    output: Path,
    *,
    noun: str,
    steps: int = 40,
    rank: int = 4,
    learning_rate: float | None = None,
    encoder: str = "",
    seed: int = 0,
    base: str = "",
    device: str = "auto",
    precision: str = "auto",
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> Artifact:
    """A learned subject of one photo or more, by a trained hypernetwork; resumable like `learn`.

    Args:
        adapter: folder of `reference learn --system hyperdreambooth`.
        photos: of the subject; several are seen together.
        output: folder of the subject.
        noun: its class word.
        steps: of tuning, about 40 in the paper; 0: what was predicted alone.
        rank: of what is tuned, above the predicted one's. Ours: the paper's is not known here.
        learning_rate: of that; None: 1e-4, on toybox 1e-3. Ours.
        encoder: see `open_adapter`.
        seed: of everything random.
        base: the base it was trained on; empty: as the folder says.
        device: auto, cuda, mps or cpu.
        precision: of the base's weights.
        overwrite: replace an existing subject.
        reporter: hears the progress.

    Raises:
        UsageError: the adapter is of another system, or an empty noun.
        PhotoError, ModelError, ArtifactError, ConfigError: before anything is made, with what to do.
        Interrupted: Ctrl-C; what was tuned is saved, and the same call goes on.
    """
    reporter = reporter or SilentReporter()
    _check(output, noun, steps, rank, learning_rate, overwrite)
    found, settings = find_photos(photos), read_settings(adapter)
    if settings.kind != "hyperdreambooth":
        raise UsageError(
            f"{adapter} is of {settings.kind}, which tells no weights; expected an adapter of hyperdreambooth "
            "(`pcs-ext reference learn PAIRS -o FOLDER --system hyperdreambooth`)."
        )
    backbone = load_backbone(base or settings.base, device=device, precision=precision, reporter=reporter)
    opened = open_adapter(backbone, str(adapter), encoder=encoder)
    made = opened.adapter
    assert isinstance(made, HyperDreamBooth)
    recipe = tuned_recipe(made, tuple(backbone.components()), noun, preset_of(backbone), rank, max(steps, 1))
    if learning_rate is not None:
        phase = dataclasses.replace(recipe.phases[0], learning_rates={RELAXED: learning_rate})
        recipe = dataclasses.replace(recipe, phases=(phase,))
    told = _predicted(opened, found, noun)
    if steps == 0:
        alone = dataclasses.replace(recipe, adapters={PREDICTED: recipe.adapters[PREDICTED]}, phases=())
        _data(backbone, alone, {PREDICTED: told}, found, seed).save(output)
        reporter.event("learned", f"saved {output}", output=str(output))
        return Artifact.load(output)
    tensors = {PREDICTED: told, RELAXED: _fresh(backbone, recipe)}
    start = Artifact(_data(backbone, recipe, tensors, found, seed))
    return learn(
        found, noun=noun, output=output, recipe=recipe, base=backbone, seed=seed, overwrite=overwrite, start=start,
        reporter=reporter,
    )  # fmt: skip


def _check(
    output: Path, noun: str, steps: int, rank: int, learning_rate: float | None, overwrite: bool
) -> None:  # fmt: skip
    if not noun.strip():
        raise UsageError("--noun is empty; say in one or two words what the subject is, such as dog or toy robot.")
    if steps < 0 or rank < 1 or (learning_rate is not None and learning_rate <= 0):
        raise ConfigError("steps must not be negative, rank at least 1 and learning_rate above 0.")
    check_output(output, overwrite)


def tuned_recipe(
    made: HyperDreamBooth, components: Sequence[str], noun: str, preset: Preset, rank: int, steps: int
) -> Recipe:
    """What is learned beside the prediction, and how: the subject's own photos, without class images.

    Args:
        made: the hypernetwork.
        components: of the base, that it tells weights of.
        noun: class word.
        preset: of the base.
        rank: of the LoRA.
        steps: of the optimiser.
    """
    relaxed = LowRankConfig(rank=rank, targets="attention", components=tuple(components))  # type: ignore[arg-type]
    small = preset == "toybox"
    return Recipe(
        id="hyperdreambooth",
        concept=Concept(class_noun=noun.strip(), mode="rare", token=made.word),
        adapters={PREDICTED: made.config.lidb(components), RELAXED: relaxed},
        phases=(
            Phase(
                name=RELAXED,
                learning_rates={RELAXED: 1e-3 if small else 1e-4},
                batch_size=4 if small else 1,
                fit=FitConfig(steps=steps),
            ),
        ),
        sampling=SAMPLING[preset],
    )


@torch.no_grad()
def _predicted(opened: OpenedAdapter, photos: Sequence[Photo], noun: str) -> dict[str, Tensor]:
    """The tensors of the `LiDBAdapter` that a hypernetwork tells of photos."""
    made = opened.adapter
    assert isinstance(made, HyperDreamBooth)
    sight = seen_by(opened, photos, scale=1.0, nouns=(noun,)).sight.map(lambda tensor: tensor[None])
    numbers = made.weights(Shown(sight=sight))[0].float().cpu()
    tensors = {}
    for index, (name, (up, down)) in enumerate(made.inner(numbers).items()):
        wide, flat = made.basis(index)
        tensors[f"{name}.lidb_up"], tensors[f"{name}.lidb_down"] = up.contiguous(), down.contiguous()
        tensors[f"{name}.lidb_size"] = torch.tensor([len(wide), flat.shape[1]], dtype=torch.int32)
    return tensors


def _fresh(backbone: AbstractBackbone, recipe: Recipe) -> dict[str, Tensor]:
    """The LoRA's tensors before it learned anything."""
    adapter = build_adapter(RELAXED, recipe.adapters[RELAXED])
    with injected(backbone, adapter):
        return adapter.state_dict()


def _data(
    backbone: AbstractBackbone,
    recipe: Recipe,
    tensors: dict[str, dict[str, Tensor]],
    photos: Sequence[Photo],
    seed: int,
) -> ArtifactData:
    assert isinstance(recipe.adapters[PREDICTED], LiDBConfig)
    return ArtifactData(
        recipe=to_jsonable(recipe),
        concept=to_jsonable(recipe.concept),
        adapters={name: to_jsonable(value) for name, value in recipe.adapters.items()},
        tensors=tensors,
        base_name=backbone.name,
        base_fingerprint=backbone.fingerprint,
        base_family=backbone.family,
        training={
            "seed": seed,
            "steps": 0,
            "resolution": backbone.resolution,
            "prediction_type": backbone.schedule.prediction_type,
            "photos": {photo.path.name: file_sha256(photo.path) for photo in photos},
            "losses": [],
        },
    )
