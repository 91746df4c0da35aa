"""DreamVideo (Wei et al. 2023, arXiv 2312.04433): subject and motion in small networks, learned apart."""

from pcs_ext.image.adapters import EmbeddingConfig, SideNetworkConfig
from pcs_ext.image.concept import Concept
from pcs_ext.image.data import Augmentation
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.recipes import Phase, Recipe
from pcs_ext.image.recipes.presets import SAMPLING
from pcs_ext.video.recipes.base import MotionPass, MotionPhase, MotionRecipe, Preset
from pcs_ext.video.recipes.layers import NetworksConfig
from pcs_ext.video.recipes.presets import sampling, small_frames

_TOKEN = "<subject>"
# A dot in front: not `temp_attentions` of a text-to-video UNet.
_TEXT_ATTENTION = r"\.attentions\.\d+\.transformer_blocks\.\d+\.attn2$"


def dreamvideo_subject(noun: str, preset: Preset) -> Recipe:
    """A word by textual inversion (1e-4, 3,000 steps), then identity networks beside text attention (1e-5, 800).

    Batches of 4. The word starts at the noun and is frozen in the second phase. Photos are pictures, or clips of one
    frame on a text-to-video base, which is the paper's. Its optional mask is left out. `toybox`: 1e-2 for 400 steps,
    then 1e-3 for 200.
    """
    small = preset == "toybox"
    return Recipe(
        id="dreamvideo",
        concept=Concept(
            class_noun=noun,
            mode="learned",
            token=_TOKEN,
            with_noun=False,
            initializer=noun.split()[-1],
            templates=("a photo of {subject}",),
        ),
        adapters={
            "word": EmbeddingConfig(placeholder=_TOKEN, initializer=noun.split()[-1]),
            "identity": SideNetworkConfig(targets=(_TEXT_ATTENTION,)),
        },
        phases=(
            Phase(
                name="word",
                learning_rates={"word/embedding": 1e-2 if small else 1e-4},
                batch_size=4,
                fit=FitConfig(steps=400 if small else 3000),
            ),
            Phase(
                name="identity",
                learning_rates={"identity": 1e-3 if small else 1e-5},
                batch_size=4,
                fit=FitConfig(steps=200 if small else 800),
            ),
        ),
        augmentation=Augmentation(flip=False),
        sampling=SAMPLING[preset],
    )


def dreamvideo_motion(preset: Preset = "sd") -> MotionRecipe:
    """Networks beside every temporal module, told what a frame looks like so that they need not learn it; 1e-5, 1,000.

    The released configuration: 32 frames at a time, the look and the text left out in half of the steps each, noise
    offset 0.1, DDIM with 50 steps and a guidance of 9.

    Differs from the released code: embeddings have length 1, and at sampling both branches of the guidance are told the
    same. `toybox`: 8 frames, 1e-3, 300 steps; not measured.
    """
    small = preset == "toybox"
    told = MotionPass(trains=("motion",), losses={"denoising": 1.0}, untold=0.5, textless=0.5)
    return MotionRecipe(
        id="dreamvideo-motion",
        adapters={"motion": NetworksConfig(layers="temporal", told=True)},
        phases=(
            MotionPhase(
                name="motion",
                passes=(told,),
                learning_rates={"motion": 1e-3 if small else 1e-5},
                noise_offset=0.1,
                fit=FitConfig(steps=300 if small else 1000),
            ),
        ),
        plays=("motion",),
        frames=small_frames(preset, 32),
        sampling=sampling(preset, steps=50, guidance_scale=9.0),
    )
