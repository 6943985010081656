"""The client's end of the pipeline: find it or start it, hand over, ask how far it is."""

from seclea.director.pipeline import Pipeline, Speaker, forget_after_fork, open_pipelines, pipeline_of
from seclea.director.progress import Left, Progress, ask_until, last_record, progress

__all__ = [
    "Left",
    "Pipeline",
    "Progress",
    "Speaker",
    "ask_until",
    "forget_after_fork",
    "last_record",
    "open_pipelines",
    "pipeline_of",
    "progress",
]
