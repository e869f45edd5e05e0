"""What a face's score depends on: hide the regions that the model named, and ask the engine again."""

from collections.abc import Sequence
from dataclasses import dataclass

from moderation.analysis import FaceAnalysis
from moderation.dfa.gpt.crops import FaceCrop
from moderation.dfa.gpt.effect import Hidden, hide, margin_of, variants, with_effects
from worker.batching import PendingFace
from worker.station import Pipeline, Station


@dataclass(frozen=True)
class _Trial:
    """One face, its hidden regions, and the questions to the engine."""

    said: FaceAnalysis
    hidden: tuple[Hidden, ...]
    asked: list[PendingFace]


def measured(
    station: Station, pipeline: Pipeline, crops: Sequence[FaceCrop], faces: Sequence[FaceAnalysis]
) -> list[FaceAnalysis]:
    """The faces with the effects of their first artifacts. Raise what the engine raises.

    All questions about all faces are lined up before we wait for the first answer.
    """
    trials = [_begin(station, pipeline, crop, face) for crop, face in zip(crops, faces, strict=True)]
    return [
        with_effects(
            trial.said,
            trial.hidden,
            (margin_of(face.answer.result()) for face in trial.asked),
            pipeline.analyzer.score,
        )
        for trial in trials
    ]


def _begin(station: Station, pipeline: Pipeline, crop: FaceCrop, face: FaceAnalysis) -> _Trial:
    settings = station.settings
    with station.cores:
        hidden = hide(crop, face, at_most=settings.effect_artifacts)
    asked = [
        pipeline.batcher.submit(variant, timeout=settings.engine_timeout_seconds)
        for variant in variants(crop, hidden)
    ]
    return _Trial(face, hidden, asked)
