"""Every kind of reference adapter: its settings, and how an untrained one is made of them."""

from typing import Annotated, TypeAlias

import torch
from pydantic import Discriminator

from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.reference.base import AbstractReferenceAdapter, Reading
from pcs_ext.image.reference.systems import (
    anydoor,
    artadapter,
    blip_diffusion,
    bootpig,
    cafe,
    context_diffusion,
    customcontrast,
    customnet,
    domain_agnostic,
    dreamidentity,
    dreamtuner,
    e4t,
    elite,
    emu2,
    face0,
    face2diffusion,
    face_diffuser,
    facestudio,
    fastcomposer,
    hyperdreambooth,
    idadapter,
    identity_encoder,
    infinite_id,
    instantbooth,
    instantfamily,
    instantid,
    ip_adapter,
    kim_sod_cnn,
    kosmos_g,
    lambda_eclipse,
    migc,
    moa,
    moma,
    ms_diffusion,
    omni_id,
    pe_viton,
    photomaker,
    portraitbooth,
    profusion,
    prompt_free_diffusion,
    pva,
    re_imagen,
    retrinet,
    ssr_encoder,
    stellar,
    styleadapter,
    subject_diffusion,
    suti,
    taming_encoder,
    umm_diffusion,
    uni_controlnet,
    versatile_diffusion,
    visconet,
    w_plus_adapter,
)

KindConfig: TypeAlias = Annotated[
    ip_adapter.IPAdapterConfig
    | photomaker.PhotoMakerConfig
    | fastcomposer.FastComposerConfig
    | elite.EliteConfig
    | ssr_encoder.SSREncoderConfig
    | instantbooth.InstantBoothConfig
    | blip_diffusion.BlipDiffusionConfig
    | e4t.E4TConfig
    | ms_diffusion.MSDiffusionConfig
    | customcontrast.CustomContrastConfig
    | styleadapter.StyleAdapterConfig
    | artadapter.ArtAdapterConfig
    | kim_sod_cnn.KimSodCnnConfig
    | umm_diffusion.UMMDiffusionConfig
    | subject_diffusion.SubjectDiffusionConfig
    | bootpig.BootPIGConfig
    | retrinet.RetriNetConfig
    | dreamidentity.DreamIdentityConfig
    | face0.Face0Config
    | face2diffusion.Face2DiffusionConfig
    | idadapter.IDAdapterConfig
    | infinite_id.InfiniteIDConfig
    | moa.MoAConfig
    | portraitbooth.PortraitBoothConfig
    | profusion.ProFusionConfig
    | pva.PVAConfig
    | face_diffuser.FaceDiffuserConfig
    | anydoor.AnyDoorConfig
    | migc.MIGCConfig
    | instantfamily.InstantFamilyConfig
    | moma.MoMAConfig
    | customnet.CustomNetConfig
    | uni_controlnet.UniControlNetConfig
    | visconet.ViscoNetConfig
    | prompt_free_diffusion.PromptFreeConfig
    | context_diffusion.ContextDiffusionConfig
    | hyperdreambooth.HyperDreamBoothConfig
    | domain_agnostic.DomainAgnosticConfig
    | dreamtuner.DreamTunerConfig
    | re_imagen.ReImagenConfig
    | suti.SuTIConfig
    | lambda_eclipse.LambdaEclipseConfig
    | omni_id.OmniIDConfig
    | versatile_diffusion.VersatileDiffusionConfig
    | w_plus_adapter.WPlusConfig
    | kosmos_g.KosmosGConfig
    | emu2.Emu2Config
    | cafe.CafeConfig
    | instantid.InstantIDConfig
    | facestudio.FaceStudioConfig
    | taming_encoder.TamingEncoderConfig
    | stellar.StellarNetConfig
    | identity_encoder.IdentityEncoderConfig
    | pe_viton.PEVitonConfig,
    Discriminator("kind"),
]
"""Settings of every kind; the field `kind` says which one a JSON object is."""

_KINDS: dict[type, type[AbstractReferenceAdapter]] = {
    ip_adapter.IPAdapterConfig: ip_adapter.IPAdapter,
    photomaker.PhotoMakerConfig: photomaker.PhotoMaker,
    fastcomposer.FastComposerConfig: fastcomposer.FastComposer,
    elite.EliteConfig: elite.Elite,
    ssr_encoder.SSREncoderConfig: ssr_encoder.SSREncoder,
    instantbooth.InstantBoothConfig: instantbooth.InstantBooth,
    blip_diffusion.BlipDiffusionConfig: blip_diffusion.BlipDiffusion,
    e4t.E4TConfig: e4t.E4T,
    ms_diffusion.MSDiffusionConfig: ms_diffusion.MSDiffusion,
    customcontrast.CustomContrastConfig: customcontrast.CustomContrast,
    styleadapter.StyleAdapterConfig: styleadapter.StyleAdapter,
    artadapter.ArtAdapterConfig: artadapter.ArtAdapter,
    kim_sod_cnn.KimSodCnnConfig: kim_sod_cnn.KimSodCnn,
    umm_diffusion.UMMDiffusionConfig: umm_diffusion.UMMDiffusion,
    subject_diffusion.SubjectDiffusionConfig: subject_diffusion.SubjectDiffusion,
    bootpig.BootPIGConfig: bootpig.BootPIG,
    retrinet.RetriNetConfig: retrinet.RetriNet,
    dreamidentity.DreamIdentityConfig: dreamidentity.DreamIdentity,
    face0.Face0Config: face0.Face0,
    face2diffusion.Face2DiffusionConfig: face2diffusion.Face2Diffusion,
    idadapter.IDAdapterConfig: idadapter.IDAdapter,
    infinite_id.InfiniteIDConfig: infinite_id.InfiniteID,
    moa.MoAConfig: moa.MoA,
    portraitbooth.PortraitBoothConfig: portraitbooth.PortraitBooth,
    profusion.ProFusionConfig: profusion.ProFusion,
    pva.PVAConfig: pva.PVA,
    face_diffuser.FaceDiffuserConfig: face_diffuser.FaceDiffuser,
    anydoor.AnyDoorConfig: anydoor.AnyDoor,
    migc.MIGCConfig: migc.MIGC,
    instantfamily.InstantFamilyConfig: instantfamily.InstantFamily,
    moma.MoMAConfig: moma.MoMA,
    customnet.CustomNetConfig: customnet.CustomNet,
    uni_controlnet.UniControlNetConfig: uni_controlnet.UniControlNet,
    visconet.ViscoNetConfig: visconet.ViscoNet,
    prompt_free_diffusion.PromptFreeConfig: prompt_free_diffusion.PromptFreeDiffusion,
    context_diffusion.ContextDiffusionConfig: context_diffusion.ContextDiffusion,
    hyperdreambooth.HyperDreamBoothConfig: hyperdreambooth.HyperDreamBooth,
    domain_agnostic.DomainAgnosticConfig: domain_agnostic.DomainAgnosticEncoder,
    dreamtuner.DreamTunerConfig: dreamtuner.DreamTuner,
    re_imagen.ReImagenConfig: re_imagen.ReImagen,
    suti.SuTIConfig: suti.SuTI,
    lambda_eclipse.LambdaEclipseConfig: lambda_eclipse.LambdaEclipse,
    omni_id.OmniIDConfig: omni_id.OmniID,
    versatile_diffusion.VersatileDiffusionConfig: versatile_diffusion.VersatileDiffusion,
    w_plus_adapter.WPlusConfig: w_plus_adapter.WPlusAdapter,
    kosmos_g.KosmosGConfig: kosmos_g.KosmosG,
    emu2.Emu2Config: emu2.Emu2,
    cafe.CafeConfig: cafe.Cafe,
    instantid.InstantIDConfig: instantid.InstantID,
    facestudio.FaceStudioConfig: facestudio.FaceStudio,
    taming_encoder.TamingEncoderConfig: taming_encoder.TamingEncoder,
    stellar.StellarNetConfig: stellar.StellarNet,
    identity_encoder.IdentityEncoderConfig: identity_encoder.IdentityEncoder,
    pe_viton.PEVitonConfig: pe_viton.PEViton,
}


def adapter_class(config: KindConfig) -> type[AbstractReferenceAdapter]:
    """The class that a kind's settings belong to: it says what is read of pictures and prompts."""
    return _KINDS[type(config)]


def build_adapter(
    config: KindConfig, backbone: AbstractBackbone, reading: Reading, *, seed: int = 0
) -> AbstractReferenceAdapter:
    """An untrained adapter.

    Args:
        config: of its kind.
        backbone: to be trained for.
        reading: what the image encoder gives.
        seed: of its networks.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _KINDS[type(config)].untrained(config, backbone, reading, seed).to(backbone.device)
