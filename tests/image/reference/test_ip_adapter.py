"""IP-Adapter against diffusers' own attention processors, and what it leaves alone."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor

from pcs_ext.errors import ArtifactError
from pcs_ext.image.activation_checkpointing import activation_checkpointing
from pcs_ext.image.adapters import LowRankAdapter, LowRankConfig, injected
from pcs_ext.image.attention import AttentionMaps, attention_program
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.reference.encoder import open_encoder
from pcs_ext.image.reference.files import OpenedAdapter
from pcs_ext.image.reference.reference import Reference
from pcs_ext.image.reference.shown import Shown, Sight
from pcs_ext.image.reference.systems.ip_adapter import IPAdapter, attention_order
from pcs_ext.image.sample import SampleConfig, build_scheduler, initial_noise, sample
from pcs_ext.image.types import Conditioning
from tests.support.tiny import tiny_backbone
from tests.support.tiny_reference import HIDDEN, WIDTH, tiny_adapter, tiny_vision

PROMPTS = ("a photo of the dog", "red toy on beach")


@pytest.fixture(params=["sd", "sdxl"])
def backbone(request: pytest.FixtureRequest, tmp_path: Path) -> AbstractBackbone:
    return tiny_backbone(tmp_path / request.param, family=request.param)


def features(count: int, plus: bool, pictures: int = 1) -> Tensor:
    shape = (count, pictures, 17, HIDDEN) if plus else (count, pictures, WIDTH)
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


def told(adapter: IPAdapter, backbone: AbstractBackbone, shown: Tensor, scale: float = 1.0) -> Conditioning:
    pictures = Shown(sight=Sight(features=shown))
    return adapter.conditioned(backbone, backbone.encode_prompt, PROMPTS[: len(shown)], pictures, scale=scale)


def latents(count: int = 2) -> tuple[Tensor, Tensor]:
    noisy = torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(4))
    return noisy, torch.tensor([700, 20])[:count]


def theirs(backbone: Any, path: Path, conditioning: Conditioning, shown: Tensor, scale: float) -> Tensor:
    """The prediction of diffusers' UNet with the file loaded by diffusers' own loader."""
    unet = copy.deepcopy(backbone.denoiser)
    state: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for key, value in load_file(path).items():
        part, _, rest = key.partition(".")
        state[part][rest] = value
    unet._load_ip_adapter_weights([state], low_cpu_mem_usage=False)
    for processor in unet.attn_processors.values():
        if hasattr(processor, "scale"):
            processor.scale = [scale]
    noisy, timesteps = latents(len(shown))
    added = {"image_embeds": [shown], **(backbone._added(conditioning) or {})}
    return unet(noisy, timesteps, encoder_hidden_states=conditioning.states, added_cond_kwargs=added).sample


@pytest.mark.parametrize("pictures", [1, 3])
@pytest.mark.parametrize("plus", [False, True])
@torch.no_grad()
def test_predictions_equal_those_of_diffusers(
    backbone: AbstractBackbone, tmp_path: Path, plus: bool, pictures: int
) -> None:
    adapter, shown = tiny_adapter(backbone, plus=plus), features(2, plus, pictures)
    save_file(dict(adapter.published()), tmp_path / "ours.safetensors")
    conditioning = told(adapter, backbone, shown, 0.7)
    ours = backbone.predict(*latents(), conditioning)
    reference = theirs(backbone, tmp_path / "ours.safetensors", conditioning, shown, 0.7)
    assert (ours - reference).abs().max() <= 1e-5
    plain = backbone.predict(*latents(), backbone.encode_prompt(PROMPTS))
    assert (ours - plain).abs().mean() > 1e-3, "the pictures must matter for the comparison to say anything"


@torch.no_grad()
def test_numbers_of_the_maps_are_the_published_ones(sd: AbstractBackbone) -> None:
    """Down, up, middle, as diffusers lists its processors: another order would fit no published file."""
    names = list(sd.denoiser.attn_processors)
    order = attention_order(sd)
    assert [names.index(f"{path}.processor") for path in order] == list(range(1, 2 * len(order), 2))
    assert order[-1].startswith("mid_block")
    assert order != list(sd.cross_attention_paths())
    assert list(tiny_adapter(sd).ip_adapter) == [str(2 * index + 1) for index in range(len(order))]


@torch.no_grad()
def test_scale_zero_is_the_base_to_the_bit(backbone: AbstractBackbone) -> None:
    adapter = tiny_adapter(backbone)
    plain = backbone.predict(*latents(), backbone.encode_prompt(PROMPTS))
    assert torch.equal(backbone.predict(*latents(), told(adapter, backbone, features(2, False), 0.0)), plain)
    backbone.predict(*latents(), told(adapter, backbone, features(2, False)))
    assert torch.equal(backbone.predict(*latents(), backbone.encode_prompt(PROMPTS)), plain), "a trace stayed"


@torch.no_grad()
def test_rows_see_their_own_pictures_only(sd: AbstractBackbone) -> None:
    adapter, shown = tiny_adapter(sd), features(2, False)
    both = told(adapter, sd, shown)
    together = sd.predict(*latents(), both)
    noisy, timesteps = latents()
    for row in range(2):
        alone = sd.predict(noisy[row : row + 1], timesteps[row : row + 1], both[[row]])
        torch.testing.assert_close(alone[0], together[row], atol=1e-5, rtol=0)
    swapped = sd.predict(*latents(), told(adapter, sd, shown.flip(0)))
    assert (swapped - together).abs().flatten(1).amax(1).min() > 1e-3


@torch.no_grad()
def test_stacked_with_prompts_that_see_nothing_those_stay_plain(sd: AbstractBackbone) -> None:
    adapter, (noisy, timesteps) = tiny_adapter(sd), latents()
    plain = sd.encode_prompt(PROMPTS[1:])
    mixed = sd.predict(noisy, timesteps, Conditioning.cat([told(adapter, sd, features(1, False)), plain]))
    alone = sd.predict(noisy[1:], timesteps[1:], plain)
    torch.testing.assert_close(mixed[1:], alone, atol=1e-6, rtol=0)


@torch.no_grad()
def test_two_adapters_add_up(sd: AbstractBackbone) -> None:
    """What each finds is added: one twice at half strength is that one."""
    adapter, shown = tiny_adapter(sd), features(2, False)
    half = told(adapter, sd, shown, 0.5)
    twice = half.beside(half.decoupled[0])
    torch.testing.assert_close(
        sd.predict(*latents(), twice), sd.predict(*latents(), told(adapter, sd, shown)), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("first", [True, False])
@torch.no_grad()
def test_a_learned_subject_and_pictures_act_together(sd: AbstractBackbone, tmp_path: Path, first: bool) -> None:
    """A LoRA on queries and outputs, merged or not, reads and receives what a changed base would."""
    adapter, shown = tiny_adapter(sd), features(2, False)
    lora = LowRankAdapter("lora", LowRankConfig(rank=2, targets=(r"\.attn2\.to_(q|out\.0)$",)))
    save_file(dict(adapter.published()), tmp_path / "ours.safetensors")
    with injected(sd, lora):
        for parameter in lora.parameters()["denoiser"]:
            torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(1))
        conditioning = told(adapter, sd, shown)
        ours = sd.predict(*latents(), conditioning)
        state = {path: sd.denoiser.get_submodule(path) for path in attention_order(sd)}
        merged = {
            f"{path}.{name}.weight": attention.get_submodule(name).merge(attention.get_submodule(name).weight)
            for path, attention in state.items()
            for name in ("to_q", "to_out.0")
        }
    for key, value in merged.items():
        sd.denoiser.get_parameter(key).copy_(value)
    reference = theirs(sd, tmp_path / "ours.safetensors", conditioning, shown, 1.0)
    assert (ours - reference).abs().max() <= 1e-5


@torch.no_grad()
def test_programs_on_attention_see_the_text_alone(sd: AbstractBackbone) -> None:
    adapter, shown = tiny_adapter(sd), features(2, False)
    maps = AttentionMaps(side=8, exact=True)
    with attention_program(sd, maps):
        written_out = sd.predict(*latents(), told(adapter, sd, shown))
    assert maps.maps().shape[1] == sd.tokenizers[0].model_max_length
    torch.testing.assert_close(written_out, sd.predict(*latents(), told(adapter, sd, shown)), atol=1e-5, rtol=0)


def gradients(sd: AbstractBackbone, adapter: IPAdapter) -> Iterator[Tensor]:
    adapter.requires_grad_(True)
    adapter.zero_grad()
    sd.predict(*latents(), told(adapter, sd, features(2, False))).square().mean().backward()
    for parameter in adapter.parameters():
        assert parameter.grad is not None
        yield parameter.grad.clone()


def test_every_parameter_learns_and_none_of_the_base_also_when_recomputed(sd: AbstractBackbone) -> None:
    adapter = tiny_adapter(sd)
    plain = list(gradients(sd, adapter))
    assert all(gradient.abs().max() > 0 for gradient in plain)
    assert not any(parameter.requires_grad for parameter in sd.denoiser.parameters())
    with activation_checkpointing(sd.denoiser):
        again = list(gradients(sd, adapter))
    for one, other in zip(plain, again, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_an_untrained_one_reads_pictures_with_the_texts_own_maps(sd: AbstractBackbone) -> None:
    begun = IPAdapter.begin(sd, WIDTH, seed=1)
    attention = sd.denoiser.get_submodule(attention_order(sd)[2])
    assert torch.equal(begun.ip_adapter["5"]["to_v_ip"].weight, attention.to_v.weight)  # type: ignore[index]
    assert torch.equal(begun.image_proj.proj.weight, IPAdapter.begin(sd, WIDTH, seed=1).image_proj.proj.weight)  # type: ignore[union-attr]


def test_a_base_of_another_layout_is_refused(sd: AbstractBackbone, sdxl: AbstractBackbone) -> None:
    with pytest.raises(ArtifactError, match=r"made for .* of text width 16; .*sdxl has .* of text width 40"):
        tiny_adapter(sd).check(sdxl)


@torch.no_grad()
def test_a_whole_pipeline_of_diffusers_makes_the_same_pictures(sd: AbstractBackbone, tmp_path: Path) -> None:
    """Guidance included: the negative half sees the features of no picture."""
    config = SampleConfig(scheduler="ddim", num_inference_steps=3, guidance_scale=3.0)
    adapter, backbone = tiny_adapter(sd), sd
    save_file(dict(adapter.published()), tmp_path / "ours.safetensors")
    encoder = open_encoder(tiny_vision(tmp_path / "eye"), "embedding")
    seen = encoder(torch.rand(2, 3, 40, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1)
    reference = Reference(opened=OpenedAdapter(adapter=adapter, encoder=encoder), sight=Sight(features=seen), scale=0.6)
    ours = sample(sd, list(PROMPTS), seeds=[1, 2], config=config, hooks=reference.hooks(sd), batch_size=1)
    stock: Any = StableDiffusionPipeline
    pipeline = stock(
        vae=backbone.vae, text_encoder=sd.text_encoders[0], tokenizer=sd.tokenizers[0],
        unet=copy.deepcopy(sd.denoiser), scheduler=build_scheduler(sd, config), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.load_ip_adapter(str(tmp_path), "", "ours.safetensors", image_encoder_folder=None, low_cpu_mem_usage=False)
    pipeline.set_ip_adapter_scale(0.6)
    pipeline.set_progress_bar_config(disable=True)
    shown = torch.stack([torch.zeros_like(seen), seen])
    made = pipeline(
        list(PROMPTS), ip_adapter_image_embeds=[shown], num_inference_steps=3, guidance_scale=3.0,
        latents=initial_noise(sd, [1, 2], config), output_type="pt", height=32, width=32,
    ).images  # fmt: skip
    torch.testing.assert_close((ours + 1) / 2, made.float(), atol=1e-4, rtol=0)


@torch.no_grad()
def test_large_images_beside_pictures_are_sampled_few_at_a_time(
    sd: AbstractBackbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = OpenedAdapter(adapter=tiny_adapter(sd), encoder=open_encoder(tiny_vision(tmp_path / "eye"), "embedding"))
    hooks = Reference(opened=opened, sight=Sight(features=features(1, plus=False)[0])).hooks(sd)
    batches: list[int] = []
    sd.denoiser.register_forward_pre_hook(lambda module, given: batches.append(len(given[0])))
    asked: dict[str, Any] = {"seeds": [0, 1, 2], "hooks": hooks}
    asked["config"] = SampleConfig(scheduler="ddim", num_inference_steps=1, guidance_scale=1.0)
    whole = sample(sd, [PROMPTS[0]] * 3, **asked)
    monkeypatch.setattr("pcs_ext.image.sample._CELLS", 8 * 8)
    parts = sample(sd, [PROMPTS[0]] * 3, **asked)
    assert batches == [3, 1, 1, 1]
    torch.testing.assert_close(parts, whole, atol=1e-4, rtol=0)
