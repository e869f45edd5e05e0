"""A bundle's answers about pictures, asked through the serving detector from the file's bytes on.

Faces are found, refused, cropped and judged as in the worker. A picture that a manifest calls a crop is used as it is.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np

from moderation.analysis import (
    Abstain,
    Artifact,
    Box,
    Face,
    FaceAnalysis,
    ForeignMap,
    Label,
    PictureFacts,
    Technique,
    Verdict,
    image_verdict,
    undetermined,
)
from moderation.dfa.bench.conversation import Asked, Scored, as_said, in_turn, score
from moderation.dfa.bench.manifest import Item
from moderation.dfa.gpt.conversation import answer_or_none
from moderation.dfa.gpt.crops import FaceCrop
from moderation.dfa.gpt.detector import Detector, reply_of
from moderation.dfa.gpt.engine.engine import Engine, Plan, Route
from moderation.dfa.gpt.faces import find_faces
from moderation.dfa.gpt.pixels import MARGIN, TILTED, Picture, crop_face, decode_picture, roll
from moderation.dfa.gpt.replies import read_reply, sound
from moderation.errors import ImageRejected

#: Pictures decoded before each call of the model.
TOGETHER = 64


@dataclass(frozen=True)
class Judged:
    """One picture and its verdict."""

    item: Item
    verdict: Verdict
    #: The deciding face's artifacts, as a reviewer is shown them.
    rationale: tuple[Artifact, ...] = ()
    #: The artifact description as the model wrote it, shown or not. None when it was not asked.
    reply: str | None = None
    #: The error code of a picture that was refused before the model saw it. None for all others.
    refusal: str | None = None
    #: The evidence map of the deciding face. None for a bundle without heads.
    foreign: ForeignMap | None = None

    @property
    def score(self) -> float | None:
        return self.verdict.score

    @property
    def shown(self) -> frozenset[str]:
        """Regions in the rationale as shown."""
        return regions_in(self.rationale)

    @property
    def written(self) -> frozenset[str]:
        """Regions in the reply, shown or not. Empty when it cannot be read."""
        reply = read_reply(self.reply or "")
        return regions_in(reply.artifacts if reply else ())


@dataclass(frozen=True)
class Told:
    """The model's answers on a forged picture, with the verdict given: only technique and artifacts are scored."""

    item: Item
    #: Sums of log-probabilities of the DF-C answers.
    sums: Mapping[Technique, float]
    #: The technique that is served.
    technique: Technique
    regions: frozenset[str]
    text: str
    #: The artifacts that a reviewer would be shown.
    artifacts: tuple[Artifact, ...] = ()


@dataclass(frozen=True)
class Talked:
    """One question about one picture, its answer and the answer's score."""

    item: Item
    asked: Asked
    #: The answer as the model wrote it.
    written: str
    scored: Scored


def regions_in(artifacts: Iterable[Artifact]) -> frozenset[str]:
    return frozenset(region.value for artifact in artifacts for region in artifact.regions)


def judge(
    detector: Detector,
    items: Sequence[Item],
    *,
    changed: Callable[[Item, bytes], bytes] = lambda _item, data: data,
    search: bool = False,
    progress: Callable[[int], None] = lambda _: None,
) -> list[Judged]:
    """Ask about every picture, in order.

    Args:
        detector: the serving detector.
        items: the pictures.
        changed: changes a file's bytes before they are decoded.
        search: search for faces in crops too.
        progress: called with the number of finished pictures.
    """
    results: list[Judged] = []
    for group in _groups(items):
        prepared = [
            _prepared(detector, item, changed(item, item.file.read_bytes()), search) for item in group
        ]
        crops = [crop for outcome in prepared if not isinstance(outcome, Judged) for crop in outcome[0]]
        answers = iter(detector.analyze(crops))
        for item, outcome in zip(group, prepared, strict=True):
            if isinstance(outcome, Judged):
                results.append(outcome)
                continue
            asked, refused = outcome
            results.append(_judged(item, [*itertools.islice(answers, len(asked)), *refused]))
        progress(len(results))
    return results


def _groups(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    for start in range(0, len(items), TOGETHER):
        yield items[start : start + TOGETHER]


def _prepared(
    detector: Detector,
    item: Item,
    data: bytes,
    search: bool,  # noqa: FBT001  an argument of `judge`
) -> Judged | tuple[Sequence[FaceCrop], Sequence[FaceAnalysis]]:
    try:
        if item.crop and not search:
            return [as_crop(data, detector.image_size)], []
        prepared = detector.prepare(data)
    except ImageRejected as error:
        return Judged(item, undetermined(Abstain.NO_FACE), refusal=error.code)
    return prepared.crops, prepared.judged


def as_crop(data: bytes, size: int) -> FaceCrop:
    """A file that shows only one face, at the model's size. Reflection pads a picture that is not square."""
    picture = decode_picture(data)
    height, width = picture.pixels.shape[:2]
    pixels = crop_face(picture, Face(Box(0, 0, width, height), confidence=1.0), size, margin=1.0)
    return FaceCrop(Face(_box(width, height), confidence=1.0), pixels)


def placed(crop: FaceCrop) -> FaceCrop:
    """The crop as a picture of its own, with the landmarks of its face.

    It has no landmarks when no face is found, or when a worker would have rotated the face.
    """
    size = len(crop.pixels)
    found = find_faces(Picture(crop.pixels, PictureFacts("", 0, "", size, size)), at_most=1)
    marks = found[0].landmarks if found else None
    upright = marks is not None and abs(roll(marks)) <= TILTED
    return FaceCrop(Face(_box(size, size), confidence=1.0, landmarks=marks if upright else None), crop.pixels)


def _box(width: int, height: int) -> Box:
    """The box whose crop, as a worker cuts it, is as wide as the picture's longer side."""
    half = max(width, height) / MARGIN / 2
    return Box(width / 2 - half, height / 2 - half, width / 2 + half, height / 2 + half)


def _judged(item: Item, faces: Sequence[FaceAnalysis]) -> Judged:
    """A picture's verdict, with the rationale of its deciding face."""
    verdict, ordered = image_verdict(faces)
    if not ordered:
        return Judged(item, verdict)
    deciding = ordered[0]
    return Judged(item, verdict, deciding.rationale, deciding.reply, foreign=deciding.foreign)


def scores_of(judged: Iterable[Judged]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Of all pictures with a score: the scores, whether each is of a deepfake, and the groups."""
    kept = [j for j in judged if j.score is not None]
    return (
        np.array([j.score for j in kept], dtype=float),
        np.array([j.item.deepfake for j in kept], dtype=bool),
        [j.item.group for j in kept],
    )


def called_deepfake(judged: Judged, threshold: float) -> bool:
    """True when the score reaches the threshold. False without a score."""
    return judged.score is not None and judged.score >= threshold


def abstained(judged: Judged) -> bool:
    return judged.verdict.label is Label.UNDETERMINED


#: Most tokens of one answer. All answers in training are shorter.
LONGEST_ANSWER = 64


def talk(
    detector: Detector,
    items: Sequence[Item],
    answers: int,
    *,
    seed: int = 0,
    progress: Callable[[int], None] = lambda _: None,
) -> list[Talked]:
    """Ask `answers` questions, one family after another, each about the next picture that has a verdict.

    The conversation begins with the face's analysis, as in the console. What a reviewer is shown is scored.
    """
    talked: list[Talked] = []
    faces = itertools.cycle(faces_with_verdicts(detector, items, answers))
    for asked, (item, crop, face) in zip(in_turn(answers, seed=seed), faces, strict=False):
        written, shown = talked_with(detector, crop, face, asked.text)
        talked.append(Talked(item, asked, written, score(asked, as_said(face), shown)))
        progress(len(talked))
    return talked


def talked_with(
    detector: Detector, crop: FaceCrop, face: FaceAnalysis, question: str
) -> tuple[str, str | None]:
    """The model's answer about a face with a verdict, and the part that a reviewer is shown. None: no usable answer."""
    before = as_said(face)
    words = detector.converse(crop, [], question, about=face, max_new_tokens=LONGEST_ANSWER)
    written = "".join(words).strip()
    return written, answer_or_none(written, deepfake=before.deepfake, artifacts=before.artifacts)


def first_faces(detector: Detector, items: Sequence[Item]) -> list[tuple[Item, FaceCrop]]:
    """The first face of each picture that has one, cropped as for `judge`."""
    faces: list[tuple[Item, FaceCrop]] = []
    for item in items:
        outcome = _prepared(detector, item, item.file.read_bytes(), search=False)
        if not isinstance(outcome, Judged) and outcome[0]:
            faces.append((item, outcome[0][0]))
    return faces


def faces_with_verdicts(
    detector: Detector, items: Sequence[Item], most: int
) -> list[tuple[Item, FaceCrop, FaceAnalysis]]:
    """The first face of each of the first `most` pictures, without undetermined ones."""
    asked = first_faces(detector, items[:most])
    faces = detector.analyze([crop for _, crop in asked])
    return [
        (item, crop, face)
        for (item, crop), face in zip(asked, faces, strict=True)
        if face.verdict.label is not Label.UNDETERMINED
    ]


def verdicts_only(detector: Detector) -> Detector:
    """A detector of the same bundle that asks only DF-D. It takes over the model, so the other detector is closed."""
    detector.close()
    return Detector(detector.bundle, replace(detector.policy, technique=False, rationale=False))


def tell(detector: Detector, items: Sequence[Item]) -> tuple[list[Told], Mapping[Technique, float]]:
    """Answer "Yes." for every picture and ask DF-C and AD. Also return the DF-C answers' scores on a grey picture.

    Another engine takes over the model, so the detector is closed. Pictures without a face to judge are left out.
    """
    detector.close()
    engine = Engine.of(
        detector.bundle,
        route=lambda _margin, _mass: Route.DEEPFAKE,
        plan=Plan(),
        choose=lambda sums, seen: detector.shares(sums, seen).technique,
    )
    with closing(engine):
        return _told_all(detector, engine, items), _grey_answers(engine, items)


def _told_all(detector: Detector, engine: Engine, items: Sequence[Item]) -> list[Told]:
    results: list[Told] = []
    for group in _groups(items):
        faces = first_faces(detector, group)
        answered = engine.answer([crop.pixels for _, crop in faces])
        for (item, _), answers in zip(faces, answered, strict=True):
            written = reply_of(answers, detector.bundle) or ""
            reply = read_reply(written, complete=answers.complete)
            named = reply.artifacts if reply else ()
            sums = answers.options or {}
            served = detector.shares(sums, answers.seen).technique
            results.append(Told(item, sums, served, regions_in(named), written, sound(named).artifacts))
    return results


def _grey_answers(engine: Engine, items: Sequence[Item]) -> Mapping[Technique, float]:
    """The DF-C answers' scores on a grey picture. Empty without items."""
    if not items:
        return {}
    grey = np.full((engine.image.size, engine.image.size, 3), 127, dtype=np.uint8)
    (blank,) = engine.answer([grey])
    return blank.options or {}
