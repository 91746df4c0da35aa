"""Every way to learn a motion, or a subject for clips, listed by hand."""

from pcs_ext.video.recipes.base import (
    LayersConfig,
    MotionEntry,
    MotionPass,
    MotionPhase,
    MotionRecipe,
    SubjectEntry,
    VideoEntry,
)
from pcs_ext.video.recipes.customize_a_video import customize_a_video
from pcs_ext.video.recipes.dreamvideo import dreamvideo_motion, dreamvideo_subject
from pcs_ext.video.recipes.lamp import lamp
from pcs_ext.video.recipes.magic_me import CLIP as MAGIC_ME_CLIP
from pcs_ext.video.recipes.magic_me import magic_me
from pcs_ext.video.recipes.motion_director import motion_director, temporal_lora
from pcs_ext.video.recipes.newmove import newmove
from pcs_ext.video.recipes.tune_a_video import tune_a_video
from pcs_ext.video.recipes.vmc import vmc

__all__ = [
    "MOTIONS",
    "RECIPES",
    "SUBJECTS",
    "LayersConfig",
    "MotionEntry",
    "MotionPass",
    "MotionPhase",
    "MotionRecipe",
    "SubjectEntry",
    "VideoEntry",
]

_MOTIONS = (
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
    ("tune-a-video", "an image model inflated and tuned on one clip", "2212.11565", "tune-a-video", tune_a_video),
    ("lamp", "an image model inflated; what follows a first frame, of few clips", "2310.10769", "lamp", lamp),
    (
        "dreamvideo-motion",
        "networks beside temporal layers that are told what a frame looks like",
        "2312.04433",
        "dreamvideo",
        dreamvideo_motion,
    ),
    ("newmove", "a word for a motion, beside clips of something else", "2312.04966", "newmove", newmove),
)
MOTIONS: dict[str, MotionEntry] = {
    id: MotionEntry(id=id, summary=summary, paper=f"arXiv {paper}", system=system, build=build)
    for id, summary, paper, system, build in _MOTIONS
}
SUBJECTS: dict[str, SubjectEntry] = {
    "magic-me": SubjectEntry(
        id="magic-me",
        summary="four words inside the subject's mask, correlated starting noise",
        paper="arXiv 2402.09368",
        system="magic-me",
        build=magic_me,
        clip=MAGIC_ME_CLIP,
        masks=True,
    ),
    "dreamvideo": SubjectEntry(
        id="dreamvideo",
        summary="a word, then identity networks beside the text attention",
        paper="arXiv 2312.04433",
        system="dreamvideo",
        build=dreamvideo_subject,
    ),
}
RECIPES: dict[str, VideoEntry] = {**MOTIONS, **SUBJECTS}
