"""Every way to learn a motion, listed by hand."""

from pcs_ext.video.recipes.base import LayersConfig, MotionEntry, MotionPass, MotionPhase, MotionRecipe
from pcs_ext.video.recipes.customize_a_video import customize_a_video
from pcs_ext.video.recipes.motion_director import motion_director, temporal_lora
from pcs_ext.video.recipes.vmc import vmc

__all__ = ["RECIPES", "LayersConfig", "MotionEntry", "MotionPass", "MotionPhase", "MotionRecipe"]

_ENTRIES = (
    ("motion-director", "appearance and motion LoRAs, debiased loss", "2310.08465", "motiondirector", motion_director),
    ("temporal-lora", "one LoRA on temporal layers, the baseline", "2310.08465", "", temporal_lora),
    ("vmc", "temporal attention on the direction of frame differences", "2312.00845", "vmc", vmc),
    (
        "customize-a-video",
        "an appearance absorber, then a temporal LoRA",
        "2402.14780",
        "customize-a-video",
        customize_a_video,
    ),
)
RECIPES: dict[str, MotionEntry] = {
    id: MotionEntry(id=id, summary=summary, paper=f"arXiv {paper}", system=system, build=build)
    for id, summary, paper, system, build in _ENTRIES
}
