"""What a model says about one image: verdicts, rationales and the analysis that holds them.

A model gives verdicts; only people make decisions (`decisions.py`). A model that cannot tell says
UNDETERMINED, with a coded reason.
"""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


class Label(enum.StrEnum):
    DEEPFAKE = "deepfake"
    BONA_FIDE = "bona_fide"
    #: The model cannot tell: see `Verdict.abstain`.
    UNDETERMINED = "undetermined"

    @classmethod
    def told_by(cls, word: str) -> "Label":
        """The label of a labelled picture, as manifests and other people's tables write it. Raise ValueError."""
        known = _LABEL_WORDS.get(word.strip().lower())
        if known is None:
            raise ValueError(f"{word!r} is none of {', '.join(_LABEL_WORDS)}.")
        return known


_LABEL_WORDS: Mapping[str, Label] = {
    "deepfake": Label.DEEPFAKE, "fake": Label.DEEPFAKE, "bona_fide": Label.BONA_FIDE, "real": Label.BONA_FIDE,
}  # fmt: skip


class Technique(enum.StrEnum):
    """How a deepfake was made: the four classes of DF-C (arXiv 2501.01164, fig. 2)."""

    FS = "FS"
    FR = "FR"
    FE = "FE"
    EFS = "EFS"

    @property
    def words(self) -> str:
        return TECHNIQUE_WORDS[self]


TECHNIQUE_WORDS: Mapping[Technique, str] = {
    Technique.FS: "face swapping",
    Technique.FR: "face reenactment",
    Technique.FE: "face editing",
    Technique.EFS: "entire face synthesis",
}


class Abstain(enum.StrEnum):
    """Why a verdict is UNDETERMINED."""

    NO_FACE = "no_face"
    FACE_TOO_SMALL = "face_too_small"
    TOO_BLURRED = "too_blurred"
    #: There are too many faces to judge, and one that was not judged is about as large as the largest.
    FACES_NOT_JUDGED = "faces_not_judged"
    #: The picture is unlike all training pictures: two tones, all white, all black.
    UNLIKE_TRAINING = "unlike_training"
    #: Reserved: platforms may read it, but no model gives it yet.
    TEXT_HEAVY = "text_heavy"
    #: "Yes" and "No" together have too little probability: the model did not answer the question.
    LOW_ANSWER_MASS = "low_answer_mass"
    NEAR_THRESHOLD = "near_threshold"
    #: The model's reply could not be read. We never guess a verdict out of prose.
    UNPARSED = "unparsed"

    @property
    def words(self) -> str:
        return ABSTAIN_WORDS[self]


ABSTAIN_WORDS: Mapping[Abstain, str] = {
    Abstain.NO_FACE: "no face was found",
    Abstain.FACE_TOO_SMALL: "the face is too small to judge",
    Abstain.TOO_BLURRED: "the face is too blurred to judge",
    Abstain.FACES_NOT_JUDGED: "there are more faces than were judged",
    Abstain.UNLIKE_TRAINING: "the picture is unlike those the model was trained on",
    Abstain.TEXT_HEAVY: "the image is mostly text",
    Abstain.LOW_ANSWER_MASS: "the model did not answer the question",
    Abstain.NEAR_THRESHOLD: "the score is too close to the threshold",
    Abstain.UNPARSED: "the model's reply could not be read",
}


class Region(enum.StrEnum):
    """Where on a face an artifact lies. UNMAPPED artifacts are shown without a polygon."""

    FOREHEAD = "forehead"
    HAIRLINE = "hairline"
    EYES = "eyes"
    NOSE = "nose"
    CHEEKS = "cheeks"
    MOUTH = "mouth"
    JAWLINE = "jawline"
    FACE_BOUNDARY = "face_boundary"
    SKIN = "skin"
    EARS = "ears"
    NECK = "neck"
    BACKGROUND = "background"
    LIGHTING = "lighting"
    UNMAPPED = "unmapped"


class Point(NamedTuple):
    """Pixels of the upright picture, origin top left."""

    x: float
    y: float


class Box(NamedTuple):
    """Pixels of the upright picture, origin top left: left and top inside, right and bottom outside."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        return self.right - self.left

    @property
    def height(self) -> float:
        return self.bottom - self.top

    def shared(self, other: "Box") -> float:
        """Square pixels that lie in both."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0.0, width) * max(0.0, height)


@dataclass(frozen=True)
class Face:
    """One face that was found in a picture."""

    box: Box
    #: In [0, 1]: how sure the face finder is.
    confidence: float
    #: Left eye, right eye, nose, left and right corner of the mouth, as seen in the picture.
    #: None when the picture is declared to be one face and no face was searched for.
    landmarks: tuple[Point, Point, Point, Point, Point] | None = None


@dataclass(frozen=True)
class Verdict:
    """What the model says about one face, or about the whole image."""

    label: Label
    #: In [0, 1]; a higher score means more likely a deepfake. None when the model was not asked (no face).
    score: float | None = None
    #: logit(Yes) − logit(No) at the answer position, as the model gave it. None when not asked.
    margin: float | None = None
    #: P(Yes) + P(No), in [0, 1]: the model's probability of the two answers. None when not asked.
    answer_mass: float | None = None
    #: True when `score` was fitted on labelled pictures (see `Basis`). Otherwise it only orders pictures.
    calibrated: bool = False
    technique: Technique | None = None  # None unless DEEPFAKE
    #: Share of each technique, summing to 1. None unless the model was asked.
    technique_scores: Mapping[Technique, float] | None = None
    abstain: Abstain | None = None  # None unless UNDETERMINED

    def __post_init__(self) -> None:
        if (self.abstain is not None) != (self.label is Label.UNDETERMINED):
            raise ValueError(f"{self.label} with abstain={self.abstain}: a code goes with UNDETERMINED alone")
        if self.technique is not None and self.label is not Label.DEEPFAKE:
            raise ValueError(f"{self.label} with technique={self.technique}: only a deepfake has a technique")


@dataclass(frozen=True)
class Basis:
    """The pictures that a bundle's scores were calibrated on. For others a score only orders: it is no probability."""

    #: For people: "labelled pictures of avatars".
    words: str
    #: Sources of cases for which the scores are probabilities: their labelled pictures were used.
    sources: tuple[str, ...] = ()

    def holds(self, verdict: Verdict, source: str | None) -> bool:
        """Whether the score of this verdict, on a picture from this source, is a probability."""
        answered = verdict.abstain in (None, Abstain.NEAR_THRESHOLD)
        return verdict.calibrated and answered and source in self.sources


def undetermined(abstain: Abstain) -> Verdict:
    """The verdict of a model that was not asked, because there was nothing it could judge."""
    return Verdict(label=Label.UNDETERMINED, abstain=abstain)


@dataclass(frozen=True)
class Effect:
    """How far a face's score falls without the region of an artifact, and without a control region.

    Each number is the mean over several ways to hide. A region and its control have the same area.
    """

    #: The score of the face with the region hidden, in [0, 1].
    score_without: float
    #: How far the margin falls. Negative: the face looks more like a deepfake without the region.
    margin_fall: float
    #: The same two for the control region, elsewhere on the face.
    control_score: float
    control_fall: float

    @property
    def supported(self) -> bool:
        """Whether the score depends on this region more than on the control, by more than the margin's own noise."""
        return self.margin_fall > max(self.control_fall, 0.0) + MARGIN_NOISE


#: How far the same margin may differ between batches: see docs/engine.md.
MARGIN_NOISE = 0.05


@dataclass(frozen=True)
class Artifact:
    """One line of a rationale: what looks wrong, and where."""

    #: The region in the model's own words, as in the paper's figure: "Cheek and Jawline".
    heading: str
    text: str
    regions: tuple[Region, ...] = (Region.UNMAPPED,)
    #: An approximate outline in the picture. None when no honest outline can be drawn.
    polygon: tuple[Point, ...] | None = None
    #: None when it was not measured: nobody asked, it has no place on the face, or a control has no room.
    effect: Effect | None = None


@dataclass(frozen=True)
class ForeignMap:
    """Where a second model, which sees only pixels, takes them for foreign to the face."""

    #: Of the square grid.
    side: int
    #: side · side bytes, rows from the top of the face crop: 0 not foreign, 255 foreign.
    values: bytes
    #: Corners of the grid in the upright picture: top left, top right, bottom right, bottom left of the face crop.
    corners: tuple[Point, Point, Point, Point]
    #: Regions with the highest values, the highest first. Empty when none is high or the face has no landmarks.
    highest: tuple[Region, ...] = ()

    def __post_init__(self) -> None:
        if len(self.values) != self.side * self.side:
            raise ValueError(f"{len(self.values)} values for a grid of {self.side} by {self.side}")


@dataclass(frozen=True)
class FaceAnalysis:
    """What the model says about one face. The rationale is empty unless the model was asked for one."""

    face: Face
    verdict: Verdict
    rationale: tuple[Artifact, ...] = ()
    #: The artifact description as the model wrote it. None when it was not asked.
    reply: str | None = None
    #: Artifacts that are not shown, because they contradict themselves or each other.
    rationale_dropped: int = 0
    #: None when the bundle makes no such map, and for a face that was not judged.
    foreign: ForeignMap | None = None
    #: This face was not judged and is much smaller than another one: it does not count for the picture.
    background: bool = False
    #: A few rounded numbers about how the tower sees it. They change when pictures change, and identify no face. Only
    #: the watch for drift uses them. None: the bundle has no heads.
    view: tuple[float, ...] | None = None

    @property
    def judged(self) -> bool:
        """Whether the model was asked about it."""
        return self.verdict.score is not None


@dataclass(frozen=True)
class PictureFacts:
    """Facts about the file, measured before anything was changed."""

    #: Of the original bytes, in hexadecimal.
    sha256: str
    size: int  # bytes
    format: str  # Pillow's name: JPEG, PNG, WEBP …
    width: int  # pixels, upright
    height: int  # pixels, upright
    #: The number of frames in the file, and the one that was analysed.
    frames: int = 1
    frame: int = 0
    #: What decoding had to do: "rotated", "flattened_alpha", "cmyk", "sixteen_bit", "colour_profile", "animated" …
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Analysis:
    """One run of one pipeline on one image. Unique per (case, fingerprint)."""

    fingerprint: str
    #: The bundle's name and version, for people: "mini 1".
    bundle: str
    verdict: Verdict
    faces: tuple[FaceAnalysis, ...]
    picture: PictureFacts
    #: Seconds spent per stage: fetch, decode, faces, queue, engine.
    seconds: Mapping[str, float] = field(default_factory=dict[str, float])
    #: Id of the analysis that was reused, for the same bytes and fingerprint. None: this one is new.
    reused_from: str | None = None

    @property
    def faces_found(self) -> int:
        """The number of faces found, judged or not."""
        return len(self.faces)

    @property
    def faces_judged(self) -> int:
        """The number of faces that the model was asked about."""
        return sum(face.judged for face in self.faces)


#: Shorter side of a box in pixels below which a face is not judged: enlarged beyond that, there is more invented
#: than seen. A convention until the benchmark says where a model's verdicts stop being better than chance.
SMALLEST_JUDGED = 40
#: A face is in the background when its longer side is less than this share of the largest one's.
BACKGROUND = 0.5


def in_background(face: Face, faces: Sequence[Face]) -> bool:
    """Whether it is much smaller than the largest face of its picture."""
    return longer_side(face) < BACKGROUND * max(longer_side(other) for other in faces)


def longer_side(face: Face) -> float:
    return max(face.box.width, face.box.height)


def shorter_side(face: Face) -> float:
    return min(face.box.width, face.box.height)


def image_verdict(faces: Sequence[FaceAnalysis]) -> tuple[Verdict, tuple[FaceAnalysis, ...]]:
    """One verdict for an image of several faces, and the faces with the deciding one first.

    One deepfake face makes the image a deepfake. Otherwise one face that the model could not judge makes the image
    undetermined, because that face may be the forged one. The image is bona fide only when every face is. Small faces
    in the background that were not judged come last and change nothing.
    """
    if not faces:
        return undetermined(Abstain.NO_FACE), ()
    ordered = tuple(sorted(faces, key=_deciding_order, reverse=True))
    return ordered[0].verdict, ordered


def _deciding_order(face: FaceAnalysis) -> tuple[bool, int, float]:
    rank = {Label.DEEPFAKE: 2, Label.UNDETERMINED: 1, Label.BONA_FIDE: 0}[face.verdict.label]
    return not face.background, rank, face.verdict.score if face.verdict.score is not None else 0.0
