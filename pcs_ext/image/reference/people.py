"""Systems whose papers are about people. An identity is what the image encoder tells of a photo.

Published settings are rarely complete: what is not said to be a paper's is IP-Adapter's or ours. The settings named
`toybox` are ours, by analogy with those that were tried; none of them was measured.
"""

from pcs_ext.image.reference.entry import ReferenceEntry
from pcs_ext.image.reference.systems.dreamidentity import DreamIdentityConfig
from pcs_ext.image.reference.systems.face0 import Face0Config
from pcs_ext.image.reference.systems.face2diffusion import Face2DiffusionConfig
from pcs_ext.image.reference.systems.face_diffuser import FaceDiffuserConfig
from pcs_ext.image.reference.systems.facestudio import FaceStudioConfig
from pcs_ext.image.reference.systems.hyperdreambooth import HyperDreamBoothConfig
from pcs_ext.image.reference.systems.idadapter import IDAdapterConfig
from pcs_ext.image.reference.systems.infinite_id import InfiniteIDConfig
from pcs_ext.image.reference.systems.instantfamily import InstantFamilyConfig
from pcs_ext.image.reference.systems.instantid import InstantIDConfig
from pcs_ext.image.reference.systems.moa import MoAConfig
from pcs_ext.image.reference.systems.omni_id import OmniIDConfig
from pcs_ext.image.reference.systems.portraitbooth import PortraitBoothConfig
from pcs_ext.image.reference.systems.profusion import ProFusionConfig
from pcs_ext.image.reference.systems.pva import PVAConfig
from pcs_ext.image.reference.systems.stellar import StellarNetConfig
from pcs_ext.image.reference.systems.w_plus_adapter import WPlusConfig
from pcs_ext.image.reference.training import ReferenceTraining

PEOPLE: dict[str, ReferenceEntry] = {
    "face0": ReferenceEntry(
        id="face0",
        summary="a photo in the prompt's last places; three predictions mixed",
        paper="arXiv 2306.06638",
        system="face0",
        adapter=Face0Config(),
        # Each of the three predictions is trained: words, picture, and none are left out in a tenth.
        training=ReferenceTraining(batch_size=16, learning_rate=1e-5, drop_image=0.1, drop_text=0.1, drop_both=0.1),
        toybox=ReferenceTraining(
            adapter=Face0Config(hidden=256),
            steps=3000,
            batch_size=16,
            learning_rate=5e-4,
            base_learning_rate=5e-5,
            drop_image=0.1,
            drop_text=0.1,
            drop_both=0.1,
        ),
    ),
    "dreamidentity": ReferenceEntry(
        id="dreamidentity",
        summary="class tokens of several layers as two words in the class word's place",
        paper="arXiv 2307.00300",
        system="dreamidentity",
        adapter=DreamIdentityConfig(),
        training=ReferenceTraining(batch_size=16, learning_rate=5e-5, drop_image=0.0, drop_text=0.0, drop_both=0.0),
        toybox=ReferenceTraining(
            adapter=DreamIdentityConfig(hidden=256),
            steps=3000,
            batch_size=16,
            learning_rate=5e-4,
            drop_image=0.0,
            drop_text=0.0,
            drop_both=0.05,
        ),
        toybox_encoder="toybox/clip",
    ),
    "face2diffusion": ReferenceEntry(
        id="face2diffusion",
        summary="words of several layers; the background is what the class word draws",
        paper="arXiv 2403.05094",
        system="face2diffusion",
        adapter=Face2DiffusionConfig(),
        # Errors count inside masks alone: outside of them the class-guided term stands in their place.
        training=ReferenceTraining(
            batch_size=16, learning_rate=1e-5, drop_image=0.0, drop_text=0.0, drop_both=0.0, masked=1.0
        ),
        toybox=ReferenceTraining(
            adapter=Face2DiffusionConfig(hidden=256),
            steps=3000,
            batch_size=16,
            learning_rate=5e-4,
            drop_image=0.0,
            drop_text=0.0,
            drop_both=0.05,
            masked=1.0,
        ),
        toybox_encoder="toybox/clip",
    ),
    "idadapter": ReferenceEntry(
        id="idadapter",
        summary="several photos mixed patch by patch: a word, gated layers, an identity loss",
        paper="arXiv 2403.13535",
        system="idadapter",
        adapter=IDAdapterConfig(),
        training=ReferenceTraining(
            batch_size=4, learning_rate=1e-4, drop_image=0.0, drop_text=0.0, drop_both=0.1, photos=10
        ),
        toybox=ReferenceTraining(
            adapter=IDAdapterConfig(photos=3, width=192),
            steps=3000,
            batch_size=16,
            learning_rate=1e-3,
            drop_image=0.05,
            drop_text=0.0,
            drop_both=0.05,
            photos=3,
        ),
        toybox_encoder="toybox/clip",
    ),
    "moa": ReferenceEntry(
        id="moa",
        summary="beside every attention a personalised one, and a router between the two",
        paper="arXiv 2404.11565",
        system="moa",
        adapter=MoAConfig(),
        training=ReferenceTraining(
            batch_size=16, learning_rate=1e-5, drop_image=0.1, drop_text=0.0, drop_both=0.1, masked=0.5
        ),
        toybox=ReferenceTraining(
            steps=3000,
            batch_size=16,
            learning_rate=2e-4,
            drop_image=0.1,
            drop_text=0.0,
            drop_both=0.1,
            masked=0.5,
        ),
    ),
    "profusion": ReferenceEntry(
        id="profusion",
        summary="a word anew at every noise level; fusion and refinement at every step",
        paper="arXiv 2305.13579",
        system="profusion",
        adapter=ProFusionConfig(),
        # The released settings: 80,000 steps of 8 pictures at 2e-5.
        training=ReferenceTraining(
            steps=80_000, batch_size=8, learning_rate=2e-5, drop_image=0.0, drop_text=0.0, drop_both=0.0
        ),
        toybox=ReferenceTraining(
            adapter=ProFusionConfig(widths=(64, 128, 192)),
            steps=3000,
            batch_size=16,
            learning_rate=5e-4,
            drop_image=0.0,
            drop_text=0.0,
            drop_both=0.05,
        ),
        toybox_encoder="toybox/clip",
    ),
    "infinite-id": ReferenceEntry(
        id="infinite-id",
        summary="learned with the words off; in use two streams, mixed in self-attention",
        paper="arXiv 2403.11781",
        system="infinite-id",
        adapter=InfiniteIDConfig(),
        training=ReferenceTraining(batch_size=16, learning_rate=1e-4, drop_image=0.05, drop_text=0.0, drop_both=0.0),
        toybox=ReferenceTraining(
            steps=3000,
            batch_size=16,
            learning_rate=1e-3,
            drop_image=0.05,
            drop_text=0.0,
            drop_both=0.0,
        ),
        toybox_encoder="toybox/clip",
    ),
    "portraitbooth": ReferenceEntry(
        id="portraitbooth",
        summary="a face in its word; attention, also to expressions, held to it; an identity loss",
        paper="arXiv 2312.06354",
        system="portraitbooth",
        adapter=PortraitBoothConfig(),
        training=ReferenceTraining(
            batch_size=16, learning_rate=1e-5, drop_image=0.1, drop_text=0.0, drop_both=0.1, masked=0.5
        ),
        toybox=ReferenceTraining(
            steps=3000,
            batch_size=16,
            learning_rate=5e-4,
            drop_image=0.1,
            drop_text=0.0,
            drop_both=0.1,
            masked=0.5,
        ),
    ),
    "pva": ReferenceEntry(
        id="pva",
        summary="text and identities in one softmax; for filling holes in photos",
        paper="arXiv 2312.03556",
        system="pva",
        adapter=PVAConfig(),
        # Half of the errors count inside masks, the holes to be.
        training=ReferenceTraining(
            batch_size=16, learning_rate=1e-4, drop_image=0.1, drop_text=0.1, drop_both=0.05, masked=0.5, photos=4
        ),
        toybox=ReferenceTraining(
            steps=3000,
            batch_size=16,
            learning_rate=1e-3,
            drop_image=0.05,
            drop_text=0.05,
            drop_both=0.05,
            masked=0.5,
            photos=3,
        ),
    ),
    "face-diffuser": ReferenceEntry(
        id="face-diffuser",
        summary="the base draws the scene, a denoiser that sees photos the subjects; saliency joins them",
        paper="arXiv 2311.10329",
        system="face-diffuser",
        adapter=FaceDiffuserConfig(),
        # The released settings: rate 1e-5, batch 8 on each of 4 GPUs, 150,000 steps, subjects shown in 90 %, nothing in
        # 10 %, half of the errors inside masks.
        training=ReferenceTraining(
            steps=150_000,
            batch_size=32,
            learning_rate=1e-5,
            drop_image=0.1,
            drop_text=0.0,
            drop_both=0.1,
            masked=0.5,
        ),
        toybox=ReferenceTraining(
            steps=3000,
            batch_size=16,
            learning_rate=5e-4,
            base_learning_rate=5e-5,
            drop_image=0.1,
            drop_text=0.0,
            drop_both=0.1,
            masked=0.5,
        ),
    ),
    "instantfamily": ReferenceEntry(
        id="instantfamily",
        summary="several people stacked behind the words, each open to the cells of its place",
        paper="arXiv 2404.19427",
        system="instantfamily",
        adapter=InstantFamilyConfig(),
        # Ours, after IP-Adapter's: the paper's are not known here.
        training=ReferenceTraining(batch_size=16, learning_rate=1e-4),
        toybox=ReferenceTraining(adapter=InstantFamilyConfig(tokens=2), steps=3000, batch_size=16, learning_rate=1e-3),
        toybox_encoder="toybox/clip",
    ),
    "hyperdreambooth": ReferenceEntry(
        id="hyperdreambooth",
        summary="a hypernetwork tells low-rank weights; `reference predict` keeps and tunes them",
        paper="arXiv 2307.06949",
        system="hyperdreambooth",
        adapter=HyperDreamBoothConfig(),
        # The paper's batch and rate are not known here; no caption is dropped, for every one has the identifier.
        training=ReferenceTraining(batch_size=16, learning_rate=1e-4, drop_image=0.0, drop_text=0.0, drop_both=0.0),
        toybox=ReferenceTraining(
            adapter=HyperDreamBoothConfig(width=256, depth=2),
            steps=6000,
            batch_size=16,
            learning_rate=1e-3,
            drop_image=0.0,
            drop_text=0.0,
            drop_both=0.0,
        ),
    ),
    "omni-id": ReferenceEntry(
        id="omni-id",
        summary="one code of any number of photos, learned by telling many pictures by a few; two decoders",
        paper="arXiv 2412.09694",
        system="omni-id",
        adapter=OmniIDConfig(),
        # Of the paper 210,000 steps of the encoder and three photos are told; batch and rate are not known here.
        training=ReferenceTraining(steps=250_000, batch_size=64, learning_rate=1e-4, photos=3),
        toybox=ReferenceTraining(
            adapter=OmniIDConfig(
                tokens=16,
                width=192,
                depth=2,
                heads=4,
                decoder_width=128,
                decoder_depth=4,
                targets=4,
                masked_share=0.4,
                diffusion_share=0.3,
            ),
            steps=6000,
            batch_size=16,
            learning_rate=1e-3,
            photos=3,
        ),
        toybox_encoder="toybox/clip",
    ),
    "w-plus-adapter": ReferenceEntry(
        id="w-plus-adapter",
        summary="codes of a style-based generator by residual cross-attention; attributes are edited there",
        paper="arXiv 2311.17461",
        system="w-plus-adapter",
        adapter=WPlusConfig(),
        # The released settings: 5e-5, batch 8 a GPU, decay 0.01, 5 % each of text, photo and both left out.
        training=ReferenceTraining(batch_size=8, learning_rate=5e-5),
        toybox=ReferenceTraining(steps=3000, batch_size=16, learning_rate=1e-3),
        toybox_encoder="",
    ),
    "instantid": ReferenceEntry(
        id="instantid",
        summary="an identity's tokens beside the text, and in its place in a ControlNet of landmarks",
        paper="arXiv 2401.07519",
        system="instantid",
        adapter=InstantIDConfig(),
        # Section 3.4 (as recalled): neither words nor pictures are left out. Two pictures on each of 48 GPUs there; the
        # rate is ours.
        training=ReferenceTraining(batch_size=16, learning_rate=1e-5, drop_image=0.0, drop_text=0.0, drop_both=0.0),
        toybox=ReferenceTraining(
            adapter=InstantIDConfig(tokens=8, inner=192, depth=2),
            steps=3000,
            batch_size=16,
            learning_rate=3e-4,
            drop_image=0.0,
            drop_text=0.0,
            drop_both=0.05,
        ),
    ),
    "facestudio": ReferenceEntry(
        id="facestudio",
        summary="identity, style picture and words as embeddings, in the text's place; a prior for the words",
        paper="arXiv 2312.02663",
        system="facestudio",
        adapter=FaceStudioConfig(),
        # Section 4.1 trains the denoiser at 1e-6; new maps are trained here, at IP-Adapter's rate. The prior reads all
        # captions.
        training=ReferenceTraining(batch_size=64, learning_rate=1e-4, drop_image=0.0, drop_text=0.0, drop_both=0.0),
        toybox=ReferenceTraining(
            adapter=FaceStudioConfig(width=256, depth=4),
            steps=6000,
            batch_size=16,
            learning_rate=5e-4,
            drop_image=0.0,
            drop_text=0.0,
            drop_both=0.0,
        ),
        toybox_encoder="toybox/clip",
    ),
    "stellar": ReferenceEntry(
        id="stellar",
        summary="a word told by the subject cut out, and low-rank weights; the baseline of a benchmark",
        paper="arXiv 2312.06116",
        system="stellar",
        adapter=StellarNetConfig(),
        # Ours, after ELITE's and PhotoMaker's: the paper's are not known here. Errors count on the person alone.
        training=ReferenceTraining(
            batch_size=16,
            learning_rate=1e-5,
            base_learning_rate=1e-4,
            drop_image=0.0,
            drop_text=0.0,
            drop_both=0.05,
            masked=1.0,
        ),
        toybox=ReferenceTraining(
            adapter=StellarNetConfig(hidden=256, rank=16),
            steps=3000,
            batch_size=16,
            learning_rate=5e-4,
            drop_image=0.0,
            drop_text=0.0,
            drop_both=0.05,
            masked=1.0,
        ),
        toybox_encoder="toybox/clip",
    ),
}
