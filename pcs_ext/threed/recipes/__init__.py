"""Every way to make a 3D object of a learned subject, listed by hand."""

from pcs_ext.threed.recipes.base import AnyRecipe3d, Effort, PhotosTo3dRecipe, Recipe3d, RecipeEntry3d, TextTo3dRecipe
from pcs_ext.threed.recipes.dreambooth3d import dreambooth3d
from pcs_ext.threed.recipes.dreamfusion import dreamfusion
from pcs_ext.threed.recipes.mvdream import mvdream
from pcs_ext.threed.recipes.prolificdreamer import prolificdreamer

__all__ = ["RECIPES", "AnyRecipe3d", "Effort", "PhotosTo3dRecipe", "Recipe3d", "RecipeEntry3d", "TextTo3dRecipe"]

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
    # Its row of the survey is claimed when an adapter for the embedded base ships.
    ("mvdream", "four views judged together; needs --multiview ADAPTER", "2308.16512", "", mvdream),
)
RECIPES: dict[str, RecipeEntry3d] = {
    id: RecipeEntry3d(id=id, summary=summary, paper=f"arXiv {paper}", system=system, build=build)
    for id, summary, paper, system, build in _ENTRIES
}
