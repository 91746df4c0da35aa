"""What a subject learned to stay away from (DreamArtist) is stayed away from in 3D, too; it was left out."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.backbones.sd import StableDiffusionBackbone
from pcs_ext.image.learn import learn
from pcs_ext.image.recipes import RECIPES
from pcs_ext.image.subject import Artifact
from pcs_ext.image.types import Conditioning
from pcs_ext.threed.distillation import DistillationConfig
from pcs_ext.threed.studios.guide import Guide, Source
from pcs_ext.threed.studios.guide_diffusion import GuideDiffusion
from pcs_ext.threed.view_sets import draw_views
from tests.support import small_avatars
from tests.support.small_jobs import HERE, Learned, edit, fit_of, make, paint

NEGATIVE = "<not-subject>"


@pytest.fixture(scope="module")
def shy(learned: Learned, tmp_path_factory: pytest.TempPathFactory) -> Learned:
    """The same with a subject that has a negative word."""
    base = load_backbone(Artifact.load(learned.subject).data.base_name, **HERE)
    whole = RECIPES["dreamartist"].build("dog", "toybox")
    phase = dataclasses.replace(whole.phases[0], batch_size=1, fit=fit_of(2))
    recipe = dataclasses.replace(
        whole, phases=(phase,), sampling=dataclasses.replace(whole.sampling, num_inference_steps=2, guidance_scale=3.0)
    )
    subject = tmp_path_factory.mktemp("shy") / "rex"
    learn(learned.photos, noun="dog", output=subject, recipe=recipe, base=base)
    return dataclasses.replace(learned, subject=subject)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """All texts that a base is asked to read."""
    texts: list[str] = []
    encode = StableDiffusionBackbone.encode_prompt

    def listening(self: StableDiffusionBackbone, prompts: Sequence[str], **settings: Any) -> Conditioning:
        texts.extend(prompts)
        return encode(self, prompts, **settings)

    monkeypatch.setattr(StableDiffusionBackbone, "encode_prompt", listening)
    return texts


def guided(learned: Learned, folder: Path) -> None:
    source = Source(subject=str(learned.subject), **HERE)
    GuideDiffusion(Guide(source), DistillationConfig()).get_text_embeds("a photo of {subject}", "blurry")


def avatar(learned: Learned, folder: Path) -> None:
    (folder / "job").mkdir()
    small_avatars.pose(learned, folder / "job")


JOBS: dict[str, Callable[[Learned, Path], Any]] = {
    "text": lambda learned, folder: make(learned, folder, "dreamfusion"),
    "single views": lambda learned, folder: make(learned, folder, "dream-in-4d-still", multiview=learned.multiview),
    "a part": lambda learned, folder: make(learned, folder, "avatarbooth"),
    "texture": lambda learned, folder: paint(learned, folder),
    "edit": lambda learned, folder: edit(learned, folder),
    "views": lambda learned, folder: draw_views(
        learned.subject, "a photo of {subject}", folder / "rex.png", multiview=learned.multiview, **HERE
    ),
    "avatar": avatar,
    "other trainers": guided,
}


@pytest.mark.parametrize("job", JOBS)
def test_a_subject_stays_away_from_its_negative_word(shy: Learned, asked: list[str], tmp_path: Path, job: str) -> None:
    JOBS[job](shy, tmp_path)
    assert any(text.startswith(NEGATIVE) for text in asked)


def test_pseudo_views_and_both_models_stay_away(shy: Learned, asked: list[str], tmp_path: Path) -> None:
    make(shy, tmp_path, "dreambooth3d")
    # Twice by the score of a field, once for each of the three pseudo views; learning asks for the word as well.
    assert asked.count(NEGATIVE) >= 5
