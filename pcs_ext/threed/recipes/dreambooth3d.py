"""DreamBooth3D (Raj et al., ICCV 2023, arXiv 2303.13508): likeness from a full model, views from a partial one.

Stage 1: a field from a partially tuned model. Stage 2: its renders, noised and denoised by the fully tuned model,
become pseudo views. Stage 3: the partial model learns photos and pseudo views, and teaches the final field, which also
stays weakly close to the pseudo views. The learned subject given is the full model; the other two are learned here.
"""

from pcs_ext.image.recipes import Preset
from pcs_ext.threed.field_stage import Reconstruction
from pcs_ext.threed.pseudo_views import PseudoViewConfig
from pcs_ext.threed.recipes.base import Effort, PhotosTo3dRecipe
from pcs_ext.threed.recipes.stages import placed, score, sds_stage, surface, words

_STEPS: dict[Effort, tuple[int, int]] = {"fast": (250, 300), "balanced": (700, 1000), "paper": (10_000, 10_000)}
"""Of the first and the last field. paper: as for `dreamfusion`."""


def dreambooth3d(preset: Preset, effort: Effort) -> PhotosTo3dRecipe:
    """Steps of the models in the paper's ratio 150 : 800 : 150; 20 pseudo views.

    The weights of the reconstruction, its norm and the noise of the pseudo views stand in the paper's supplement, which
    was not read: the ones here are chosen. Differs from DreamBooth3D: captions of the pseudo views name their
    direction, and the pseudo views are cut out by the first field's opacity before they are reconstructed, because the
    photos' backgrounds come along with the likeness. `toybox`: see `pseudo_views`; the last field learns from levels
    below 0.5, as what is above draws another thing than the pseudo views show, and a reconstruction of 0.05, as one of
    0.5 decides alone and makes dust of what pseudo views contradict each other in.
    """
    initial, final = _STEPS[effort]
    small = preset == "toybox"
    changes = {"guidance": score(preset, highest=0.5)} if small else {}
    weak = Reconstruction(weight=0.05 if small else 0.5, norm=1)
    return PhotosTo3dRecipe(
        id="dreambooth3d",
        words=placed(words(preset), preset),
        initial=sds_stage(preset, initial),
        pseudo=pseudo_views(preset, effort),
        final=sds_stage(preset, final, reconstruction=weak, **changes),
        mesh=surface(preset),
    )


def pseudo_views(preset: Preset, effort: Effort) -> PseudoViewConfig:
    """How the full model sees the first field.

    `toybox`, all of it ours: from where its world is photographed; by the score's own noise, as with noise of its own
    every view has other colours; at the score's guidance; noised up to 0.7, because the first field is not yet alike;
    cut out three pixels wider than the first field is half opaque, because what is thin faded and shrank.
    """
    if preset != "toybox":
        return PseudoViewConfig(views=8 if effort == "fast" else 20)
    return PseudoViewConfig(
        views=12 if effort == "fast" else 20,
        elevations=(8.0, 22.0),
        distance=4.4,
        strength=0.7,
        guidance_scale=score(preset).guidance_scale,
        noise="kept",
        harmonics=1,
        solid=0.5,
        margin=3,
    )
