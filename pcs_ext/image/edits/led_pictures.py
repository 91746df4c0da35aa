"""Pictures of a cast led to a reference."""

import dataclasses
from collections.abc import Sequence

from torch import Tensor

from pcs_ext.errors import UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.edits.cast import Cast
from pcs_ext.image.edits.one_by_one import one_by_one
from pcs_ext.image.edits.region import square
from pcs_ext.image.edits.sag import SagConfig, led_hooks, likeness_to
from pcs_ext.image.evaluate.encoders import load_image_text_encoder
from pcs_ext.image.levels import to_pil
from pcs_ext.image.photo_reader import encoder_folder
from pcs_ext.image.subject import GeneratedImage
from pcs_ext.reporter import Reporter


def draw_led(
    cast: Cast,
    prompts: Sequence[str],
    reference: Tensor,
    *,
    seeds: Sequence[int],
    config: SagConfig,
    negative_prompt: str = "",
    base: AbstractBackbone | None = None,
    device: str = "auto",
    precision: str = "auto",
    reporter: Reporter | None = None,
) -> list[GeneratedImage]:
    """Images of prompts led to a reference: for each prompt, one per seed, in that order.

    Args:
        cast: who may be named.
        prompts: texts.
        reference: `3 h w` in [-1, 1]; the largest square in its middle counts.
        seeds: of the noise.
        config: how.
        negative_prompt: what to stay away from.
        base: already loaded.
        device, precision: of a base that is loaded here.
        reporter: hears the progress.

    Raises:
        UsageError: no prompt or no seed.
        ModelError: the encoder is nowhere.
    """
    if not prompts or not seeds:
        raise UsageError("pictures in a style need at least one prompt and one seed, got none.")
    texts = [cast.words(prompt) for prompt in prompts]
    folder = encoder_folder(config.encoder, config.id, "the settings' JSON (--config)")
    backbone = base if base is not None else load_backbone(cast.base_name, device=device, precision=precision)
    encoder = load_image_text_encoder(folder, backbone.device)
    loss = likeness_to(square(reference, backbone.resolution), encoder, config)
    facts = {
        "edit": config.id, "base": backbone.name, "negative_prompt": negative_prompt,
        "artifacts": cast.hashes(), "encoder": encoder.id,
        "compare": config.compare, **dataclasses.asdict(config.sampling),
    }  # fmt: skip
    made = []
    with cast.applied(backbone):
        for prompt, text in zip(prompts, texts, strict=True):
            images = one_by_one(
                backbone, text, led_hooks(backbone, loss, config), seeds=seeds, sampling=config.sampling,
                negative_prompt=cast.negative(negative_prompt), task="lead", reporter=reporter,
            )  # fmt: skip
            made += [
                GeneratedImage(to_pil(image), prompt, {"seed": seed, **facts})
                for image, seed in zip(images, seeds, strict=True)
            ]
    return made
