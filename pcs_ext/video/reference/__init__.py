"""Photos shown to a clip model by an adapter that was trained once for all subjects; every system, listed by hand.

Adapters of the image core (`pcs_ext.image.reference`) act in clip models as they are. The settings named `toybox` are
ours, by analogy with those of the image core's adapters; none was measured.
"""

from pcs_ext.video.reference.entry import ClipReferenceEntry
from pcs_ext.video.reference.systems.id_animator import IDAnimatorConfig
from pcs_ext.video.reference.systems.stylecrafter import StyleCrafterConfig
from pcs_ext.video.reference.systems.videobooth import VideoBoothConfig
from pcs_ext.video.reference.systems.videomaker import VideoMakerConfig
from pcs_ext.video.reference.training import ClipReferenceTraining

__all__ = ["REFERENCES", "ClipReferenceEntry"]

REFERENCES: dict[str, ClipReferenceEntry] = {
    "id-animator": ClipReferenceEntry(
        id="id-animator",
        summary="queries read a picture's patches; keys and values beside the text's",
        paper="arXiv 2404.15275",
        system="id-animator",
        adapter=IDAnimatorConfig(),
        # 16 frames, rate 1e-5, one GPU, as recalled; steps and what is dropped are ours (IP-Adapter's).
        training=ClipReferenceTraining(batch_size=2, learning_rate=1e-5),
        toybox=ClipReferenceTraining(
            adapter=IDAnimatorConfig(inner=192, heads=3, rank=16),
            steps=3000,
            batch_size=4,
            learning_rate=1e-3,
            base_learning_rate=5e-4,
            frames=8,
        ),
    ),
    "videobooth": ClipReferenceEntry(
        id="videobooth",
        summary="words of a photo, and its own features in the first frame, passed on to all",
        paper="arXiv 2312.00777",
        system="videobooth",
        adapter=VideoBoothConfig(),
        # The released settings: 16 frames, batch 256, rate 1e-4 without decay, nothing shown or said in 10 %; how many
        # steps is not said there.
        training=ClipReferenceTraining(
            batch_size=256, learning_rate=1e-4, weight_decay=0.0, drop_image=0.0, drop_text=0.0, drop_both=0.1
        ),
        toybox=ClipReferenceTraining(
            adapter=VideoBoothConfig(hidden=256),
            steps=4000,
            batch_size=4,
            learning_rate=5e-4,
            base_learning_rate=1e-4,
            weight_decay=0.0,
            drop_image=0.0,
            drop_text=0.0,
            drop_both=0.1,
            frames=8,
        ),
    ),
    "stylecrafter": ClipReferenceEntry(
        id="stylecrafter",
        summary="style tokens, weighed layer by layer; then the temporal attention learns to move them",
        paper="arXiv 2312.00330",
        system="stylecrafter",
        adapter=StyleCrafterConfig(),
        # 60,000 steps; batch 256 on stills and 8 clips later, here one number for both. Rate and shares dropped are
        # ours (IP-Adapter's).
        training=ClipReferenceTraining(steps=60_000, batch_size=8, learning_rate=1e-4),
        toybox=ClipReferenceTraining(
            adapter=StyleCrafterConfig(heads=4),
            steps=4000,
            batch_size=8,
            learning_rate=1e-3,
            base_learning_rate=1e-4,
            frames=8,
        ),
    ),
    "videomaker": ClipReferenceEntry(
        id="videomaker",
        summary="the clip model reads the photo itself, as one frame more",
        paper="arXiv 2412.19645",
        system="videomaker",
        adapter=VideoMakerConfig(),
        # Section 4.1: a clip on each of 4 GPUs, every eighth frame, rate 1e-5, decay 1e-2; 150,000 steps for people,
        # 100,000 for things. How often no photo is shown is not known here.
        training=ClipReferenceTraining(
            batch_size=4, learning_rate=1e-5, drop_image=0.1, drop_text=0.0, drop_both=0.05, stride=8
        ),
        toybox=ClipReferenceTraining(
            steps=3000, batch_size=4, learning_rate=1e-4, drop_image=0.1, drop_text=0.0, drop_both=0.05, frames=8
        ),
    ),
}
