"""Systems in which words and pictures are read together, as examples or as one text: what each is, and how it is
trained."""

import dataclasses

from pcs_ext.image.reference.entry import ReferenceEntry
from pcs_ext.image.reference.systems.lambda_eclipse import LambdaEclipseConfig
from pcs_ext.image.reference.systems.re_imagen import ReImagenConfig
from pcs_ext.image.reference.systems.suti import SuTIConfig
from pcs_ext.image.reference.training import ReferenceTraining

# As recalled: words and neighbours are left out independently, each in a tenth.
_READ = ReferenceTraining(batch_size=16, learning_rate=1e-5, drop_image=0.09, drop_text=0.09, drop_both=0.01)
_READ_ON_TOYBOX = dataclasses.replace(_READ, steps=3000, learning_rate=5e-4, base_learning_rate=5e-5)

EXAMPLES: dict[str, ReferenceEntry] = {
    "re-imagen": ReferenceEntry(
        id="re-imagen",
        summary="pictures retrieved for the prompt, read by the denoiser's own downward half",
        paper="arXiv 2209.14491",
        system="re-imagen",
        adapter=ReImagenConfig(),
        # Two neighbours (as recalled).
        training=dataclasses.replace(_READ, photos=2),
        toybox=dataclasses.replace(_READ_ON_TOYBOX, photos=2),
    ),
    "suti": ReferenceEntry(
        id="suti",
        summary="photos with captions as demonstrations; learned from what tuned experts drew",
        paper="arXiv 2304.00186",
        system="suti",
        adapter=SuTIConfig(),
        # Three to five demonstrations (as recalled).
        training=dataclasses.replace(_READ, photos=3),
        toybox=dataclasses.replace(_READ_ON_TOYBOX, photos=3),
    ),
    "lambda-eclipse": ReferenceEntry(
        id="lambda-eclipse",
        summary="words and photos tell an image embedding, which a decoder draws; several subjects",
        paper="arXiv 2402.05195",
        system="lambda-eclipse",
        adapter=LambdaEclipseConfig(),
        training=ReferenceTraining(batch_size=64, learning_rate=5e-5, drop_text=0.0, drop_both=0.0),
        toybox=ReferenceTraining(
            adapter=LambdaEclipseConfig(width=256, depth=4),
            steps=6000,
            batch_size=32,
            learning_rate=5e-4,
            drop_text=0.0,
            drop_both=0.0,
        ),
        toybox_encoder="toybox/clip",
    ),
}
