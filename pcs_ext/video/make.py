"""Clips of any learned subject with any learned motion, no training in between."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from pcs_ext.config_io import to_jsonable
from pcs_ext.errors import InputError, UsageError
from pcs_ext.image.inversion import invert
from pcs_ext.image.sample import SampleConfig, SampleHooks, sample
from pcs_ext.reporter import Reporter
from pcs_ext.video.alignment import Pair, aligned
from pcs_ext.video.backbone import AbstractVideoBackbone
from pcs_ext.video.clip_hooks import Strength, Wrapper, hooks_of, windowed
from pcs_ext.video.clips import ClipFolder, read_clip
from pcs_ext.video.frame_words import by_frame, clip_conditioning
from pcs_ext.video.make_artifacts import Adapters, Artifacts
from pcs_ext.video.make_request import MakeRequest
from pcs_ext.video.mask_fusion import MaskFusion, clip_mask
from pcs_ext.video.pictures import GivenPictures, covering, frames_of
from pcs_ext.video.reference.photos import ShownPhotos
from pcs_ext.video.sample import ClipConfig, sample_clips


def make_clips(
    request: MakeRequest,
    output: Path,
    *,
    overwrite: bool,
    reporter: Reporter,
    backbone: AbstractVideoBackbone | None = None,
) -> list[Path]:
    """Write a clip per prompt and seed; what a folder already holds of them is not made again.

    Args:
        request: what is asked.
        output: a clip to write (.mp4, .webm, .gif, .webp), or a folder for several.
        overwrite: replace a clip of this name; folders only ever grow.
        reporter: hears the progress.
        backbone: loaded already, inflated as the motion asks; None: loaded as the request says.

    Returns:
        Paths of the clips, prompt by prompt.

    Raises:
        PcsError: the request cannot be met; says what to do.
    """
    artifacts = Artifacts.load(request)
    texts = artifacts.texts(request.prompts)
    folder = ClipFolder(output, len(texts) * len(request.seeds), fps=artifacts.fps(request), overwrite=overwrite)
    given = GivenPictures.read(request.picture, request.mask)
    backbone = backbone or artifacts.backbone(request, reporter)
    config, clip = artifacts.sampling(request, backbone), artifacts.clip(request, backbone)
    artifacts.say_what_differs(backbone, reporter)
    photos = request.photos.show(backbone, texts, clip.frames)
    facts = artifacts.facts(request, backbone) | {"sampling": to_jsonable(config), "clip": to_jsonable(clip)}
    facts |= {} if photos is None else photos.facts
    encoder = artifacts.encoder(request, backbone)
    facts |= {} if encoder is None else {"image_encoder": encoder.id}
    paths = []
    jobs = [(prompt, text, seed) for prompt, text in zip(request.prompts, texts, strict=True) for seed in request.seeds]
    # No inference mode: what is tuned before a clip could not be used in it.
    with artifacts.subject_in(request, backbone) as subject, torch.no_grad():
        # Without the motion: it is a picture of the base.
        strength = Strength(subject, request.subject_scale)
        wanted = clip.first_frame or artifacts.told
        picture = _picture(request, artifacts, backbone, config, strength, given.picture, photos, wanted=wanted)
        mask = None if request.mask is None else _mask(request, given, backbone, config, clip, artifacts.stride)
        with artifacts.motion_in(request, backbone):
            # What a mask keeps was never the subject's.
            strength.set(request.mask is None)
            inverted = _inverted(request, artifacts, backbone, config, clip, reporter)
            strength.set(True)
        maker = _Maker(request, artifacts, backbone, strength, config, clip, inverted, mask, photos, reporter)
        for number, (prompt, text, seed) in enumerate(jobs):
            made_by = {"prompt": prompt, "text": text, "seed": seed, **facts}
            path = folder.made(made_by)
            if path is None:
                start = picture(text, seed)
                look = None if encoder is None or start is None else encoder.encode_images(start)
                with artifacts.motion_in(request, backbone, look=look) as motion:
                    path = folder.write(maker.clip_of(prompt, text, seed, motion, start), made_by)
            paths.append(path)
            reporter.progress("clips", number + 1, len(jobs))
    return paths


class _Maker:
    """Makes the clips of one call, one after another."""

    def __init__(
        self,
        request: MakeRequest,
        artifacts: Artifacts,
        backbone: AbstractVideoBackbone,
        strength: Strength,
        config: SampleConfig,
        clip: ClipConfig,
        inverted: list[Tensor] | None,
        mask: Tensor | None,
        photos: ShownPhotos | None,
        reporter: Reporter,
    ) -> None:
        self.request, self.artifacts, self.backbone = request, artifacts, backbone
        self.config, self.clip, self.inverted, self.reporter = config, clip, inverted, reporter
        self.strength, self.mask, self.photos = strength, mask, photos
        self.negative = artifacts.negative(request)
        assert clip.frames is not None, "settled before"
        self.frames: int = clip.frames

    def clip_of(self, prompt: str, text: str, seed: int, motion: Adapters, start: Tensor | None) -> Tensor:
        """One clip, `3 f h w` in [-1, 1]; the motion is in the backbone."""
        alignment = self.artifacts.alignment(self.backbone)
        if alignment is None or self.frames == 1:  # a picture has no motion to tune to
            return self._sampled(text, seed, motion, start)
        pair = Pair(
            self.backbone, self.strength.adapters, motion, (self.request.subject_scale, self.request.motion_scale)
        )
        together = self._sampled(text, seed, motion, start)[None].to(self.backbone.device, self.backbone.dtype)
        latents = self.backbone.encode_clips(together).float()
        plain = self.artifacts.plain(prompt, text)
        with aligned(pair, alignment, latents, text=text, plain=plain, seed=seed, reporter=self.reporter):
            return self._sampled(text, seed, motion, start)

    def _sampled(self, text: str, seed: int, motion: Adapters, start: Tensor | None) -> Tensor:
        clips = sample_clips(
            self.backbone,
            [text],
            seeds=[seed],
            config=self.config,
            clip=self.clip,
            inverted=None if self.inverted is None else self.inverted[-1],
            first=_latents(start, self.backbone) if self.clip.first_frame else None,
            negative_prompts=[self.negative] if self.negative else None,
            hooks=self._hooks(text, motion),
        )
        self.strength.set(True)
        return clips[0]

    def _hooks(self, text: str, motion: Adapters) -> SampleHooks:
        """The first of them stands outermost."""
        wrappers, fusion = _subjects_window(self.artifacts, self.backbone, self.strength), self._fusion(motion)
        if fusion is not None:
            wrappers.append(fusion.wrap)
        own = by_frame(self.backbone, motion, text, self.negative, self.frames)
        if own is not None:
            wrappers.append(own)
        hooks = hooks_of(wrappers, None if fusion is None else fusion.on_step)
        if self.photos is None:
            return hooks
        if own is not None:
            raise UsageError(
                "this motion has a word that means something else in every frame, beside which no photo can be shown; "
                "leave the photo or the motion's word out."
            )
        return self.photos.beside(hooks)

    def _fusion(self, motion: Adapters) -> MaskFusion | None:
        if self.mask is None or self.inverted is None:
            return None
        recipe, source = self.artifacts.source
        self.strength.set(False)
        own = clip_conditioning(self.backbone, motion, source, self.frames)
        negative = self.backbone.encode_prompt([self.negative])
        self.strength.set(True)
        return MaskFusion(recipe.fusion, self.mask, self.inverted, own, negative, self.strength.without)


def _inverted(
    request: MakeRequest,
    artifacts: Artifacts,
    backbone: AbstractVideoBackbone,
    config: SampleConfig,
    clip: ClipConfig,
    reporter: Reporter,
) -> list[Tensor] | None:
    """The reference's latents at every level up to the noise it comes from under an empty prompt, cleanest first, as
    Tune-A-Video and MotionDirector invert. Without a reference, those of the clip that the motion kept, if it did."""
    if request.reference is not None:
        read = read_clip(
            request.reference,
            frames=clip.frames,
            stride=artifacts.stride,
            size=_sides(backbone, config),
            multiple_of=backbone.vae_factor,
        )
        latents = backbone.encode_clips(read.video().to(backbone.device, backbone.dtype)).float()
    elif artifacts.own_clip is not None:
        latents = _kept(artifacts.own_clip, backbone, config, clip).to(backbone.device)
    else:
        return None
    backwards = dataclasses.replace(config, scheduler="ddim", guidance_scale=1.0)
    return invert(backbone, latents, [""], config=backwards, reporter=reporter)


def _kept(latents: Tensor, backbone: AbstractVideoBackbone, config: SampleConfig, clip: ClipConfig) -> Tensor:
    """The kept clip's beginning, if it is of the size that is asked for."""
    height, width = (side // backbone.vae_factor for side in _sides(backbone, config))
    frames = backbone.latent_frames(clip.frames or 1)
    if latents.shape[2] < frames or latents.shape[3:] != (height, width):
        raise UsageError(
            f"the motion kept {latents.shape[2]} frames of {latents.shape[4]} x {latents.shape[3]} latents of its "
            f"clip, {frames} of {width} x {height} are asked for; give the clip itself with --reference."
        )
    return latents[:, :, :frames]


def _sides(backbone: AbstractVideoBackbone, config: SampleConfig) -> tuple[int, int]:
    return config.height or backbone.resolution, config.width or backbone.resolution


def _mask(
    request: MakeRequest,
    given: GivenPictures,
    backbone: AbstractVideoBackbone,
    config: SampleConfig,
    clip: ClipConfig,
    stride: int | None,
) -> Tensor:
    """Where the clip changes, `1 1 f h w` in latent cells; of a clip the frames that its source was read at."""
    assert request.mask is not None
    assert clip.frames is not None, "settled before"
    sides, factor = _sides(backbone, config), backbone.vae_factor
    if given.mask is not None:
        white = frames_of(given.mask, _whole(sides, factor))
    else:
        white = read_clip(request.mask, frames=clip.frames, stride=stride, size=sides, multiple_of=factor).frames
    mask = clip_mask(white, factor, clip.frames).to(backbone.device)
    if not bool(mask.any()):
        raise InputError(f"{request.mask} is black everywhere; expected white where the protagonist is.")
    return mask if request.keep == "background" else 1 - mask


def _whole(sides: tuple[int, int], factor: int) -> tuple[int, int]:
    """Height and width, rounded down to latent cells."""
    return sides[0] // factor * factor, sides[1] // factor * factor


def _latents(picture: Tensor | None, backbone: AbstractVideoBackbone) -> Tensor:
    """Clean latents `1 c h w` of a picture."""
    assert picture is not None, "a clip that starts from a picture was given none"
    return backbone.encode_images(picture.to(backbone.device, backbone.dtype)).float()


def _subjects_window(artifacts: Artifacts, backbone: AbstractVideoBackbone, strength: Strength) -> list[Wrapper]:
    """What takes the subject away where in the denoising it is not there; nothing where it always is."""
    if artifacts.window >= 1:
        return []
    return [windowed(strength, backbone.schedule.num_train_timesteps, artifacts.window)]


def _picture(
    request: MakeRequest,
    artifacts: Artifacts,
    backbone: AbstractVideoBackbone,
    config: SampleConfig,
    strength: Strength,
    given: Tensor | None,
    photos: ShownPhotos | None,
    *,
    wanted: bool,
) -> Callable[[str, int], Tensor | None]:
    """`(text, seed)` -> the picture `1 3 h w` that a clip starts from or should look like; None where none is wanted.

    Raises:
        UsageError: a picture was given for nothing.
    """
    if not wanted:
        if given is not None:
            raise UsageError("--picture is for motions that start from one or are told one; leave it out.")
        return lambda text, seed: None
    if given is not None:
        fitted = covering(given, _whole(_sides(backbone, config), backbone.vae_factor))
        return lambda text, seed: fitted
    hooks = hooks_of(_subjects_window(artifacts, backbone, strength))
    hooks = photos.beside(hooks) if photos is not None and photos.in_pictures else hooks
    negative = artifacts.negative(request)

    def drawn(text: str, seed: int) -> Tensor:
        away = [negative] if negative else None
        made = sample(backbone, [text], seeds=[seed], config=config, negative_prompts=away, hooks=hooks)
        strength.set(True)
        return made

    return drawn
