"""Clips in and out: reading, writing, looking at and cutting training windows from videos."""

from pcs_ext.video.clips.clip import Clip, to_frames, to_video
from pcs_ext.video.clips.digest import clip_digest
from pcs_ext.video.clips.folder import ClipFolder
from pcs_ext.video.clips.read import read_clip
from pcs_ext.video.clips.sheet import contact_sheet
from pcs_ext.video.clips.windows import ClipBatch, ClipDataset
from pcs_ext.video.clips.write import sidecar, write_clip

__all__ = [
    "Clip",
    "ClipBatch",
    "ClipDataset",
    "ClipFolder",
    "clip_digest",
    "contact_sheet",
    "read_clip",
    "sidecar",
    "to_frames",
    "to_video",
    "write_clip",
]
