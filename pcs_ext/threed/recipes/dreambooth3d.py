"""DreamBooth3D (Raj et al., ICCV 2023, arXiv 2303.13508): likeness from a full model, views from a partial one.

Stage 1: a field from a partially tuned model. Stage 2: its renders, noised and denoised by the fully tuned model,
become pseudo views. Stage 3: the partial model learns photos and pseudo views, and teaches the final field, which also
stays weakly close to the pseudo views. The learned subject given is the full model; the other two are learned here.
"""

from pcs_ext.image.recipes import Preset
from pcs_ext.threed.field_stage import Reconstruction
from pcs_ext.threed.pseudo_views import PseudoViewConfig
from pcs_ext.threed.recipes.base import Effort, PhotosTo3dRecipe
from pcs_ext.threed.recipes.stages import placed, sds_stage, surface, words

_STEPS: dict[Effort, tuple[int, int]] = {"fast": (250, 300), "balanced": (700, 1000), "paper": (10_000, 10_000)}
"""Of the first and the last field. paper: as for `dreamfusion`."""


def dreambooth3d(preset: Preset, effort: Effort) -> PhotosTo3dRecipe:
    """Steps of the models in the paper's ratio 150 : 800 : 150; 20 pseudo views.

    The weights of the reconstruction, its norm and the noise of the pseudo views stand in the paper's supplement, which
    was not read: the ones here are chosen. Differs from DreamBooth3D: captions of the pseudo views name their
    direction, and the pseudo views are cut out by the first field's opacity before they are reconstructed, because the
    photos' backgrounds come along with the likeness.
    """
    initial, final = _STEPS[effort]
    return PhotosTo3dRecipe(
        id="dreambooth3d",
        words=placed(words(preset), preset),
        initial=sds_stage(preset, initial),
        pseudo=PseudoViewConfig(views=8 if effort == "fast" else 20),
        final=sds_stage(preset, final, reconstruction=Reconstruction(weight=0.5, norm=1)),
        mesh=surface(preset),
    )
