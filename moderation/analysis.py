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
    #: The model looked, or tried to, and cannot tell: see `Verdict.abstain`.
    UNDETERMINED = "undetermined"


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
    #: A face about as large as the largest was found and not judged: there were more than are judged.
    FACES_NOT_JUDGED = "faces_not_judged"
    #: The picture is unlike those that models here are trained on: two tones, all white, all black.
    UNLIKE_TRAINING = "unlike_training"
    #: Reserved. Platforms may read it, and nothing gives it yet.
    TEXT_HEAVY = "text_heavy"
    #: "Yes" and "No" together hold too little probability: the model was not answering the question.
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


@dataclass(frozen=True)
class Face:
    """One face that was found in a picture."""

    box: Box
    #: In [0, 1]: how sure the face finder is.
    confidence: float
    #: Left eye, right eye, nose, left and right corner of the mouth, as seen in the picture.
    #: None when the face fills the frame by declaration and was not searched for.
    landmarks: tuple[Point, Point, Point, Point, Point] | None = None


@dataclass(frozen=True)
class Verdict:
    """What the model says about one face, or about the whole image."""

    label: Label
    #: In [0, 1], the higher the likelier a deepfake. None when the model was not asked (no face).
    score: float | None = None
    #: logit(Yes) − logit(No) at the answer position, as the model gave it. None when not asked.
    margin: float | None = None
    #: P(Yes) + P(No) in [0, 1]: how much of the model's probability lay on the two answers. None when not asked.
    answer_mass: float | None = None
    #: True when `score` is a probability fitted on labelled cases; otherwise it only orders.
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


def undetermined(abstain: Abstain) -> Verdict:
    """The verdict of a model that was not asked, because there was nothing it could judge."""
    return Verdict(label=Label.UNDETERMINED, abstain=abstain)


@dataclass(frozen=True)
class Effect:
    """By how much a face's score falls when the region of an artifact is hidden, and when a control region is.

    Each number is the mean over several ways to hide; a region and its control are equal in area.
    """

    #: Of the face with the region hidden, in [0, 1].
    score_without: float
    #: By how much that lowers the margin. Negative: the face looks more like a deepfake without the region.
    margin_fall: float
    #: The same two for the control region, elsewhere on the face.
    control_score: float
    control_fall: float

    @property
    def supported(self) -> bool:
        """Whether the score depends on this region more than on the control, by more than the margin's own noise."""
        return self.margin_fall > max(self.control_fall, 0.0) + MARGIN_NOISE


#: By how much the same margin may differ from one batch to another: see docs/engine.md.
MARGIN_NOISE = 0.05


@dataclass(frozen=True)
class Artifact:
    """One line of a rationale: what looks wrong, and where."""

    #: The region in the model's own words, as in the paper's figure: "Cheek and Jawline".
    heading: str
    text: str
    regions: tuple[Region, ...] = (Region.UNMAPPED,)
    #: An approximate outline in the picture. None when there is nothing honest to draw.
    polygon: tuple[Point, ...] | None = None
    #: None when it was not measured: not asked for, no place on the face, or no room for a control.
    effect: Effect | None = None


@dataclass(frozen=True)
class ForeignMap:
    """Where a model that looks at pixels alone, beside the one that speaks, takes them for foreign to the face."""

    #: Of the square grid.
    side: int
    #: side · side bytes, rows from the top of the face crop: 0 not foreign, 255 foreign.
    values: bytes
    #: Corners of the grid in the upright picture: top left, top right, bottom right, bottom left of the face crop.
    corners: tuple[Point, Point, Point, Point]
    #: Regions in which it is highest, the highest first. Empty when it is high nowhere or the face has no landmarks.
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
    #: Artifacts of the reply that are not shown, because they contradict themselves or one another.
    rationale_dropped: int = 0
    #: None for a bundle whose model has no such map, and for a face that nobody judged.
    foreign: ForeignMap | None = None
    #: Nobody judged this face, and it is much smaller than another one: it does not count for the picture.
    background: bool = False
    #: A few rounded numbers about how the tower sees it: pictures that change show in them, and no face is known by
    #: them. For whoever watches for drift, and for nobody else. None: the bundle has no heads.
    view: tuple[float, ...] | None = None

    @property
    def judged(self) -> bool:
        """Whether the model was asked about it."""
        return self.verdict.score is not None


@dataclass(frozen=True)
class PictureFacts:
    """What the bytes were, measured before anything was changed."""

    #: Of the original bytes, in hexadecimal.
    sha256: str
    size: int  # bytes
    format: str  # Pillow's name: JPEG, PNG, WEBP …
    width: int  # pixels, upright
    height: int  # pixels, upright
    #: How many frames the file says it holds, and which of them was analysed.
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
    #: Of the case whose analysis was reused because its bytes and fingerprint are the same. None when it was made.
    reused_from: str | None = None

    @property
    def faces_found(self) -> int:
        """All faces that were found, also those that nobody judged."""
        return len(self.faces)

    @property
    def faces_judged(self) -> int:
        """How many of them the model was asked about."""
        return sum(face.judged for face in self.faces)


#: A face is in the background when its longer side is less than this share of the largest one's.
BACKGROUND = 0.5


def in_background(face: Face, faces: Sequence[Face]) -> bool:
    """Whether it is much smaller than the largest face of its picture."""
    return longer_side(face) < BACKGROUND * max(longer_side(other) for other in faces)


def longer_side(face: Face) -> float:
    return max(face.box.width, face.box.height)


def image_verdict(faces: Sequence[FaceAnalysis]) -> tuple[Verdict, tuple[FaceAnalysis, ...]]:
    """One verdict for an image of several faces, and the faces with the deciding one first.

    A deepfaked face makes the image one. Without one, a face the model could not judge leaves the image
    undetermined: the face nobody could read may be the forged one. Only when every face is bona fide is the image.
    Small faces in the background that nobody judged come last, and change nothing.
    """
    if not faces:
        return undetermined(Abstain.NO_FACE), ()
    ordered = tuple(sorted(faces, key=_deciding_order, reverse=True))
    return ordered[0].verdict, ordered


def _deciding_order(face: FaceAnalysis) -> tuple[bool, int, float]:
    rank = {Label.DEEPFAKE: 2, Label.UNDETERMINED: 1, Label.BONA_FIDE: 0}[face.verdict.label]
    return not face.background, rank, face.verdict.score if face.verdict.score is not None else 0.0
