"""Experts draw what an apprentice shall learn (SuTI, Chen et al. 2023, arXiv 2304.00186, section 3.2).

For every album a model is tuned to its subject and draws it for prompts that nobody photographed. Of its pictures
those are kept that CLIP finds more like their prompt, by a margin, than any of the photos is; photos and kept pictures
are the album of a new folder of pairs.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from pcs_ext.config_io import atomic_folder, atomic_write_bytes, check_place
from pcs_ext.errors import UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.load import TOYBOX_WEIGHTS, load_backbone
from pcs_ext.image.concept import SUBJECT, fill
from pcs_ext.image.evaluate.encoders import ClipEncoder, load_image_text_encoder
from pcs_ext.image.learn import learn
from pcs_ext.image.reference.albums import NOUN_FILE, Subjects, read_subjects
from pcs_ext.image.reference.invent import PROMPTS
from pcs_ext.image.reference.nouns import renamed
from pcs_ext.image.reference.pairs import square
from pcs_ext.image.subject import Artifact, GeneratedImage, as_tensor
from pcs_ext.reporter import Reporter, SilentReporter
from pcs_ext.runtime import seed_for

MARGIN = 0.02
"""Cosine by which an expert's picture must be more like its prompt than every photo is (lambda, as recalled)."""


def teach_pairs(
    pairs: Path,
    output: Path,
    *,
    prompts: Sequence[str] = PROMPTS[1:],
    images: int = 2,
    margin: float = MARGIN,
    recipe: str = "dreambooth-lora",
    steps: int | None = None,
    clip: Path | None = None,
    seed: int = 0,
    base: str | AbstractBackbone = "toybox",
    device: str = "auto",
    precision: str = "auto",
    reporter: Reporter | None = None,
) -> Path:
    """A folder of pairs for `learn_reference --system suti`; albums that are there are kept, and the same call goes on.

    Args:
        pairs: see `read_subjects`; each subfolder shows one subject, which `noun.txt` names.
        output: the folder.
        prompts: what experts draw, with `{subject}` where the subject goes.
        images: of each prompt.
        margin: see `MARGIN`; below -1 keeps all.
        recipe: by which experts learn.
        steps: of that; None: the recipe's.
        clip: folder of the CLIP that judges; None: toybox's, for toybox alone.
        seed: of everything random.
        base: toybox, a hub id, a folder, a file, or a loaded backbone.
        device: auto, cuda, mps or cpu.
        precision: auto, fp32, bf16 or fp16.
        reporter: hears the progress.

    Raises:
        UsageError: no prompt, one without `{subject}`, or no images.
        PhotoError, ModelError: see `read_subjects` and `learn`.
        Interrupted: Ctrl-C; what was done is saved.
    """
    _check(prompts, images)
    check_place(output)
    reporter = reporter or SilentReporter()
    subjects = read_subjects(pairs, asks_noun=True)
    name = base if isinstance(base, str) else base.name
    judge = _judge(name, clip)
    if not isinstance(base, AbstractBackbone):
        base = load_backbone(base, device=device, precision=precision, reporter=reporter)
    for number, own in enumerate(subjects):
        place = output / own.photos[0].path.parent.name
        if not place.is_dir():
            folder = output / ".experts" / place.name
            expert = _expert(own, folder, recipe, base, steps, seed, reporter)
            drawn = _drawn(expert, base, prompts, images, place.name, seed)
            kept = [image for image in drawn if _margin(judge, image, own) > margin]
            _album(place, own, kept)
            shutil.rmtree(folder, ignore_errors=True)
            reporter.event("taught", f"{place}: {len(kept)} of {len(drawn)} pictures", kept=len(kept), drawn=len(drawn))
        reporter.progress("teach", number + 1, len(subjects))
    shutil.rmtree(output / ".experts", ignore_errors=True)
    return output


def _judge(base: str, clip: Path | None) -> ClipEncoder:
    if clip is None and base != "toybox":
        raise UsageError(
            f"--clip is needed for {base}: the folder of a CLIP that judges what experts draw, such as a download of "
            "openai/clip-vit-base-patch32."
        )
    return load_image_text_encoder(TOYBOX_WEIGHTS / "clip" if clip is None else clip)


def _check(prompts: Sequence[str], images: int) -> None:
    bare = [prompt for prompt in prompts if SUBJECT not in prompt]
    if bare or not prompts:
        raise UsageError(
            f"{bare[0] if bare else 'nothing'!r} is no prompt for an expert; expected {SUBJECT} where its subject "
            f'goes: "{PROMPTS[1]}".'
        )
    if images < 1:
        raise UsageError(f"--images must be at least 1, got {images}.")


def _expert(
    own: Subjects,
    folder: Path,
    recipe: str,
    backbone: AbstractBackbone,
    steps: int | None,
    seed: int,
    reporter: Reporter,
) -> Artifact:
    if folder.is_dir():
        return Artifact.load(folder)
    noun = own.nouns[0]
    photos = [p.but(caption=renamed(p.caption or "", noun, SUBJECT)) for p in own.photos]
    return learn(
        photos, noun=noun, output=folder, recipe=recipe, base=backbone, steps=steps, seed=seed,
        reporter=reporter,
    )  # fmt: skip


def _drawn(
    expert: Artifact, backbone: AbstractBackbone, prompts: Sequence[str], images: int, name: str, seed: int
) -> list[GeneratedImage]:
    seeds = [seed_for(seed, name, number) % 2**31 for number in range(images)]
    return expert.generate(list(prompts), seeds=seeds, base=backbone)


@torch.no_grad()
def _margin(judge: ClipEncoder, image: GeneratedImage, own: Subjects) -> float:
    """By how much a picture is more like its prompt than that photo is which is most like it, as cosines."""
    text = judge.encode_texts([fill(image.prompt, own.nouns[0])])
    side = 224
    photos = torch.stack([square(photo.image, side) for photo in own.photos])
    return delta(judge.encode_images(as_tensor(image)[None]), judge.encode_images(photos), text)


def delta(picture: Tensor, photos: Tensor, text: Tensor) -> float:
    """cos(picture, text) - the largest of cos(photo, text): `1 d`, `n d` and `1 d`, of length 1."""
    return float((picture @ text.T).max() - (photos @ text.T).max())


def _album(place: Path, own: Subjects, kept: Sequence[GeneratedImage]) -> None:
    """The photos with all that lies beside them, and the kept pictures with their prompts."""
    with atomic_folder(place) as made:
        for photo in own.photos:
            for file in sorted(photo.path.parent.glob(f"{_literal(photo.path.stem)}*")):
                if file.is_file() and (file.stem == photo.path.stem or file.stem.startswith(f"{photo.path.stem}_mask")):
                    shutil.copyfile(file, made / file.name)
            atomic_write_bytes(made / f"{photo.path.stem}.txt", (photo.caption or "").encode())
        atomic_write_bytes(made / NOUN_FILE, f"{own.nouns[0]}\n".encode())
        for number, image in enumerate(kept):
            image.save(made / f"expert-{number}.png")
            atomic_write_bytes(made / f"expert-{number}.txt", fill(image.prompt, own.nouns[0]).encode())


def _literal(stem: str) -> str:
    """A file's name as `glob` takes it."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in stem)
