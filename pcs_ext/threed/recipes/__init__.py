"""Every way to make a 3D object of a learned subject, listed by hand."""

from pcs_ext.threed.recipes.animate124 import animate124
from pcs_ext.threed.recipes.animate124_still import animate124_still
from pcs_ext.threed.recipes.avatarbooth import avatarbooth
from pcs_ext.threed.recipes.base import (
    AnimateRecipe,
    AnyRecipe3d,
    AvatarTo3dRecipe,
    EditRecipe,
    Effort,
    GeneratorRecipe,
    PhotosTo3dRecipe,
    PhotoTo3dRecipe,
    PosedRecipe,
    Recipe3d,
    RecipeEntry3d,
    RefinedTo3dRecipe,
    TextTo3dRecipe,
    TextureRecipe,
)
from pcs_ext.threed.recipes.consist3d import consist3d
from pcs_ext.threed.recipes.dream_in_4d import dream_in_4d
from pcs_ext.threed.recipes.dream_in_4d_still import dream_in_4d_still
from pcs_ext.threed.recipes.dreambooth3d import dreambooth3d
from pcs_ext.threed.recipes.dreamfusion import dreamfusion
from pcs_ext.threed.recipes.magic3d import magic3d
from pcs_ext.threed.recipes.mvdream import mvdream
from pcs_ext.threed.recipes.pas import pas
from pcs_ext.threed.recipes.prolificdreamer import prolificdreamer
from pcs_ext.threed.recipes.seen import SeenTo3dRecipe
from pcs_ext.threed.recipes.styleavatar3d import styleavatar3d
from pcs_ext.threed.recipes.texturedreamer import texturedreamer
from pcs_ext.threed.recipes.tip_editor import tip_editor

__all__ = [
    "RECIPES",
    "AnimateRecipe",
    "AnyRecipe3d",
    "AvatarTo3dRecipe",
    "EditRecipe",
    "Effort",
    "GeneratorRecipe",
    "PhotoTo3dRecipe",
    "PhotosTo3dRecipe",
    "PosedRecipe",
    "Recipe3d",
    "RecipeEntry3d",
    "RefinedTo3dRecipe",
    "SeenTo3dRecipe",
    "TextTo3dRecipe",
    "TextureRecipe",
]

_ENTRIES = (
    ("dreamfusion", "score distillation of the learned subject, the baseline", "2209.14988", "", dreamfusion),
    (
        "dreambooth3d",
        "partial, full and multi-view model in turn, with pseudo views",
        "2303.13508",
        "dreambooth3d",
        dreambooth3d,
    ),
    ("prolificdreamer", "variational score distillation, the other baseline", "2305.16213", "", prolificdreamer),
    ("magic3d", "a coarse field, then its surface refined at a higher resolution", "2211.10440", "magic3d", magic3d),
    ("consist3d", "one photo, two tokens; turned views by its depth", "2309.03599", "consist3d", consist3d),
    (
        "avatarbooth",
        "a body's and a head's model in turn, one surface; --head",
        "2306.09864",
        "avatarbooth",
        avatarbooth,
    ),
    ("texturedreamer", "a subject's look on a mesh: 3d texture", "2401.09416", "texturedreamer", texturedreamer),
    ("tip-editor", "something new in a box of a scene, as splats: 3d edit", "2401.14828", "tip-editor", tip_editor),
    ("mvdream", "four views judged together by a multi-view adapter", "2308.16512", "mvdream", mvdream),
    (
        "animate124-still",
        "a still scene of one photo: its own camera, a view model and words",
        "2311.14603",
        "animate124",
        animate124_still,
    ),
    (
        "animate124",
        "a grid for every moment, frames refined by the subject: 3d animate, 3d animate-photo",
        "2311.14603",
        "animate124",
        animate124,
    ),
    # PAS's number is recalled, not looked up.
    ("pas", "a figure in a pose from words, in its surroundings: 3d learn-poses, 3d avatar", "2304.07410", "pas", pas),
    (
        "dream-in-4d-still",
        "a still scene: sets judged without the subject, views with it",
        "2311.16854",
        "dream-in-4d",
        dream_in_4d_still,
    ),
    ("dream-in-4d", "a still field, displaced at every moment: 3d animate", "2311.16854", "dream-in-4d", dream_in_4d),
    (
        "styleavatar3d",
        "a tri-plane generator of stylised views: 3d learn-generator, 3d generate",
        "2305.19012",
        "styleavatar3d",
        styleavatar3d,
    ),
)
RECIPES: dict[str, RecipeEntry3d] = {
    id: RecipeEntry3d(id=id, summary=summary, paper=f"arXiv {paper}", system=system, build=build)
    for id, summary, paper, system, build in _ENTRIES
}
