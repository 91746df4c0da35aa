"""Every way to learn a motion, or a subject for clips, listed by hand."""

from pcs_ext.video.recipes.animate_a_story import animate_a_story
from pcs_ext.video.recipes.base import (
    MotionEntry,
    MotionPass,
    MotionPhase,
    MotionRecipe,
    SubjectEntry,
    VideoEntry,
)
from pcs_ext.video.recipes.custom_ttt import custom_ttt
from pcs_ext.video.recipes.customize_a_video import customize_a_video
from pcs_ext.video.recipes.customvideo import customvideo
from pcs_ext.video.recipes.dreamvideo import dreamvideo_motion, dreamvideo_subject
from pcs_ext.video.recipes.lamp import lamp
from pcs_ext.video.recipes.layers import LayersConfig
from pcs_ext.video.recipes.magic_me import CLIP as MAGIC_ME_CLIP
from pcs_ext.video.recipes.magic_me import magic_me
from pcs_ext.video.recipes.make_a_protagonist import make_a_protagonist
from pcs_ext.video.recipes.motion_crafter import motion_crafter
from pcs_ext.video.recipes.motion_director import motion_director, temporal_lora
from pcs_ext.video.recipes.newmove import newmove
from pcs_ext.video.recipes.personalvideo import IDENTITY as PERSONALVIDEO
from pcs_ext.video.recipes.personalvideo import personalvideo
from pcs_ext.video.recipes.save import save
from pcs_ext.video.recipes.tune_a_video import tune_a_video
from pcs_ext.video.recipes.videodreamer import CLIP as VIDEODREAMER_CLIP
from pcs_ext.video.recipes.videodreamer import videodreamer
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
    (
        "motioncrafter",
        "appearance and motion LoRAs, looks held to the frozen model",
        "2312.05288",
        "motioncrafter",
        motion_crafter,
    ),
    (
        "customttt",
        "a temporal LoRA where the prompt speaks; tuned to a subject before every clip",
        "2412.15646",
        "customttt",
        custom_ttt,
    ),
    ("tune-a-video", "an image model inflated and tuned on one clip", "2212.11565", "tune-a-video", tune_a_video),
    (
        "make-a-protagonist",
        "an image model inflated; another protagonist in its clip, inside a mask",
        "2305.08850",
        "make-a-protagonist",
        make_a_protagonist,
    ),
    ("save", "an image model inflated; a word for who moves, then one by frame for how", "2312.02503", "save", save),
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
    "animate-a-story": SubjectEntry(
        id="animate-a-story",
        summary="a word vector for every timestep, and a LoRA",
        paper="arXiv 2307.06940",
        system="animate-a-story",
        build=animate_a_story,
    ),
    "customvideo": SubjectEntry(
        id="customvideo",
        summary="several subjects on collages, each word's attention held to its mask",
        paper="arXiv 2401.09962",
        system="customvideo",
        build=customvideo,
        masks=True,
        several=True,
    ),
    "videodreamer": SubjectEntry(
        id="videodreamer",
        summary="several subjects apart from what is only in one photo; clips of an image model",
        paper="arXiv 2311.00990",
        system="videodreamer",
        build=videodreamer,
        clip=VIDEODREAMER_CLIP,
        masks=True,
        several=True,
        inflation="first",
        learns="mixture",
    ),
    "personalvideo": SubjectEntry(
        id="personalvideo",
        summary="an identity for the last steps of clips, by what an image encoder sees in them",
        paper="arXiv 2411.17048",
        system="personalvideo",
        build=personalvideo,
        window=PERSONALVIDEO.window,
        learns="clips",
    ),
}
RECIPES: dict[str, VideoEntry] = {**MOTIONS, **SUBJECTS}
