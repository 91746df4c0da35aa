"""Clips in and out: reading, writing, looking at and cutting training windows from videos."""

from pcs_ext.video.clips.clip import Clip, to_frames, to_video
from pcs_ext.video.clips.read import read_clip

__all__ = ["Clip", "read_clip", "to_frames", "to_video"]
