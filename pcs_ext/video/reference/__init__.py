"""Photos shown to a clip model by an adapter that was trained once for all subjects; every system, listed by hand.

Adapters of the image core (`pcs_ext.image.reference`) act in clip models as they are. The settings named `toybox` are
ours, by analogy with those of the image core's adapters; none was measured.
"""

from pcs_ext.video.reference.entry import ClipReferenceEntry
from pcs_ext.video.reference.systems.consisid import ConsisIDConfig
from pcs_ext.video.reference.systems.dreamoving import DreaMovingConfig
from pcs_ext.video.reference.systems.gen1 import Gen1Config
from pcs_ext.video.reference.systems.id_animator import IDAnimatorConfig
from pcs_ext.video.reference.systems.motioncharacter import MotionCharacterConfig
from pcs_ext.video.reference.systems.stylecrafter import StyleCrafterConfig
from pcs_ext.video.reference.systems.sugar import SugarConfig
from pcs_ext.video.reference.systems.videoassembler import VideoAssemblerConfig
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
    "motioncharacter": ClipReferenceEntry(
        id="motioncharacter",
        summary="an identity beside the text, and a motion told as a phrase and a number",
        paper="arXiv 2411.18281",
        system="motioncharacter",
        adapter=MotionCharacterConfig(),
        # Rates, steps and what is dropped are ours (IP-Adapter's); of 124,000 clips there 17,600 are still portraits.
        training=ClipReferenceTraining(batch_size=2, learning_rate=1e-5, frozen=0.14),
        toybox=ClipReferenceTraining(
            adapter=MotionCharacterConfig(inner=192, heads=3),
            steps=3000,
            batch_size=4,
            learning_rate=1e-3,
            frames=8,
            frozen=0.14,
        ),
    ),
    "videoassembler": ClipReferenceEntry(
        id="videoassembler",
        summary="the photo's latents of three sizes beside the clip's; two numbers weigh text and picture",
        paper="arXiv 2311.17338",
        system="videoassembler",
        adapter=VideoAssemblerConfig(),
        # 16 frames; the rest is ours (IP-Adapter's).
        training=ClipReferenceTraining(batch_size=8, learning_rate=1e-4),
        toybox=ClipReferenceTraining(
            adapter=VideoAssemblerConfig(hidden=32, inner=192, heads=3),
            steps=3000,
            batch_size=4,
            learning_rate=1e-3,
            frames=8,
        ),
    ),
    "gen-1": ClipReferenceEntry(
        id="gen-1",
        summary="a clip redrawn over maps of its frames, with a photo in the prompt's place",
        paper="arXiv 2302.03011",
        system="gen-1",
        adapter=Gen1Config(),
        # 8 frames; rate, batch and the share without content are ours.
        training=ClipReferenceTraining(
            batch_size=8,
            learning_rate=1e-4,
            base_learning_rate=1e-5,
            drop_image=0.0,
            drop_text=0.0,
            drop_both=0.1,
            frames=8,
        ),
        toybox=ClipReferenceTraining(
            adapter=Gen1Config(structure="edges", halvings=4),
            steps=3000,
            batch_size=4,
            learning_rate=1e-3,
            base_learning_rate=1e-4,
            drop_image=0.0,
            drop_text=0.0,
            drop_both=0.1,
            frames=8,
        ),
    ),
    "sugar": ClipReferenceEntry(
        id="sugar",
        summary="identity tokens in a video transformer's sequence, which see neither text nor clip",
        paper="arXiv 2412.10533",
        system="sugar",
        adapter=SugarConfig(),
        # All of it ours; the paper's are not known here.
        training=ClipReferenceTraining(
            batch_size=8,
            learning_rate=1e-4,
            base_learning_rate=1e-5,
            drop_image=0.1,
            drop_text=0.1,
            drop_both=0.05,
            frames=17,
        ),
        # Toybox has no transformer; for one of its size.
        toybox=ClipReferenceTraining(
            adapter=SugarConfig(hidden=192),
            steps=3000,
            batch_size=4,
            learning_rate=1e-3,
            base_learning_rate=1e-4,
            drop_image=0.1,
            drop_text=0.1,
            drop_both=0.05,
            frames=9,
        ),
    ),
    "consisid": ClipReferenceEntry(
        id="consisid",
        summary="a photo's latents beside a transformer's, its details behind every second block",
        paper="arXiv 2411.17440",
        system="consisid",
        adapter=ConsisIDConfig(),
        # 49 frames, batch 80, 1,800 steps at 3e-6, a photo dropped in 5 %, masks in half of the steps.
        training=ClipReferenceTraining(
            steps=1800,
            batch_size=80,
            learning_rate=3e-6,
            drop_image=0.05,
            drop_text=0.0,
            drop_both=0.05,
            masked=0.5,
            frames=49,
        ),
        # Toybox has no transformer; for one of its size.
        toybox=ClipReferenceTraining(
            adapter=ConsisIDConfig(
                depth=5, heads=3, queries=8, details=192, perceiver_heads=3, perceiver_head_width=64
            ),
            steps=3000,
            batch_size=4,
            learning_rate=1e-3,
            base_learning_rate=1e-4,
            drop_image=0.05,
            drop_text=0.0,
            drop_both=0.05,
            masked=0.5,
            frames=9,
        ),
    ),
    "dreamoving": ClipReferenceEntry(
        id="dreamoving",
        summary="attentions to a face and to clothes; a ControlNet with motion reads maps of the frames",
        paper="arXiv 2312.05107",
        system="dreamoving",
        adapter=DreaMovingConfig(),
        # 155,000 steps in all, 16 pictures on each of 8 GPUs and one clip later (here one number for both), at 1e-4
        # and in the end 5e-5, decay 1e-2; what is dropped is ours (IP-Adapter's).
        training=ClipReferenceTraining(
            steps=155_000, batch_size=8, learning_rate=1e-4, base_learning_rate=5e-5, photos=2
        ),
        toybox=ClipReferenceTraining(
            adapter=DreaMovingConfig(structure="edges", inner=192, heads=3),
            steps=4000,
            batch_size=4,
            learning_rate=1e-3,
            base_learning_rate=1e-4,
            photos=2,
            frames=8,
        ),
    ),
}
