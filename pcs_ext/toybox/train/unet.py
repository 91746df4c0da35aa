"""The denoiser: UNet2DConditionModel on cached latents and frozen text states, v-prediction, min-SNR weights."""

from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from pcs_ext.errors import InputError
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.noise import NoiseSchedule
from pcs_ext.image.types import LossTerms
from pcs_ext.reporter import Reporter
from pcs_ext.toybox.train.adopt import adopted, begun
from pcs_ext.toybox.train.data import Stream, TrainingData, load_data, load_truth
from pcs_ext.toybox.train.geometry import WithGeometry
from pcs_ext.toybox.train.graphs import Replay, capture_passes
from pcs_ext.toybox.train.settings import Settings
from pcs_ext.toybox.train.stage import compile_for, generator_on, rows, run_stage
from pcs_ext.toybox.train.tokenizer import MAX_LENGTH, token_ids
from pcs_ext.toybox.world.vocabulary import STYLES

_BATCH = 16
_RATE = 4e-4
"""At this batch; it grows with the fourth root of the batch."""
STREAMS: tuple[Stream, ...] = ("data", "moments", "pairs")
"""Whose pictures the denoiser trains on."""
_GAMMA = 5.0
_HEAD_WIDTH = 32
_DROP_CAPTION = 0.1
"""Share of samples trained with the empty prompt, for guidance."""
_TOY_WEIGHT = 5.0
"""Of latent cells that a toy covers, where the background's is 1. Places are learned long before classes and views."""
_SURFACE_WEIGHT = 2.0
"""Of the object coordinates among the maps that the denoiser's features are asked for, where the classes' is 1."""
_EASY_SHARE = 0.2
"""Of the steps: an untrained denoiser's curriculum begins with photos of one toy."""
_DECIDING = (200, 800)
"""Timesteps that half of the samples visit: pictures begun from true latents noised to 467, 667 and 967 had 0.81, 0.68
and 0.64 of their classes and 0.74, 0.58 and 0.41 of their views (80 prompts): most is lost in the middle."""


def build_scheduler() -> DDIMScheduler:
    """Stable Diffusion's schedule with v-prediction."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def build_schedule() -> NoiseSchedule:
    """The scheduler's noise, as training adds it."""
    return NoiseSchedule(alphas_cumprod=build_scheduler().alphas_cumprod, prediction_type="v_prediction")


def build_unet(settings: Settings) -> Any:
    """An untrained denoiser: three levels, text attention on the upper two and in the middle."""
    # Heads of one width at all levels, as text-to-video models grown from this one need them.
    heads: Any = tuple(max(1, channels // _HEAD_WIDTH) for channels in settings.unet_channels)
    return UNet2DConditionModel(
        sample_size=settings.resolution // settings.vae_factor,
        in_channels=4,
        out_channels=4,
        block_out_channels=settings.unet_channels,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=settings.text_width,
        attention_head_dim=heads,
        norm_num_groups=16,
    )


def cache_latents(settings: Settings, reporter: Reporter) -> None:
    """Encode all images once (posterior means, scaled, float16) to `models/latents.safetensors`."""
    data = load_data(settings, *STREAMS)
    models = settings.folder / "models"
    vae: Any = AutoencoderKL.from_pretrained(models / "vae")
    vae = vae.to(settings.device, memory_format=torch.channels_last).eval()
    pieces = []
    for first in range(0, len(data), 200):
        images = data.pixels(torch.arange(first, min(first + 200, len(data)))).to(settings.device)
        with torch.inference_mode(), torch.autocast(images.device.type, torch.bfloat16):
            latents = vae.encode(images.contiguous(memory_format=torch.channels_last)).latent_dist.mean
        pieces.append((latents.float() * vae.config.scaling_factor).half().cpu())
        reporter.progress("latents", min(first + 200, len(data)), len(data))
    save_file({"latents": torch.cat(pieces).contiguous()}, models / "latents.safetensors")


class Captions:
    """Token ids of every distinct caption of a data set."""

    def __init__(self, settings: Settings, data: TrainingData) -> None:
        tokenizer = CLIPTokenizer.from_pretrained(settings.folder / "models" / "tokenizer")
        captions = ["", *sorted({caption for captions in data.captions for caption in captions})]
        number = {caption: index for index, caption in enumerate(captions)}
        self._index = torch.tensor([[number[caption] for caption in captions] for captions in data.captions])
        self._ids = token_ids(tokenizer, captions, tokenizer.model_max_length)

    @property
    def empty(self) -> Tensor:
        """Ids `77` int64 of the empty caption."""
        return self._ids[0].long()

    def ids(self, chosen: Tensor, variants: Tensor) -> Tensor:
        """Ids `b 77` int64 of the chosen rows' captions of these numbers."""
        return self._ids[self._index[chosen, variants]].long()

    def draw(self, chosen: Tensor, generator: torch.Generator) -> Tensor:
        """Ids `b 77` int64 of one caption of every chosen row, sometimes of the empty one."""
        variants = torch.randint(self._index.shape[1], chosen.shape, generator=generator)
        dropped = torch.rand(chosen.shape, generator=generator) < _DROP_CAPTION
        return self._ids[torch.where(dropped, 0, self._index[chosen, variants])].long()


def easy_rows(data: TrainingData) -> Tensor:
    """Rows of photos of one toy; all rows where there are none."""
    easy = [
        index
        for index, (captions, truth) in enumerate(zip(data.captions, data.attributes, strict=True))
        if truth["style"] == STYLES[0] and " and a " not in captions[0]
    ]
    return torch.tensor(easy or range(len(data)))


def loss_weights(schedule: NoiseSchedule, timesteps: Tensor) -> Tensor:
    """Min-SNR weights `b` where the picture outweighs the noise, 1/2 where noise outweighs it.

    Plain min-SNR weights vanish with the signal, but what the caption decides (class, view) is decided there: of the
    error that a wrong class word adds, most lies above timestep 500, of the weighted loss less than a quarter.
    """
    mostly_noise = schedule.snr(timesteps) < 1
    return torch.where(mostly_noise, 0.5, schedule.min_snr_weights(timesteps, _GAMMA))


def cell_weights(coverage: Tensor) -> Tensor:
    """Loss weights `n 1 h w` float16 of latent cells, 1 on average, by the share `n h w` uint8 that toys cover."""
    weights = 1 + (_TOY_WEIGHT - 1) / 255 * coverage.float()
    return (weights / weights.mean()).half()[:, None]


def load_latents(settings: Settings, count: int) -> Tensor:
    """What `cache_latents` saved of `count` pictures, `count 4 h w` float16.

    Raises:
        InputError: it has not, or of others.
    """
    path = settings.folder / "models" / "latents.safetensors"
    if not path.exists():
        raise InputError(f"{path} does not exist; run the stages vae, clip and latents first.")
    latents = load_file(path)["latents"]
    if len(latents) != count:
        raise InputError(f"{path} has {len(latents)} latents of {count} pictures; run the stage latents again.")
    return latents


def draw_timesteps(batch: int, generator: torch.Generator) -> Tensor:
    """Half of them anywhere, half where the picture's content is decided; int64, on the CPU."""
    anywhere = torch.randint(1000, (batch,), generator=generator)
    deciding = torch.randint(*_DECIDING, (batch,), generator=generator)
    return torch.where(torch.rand(batch, generator=generator) < 0.5, anywhere, deciding)


def _denoiser(settings: Settings) -> Any:
    """The one that lies in `models/` where models were adopted, or an untrained one; channels last."""
    torch.manual_seed(0)
    unet = begun(settings, "unet", UNet2DConditionModel) or build_unet(settings)
    return prepared(unet, settings).to(memory_format=torch.channels_last)


def prepared(unet: Any, settings: Settings) -> Any:
    """A denoiser where it trains."""
    if settings.device == "cpu":
        # Plain matrix products train a third faster there than the fused attention, whose backward pass is slow.
        unet.set_attn_processor(AttnProcessor())
    return unet.to(settings.device)


def _capture(model: nn.Module, latents: Tensor, width: int) -> None:
    """A whole training pass of `latents` as a graph; text states have this width."""
    model.train().requires_grad_(True)
    noisy = latents.contiguous(memory_format=torch.channels_last)
    states = torch.zeros(len(noisy), MAX_LENGTH, width, device=noisy.device)
    capture_passes(model, noisy, torch.zeros(len(noisy), dtype=torch.int64, device=noisy.device), states)


def train_unet(settings: Settings, steps: int, minutes: float | None, reporter: Reporter) -> None:
    """Train and save to `models/unet` and `models/scheduler`.

    The text encoder stays as the stage `words` left it: trained along, words that it takes for one another stay close
    (after 1,300 steps "dog" and "cat" were as near as before), and what views did to the picture was lost meanwhile.

    Raises:
        InputError: the latents are not cached yet, or of other pictures.
    """
    data = load_data(settings, *STREAMS)
    models = settings.folder / "models"
    latents = load_latents(settings, len(data)).to(settings.device)
    coverage, maps = (truth.to(settings.device) for truth in load_truth(settings, *STREAMS))
    weights = cell_weights(coverage)
    captions, easy = Captions(settings, data), easy_rows(data)
    easy_steps = 0 if adopted(settings) else _EASY_SHARE * steps
    unet = _denoiser(settings)
    model: Any = WithGeometry(unet)
    model = model.to(settings.device, memory_format=torch.channels_last)
    text_encoder: Any = CLIPTextModel.from_pretrained(models / "text_encoder")
    text_encoder = text_encoder.to(settings.device).eval().requires_grad_(False)
    batch, schedule = _BATCH * settings.batches, build_schedule()
    read = Replay(lambda ids: text_encoder(input_ids=ids).last_hidden_state.float())
    if settings.device == "cpu":
        for module in (model, text_encoder):
            compile_for(module, steps)
    else:
        _capture(model, latents[:batch].float(), settings.text_width)

    def loss(step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
        chosen = easy[rows(len(easy), batch, generator)] if step < easy_steps else None
        chosen = rows(len(latents), batch, generator) if chosen is None else chosen
        states = read(captions.draw(chosen, generator).to(latents.device))
        clean = latents[chosen].float()
        noise = torch.randn(clean.shape, generator=generator_on(clean.device, generator), device=clean.device)
        timesteps = draw_timesteps(batch, generator).to(clean.device)
        noisy = schedule.add_noise(clean, noise, timesteps).contiguous(memory_format=torch.channels_last)
        predicted, seen = model(noisy, timesteps, states)
        errors = (predicted.float() - schedule.target(clean, noise, timesteps)).square()
        errors = (errors * weights[chosen].float()).mean((1, 2, 3))
        misread = (seen.float() - maps[chosen].float() / 127).square().mean((0, 2, 3))
        misread = misread[:-3].sum() + _SURFACE_WEIGHT * misread[-3:].sum()
        return LossTerms({"v": (errors * loss_weights(schedule, timesteps)).mean(), "maps": misread})

    def finish() -> None:
        unet.save_pretrained(models / "unet")
        build_scheduler().save_pretrained(models / "scheduler")

    config = FitConfig(steps=steps, lr_schedule="cooldown", warmup_steps=300, autocast="bf16", ema_decay=0.9995)
    run_stage(
        "unet",
        {"unet": unet, "head": model.head},
        loss,
        settings,
        config,
        reporter,
        learning_rate=_RATE * settings.batches**0.25,
        weight_decay=0.01,
        minutes=minutes,
        finish=finish,
    )
