"""VideoDreamer (Chen et al. 2023, arXiv 2311.00990): several subjects by Disen-Mix, in clips of an image model."""

from pcs_ext.image.adapters import LowRankConfig
from pcs_ext.image.data import Augmentation
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.recipes import Phase, Recipe
from pcs_ext.image.recipes.presets import SAMPLING
from pcs_ext.video.mixture import MixtureConfig
from pcs_ext.video.recipes.base import Preset
from pcs_ext.video.recipes.customvideo import several_words
from pcs_ext.video.sample import ClipConfig

MIXTURE = MixtureConfig()
CLIP = ClipConfig(noise="moving", frames=8)
"""Every frame starts as the first one moved along; frames look at the first one. Eight of them: as recalled."""
# A dot in front: not `temp_attentions` of a text-to-video UNet.
_ATTENTION = r"\.attentions\.\d+\.transformer_blocks\.\d+\.attn[12]\.(to_q|to_k|to_v|to_out\.0)$"


def videodreamer(noun: str, preset: Preset) -> Recipe:
    """A word per subject and a LoRA on the denoiser's attention, on photos of each and collages of all (`mixture`).

    Clips need no motion: without one, an image base is inflated so that frames look at the first, and starts are moved
    copies of one another (`video.latent_motion`).

    The parts are the paper's first version's as the abstract has them and as recalled; rank 4, 1e-3 for the words, 1e-4
    for the LoRA, batch 2, 1,000 steps and losses inside masks are ours. Learning again from clips that people picked is
    left out, and so are its second version's temporal modules. `toybox`: 1e-2 and 2e-3, 300 steps; not measured.

    Args:
        noun: "robot, mug": one noun per subject, in the order of their photos.
        preset: of the base.
    """
    small = preset == "toybox"
    concept, words = several_words(noun)
    return Recipe(
        id="videodreamer",
        concept=concept,
        adapters={**words, "lora": LowRankConfig(rank=4, targets=(_ATTENTION,))},
        phases=(
            Phase(
                name="mixture",
                learning_rates={**dict.fromkeys(words, 1e-2 if small else 1e-3), "lora": 2e-3 if small else 1e-4},
                batch_size=2,
                fit=FitConfig(steps=300 if small else 1000),
            ),
        ),
        augmentation=Augmentation(flip=False),
        needs_masks=True,
        sampling=SAMPLING[preset],
    )
