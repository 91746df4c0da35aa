"""Measures of a learned subject: fidelity, prompt following, diversity, drift and copying, each with its encoder."""

from pcs_ext.image.evaluate.artifact import CLASS_WORD, evaluate_artifact
from pcs_ext.image.evaluate.copying import CopyReport, check_copying
from pcs_ext.image.evaluate.encoders import (
    ClipEncoder,
    ImageEncoder,
    ImageTextEncoder,
    TransformersImageEncoder,
    load_image_encoder,
    load_image_text_encoder,
)
from pcs_ext.image.evaluate.figure import Figure
from pcs_ext.image.evaluate.pictures import square_images
from pcs_ext.image.evaluate.prompts import PROMPT_SETS, UNRELATED_PROMPTS, Prompt, prompt_set, read_prompts
from pcs_ext.image.evaluate.protocol import AttributeReader, Judges, Truth, evaluate_images, evaluate_subject
from pcs_ext.image.evaluate.report import Report, meaning, result_rows
from pcs_ext.image.evaluate.tables import read_rows, results_table

__all__ = [
    "CLASS_WORD",
    "PROMPT_SETS",
    "UNRELATED_PROMPTS",
    "AttributeReader",
    "ClipEncoder",
    "CopyReport",
    "Figure",
    "ImageEncoder",
    "ImageTextEncoder",
    "Judges",
    "Prompt",
    "Report",
    "TransformersImageEncoder",
    "Truth",
    "check_copying",
    "evaluate_artifact",
    "evaluate_images",
    "evaluate_subject",
    "load_image_encoder",
    "load_image_text_encoder",
    "meaning",
    "prompt_set",
    "read_prompts",
    "read_rows",
    "result_rows",
    "results_table",
    "square_images",
]
