"""Systems that show any subject: what each is, and how it is trained."""

import dataclasses

from pcs_ext.image.reference.entry import ReferenceEntry
from pcs_ext.image.reference.systems.blip_diffusion import BlipDiffusionConfig
from pcs_ext.image.reference.systems.bootpig import BootPIGConfig
from pcs_ext.image.reference.systems.customcontrast import CustomContrastConfig
from pcs_ext.image.reference.systems.domain_agnostic import DomainAgnosticConfig
from pcs_ext.image.reference.systems.dreamtuner import DreamTunerConfig
from pcs_ext.image.reference.systems.e4t import E4TConfig
from pcs_ext.image.reference.systems.elite import EliteConfig
from pcs_ext.image.reference.systems.fastcomposer import FastComposerConfig
from pcs_ext.image.reference.systems.instantbooth import InstantBoothConfig
from pcs_ext.image.reference.systems.ip_adapter import IPAdapterConfig
from pcs_ext.image.reference.systems.kim_sod_cnn import KimSodCnnConfig
from pcs_ext.image.reference.systems.moma import MoMAConfig
from pcs_ext.image.reference.systems.ms_diffusion import MSDiffusionConfig
from pcs_ext.image.reference.systems.photomaker import PhotoMakerConfig
from pcs_ext.image.reference.systems.retrinet import RetriNetConfig
from pcs_ext.image.reference.systems.ssr_encoder import SSREncoderConfig
from pcs_ext.image.reference.systems.subject_diffusion import SubjectDiffusionConfig
from pcs_ext.image.reference.systems.taming_encoder import TamingEncoderConfig
from pcs_ext.image.reference.systems.umm_diffusion import UMMDiffusionConfig
from pcs_ext.image.reference.systems.versatile_diffusion import VersatileDiffusionConfig
from pcs_ext.image.reference.training import ReferenceTraining

# Ours: the paper's are not known here. Half of the pairs regularise; half of the errors count on the object.
_TAMING = ReferenceTraining(
    batch_size=16, learning_rate=1e-4, base_learning_rate=1e-5, drop_image=0.5, drop_text=0.0, drop_both=0.1, masked=0.5
)

OBJECTS: dict[str, ReferenceEntry] = {
    "ip-adapter": ReferenceEntry(
        id="ip-adapter",
        summary="pictures as keys and values beside the text's",
        paper="arXiv 2308.06721",
        system="ip-adapter",
        adapter=IPAdapterConfig(),
        training=ReferenceTraining(),
        toybox=ReferenceTraining(steps=3000, batch_size=16, learning_rate=1e-3),
    ),
    "photomaker": ReferenceEntry(
        id="photomaker",
        summary="any number of photos of one subject, stacked in the class word's place",
        paper="arXiv 2312.04461",
        system="photomaker",
        adapter=PhotoMakerConfig(),
        # Section 4.1, as recalled: rates 1e-5 and, for the low-rank weights, 1e-4, batch 48, one to four photos, the
        # words alone for 10 %, half of the errors inside masks.
        training=ReferenceTraining(
            batch_size=48,
            learning_rate=1e-5,
            base_learning_rate=1e-4,
            drop_image=0.1,
            drop_text=0.0,
            drop_both=0.05,
            masked=0.5,
            photos=4,
        ),
        toybox=ReferenceTraining(
            adapter=PhotoMakerConfig(rank=16),
            steps=3000,
            batch_size=16,
            learning_rate=5e-4,
            drop_image=0.1,
            drop_text=0.0,
            drop_both=0.05,
            masked=0.5,
            photos=3,
        ),
    ),
    "fastcomposer": ReferenceEntry(
        id="fastcomposer",
        summary="several subjects, each mixed into its word; attention held to masks",
        paper="arXiv 2305.10431",
        system="fastcomposer",
        adapter=FastComposerConfig(),
        # The released settings: rate 1e-5, batch 16 on each of 8 GPUs, 150,000 steps, subjects shown in 90 %, nothing
        # in 10 %, half of the errors inside masks.
        training=ReferenceTraining(
            steps=150_000,
            batch_size=16,
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
    "elite": ReferenceEntry(
        id="elite",
        summary="a word of the deepest layer, and patches where cells look at it",
        paper="arXiv 2302.13848",
        system="elite",
        adapter=EliteConfig(),
        # The released settings: 1e-6 times 16 pictures a step, later 1e-5 times 8, 200,000 steps each; no dropping.
        training=ReferenceTraining(
            steps=400_000,
            batch_size=16,
            learning_rate=1.6e-5,
            drop_image=0.0,
            drop_text=0.0,
            drop_both=0.0,
        ),
        toybox=ReferenceTraining(
            adapter=EliteConfig(hidden=256),
            steps=4000,
            batch_size=16,
            learning_rate=5e-4,
            base_learning_rate=1e-4,
            drop_image=0.0,
            drop_text=0.0,
            drop_both=0.05,
        ),
        toybox_encoder="toybox/clip",
    ),
    "ssr-encoder": ReferenceEntry(
        id="ssr-encoder",
        summary="a word asks the picture for what it names; several layers answer",
        paper="arXiv 2312.16272",
        system="ssr-encoder",
        adapter=SSREncoderConfig(),
        # The released settings: rate 5e-5, batch 24, captions left out in 80 %; how many steps is not said there.
        training=ReferenceTraining(
            steps=100_000,
            batch_size=24,
            learning_rate=5e-5,
            drop_image=0.0,
            drop_text=0.8,
            drop_both=0.0,
        ),
        toybox=ReferenceTraining(
            adapter=SSREncoderConfig(heads=4, head_width=48),
            steps=3000,
            batch_size=16,
            learning_rate=1e-3,
            drop_image=0.05,
            drop_text=0.3,
            drop_both=0.05,
        ),
        toybox_encoder="toybox/clip",
    ),
    "instantbooth": ReferenceEntry(
        id="instantbooth",
        summary="a word before the class word, and gated layers that read patches",
        paper="arXiv 2304.03411",
        system="instantbooth",
        adapter=InstantBoothConfig(),
        # Section 4.1, as recalled, has 1e-6 for a trained image encoder; here the new layers alone train, at
        # IP-Adapter's rate.
        training=ReferenceTraining(batch_size=16, learning_rate=1e-4, drop_image=0.0, drop_text=0.0, drop_both=0.1),
        toybox=ReferenceTraining(
            steps=3000, batch_size=16, learning_rate=1e-3, drop_image=0.05, drop_text=0.0, drop_both=0.05
        ),
        toybox_encoder="toybox/clip",
    ),
    "blip-diffusion": ReferenceEntry(
        id="blip-diffusion",
        summary="a query transformer makes words of a noun and patches; the base learns with it",
        paper="arXiv 2305.14720",
        system="blip-diffusion",
        adapter=BlipDiffusionConfig(),
        # Section 4.1, as recalled: rate 2e-6, batch 16, 500,000 steps; the subject is left out of 15 % of the prompts.
        training=ReferenceTraining(
            steps=500_000, batch_size=16, learning_rate=2e-6, drop_image=0.15, drop_text=0.0, drop_both=0.05
        ),
        toybox=ReferenceTraining(
            adapter=BlipDiffusionConfig(tokens=4, width=192, depth=4, heads=4),
            steps=3000,
            batch_size=16,
            learning_rate=5e-4,
            base_learning_rate=3e-5,
            drop_image=0.15,
            drop_text=0.0,
            drop_both=0.05,
        ),
        toybox_encoder="toybox/clip",
    ),
    "e4t": ReferenceEntry(
        id="e4t",
        summary="a word near the class word, anew at every noise level; made to be tuned in a few steps",
        paper="arXiv 2302.12228",
        system="e4t",
        adapter=E4TConfig(),
        # A public port's: 1.6e-5, batch 16, 30,000 to 100,000 steps for one class.
        training=ReferenceTraining(batch_size=16, learning_rate=1.6e-5, drop_image=0.0, drop_text=0.0, drop_both=0.0),
        toybox=ReferenceTraining(
            steps=3000,
            batch_size=16,
            learning_rate=5e-4,
            base_learning_rate=2e-4,
            drop_image=0.0,
            drop_text=0.0,
            drop_both=0.05,
        ),
        toybox_encoder="toybox/clip",
    ),
    "ms-diffusion": ReferenceEntry(
        id="ms-diffusion",
        summary="several subjects, each in a box: queries of word and box, attention held to boxes",
        paper="arXiv 2406.07209",
        system="ms-diffusion",
        adapter=MSDiffusionConfig(),
        # The released settings: 1e-4, batch 8 a GPU; how many steps is not said there.
        training=ReferenceTraining(batch_size=8, learning_rate=1e-4),
        toybox=ReferenceTraining(
            adapter=MSDiffusionConfig(tokens=4, inner=192, attention=192, depth=2),
            steps=3000,
            batch_size=16,
            learning_rate=1e-3,
        ),
        toybox_encoder="toybox/clip",
    ),
    "customcontrast": ReferenceEntry(
        id="customcontrast",
        summary="words and tokens of several scales, told apart from other subjects' by contrast",
        paper="arXiv 2409.05606",
        system="customcontrast",
        adapter=CustomContrastConfig(),
        # Ours, after IP-Adapter's: the paper's are not known here. Two photos, for positives.
        training=ReferenceTraining(batch_size=16, learning_rate=1e-4, photos=2),
        toybox=ReferenceTraining(
            adapter=CustomContrastConfig(width=192, depth=2, heads=4, compared=64),
            steps=3000,
            batch_size=16,
            learning_rate=1e-3,
            photos=2,
        ),
        toybox_encoder="toybox/clip",
    ),
    "kim-sod-cnn": ReferenceEntry(
        id="kim-sod-cnn",
        summary="the subject cut out, as a word and as local features of a convolution",
        paper="Electronics 2023",
        system="kim-sod-cnn",
        adapter=KimSodCnnConfig(),
        # Ours, after ELITE's, on which it is built: the paper's are not known here.
        training=ReferenceTraining(batch_size=16, learning_rate=1.6e-5, drop_image=0.0, drop_text=0.0, drop_both=0.05),
        toybox=ReferenceTraining(
            adapter=KimSodCnnConfig(hidden=192),
            steps=3000,
            batch_size=16,
            learning_rate=1e-3,
            drop_image=0.0,
            drop_text=0.0,
            drop_both=0.05,
        ),
    ),
    "umm-diffusion": ReferenceEntry(
        id="umm-diffusion",
        summary="a pseudo word; predictions for it and for the words alone are mixed",
        paper="arXiv 2303.09319",
        system="umm-diffusion",
        adapter=UMMDiffusionConfig(),
        # Ours: the paper's are not known here.
        training=ReferenceTraining(batch_size=16, learning_rate=1e-4, drop_image=0.0, drop_text=0.0, drop_both=0.1),
        toybox=ReferenceTraining(
            adapter=UMMDiffusionConfig(hidden=256),
            steps=3000,
            batch_size=16,
            learning_rate=1e-3,
            drop_image=0.0,
            drop_text=0.0,
            drop_both=0.1,
        ),
    ),
    "subject-diffusion": ReferenceEntry(
        id="subject-diffusion",
        summary="subjects as words, as patches in boxes through gated layers, and held by attention",
        paper="arXiv 2307.11410",
        system="subject-diffusion",
        adapter=SubjectDiffusionConfig(),
        # The released settings: words, pictures and both dropped for 5 % each; rate and batch as recalled.
        training=ReferenceTraining(steps=300_000, batch_size=16, learning_rate=3e-5),
        toybox=ReferenceTraining(
            adapter=SubjectDiffusionConfig(hidden=192),
            steps=3000,
            batch_size=16,
            learning_rate=5e-4,
            base_learning_rate=3e-5,
        ),
        toybox_encoder="toybox/clip",
    ),
    "bootpig": ReferenceEntry(
        id="bootpig",
        summary="a copy of the denoiser reads the picture's latents; self-attentions look over",
        paper="arXiv 2401.13974",
        system="bootpig",
        adapter=BootPIGConfig(),
        # The released settings: 5e-6 and, for the base's self-attentions, 1e-7; 10,000 steps of 4 twice; words and
        # pictures dropped for 15 % each, independently.
        training=ReferenceTraining(
            steps=10_000,
            batch_size=8,
            learning_rate=5e-6,
            base_learning_rate=1e-7,
            drop_image=0.1275,
            drop_text=0.1275,
            drop_both=0.0225,
        ),
        toybox=ReferenceTraining(
            adapter=BootPIGConfig(),
            steps=2000,
            batch_size=16,
            learning_rate=2e-4,
            base_learning_rate=3e-5,
            drop_image=0.1,
            drop_text=0.1,
            drop_both=0.02,
        ),
        toybox_encoder="base",
    ),
    "retrinet": ReferenceEntry(
        id="retrinet",
        summary="a copy of the denoiser's downward half fetches from each picture what a word asks for",
        paper="arXiv 2312.02521",
        system="retrinet",
        adapter=RetriNetConfig(),
        # Ours, after ControlNet's: the paper's are not known here.
        training=ReferenceTraining(batch_size=8, learning_rate=1e-5, drop_image=0.0, drop_text=0.0, drop_both=0.1),
        toybox=ReferenceTraining(
            adapter=RetriNetConfig(),
            steps=2000,
            batch_size=16,
            learning_rate=2e-4,
            drop_image=0.05,
            drop_text=0.0,
            drop_both=0.05,
        ),
        toybox_encoder="base",
    ),
    "moma": ReferenceEntry(
        id="moma",
        summary="photo and prompt read together, and masked shortcuts from the base's look at the photo",
        paper="arXiv 2404.05674",
        system="moma",
        adapter=MoMAConfig(),
        # Ours, after IP-Adapter's: the paper's are not known here.
        training=ReferenceTraining(batch_size=16, learning_rate=1e-4, drop_image=0.05, drop_text=0.0, drop_both=0.05),
        toybox=ReferenceTraining(
            adapter=MoMAConfig(embedding=192, width=192, depth=4, heads=4),
            steps=3000,
            batch_size=16,
            learning_rate=1e-3,
            drop_image=0.05,
            drop_text=0.0,
            drop_both=0.05,
        ),
        toybox_encoder="toybox/clip",
    ),
    "domain-agnostic-encoder": ReferenceEntry(
        id="domain-agnostic-encoder",
        summary="e4t's word held near real ones, with predicted weights; soft and hard attention blended",
        paper="arXiv 2307.06925",
        system="domain-agnostic-encoder",
        adapter=DomainAgnosticConfig(),
        training=ReferenceTraining(batch_size=16, learning_rate=1e-5, drop_image=0.0, drop_text=0.0, drop_both=0.0),
        toybox=ReferenceTraining(
            steps=3000,
            batch_size=16,
            learning_rate=5e-4,
            drop_image=0.0,
            drop_text=0.0,
            drop_both=0.05,
        ),
        toybox_encoder="toybox/clip",
    ),
    "dreamtuner": ReferenceEntry(
        id="dreamtuner",
        summary="tokens of the subject before the text's; self-attention looks at the photo's own pass",
        paper="arXiv 2312.13691",
        system="dreamtuner",
        adapter=DreamTunerConfig(),
        training=ReferenceTraining(batch_size=16),
        toybox=ReferenceTraining(steps=3000, batch_size=16, learning_rate=5e-4),
    ),
    "versatile-diffusion": ReferenceEntry(
        id="versatile-diffusion",
        summary="two sets of context layers, for words and for pictures, on shared layers; mixed in use",
        paper="arXiv 2211.08332",
        system="versatile-diffusion",
        adapter=VersatileDiffusionConfig(),
        # Ours: the paper's rates are not known here. Nothing is told for a tenth, in either flow.
        training=ReferenceTraining(batch_size=64, learning_rate=1e-5, drop_image=0.0, drop_text=0.0, drop_both=0.1),
        toybox=ReferenceTraining(
            steps=3000,
            batch_size=16,
            learning_rate=2e-4,
            base_learning_rate=2e-5,
            drop_image=0.0,
            drop_text=0.0,
            drop_both=0.1,
        ),
        toybox_encoder="toybox/clip",
    ),
    "taming-encoder": ReferenceEntry(
        id="taming-encoder",
        summary="the object's features beside the text; attention tuned, half of the pairs by words alone",
        paper="arXiv 2304.02642",
        system="taming-encoder",
        adapter=TamingEncoderConfig(),
        training=_TAMING,
        toybox=dataclasses.replace(_TAMING, steps=3000, learning_rate=5e-4, base_learning_rate=1e-4, drop_both=0.05),
        toybox_encoder="toybox/clip",
    ),
}
