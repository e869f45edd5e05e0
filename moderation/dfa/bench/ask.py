"""What a bundle says about pictures: asked through the detector that serves, from the file's bytes on.

Faces are found, refused, cropped and judged as in the worker; a picture that a manifest calls a crop goes in as it is.
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
    Label,
    Technique,
    Verdict,
    image_verdict,
    undetermined,
)
from moderation.dfa.bench.conversation import Asked, Scored, as_said, in_turn, score
from moderation.dfa.bench.manifest import Item
from moderation.dfa.gpt.conversation import answer_or_none, served_turns
from moderation.dfa.gpt.crops import FaceCrop
from moderation.dfa.gpt.detector import Detector
from moderation.dfa.gpt.engine.engine import Answers, Engine, Plan, Route
from moderation.dfa.gpt.pixels import crop_face, decode_picture
from moderation.dfa.gpt.replies import read_reply
from moderation.errors import ImageRejected

#: Pictures that are decoded ahead of the model.
TOGETHER = 64


@dataclass(frozen=True)
class Judged:
    """One picture and what was said about it."""

    item: Item
    verdict: Verdict
    #: What a reviewer is shown for the deciding face.
    rationale: tuple[Artifact, ...] = ()
    #: The artifact description as the model wrote it, shown or not. None when it was not asked.
    reply: str | None = None
    #: The code of a picture that was refused before anybody looked. None for all others.
    refusal: str | None = None

    @property
    def score(self) -> float | None:
        return self.verdict.score

    @property
    def shown(self) -> frozenset[str]:
        """Regions in the rationale as shown."""
        return regions_in(self.rationale)

    @property
    def written(self) -> frozenset[str]:
        """Regions in the reply, whether it is shown or not; none when it cannot be read."""
        reply = read_reply(self.reply) if self.reply else None
        return regions_in(reply.artifacts if reply else ())


@dataclass(frozen=True)
class Told:
    """What is said of a forged picture when the verdict is given: its technique and its artifacts alone are judged."""

    item: Item
    #: Sums of log-probabilities of the DF-C answers.
    sums: Mapping[Technique, float]
    regions: frozenset[str]
    text: str


@dataclass(frozen=True)
class Talked:
    """One question about one picture, and how its answer was judged."""

    item: Item
    asked: Asked
    #: As it was written.
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
        detector: what serves.
        items: the pictures.
        changed: what happens to a file's bytes before they are looked at.
        search: search for faces in crops too.
        progress: told how many are done.
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
    search: bool,  # noqa: FBT001  as `judge` was told
) -> Judged | tuple[Sequence[FaceCrop], Sequence[FaceAnalysis]]:
    try:
        if item.crop and not search:
            return [as_crop(data, detector.image_size)], []
        prepared = detector.prepare(data)
    except ImageRejected as error:
        return Judged(item, undetermined(Abstain.NO_FACE), refusal=error.code)
    return prepared.crops, prepared.judged


def as_crop(data: bytes, size: int) -> FaceCrop:
    """A file that shows one face and nothing else, at the model's size; others than squares continue by reflection."""
    picture = decode_picture(data)
    height, width = picture.pixels.shape[:2]
    face = Face(Box(0, 0, width, height), confidence=1.0)
    return FaceCrop(face, crop_face(picture, face, size, margin=1.0))


def _judged(item: Item, faces: Sequence[FaceAnalysis]) -> Judged:
    """The picture as the face that decides it."""
    verdict, ordered = image_verdict(faces)
    deciding = ordered[0] if ordered else None
    return Judged(
        item,
        verdict,
        rationale=deciding.rationale if deciding else (),
        reply=deciding.reply if deciding else None,
    )


def called_deepfake(judged: Judged, threshold: float) -> bool:
    """Whether the score alone reaches the threshold; a picture without a score never does."""
    return judged.score is not None and judged.score >= threshold


def abstained(judged: Judged) -> bool:
    return judged.verdict.label is Label.UNDETERMINED


#: Tokens of one answer: more than any that was trained.
LONGEST_ANSWER = 64


def talk(
    detector: Detector,
    items: Sequence[Item],
    answers: int,
    *,
    seed: int = 0,
    progress: Callable[[int], None] = lambda _: None,
) -> list[Talked]:
    """Ask so many questions, family by family in turn, each about the next picture that has a verdict.

    The model goes on from what it said of the face, as in the console; what a reviewer is shown is what is judged.
    """
    talked: list[Talked] = []
    faces = itertools.cycle(_faces_with_verdicts(detector, items, answers))
    for asked, found in zip(in_turn(answers, seed=seed), faces, strict=False):
        item, crop, face = found
        said = as_said(face)
        words = detector.converse(
            crop,
            [],
            asked.text,
            served=served_turns(detector.bundle.prompts, face),
            max_new_tokens=LONGEST_ANSWER,
        )
        written = "".join(words).strip()
        shown = answer_or_none(written, deepfake=said.deepfake, artifacts=said.artifacts)
        talked.append(Talked(item, asked, written, score(asked, said, shown)))
        progress(len(talked))
    return talked


def _faces_with_verdicts(
    detector: Detector, items: Sequence[Item], most: int
) -> list[tuple[Item, FaceCrop, FaceAnalysis]]:
    """The first face of each picture, where the model tells whether it is a deepfake."""
    outcomes = [
        (item, _prepared(detector, item, item.file.read_bytes(), search=False)) for item in items[:most]
    ]
    asked = [(item, out[0][0]) for item, out in outcomes if not isinstance(out, Judged) and out[0]]
    faces = detector.analyze([crop for _, crop in asked])
    return [
        (item, crop, face)
        for (item, crop), face in zip(asked, faces, strict=True)
        if face.verdict.label is not Label.UNDETERMINED
    ]


def verdicts_only(detector: Detector) -> Detector:
    """The same bundle, asked for DF-D alone. It takes the model over: the other detector is closed."""
    detector.close()
    return Detector(detector.bundle, replace(detector.policy, technique=False, rationale=False))


def tell(detector: Detector, items: Sequence[Item]) -> tuple[list[Told], Mapping[Technique, float]]:
    """Say "Yes." for every picture and ask on; and what the DF-C answers score on a grey one.

    An engine of its own takes the model over: the detector is closed. Pictures in which no face can be judged are left
    out.
    """
    detector.close()
    bundle = detector.bundle
    engine = Engine(
        bundle.model,
        bundle.script,
        bundle.spec.image,
        route=lambda _margin, _mass: Route.DEEPFAKE,
        plan=Plan(),
    )
    with closing(engine):
        return _told_all(detector, engine, items), _grey_answers(engine, items)


def _told_all(detector: Detector, engine: Engine, items: Sequence[Item]) -> list[Told]:
    codec = detector.bundle.codec
    results: list[Told] = []
    for group in _groups(items):
        outcomes = [(item, _prepared(detector, item, item.file.read_bytes(), search=False)) for item in group]
        faces = [
            (item, outcome[0][0].pixels)
            for item, outcome in outcomes
            if not isinstance(outcome, Judged) and outcome[0]
        ]
        for item, answers in _answered(engine, faces):
            written = codec.decode(answers.rationale or ()).strip()
            reply = read_reply(written, complete=answers.complete)
            named = regions_in(reply.artifacts) if reply else frozenset[str]()
            results.append(Told(item, answers.options or {}, named, written))
    return results


def _grey_answers(engine: Engine, items: Sequence[Item]) -> Mapping[Technique, float]:
    """What the DF-C answers score on a picture that shows nothing; empty when there is nothing to compare with it."""
    if not items:
        return {}
    grey = np.full((engine.image.size, engine.image.size, 3), 127, dtype=np.uint8)
    ((_, blank),) = _answered(engine, [(items[0], grey)])
    return blank.options or {}


def _answered(engine: Engine, faces: Sequence[tuple[Item, np.ndarray]]) -> list[tuple[Item, Answers]]:
    answered = engine.answer([pixels for _, pixels in faces])
    return [(item, answers) for (item, _), answers in zip(faces, answered, strict=True)]
