"""Systems that read condition maps beside photos: what each is, and how it is trained.

The settings named `toybox` are ours, by analogy with those that were tried; none of them was measured.
"""

from pcs_ext.image.reference.entry import ReferenceEntry
from pcs_ext.image.reference.systems.context_diffusion import ContextDiffusionConfig
from pcs_ext.image.reference.systems.prompt_free_diffusion import PromptFreeConfig
from pcs_ext.image.reference.systems.uni_controlnet import UniControlNetConfig
from pcs_ext.image.reference.systems.visconet import ViscoNetConfig
from pcs_ext.image.reference.training import ReferenceTraining

CONDITIONS: dict[str, ReferenceEntry] = {
    "uni-controlnet": ReferenceEntry(
        id="uni-controlnet",
        summary="any of several maps by one denormalised copy of the denoiser; photos as tokens behind the text",
        paper="arXiv 2305.16322",
        system="uni-controlnet",
        adapter=UniControlNetConfig(),
        # The released settings: 1e-5, batch 4 a GPU, 100,000 steps for each of both; words are left out in a half, the
        # photo in 0.1 + 0.8 x 0.5 of the cases, by a throw of its own.
        training=ReferenceTraining(
            steps=200_000, batch_size=4, learning_rate=1e-5, drop_image=0.25, drop_text=0.25, drop_both=0.25
        ),
        toybox=ReferenceTraining(
            adapter=UniControlNetConfig(inject=(48, 64, 96)),
            steps=4000,
            batch_size=16,
            learning_rate=3e-4,
            drop_image=0.1,
            drop_text=0.1,
            drop_both=0.1,
        ),
        toybox_encoder="toybox/clip",
    ),
    "visconet": ReferenceEntry(
        id="visconet",
        summary="a ControlNet that reads photos where others read the prompt, inside a mask",
        paper="arXiv 2312.03154",
        system="visconet",
        adapter=ViscoNetConfig(),
        # The released settings: 5e-5 times a quarter of the batch, in four parts, nothing is left out. Parts of one
        # photo are shown there, several photos here.
        training=ReferenceTraining(
            batch_size=16, learning_rate=5e-5, drop_image=0.0, drop_text=0.0, drop_both=0.0, photos=8
        ),
        toybox=ReferenceTraining(
            adapter=ViscoNetConfig(maps=("edges", "depth"), pictures=3, tokens=9),
            steps=3000,
            batch_size=16,
            learning_rate=2e-4,
            drop_image=0.05,
            drop_text=0.0,
            drop_both=0.05,
            photos=3,
        ),
        toybox_encoder="toybox/clip",
    ),
    "prompt-free-diffusion": ReferenceEntry(
        id="prompt-free-diffusion",
        summary="a photo instead of the prompt: queries of several layers stand in the text's place",
        paper="arXiv 2305.16223",
        system="prompt-free-diffusion",
        adapter=PromptFreeConfig(),
        # Ours, after IP-Adapter's: the paper's are not known here. Rows without a photo and words are what guidance
        # goes away from; words alone are the base's own affair, and words beside a photo are not read.
        training=ReferenceTraining(batch_size=8, learning_rate=1e-4, drop_image=0.0, drop_text=0.0, drop_both=0.1),
        toybox=ReferenceTraining(
            adapter=PromptFreeConfig(depth=2, hidden=384, query_depth=3, query_hidden=384, heads=4, local_queries=32),
            steps=4000,
            batch_size=16,
            learning_rate=3e-4,
            drop_image=0.0,
            drop_text=0.0,
            drop_both=0.1,
        ),
        toybox_encoder="toybox/clip",
    ),
    "context-diffusion": ReferenceEntry(
        id="context-diffusion",
        summary="one to three pictures as context behind the prompt, a map as the layout",
        paper="arXiv 2312.03584",
        system="context-diffusion",
        adapter=ContextDiffusionConfig(),
        # Ours, after ControlNet's, but for the one to three pictures: the paper's are not known here.
        training=ReferenceTraining(
            batch_size=8, learning_rate=1e-5, drop_image=0.1, drop_text=0.3, drop_both=0.1, photos=3
        ),
        toybox=ReferenceTraining(
            adapter=ContextDiffusionConfig(),
            steps=3000,
            batch_size=16,
            learning_rate=2e-4,
            drop_image=0.1,
            drop_text=0.2,
            drop_both=0.1,
            photos=3,
        ),
        toybox_encoder="toybox/clip",
    ),
}
