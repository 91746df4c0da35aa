"""Systems that tell who or what is drawn, and leave its place or look to something else: to landmarks (InstantID), to a
style picture (FaceStudio), or to the words (StellarNet, Taming Encoder, the identity encoder).

Published settings are rarely complete: what is not said to be a paper's is IP-Adapter's or ours. The settings named
`toybox` are ours, by analogy with those that were tried; none of them was measured.
"""

import dataclasses

from pcs_ext.image.reference.entry import ReferenceEntry
from pcs_ext.image.reference.systems.facestudio import FaceStudioConfig
from pcs_ext.image.reference.systems.identity_encoder import IdentityEncoderConfig
from pcs_ext.image.reference.systems.instantid import InstantIDConfig
from pcs_ext.image.reference.systems.stellar import StellarNetConfig
from pcs_ext.image.reference.systems.taming_encoder import TamingEncoderConfig
from pcs_ext.image.reference.training import ReferenceTraining

# Ours: the paper's are not known here. Half of the pairs regularise; half of the errors count on the object.
_TAMING = ReferenceTraining(
    batch_size=16, learning_rate=1e-4, base_learning_rate=1e-5, drop_image=0.5, drop_text=0.0, drop_both=0.1, masked=0.5
)

IDENTITIES: dict[str, ReferenceEntry] = {
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
    "identity-encoder": ReferenceEntry(
        id="identity-encoder",
        summary="one representation of a set of pictures, beside the text; attention held back where nobody is",
        paper="arXiv 2304.07429",
        system="identity-encoder",
        adapter=IdentityEncoderConfig(),
        # Ours: the paper's are not known here. "A few examples" are up to four.
        training=ReferenceTraining(batch_size=16, learning_rate=1e-4, base_learning_rate=1e-5, photos=4),
        toybox=ReferenceTraining(
            adapter=IdentityEncoderConfig(tokens=8, inner=192, depth=2),
            steps=3000,
            batch_size=16,
            learning_rate=5e-4,
            base_learning_rate=5e-5,
            photos=3,
        ),
    ),
}
