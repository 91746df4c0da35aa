"""Pictures shown to a base by an adapter that was trained once for all subjects; every system, listed by hand.

The settings named `toybox` are ours, by analogy with what its own models train well with: a tenth of the weights bear
ten times the rate. Those of IP-Adapter were measured; PhotoMaker, FastComposer and ELITE took a few steps with
theirs, the others none.
"""

from pcs_ext.image.reference.entry import ReferenceEntry
from pcs_ext.image.reference.people import PEOPLE
from pcs_ext.image.reference.systems.blip_diffusion import BlipDiffusionConfig
from pcs_ext.image.reference.systems.e4t import E4TConfig
from pcs_ext.image.reference.systems.elite import EliteConfig
from pcs_ext.image.reference.systems.fastcomposer import FastComposerConfig
from pcs_ext.image.reference.systems.instantbooth import InstantBoothConfig
from pcs_ext.image.reference.systems.ip_adapter import IPAdapterConfig
from pcs_ext.image.reference.systems.photomaker import PhotoMakerConfig
from pcs_ext.image.reference.systems.ssr_encoder import SSREncoderConfig
from pcs_ext.image.reference.training import ReferenceTraining

__all__ = ["REFERENCES", "ReferenceEntry"]

REFERENCES: dict[str, ReferenceEntry] = {
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
    **PEOPLE,
}
