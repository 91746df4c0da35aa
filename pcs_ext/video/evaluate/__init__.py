"""Measures of clips: pure functions of pixels, of flow, of embeddings, or of attributes read off frames."""

from pcs_ext.video.evaluate.flow import ClipFlow, block_flow
from pcs_ext.video.evaluate.looks import leaked_attributes, temporal_consistency
from pcs_ext.video.evaluate.motion_fidelity import motion_fidelity, motion_signature

__all__ = [
    "ClipFlow",
    "block_flow",
    "leaked_attributes",
    "motion_fidelity",
    "motion_signature",
    "temporal_consistency",
]
