"""The messages between a platform and us: one definition for the API, its OpenAPI document and the client."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    field_validator,
)

from moderation.analysis import Abstain, Label, Technique
from moderation.cases import CaseState, Flag, ImageRef, Stage
from moderation.decisions import Answer, Outcome
from moderation.likeness import Faces
from moderation.writing import NAME

#: Bytes of `context` as JSON: enough for ids and links, too little for a second database.
CONTEXT_AT_MOST = 4096

# Postgres cannot store a NUL in text. A control character in a name is a mistake or an attack.
_TEXT = r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]*$"
_Text = StringConstraints(pattern=_TEXT)
# Where an object lies: one line, but every key that a store accepts.
_LINE = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$"
_Line = StringConstraints(pattern=_LINE)
_MEDIA_TYPE = r"^image/[a-z0-9.+-]{1,60}$"
_SHA256 = r"^[0-9a-f]{64}$"
#: Texts that a query may look for.
SOUGHT = r"^[^\x00]*$"
#: Texts of the header Idempotency-Key.
PRINTABLE = r"^[\x20-\x7e]+$"
Name = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=NAME)]
Sentence = Annotated[str, StringConstraints(min_length=1, max_length=2000), _Text]
# Half of a surrogate pair is no character either. Pydantic itself refuses it in text fields.
_UNSTORABLE = re.compile(r"[\x00\ud800-\udfff]")


_DATE = re.compile(r"\d{4}-")
#: A time whose + became a space, as it does in a URL.
_PLUS_LOST = re.compile(r":\d\d\S* \d\d:?\d\d$")


def _rfc_3339(given: str) -> str:
    """Refuse what pydantic would read as seconds since 1970, and what has lost its +."""
    if not _DATE.match(given):
        raise ValueError("should be a time as in 2026-11-23T04:00:00Z (RFC 3339)")
    if _PLUS_LOST.search(given):
        raise ValueError("has a space before its zone: write + as %2B in a URL, or the time in UTC with Z")
    return given


#: A time in a query.
Moment = Annotated[AwareDatetime, BeforeValidator(_rfc_3339)]

Token = Annotated[int, Field(ge=0, le=2**63 - 1, description="Of the claim.")]


class Wire(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Response(BaseModel):
    """What we send: later versions may add fields, so a client ignores those it does not know.

    It is made of fields, or of a value of ours that has the same names.
    """

    model_config = ConfigDict(frozen=True, from_attributes=True)


class ImageIn(Wire):
    """Where the image lies: bucket, key and, for certainty, version. Never a URL."""

    bucket: Annotated[str, StringConstraints(min_length=3, max_length=63), _Line]
    key: Annotated[str, StringConstraints(min_length=1, max_length=1024), _Line]
    version_id: Annotated[str, StringConstraints(min_length=1, max_length=1024), _Line] | None = None


class CaseIn(Wire):
    """A flag: a request to look at this image."""

    image: ImageIn
    source: Name | None = Field(
        None, description="The platform, or the part of it, that flags. Unset: the API key's name."
    )
    external_id: Name | None = Field(None, description="Your id of the upload, unique within the source.")
    reason: Sentence | None = Field(None, description="Why it was flagged, in your words.")
    priority: Annotated[int, Field(ge=0, le=100, description="The higher is looked at sooner.")] = 0
    context: dict[str, JsonValue] | None = Field(
        None, description="Opaque to us and echoed back. At most 4 KB as JSON."
    )

    @field_validator("context")
    @classmethod
    def _small(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is None:
            return None
        try:
            size = len(json.dumps(value, separators=(",", ":"), allow_nan=False))
        except ValueError as error:
            raise ValueError("holds a number that is not finite, which JSON does not know") from error
        if size > CONTEXT_AT_MOST:
            raise ValueError(f"takes {size} bytes as JSON; at most {CONTEXT_AT_MOST} are kept")
        if any(_UNSTORABLE.search(text) for text in _texts(value)):
            raise ValueError("holds a NUL or half of a surrogate pair, which cannot be stored")
        return value

    def flag(self, default_source: str) -> Flag:
        return Flag(
            image=ImageRef(self.image.bucket, self.image.key, self.image.version_id),
            source=self.source or default_source,
            external_id=self.external_id,
            reason=self.reason,
            priority=self.priority,
            context=self.context,
        )


def _texts(value: JsonValue) -> Iterator[str]:
    """All texts in it, also the names of fields."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, dict):
        yield from value
        for item in value.values():
            yield from _texts(item)


class Links(Response):
    self: str


class CaseAccepted(Response):
    id: UUID
    state: CaseState
    links: Links


class ChangeOut(Response):
    """Something that happened to a case."""

    kind: str = Field(description="As in the event log: `decided`, `second_review_asked`, `escalated` …")
    at: datetime


class Problem(Response):
    """RFC 9457 problem details, with a stable `code`."""

    type: str = "about:blank"
    title: str
    status: int
    code: str
    detail: str
    request_id: str | None = None
    #: For `invalid_request`: for each field its `pointer` (RFC 6901, into the body), or `parameter` and `in`; `detail`.
    errors: list[dict[str, Any]] | None = None
    #: For `stale_case`: what has happened since the named version, oldest first.
    changes: list[ChangeOut] | None = None


class BatchIn(Wire):
    """Up to a thousand flags. Each is read separately: a malformed one harms no other."""

    cases: list[Any] = Field(
        min_length=1, json_schema_extra={"items": {"$ref": "#/components/schemas/CaseIn"}, "maxItems": 1000}
    )


class BatchOutcome(Response):
    """The outcome of one item, at the item's place in the list."""

    status: Annotated[int, Field(description="202 opened, 200 was open already, 409 or 422 refused.")]
    case: CaseAccepted | None = None
    problem: Problem | None = None


class BatchOut(Response):
    accepted: int = Field(description="Opened by this call.")
    repeated: int = Field(description="Had been opened before by the same request.")
    refused: int
    outcomes: list[BatchOutcome]


class UploadIn(Wire):
    media_type: Annotated[str, StringConstraints(pattern=_MEDIA_TYPE)] = "image/jpeg"
    sha256: Annotated[str, StringConstraints(pattern=_SHA256)] | None = Field(
        None,
        description="Of the bytes you will PUT: the same bytes then have the same key, and may be flagged again.",
    )


class UploadOut(Response):
    """PUT the image's bytes to `url` with exactly these headers, then submit a case with `image`."""

    method: Literal["PUT"] = "PUT"
    url: str
    headers: dict[str, str]
    image: ImageIn
    expires_at: datetime


FacesFound = Annotated[int | None, Field(description="How many faces were found. Null: no analysis is here.")]
FacesJudged = Annotated[
    int | None, Field(description="How many of them the model was asked about. Null: no analysis is here.")
]


class VerdictOut(Response):
    """What the model says. A person decides."""

    label: Label
    score: float | None = Field(
        description="In [0, 1]; the higher the likelier a deepfake. A probability only where `is_probability`."
    )
    margin: float | None
    answer_mass: float | None
    calibrated: bool = Field(description="Whether the score was fitted on labelled pictures.")
    calibrated_on: str | None = Field(
        None, description="On which pictures, in words. Null: on none, or it is not known here."
    )
    is_probability: bool = Field(
        default=False,
        description="Whether the calibration holds for the case's source: pictures of it were fitted to. "
        "Elsewhere the score only orders cases.",
    )
    technique: Technique | None
    technique_scores: dict[Technique, float] | None
    abstain: Abstain | None


class EffectOut(Response):
    """How far the face's score falls without the artifact's region: the mean over several ways to hide it."""

    score_without: float = Field(description="The face's score with the region hidden.")
    margin_fall: float = Field(description="How much lower the margin is then; negative: higher.")
    control_score: float = Field(
        description="The score with a control region of equal area hidden instead, elsewhere on the face."
    )
    control_fall: float = Field(description="How much lower the margin is then.")
    supported: bool = Field(description="Whether the fall is larger than the control's, beyond its noise.")


class ForeignOut(Response):
    """Where pixels look foreign to the face, to a model that sees only pixels. No verdict comes from it."""

    side: int = Field(description="Of the square grid, in cells.")
    values: str = Field(
        description="side · side bytes in base64, rows from the top of the face crop: 0 not foreign, 255 foreign."
    )
    corners: list[list[float]] = Field(
        description="Top left, top right, bottom right and bottom left of the grid, in pixels of the upright picture."
    )
    highest: list[str] = Field(description="Regions in which it is highest, the highest first.")


class ArtifactOut(Response):
    region: str
    regions: list[str]
    text: str
    polygon: list[list[float]] | None = Field(
        description="Approximate outline, pixels of the upright picture."
    )
    effect: EffectOut | None = Field(
        None, description="Whether the score depends on the region. Null: it was not measured."
    )


class FaceOut(Response):
    box: list[float] = Field(description="Left, top, right, bottom in pixels of the upright picture.")
    confidence: float
    landmarks: list[list[float]] | None
    verdict: VerdictOut
    rationale: list[ArtifactOut]
    reply: str | None
    rationale_dropped: int = Field(
        0, description="Artifacts of the reply that are left out: they contradict themselves or one another."
    )
    foreign: ForeignOut | None = Field(
        None, description="A map of the face. Null: the bundle has none, or nobody judged the face."
    )
    background: bool = Field(
        default=False,
        description="Nobody judged it, and it is much smaller than another face: it does not count.",
    )


class PictureOut(Response):
    """Facts about the file."""

    sha256: str
    size: int
    format: str
    width: int
    height: int
    frames: int
    frame: int
    notes: list[str]


class FactOut(Response):
    """One fact about the picture that does not come from a model."""

    kind: str = Field(description="What it is about: `content_credentials`, `generator`, `jpeg` …")
    status: str = Field(description="`found`, or `unreadable`: it is there and cannot be read.")
    strength: str = Field(
        description="`cryptographic`: signed by somebody known. `declared`: anybody can write it. `anomaly`: something "
        "does not fit. `context`: it points nowhere by itself."
    )
    points_to: str | None = Field(description="`synthetic` or `captured`. Null: to neither.")
    data: dict[str, Any] = Field(
        description="Its values. Texts are the file's own: show them as text, never as markup."
    )
    says: str = Field(description="The same as a sentence, for a person.")
    cannot_tell: str = Field(description="What must not be read into it.")
    disclosable: str | None = Field(
        description="A fixed sentence that you may pass on to the uploader. Null: do not pass this fact on."
    )


class EvidenceOut(Response):
    """Facts beside the verdict. They make no score and no verdict."""

    declared: str | None = Field(
        description="What the strongest fact declares the picture to be: `synthetic` or `captured`."
    )
    strength: str | None = Field(description="Of that fact.")
    conflict: bool = Field(
        description="Whether that and the verdict do not fit: a person looks at it sooner."
    )
    facts: list[FactOut] = Field(description="The strongest first. What is not among them was not found.")


class DecisionOut(Response):
    """What a person decided."""

    id: UUID
    outcome: Outcome
    technique: Technique | None
    stage: Stage = Field(description="Which review of the case this was.")
    reason: str | None
    policy: str | None
    decided_at: datetime
    final_at: datetime = Field(
        description="Until then whoever decided may take it back. Webhooks wait for it."
    )


class AppealOut(Response):
    """Somebody asks for another decision."""

    id: UUID
    decision: UUID = Field(description="What is appealed against.")
    appellant: str | None = Field(
        None,
        description="Who passed it on: `platform:` with the API key's name, or `reviewer` for a person of this "
        "installation.",
    )
    reason: str
    external_id: str | None
    created_at: datetime
    resolved_by: UUID | None = Field(description="The decision that answered it. Null until then.")


class ArchivedOut(Response):
    """An old case: its scores, rationale, questions and events lie in an archive of the installation."""

    at: datetime
    place: str = Field(description="s3://BUCKET/KEY. An operator brings the case back, for an appeal say.")


class CaseOut(Response):
    id: UUID
    state: CaseState
    source: str
    external_id: str | None
    reason: str | None
    priority: int
    context: dict[str, Any] | None
    image: ImageIn
    created_at: datetime
    ready_at: datetime | None
    attempts: int
    version: int
    verdict: VerdictOut | None = Field(
        description="Null until ready, and when the image could not be analysed: see refusal."
    )
    rationale: list[ArtifactOut] = Field(description="Of the face that decided the verdict.")
    faces: list[FaceOut] = Field(
        description="All that were found, the deciding one first, those in the background last."
    )
    faces_found: FacesFound = None
    faces_judged: FacesJudged = None
    picture: PictureOut | None
    refusal: str | None = Field(description="Why there is no verdict: a code.")
    refusal_message: str | None
    fingerprint: str | None
    bundle: str | None
    timings: dict[str, float] | None = Field(description="Seconds per stage.")
    reused_from: UUID | None = Field(description="The analysis of the very same bytes that this one repeats.")
    stage: Stage = Field(description="Which review it waits for, or had last.")
    decision: DecisionOut | None = Field(
        description="What stands. Null until the case is decided, and while an appeal is open."
    )
    appeal: AppealOut | None = Field(
        None, description="The last appeal. It is open while `resolved_by` is null. Null: there was none."
    )
    appealed_decision: DecisionOut | None = Field(
        None, description="The decision that `appeal` is against. Null: there was no appeal."
    )
    archived: ArchivedOut | None = Field(
        None, description="Where all of it lies but the label, the technique and the decision. Null: here."
    )
    evidence: EvidenceOut | None = Field(
        None,
        description="Null until the picture was decoded, where none is gathered, and once archived or erased.",
    )
    withdrawn_at: datetime | None = Field(
        None, description="When its platform took the image back. Null: it did not."
    )
    erased_at: datetime | None = Field(
        None,
        description="When its image's place and all words about it were taken away, for good. Null: they are here.",
    )
    links: Links


class RelatedOut(Response):
    """Another case with a similar picture. Nothing was copied from it, and it proves nothing."""

    id: UUID
    distance: int = Field(description="Bits of 256 in which the two hashes differ: 31 or fewer look alike.")
    mirrored: bool = Field(description="It looks like this one in a mirror.")
    faces: Faces = Field(
        description="`same`: most likely the same pixels. `other`: the pictures look alike and the faces do not, so "
        "one may be the other with its face swapped. `unclear`: the hashes do not say."
    )
    face_distance: int | None = Field(
        description="Bits in which the faces differ. Null: not both have a face."
    )
    state: CaseState
    source: str
    created_at: datetime
    verdict: Label | None = Field(description="Of the analysis on show. Null: there is none.")
    outcome: Outcome | None = Field(description="Of the decision that stands. Null: none does.")
    links: Links


class ListedOut(Response):
    """An imported list with a picture that looks like this one."""

    name: str
    note: str | None
    reference: str | None = Field(description="What the list calls the picture.")
    distance: int


class RelatedPage(Response):
    cases: list[RelatedOut] = Field(description="The nearest first, then the newest. At most 50.")
    lists: list[ListedOut] = Field(description="Each once, with its nearest picture.")


class CasePage(Response):
    cases: list[CaseOut]
    next_cursor: str | None = Field(
        description="Pass it as `cursor` for the next page. Null on the last one."
    )


class ReviewerIn(Wire):
    """The reviewer who acts, by their email in this installation."""

    reviewer: Annotated[str, StringConstraints(min_length=3, max_length=320), _Text]


class ReleaseIn(ReviewerIn):
    token: Token


class ClaimOut(Response):
    """This reviewer has claimed the case. Claim it again to renew; the token stays."""

    token: int
    expires_at: datetime
    version: int = Field(description="Of the case as it is now: a decision names it.")


class ArtifactAnswerIn(Wire):
    """Whether the reviewer sees what the model names."""

    face: Annotated[int, Field(ge=0, le=1000, description="Index into the case's faces.")]
    ordinal: Annotated[int, Field(ge=1, le=1000, description="Place in that face's rationale, from 1.")]
    answer: Answer


class DecisionIn(ReviewerIn):
    token: Token
    version: Annotated[int, Field(ge=1, le=2**31 - 1, description="Of the case as the reviewer saw it.")]
    outcome: Outcome
    technique: Technique | None = Field(None, description="Only with `deepfake`.")
    reason: Sentence | None = None
    policy: Sentence | None = Field(None, description="The rule of yours that it rests on.")
    feedback: Annotated[list[ArtifactAnswerIn], Field(max_length=200)] = []


class AppealIn(Wire):
    reason: Sentence
    external_id: Name | None = Field(
        None, description="Your own id of the appeal. The same again is the same."
    )


class QuestionIn(Wire):
    question: Annotated[str, StringConstraints(min_length=1, max_length=500), _Text]
    face: Annotated[int, Field(ge=1, le=32_767)] | None = Field(
        None,
        description="Which face: its place in the case's `faces`, from 1. Unset: the first that was judged. "
        "One that was not judged is refused as `face_not_judged`.",
    )


class QuestionOut(Response):
    id: UUID
    question: str
    face: int | None = Field(
        None,
        description="Which face it is about, from 1, as the case listed them then. Null: none had been judged.",
    )
    answer: str | None = Field(description="In the model's words. Null until it is answered.")
    failure: str | None = Field(description="Why there is no answer: a code.")
    bundle: str | None
    fingerprint: str | None
    seconds: float | None = Field(description="The model's part of the wait.")
    created_at: datetime
    answered_at: datetime | None


class QuestionList(Response):
    questions: list[QuestionOut] = Field(description="The oldest first.")
    worker_is_there: bool = Field(description="Whether a worker lives that could answer now.")


class StatsOut(Response):
    waiting: int
    analyzing: int
    ready: int
    oldest_waiting_seconds: float = Field(
        description="Age of the oldest case that waits or is being analysed. 0: there is none."
    )
    ready_per_second: float = Field(description="Over the last minute.")
    estimated_wait_seconds: float | None = Field(
        description="For a case submitted now. Null while nothing is being finished."
    )
    reruns: int = Field(0, description="Cases that wait to be analysed once more, behind all others.")


WebhookKind = Literal["case.analyzed", "case.decided", "case.appealed", "case.withdrawn"]


class EndpointIn(Wire):
    """An address that gets your webhooks."""

    url: Annotated[str, StringConstraints(min_length=1, max_length=2000), _Text] = Field(
        description="An https:// URL with a public address."
    )
    kinds: list[WebhookKind] | None = Field(None, min_length=1, description="Unset: all of them.")
    source: Name | None = Field(None, description="Only of cases of this source. Unset: of all.")


class EndpointOut(Response):
    id: UUID
    url: str
    kinds: list[WebhookKind]
    source: str | None
    created_at: datetime
    disabled_at: datetime | None
    secret: str | None = Field(
        None, description="Verifies signatures. Shown when it is made, and never again."
    )


class EndpointList(Response):
    webhooks: list[EndpointOut]


class DeliveryOut(Response):
    """One webhook to one endpoint, sent or waiting."""

    id: UUID = Field(description="The `webhook-id`, the same over every try.")
    case_id: UUID
    kind: WebhookKind
    state: Literal["waiting", "delivered", "dead"]
    created_at: datetime
    due_at: datetime = Field(description="When it is, or was, tried next.")
    attempts: int
    delivered_at: datetime | None
    dead_at: datetime | None
    last_status: int | None
    last_error: str | None


class DeliveryPage(Response):
    deliveries: list[DeliveryOut]
    next_cursor: UUID | None = Field(
        description="Pass it as `cursor` for the next page. Null on the last one."
    )


class CaseTold(Response):
    """A case in a webhook. Read the rest with `links.self`."""

    id: UUID
    state: CaseState
    version: int = Field(description="The higher is the newer: webhooks may come out of order.")
    source: str
    external_id: str | None
    context: dict[str, Any] | None
    created_at: datetime
    ready_at: datetime | None
    verdict: VerdictOut | None
    faces_found: FacesFound = None
    faces_judged: FacesJudged = None
    fingerprint: str | None
    bundle: str | None
    refusal: str | None
    refusal_message: str | None
    decision: DecisionOut | None = Field(
        description="Of `case.decided`; of `case.appealed` the one that is appealed against. Null in the others."
    )
    appeal: AppealOut | None = Field(None, description="Of `case.appealed`.")
    links: Links


class WebhookOut(Response):
    """A webhook to your endpoint, signed as in https://www.standardwebhooks.com."""

    type: WebhookKind
    timestamp: datetime
    data: CaseTold


class StatementOut(Response):
    """A draft: nothing is sent anywhere."""

    case: UUID
    decision: UUID
    appealed: bool = Field(
        default=False, description="Whether an appeal of this decision is open: another person decides again."
    )
    facts: str = Field(description="What happened, in fixed sentences without personal data.")
    statement: dict[str, Any] | None = Field(
        description="Fields of the EU's transparency database. Null: the decision restricts nothing."
    )
    to_check: dict[str, str] = Field(description="Fields for you to complete or confirm.")


# --- what is wrong with a request, in words

#: Words for a text that does not fit its pattern. The pattern itself would tell its writer nothing.
_MISFITS = {
    _TEXT: "holds a control character",
    _LINE: "holds a control character or more than one line",
    NAME: "holds a control character, more than one line or a character that turns the direction of text",
    _MEDIA_TYPE: "is not the media type of an image, as image/jpeg is",
    _SHA256: "is not a sha256 in 64 hexadecimal digits, small letters",
    SOUGHT: "holds a NUL",
    PRINTABLE: "is not printable ASCII",
}
#: Our words for pydantic's errors, by type, where pydantic would name Python or our classes.
_SAID = {
    "missing": "is missing",
    "extra_forbidden": "is not known here",
    "model_attributes_type": "should be an object",
    "model_type": "should be an object",
    "dict_type": "should be an object",
    "list_type": "should be a list",
    "string_type": "should be text",
    "int_type": "should be a whole number",
    "int_parsing": "should be a whole number",
    "int_from_float": "should be a whole number",
    "bool_parsing": "should be true or false",
    "timezone_aware": "needs its time zone, as in 2026-11-23T04:00:00Z",
    "string_unicode": "holds half of a surrogate pair, which is no character",
}


def field_name(place: Sequence[str | int]) -> str:
    """A field's name for its sender: `image.key`, `feedback[2].face`. Empty for the whole."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".")


def what_is_wrong(error: Mapping[str, Any]) -> str:
    """One of pydantic's errors, as the end of a sentence that begins with the field's name."""
    given: Mapping[str, Any] = error.get("ctx") or {}
    if error["type"] == "string_pattern_mismatch":
        return _MISFITS.get(given["pattern"], f"does not fit {given['pattern']}")
    if error["type"] == "value_error":
        return str(given["error"])
    if error["type"] == "json_invalid":
        return f"is not JSON: {given['error']}"
    if error["type"] == "string_too_short" and given["min_length"] == 1:
        return "is empty"
    if error["type"] == "too_short":
        return f"should have at least {given['min_length']} item{'' if given['min_length'] == 1 else 's'}"
    message = str(error["msg"])
    return _SAID.get(error["type"], message.removeprefix("Input ").removeprefix("String "))
