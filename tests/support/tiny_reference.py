"""Tiny IP-Adapters with random weights, written as published files are, and image encoders beside them."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.reference.base import AbstractReferenceAdapter
from pcs_ext.image.reference.encoder import PictureEncoder
from pcs_ext.image.reference.files import reading_of
from pcs_ext.image.reference.kinds import KindConfig, adapter_class, build_adapter
from pcs_ext.image.reference.language_model import LanguageConfig
from pcs_ext.image.reference.latents import open_eye
from pcs_ext.image.reference.projection import LinearProjection, Resampler
from pcs_ext.image.reference.shown import Sight
from pcs_ext.image.reference.style_networks import StyleAutoencoder, StyleNetworks
from pcs_ext.image.reference.style_space import save_style_space
from pcs_ext.image.reference.systems.anydoor import AnyDoorConfig
from pcs_ext.image.reference.systems.artadapter import ArtAdapterConfig
from pcs_ext.image.reference.systems.blip_diffusion import BlipDiffusionConfig
from pcs_ext.image.reference.systems.bootpig import BootPIGConfig
from pcs_ext.image.reference.systems.cafe import CafeConfig
from pcs_ext.image.reference.systems.context_diffusion import ContextDiffusionConfig
from pcs_ext.image.reference.systems.customcontrast import CustomContrastConfig
from pcs_ext.image.reference.systems.customnet import CustomNetConfig
from pcs_ext.image.reference.systems.domain_agnostic import DomainAgnosticConfig
from pcs_ext.image.reference.systems.dreamidentity import DreamIdentityConfig
from pcs_ext.image.reference.systems.dreamtuner import DreamTunerConfig
from pcs_ext.image.reference.systems.e4t import E4TConfig
from pcs_ext.image.reference.systems.elite import EliteConfig
from pcs_ext.image.reference.systems.emu2 import Emu2Config
from pcs_ext.image.reference.systems.face0 import Face0Config
from pcs_ext.image.reference.systems.face2diffusion import Face2DiffusionConfig
from pcs_ext.image.reference.systems.face_diffuser import FaceDiffuserConfig
from pcs_ext.image.reference.systems.facestudio import FaceStudioConfig
from pcs_ext.image.reference.systems.fastcomposer import FastComposerConfig
from pcs_ext.image.reference.systems.hyperdreambooth import HyperDreamBoothConfig
from pcs_ext.image.reference.systems.idadapter import IDAdapterConfig
from pcs_ext.image.reference.systems.identity_encoder import IdentityEncoderConfig
from pcs_ext.image.reference.systems.infinite_id import InfiniteIDConfig
from pcs_ext.image.reference.systems.instantbooth import InstantBoothConfig
from pcs_ext.image.reference.systems.instantfamily import InstantFamilyConfig
from pcs_ext.image.reference.systems.instantid import InstantIDConfig
from pcs_ext.image.reference.systems.ip_adapter import IPAdapter, IPAdapterConfig, attention_order
from pcs_ext.image.reference.systems.kim_sod_cnn import KimSodCnnConfig
from pcs_ext.image.reference.systems.kosmos_g import KosmosGConfig
from pcs_ext.image.reference.systems.lambda_eclipse import LambdaEclipseConfig
from pcs_ext.image.reference.systems.migc import MIGCConfig
from pcs_ext.image.reference.systems.moa import MoAConfig
from pcs_ext.image.reference.systems.moma import MoMAConfig
from pcs_ext.image.reference.systems.ms_diffusion import MSDiffusionConfig
from pcs_ext.image.reference.systems.omni_id import OmniIDConfig
from pcs_ext.image.reference.systems.pe_viton import PEVitonConfig
from pcs_ext.image.reference.systems.photomaker import PhotoMakerConfig
from pcs_ext.image.reference.systems.portraitbooth import PortraitBoothConfig
from pcs_ext.image.reference.systems.profusion import ProFusionConfig
from pcs_ext.image.reference.systems.prompt_free_diffusion import PromptFreeConfig
from pcs_ext.image.reference.systems.pva import PVAConfig
from pcs_ext.image.reference.systems.re_imagen import ReImagenConfig
from pcs_ext.image.reference.systems.retrinet import RetriNetConfig
from pcs_ext.image.reference.systems.ssr_encoder import SSREncoderConfig
from pcs_ext.image.reference.systems.stellar import StellarNetConfig
from pcs_ext.image.reference.systems.styleadapter import StyleAdapterConfig
from pcs_ext.image.reference.systems.subject_diffusion import SubjectDiffusionConfig
from pcs_ext.image.reference.systems.suti import SuTIConfig
from pcs_ext.image.reference.systems.taming_encoder import TamingEncoderConfig
from pcs_ext.image.reference.systems.umm_diffusion import UMMDiffusionConfig
from pcs_ext.image.reference.systems.uni_controlnet import UniControlNetConfig
from pcs_ext.image.reference.systems.versatile_diffusion import VersatileDiffusionConfig
from pcs_ext.image.reference.systems.visconet import ViscoNetConfig
from pcs_ext.image.reference.systems.w_plus_adapter import WPlusConfig

WIDTH, HIDDEN = 16, 32
"""Of the encoder's embedding and of its patches."""
TINY_LANGUAGE = LanguageConfig(width=16, depth=1, heads=2)
TINY: dict[str, KindConfig] = {
    "ip-adapter": IPAdapterConfig(tokens=2),
    "photomaker": PhotoMakerConfig(rank=2),
    "fastcomposer": FastComposerConfig(),
    "elite": EliteConfig(hidden=16),
    "ssr-encoder": SSREncoderConfig(heads=2, head_width=8),
    "instantbooth": InstantBoothConfig(heads=2),
    "e4t": E4TConfig(),
    "blip-diffusion": BlipDiffusionConfig(tokens=2, width=16, depth=2, heads=2),
    "ms-diffusion": MSDiffusionConfig(tokens=2, inner=16, attention=64, depth=1),
    "customcontrast": CustomContrastConfig(words=1, tokens=2, width=64, depth=1, heads=2, compared=8),
    "styleadapter": StyleAdapterConfig(tokens=2, width=16, depth=1, heads=2),
    "artadapter": ArtAdapterConfig(tokens=2, hidden=16, content_cells=2, content_hidden=4),
    "kim-sod-cnn": KimSodCnnConfig(hidden=16),
    "umm-diffusion": UMMDiffusionConfig(hidden=16),
    "bootpig": BootPIGConfig(),
    "retrinet": RetriNetConfig(heads=2),
    "subject-diffusion": SubjectDiffusionConfig(hidden=16, heads=2),
    "face0": Face0Config(hidden=16),
    "dreamidentity": DreamIdentityConfig(hidden=16),
    "face2diffusion": Face2DiffusionConfig(hidden=16),
    "idadapter": IDAdapterConfig(photos=3, width=16, heads=2),
    "moa": MoAConfig(),
    "profusion": ProFusionConfig(widths=(8, 16)),
    "infinite-id": InfiniteIDConfig(tokens=2),
    "portraitbooth": PortraitBoothConfig(),
    "pva": PVAConfig(layers=1, heads=2),
    "face-diffuser": FaceDiffuserConfig(),
    "anydoor": AnyDoorConfig(),
    "migc": MIGCConfig(heads=2, places=4),
    "instantfamily": InstantFamilyConfig(tokens=2),
    "customnet": CustomNetConfig(),
    "moma": MoMAConfig(tokens=2, embedding=16, width=16, depth=1, heads=2),
    "uni-controlnet": UniControlNetConfig(maps=("edges", "depth"), inject=(8, 8), keep_all=0.8, drop_all=0.0),
    "visconet": ViscoNetConfig(maps=("depth",), pictures=2, tokens=2),
    "prompt-free-diffusion": PromptFreeConfig(
        maps=("depth",),
        depth=1,
        hidden=16,
        query_depth=2,
        query_hidden=16,
        heads=2,
        groups=4,
        global_queries=1,
        local_queries=4,
    ),
    "context-diffusion": ContextDiffusionConfig(maps=("depth", "normals")),
    "hyperdreambooth": HyperDreamBoothConfig(up=12, down=6, iterations=2, width=16, depth=1, heads=2),
    "domain-agnostic-encoder": DomainAgnosticConfig(hidden=8, rank=2, neighbours=3),
    "dreamtuner": DreamTunerConfig(depth=1, heads=2),
    "re-imagen": ReImagenConfig(heads=2),
    "suti": SuTIConfig(heads=2),
    "lambda-eclipse": LambdaEclipseConfig(width=16, depth=1, heads=2, tokens=2),
    "omni-id": OmniIDConfig(
        tokens=3,
        width=16,
        depth=1,
        heads=2,
        decoder_width=16,
        decoder_depth=1,
        masked=0.9,
        targets=2,
        masked_share=0.5,
        diffusion_share=0.25,
    ),
    "versatile-diffusion": VersatileDiffusionConfig(),
    "w-plus-adapter": WPlusConfig(reach=2.0),
    "kosmos-g": KosmosGConfig(language=TINY_LANGUAGE, words=2, width=16, depth=1, heads=2, shares=(0.2, 0.2, 0.6)),
    "emu2": Emu2Config(language=TINY_LANGUAGE, side=2),
    "instantid": InstantIDConfig(tokens=2, inner=64, depth=1),
    "taming-encoder": TamingEncoderConfig(),
    "stellar": StellarNetConfig(hidden=16, rank=2),
    "facestudio": FaceStudioConfig(look_tokens=2, face_tokens=2, width=16, depth=1, heads=2),
    "cafe": CafeConfig(language=LanguageConfig(width=32, depth=2, heads=2), longest=6),
    "identity-encoder": IdentityEncoderConfig(tokens=2, inner=64, depth=1),
    "pe-viton": PEVitonConfig(maps=("pose",), cells=8, width=8, tokens=2, inner=64, depth=1),
}
"""Every system at a size of a few thousand weights."""


def tiny_system(
    system: str, backbone: AbstractBackbone, eye: Path, *, seed: int = 0
) -> tuple[AbstractReferenceAdapter, PictureEncoder]:
    """An untrained adapter of a system and the encoder it reads, in the folder `tiny_vision` wrote."""
    config = TINY[system]
    kind = adapter_class(config)
    encoder = open_eye(eye_of(system, eye), kind, backbone)
    return build_adapter(config, backbone, reading_of(encoder), seed=seed), encoder


def eye_of(system: str, eye: Path) -> Path:
    """What a system looks through: the tiny image encoder, or a tiny style space beside it."""
    if adapter_class(TINY[system]).sees != "codes":
        return eye
    folder = eye.with_name("style-space")
    if not folder.is_dir():
        torch.manual_seed(6)
        sizes = StyleNetworks(resolution=16, width=HIDDEN, depth=1, channels=8, capacity=64)
        save_style_space(StyleAutoencoder(sizes), folder)
    return folder


def at_random(adapter: AbstractReferenceAdapter, backbone: AbstractBackbone) -> None:
    """Every weight moved by random numbers that are large enough to matter."""
    generator = torch.Generator().manual_seed(7)
    with adapter.inserted(backbone), torch.no_grad():
        for group in adapter.groups().values():
            for parameter in group:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


@contextlib.contextmanager
def nothing_denoised(backbone: AbstractBackbone) -> Iterator[None]:
    """Inside, the denoiser must not be asked."""
    asked: list[str] = []
    handle = backbone.denoiser.register_forward_hook(lambda *given: asked.append("denoiser"))
    try:
        yield
    finally:
        handle.remove()
    assert not asked, f"the denoiser was asked {len(asked)} times"


def tiny_adapter(backbone: AbstractBackbone, *, plus: bool = False, seed: int = 0) -> IPAdapter:
    """An adapter whose every weight is random and large enough to matter."""
    attentions = [backbone.denoiser.get_submodule(path) for path in attention_order(backbone)]
    context = attentions[0].to_k.weight.shape[1]
    torch.manual_seed(seed)
    projection = (
        Resampler(HIDDEN, context, 6, inner=24, attention=128, depth=4)
        if plus
        else LinearProjection(WIDTH, context, 4)
    )  # fmt: skip
    made = IPAdapter(projection, [attention.to_k.weight.shape[0] for attention in attentions])
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.5)
    return made.requires_grad_(False)


def tiny_vision(folder: Path) -> Path:
    """The vision half of a CLIP, without a preprocessor file, as it lies in published repositories."""
    torch.manual_seed(5)
    config = CLIPVisionConfig(
        hidden_size=HIDDEN, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=32,
        patch_size=8, projection_dim=WIDTH,
    )  # fmt: skip
    CLIPVisionModelWithProjection(config).save_pretrained(folder)
    return folder


def published(folder: Path, backbone: AbstractBackbone, *, plus: bool = False, name: str = "ip-adapter") -> Path:
    """`models/NAME.safetensors` and `models/image_encoder/` in a folder; the file."""
    encoder = folder / "models" / "image_encoder"
    if not encoder.exists():
        tiny_vision(encoder)
    path = folder / "models" / f"{name}.safetensors"
    save_file(dict(tiny_adapter(backbone, plus=plus).published()), path)
    return path


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Unit normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layers(pictures: int = 1, count: int = 2, *, seed: int = 0) -> Sight:
    """Layers of pictures that nobody cut out, `1 pictures count 17 HIDDEN`."""
    return Sight(features=drawn(1, pictures, count, 17, HIDDEN, seed=seed))
