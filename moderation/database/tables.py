"""The tables. Every change here needs a migration; a test checks that both agree."""

import enum
from datetime import datetime
from typing import Annotated, Any, ClassVar
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Computed,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Sequence,
    SmallInteger,
    Text,
    UniqueConstraint,
    Uuid,
    literal_column,
    text,
)
from sqlalchemy import Table as SqlTable
from sqlalchemy.dialects.postgresql import ARRAY, BIT, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from moderation import likeness
from moderation.analysis import Label, Technique
from moderation.cases import CaseState, Move, Stage
from moderation.decisions import Answer, Outcome
from moderation.people import Role
from moderation.rollout import Action

LEASE_TOKENS = Sequence("lease_tokens", metadata=(_metadata := MetaData()))

_NOW = text("now()")
#: All texts and numbers of a context, as its index holds them and the search asks for them.
CONTEXT_VALUES = (
    """jsonb_path_query_array(context, 'strict $.** ? (@.type() == "string" || @.type() == "number")')"""
)


def _one_of(column: str, values: type[enum.StrEnum]) -> str:
    return f"{column} IN ({', '.join(repr(value.value) for value in values)})"


def _index(name: str, columns: str, *, where: str, unique: bool = False) -> Index:
    """An index over the rows that fit: its columns and expressions as in SQL."""
    parts = [part if part.isidentifier() else text(part) for part in columns.split(", ")]
    return Index(name, *parts, unique=unique, postgresql_where=text(where))


#: Columns for numbers of two bytes, and of eight.
Small = Annotated[int, 2]
Big = Annotated[int, 8]


class Table(DeclarativeBase):
    metadata = _metadata
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        str: Text,
        int: Integer,
        Small: SmallInteger,
        Big: BigInteger,
        bytes: LargeBinary,
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB(none_as_null=True),
        list[str]: ARRAY(Text),
    }


class CaseRow(Table):
    __tablename__ = "cases"
    __table_args__ = (
        CheckConstraint(_one_of("state", CaseState), name="cases_state_known"),
        CheckConstraint(
            "(state = 'analyzing') = (lease_token IS NOT NULL)"
            " AND (lease_token IS NULL) = (lease_owner IS NULL)"
            " AND (lease_token IS NULL) = (lease_expires_at IS NULL)",
            name="cases_lease_whole",
        ),
        CheckConstraint("(refusal_code IS NULL) = (refusal_message IS NULL)", name="cases_refusal_whole"),
        CheckConstraint(_one_of("stage", Stage), name="cases_stage_known"),
        _index("cases_external_id", "source, external_id", where="external_id IS NOT NULL", unique=True),
        _index(
            "cases_idempotency_key",
            "source, idempotency_key",
            where="idempotency_key IS NOT NULL",
            unique=True,
        ),
        # Live cases are a small part of a hundred million rows, so each live state has its own small index.
        _index("cases_waiting", "source, priority DESC, due_at, id", where="state = 'waiting'"),
        _index("cases_leased", "lease_expires_at", where="state = 'analyzing'"),
        # The reviewers' queue: all of it, and by its most common filters.
        _index("cases_queue", "queued_at, id", where="state = 'ready'"),
        _index("cases_to_review", "queued_at, id", where="state = 'ready' AND set_aside IS NULL"),
        _index("cases_set_aside", "queued_at, id", where="state = 'ready' AND set_aside IS NOT NULL"),
        _index("cases_queue_stage", "stage, queued_at, id", where="state = 'ready'"),
        _index("cases_queue_source", "source, queued_at, id", where="state = 'ready'"),
        _index("cases_queue_label", "label, queued_at, id", where="state = 'ready'"),
        _index(
            "cases_queue_technique",
            "technique, queued_at, id",
            where="state = 'ready' AND technique IS NOT NULL",
        ),
        # For cases without a verdict: after `IS NULL` Postgres takes no order from an index.
        _index("cases_queue_no_verdict", "queued_at, id", where="state = 'ready' AND label IS NULL"),
        _index(
            "cases_queue_campaign",
            "campaign, queued_at, id",
            where="state = 'ready' AND campaign IS NOT NULL",
        ),
        _index("cases_ready_age", "ready_at", where="state = 'ready'"),
        _index("cases_decided", "decided_at, id", where="state = 'decided'"),
        _index(
            "cases_to_erase",
            "source, decided_at",
            where="state = 'decided' AND erased_at IS NULL AND archive_id IS NULL",
        ),
        # Without archived cases, which are most of them and are erased in the archive.
        _index(
            "cases_archived_to_erase",
            "source, decided_at",
            where="state = 'decided' AND erased_at IS NULL AND archive_id IS NOT NULL",
        ),
        # Cases to erase once their retention is over.
        _index("cases_withdrawn", "source, withdrawn_at", where="state = 'withdrawn' AND erased_at IS NULL"),
        _index("cases_live", "state, id", where="state <> 'decided'"),
        _index("cases_to_archive", "id", where="state = 'decided' AND archive_id IS NULL"),
        _index("cases_archived", "archive_id", where="archive_id IS NOT NULL"),
        Index("cases_source", "source", "id"),
        # For the search. Keys are long, and an entry of a hash index has only four bytes.
        Index("cases_id_end", text("right(CAST(id AS text), 8)")),
        Index("cases_key", "key", postgresql_using="hash", postgresql_where=text("erased_at IS NULL")),
        Index(
            "cases_context",
            literal_column(CONTEXT_VALUES).label("values_within"),
            postgresql_using="gin",
            postgresql_ops={"values_within": "jsonb_path_ops"},
            postgresql_where=text("context IS NOT NULL"),
        ),
        {
            "comment": "One flagged image each, from flag to decision. The row is the truth; messages only ring."
        },
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, comment="UUIDv7: ordered by time of acceptance")
    source: Mapped[str] = mapped_column(comment="The platform, or the part of it, that flagged")
    external_id: Mapped[str | None] = mapped_column(comment="The platform's own id, unique within its source")
    idempotency_key: Mapped[str | None] = mapped_column(comment="Of the request that opened the case")
    request_digest: Mapped[bytes] = mapped_column(
        comment="sha256 of what was asked: same key, other digest is a conflict"
    )
    bucket: Mapped[str]
    key: Mapped[str]
    version_id: Mapped[str | None] = mapped_column(comment="Null: whatever the key holds when it is fetched")
    reason: Mapped[str | None] = mapped_column(comment="Why it was flagged, in the platform's words")
    priority: Mapped[Small] = mapped_column(comment="0 to 100, the higher the sooner")
    context: Mapped[dict[str, Any] | None] = mapped_column(comment="Opaque, echoed back")
    state: Mapped[str] = mapped_column(comment="See moderation.cases.CaseState")
    version: Mapped[int] = mapped_column(comment="Raised by one with every move")
    attempts: Mapped[Small] = mapped_column(server_default="0", comment="Leases that count against the cap")
    postponements: Mapped[Small] = mapped_column(
        server_default="0", comment="Leases handed back because something else was unavailable"
    )
    expired_leases: Mapped[Small] = mapped_column(
        server_default="0", comment="Leases that ran out; any makes the case be analysed alone"
    )
    due_at: Mapped[datetime] = mapped_column(server_default=_NOW, comment="Not claimed before this")
    rung_at: Mapped[datetime | None] = mapped_column(comment="When its id was last put on the queue")
    lease_token: Mapped[Big | None] = mapped_column(comment="Fences every write of the lease's holder")
    lease_owner: Mapped[str | None]
    lease_expires_at: Mapped[datetime | None] = mapped_column(comment="By the database's clock")
    refusal_code: Mapped[str | None] = mapped_column(
        comment="Why there is no analysis: a code of errors.ImageRejected"
    )
    refusal_message: Mapped[str | None] = mapped_column(comment="The same for a reviewer")
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    ready_at: Mapped[datetime | None] = mapped_column(comment="Since when it waits for a person")
    stage: Mapped[str] = mapped_column(
        server_default="first", comment="Which review it waits for or had last: see moderation.cases.Stage"
    )
    queued_at: Mapped[datetime] = mapped_column(
        server_default=_NOW,
        comment="Its place among the ready: ready_at less its head start, see moderation.triage",
    )
    analysis_id: Mapped[UUID | None] = mapped_column(comment="The analysis on show; null: there is none")
    label: Mapped[str | None] = mapped_column(comment="Of the verdict on show, to find cases by")
    technique: Mapped[str | None] = mapped_column(comment="Of the verdict on show, to find cases by")
    campaign: Mapped[int | None] = mapped_column(
        comment="The leading hash of the pictures that look like its own; null: not hashed"
    )
    certificate_id: Mapped[int | None] = mapped_column(
        comment="By which certificate its place in the queue was moved; null: by none"
    )
    set_aside: Mapped[str | None] = mapped_column(
        comment="Why nobody can judge it by a face: refused or no_face. Null: somebody can"
    )
    decided_at: Mapped[datetime | None]
    withdrawn_at: Mapped[datetime | None] = mapped_column(
        comment="When its platform took the image back; null: it did not"
    )
    erased_at: Mapped[datetime | None] = mapped_column(
        comment="When its texts and the place of its image were taken away"
    )
    erased_by: Mapped[str | None] = mapped_column(comment="operator, or sweeper when its time was over")
    archive_id: Mapped[Big | None] = mapped_column(
        ForeignKey("archives.id", name="cases_archive"),
        comment="Where its analyses, events and questions lie; null: here",
    )


class ArchiveRow(Table):
    __tablename__ = "archives"
    __table_args__ = (
        UniqueConstraint("bucket", "key", name="archives_place"),
        {"comment": "Objects of S3 that hold what old cases consist of."},
    )

    id: Mapped[Big] = mapped_column(Identity(always=True), primary_key=True)
    bucket: Mapped[str]
    key: Mapped[str]
    cases: Mapped[int]
    size: Mapped[Big] = mapped_column(comment="Bytes of the object")
    sha256: Mapped[bytes] = mapped_column(comment="Of the cases' lines, unpacked")
    begun_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    finished_at: Mapped[datetime | None] = mapped_column(
        comment="Since when the cases are in it alone. Null: in the making, or left over and to be removed"
    )


class AnalysisRow(Table):
    __tablename__ = "analyses"
    __table_args__ = (
        UniqueConstraint("case_id", "fingerprint", name="analyses_once"),
        CheckConstraint(_one_of("label", Label), name="analyses_label_known"),
        Index("analyses_of_bytes", "image_sha256", "fingerprint"),
        {"comment": "One run of one pipeline on one image each. Written once, never changed."},
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    case_id: Mapped[UUID] = mapped_column(ForeignKey("cases.id"))
    fingerprint: Mapped[str] = mapped_column(comment="Of bundle, preprocessing and pipeline version")
    bundle: Mapped[str] = mapped_column(comment="Name and version of the bundle, for people")
    image_sha256: Mapped[bytes] = mapped_column(comment="Of the original bytes")
    picture: Mapped[dict[str, Any]] = mapped_column(
        comment="Size, format, pixels, frames, what decoding had to do"
    )
    label: Mapped[str]
    score: Mapped[float | None] = mapped_column(comment="In [0, 1]; a probability only when calibrated")
    calibrated: Mapped[bool]
    technique: Mapped[str | None]
    abstain: Mapped[str | None]
    verdict: Mapped[dict[str, Any]] = mapped_column(comment="The image's verdict, whole")
    faces: Mapped[list[dict[str, Any]]] = mapped_column(
        JSONB, comment="Per face: box, landmarks, verdict, reply"
    )
    faces_found: Mapped[Small | None] = mapped_column(comment="Null before 0013: count `faces`")
    faces_judged: Mapped[Small | None] = mapped_column(comment="How many of them the model was asked about")
    seconds: Mapped[dict[str, Any]] = mapped_column(comment="Spent per stage")
    reused_from: Mapped[UUID | None] = mapped_column(
        comment="The analysis of the same bytes that this one repeats"
    )
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)


class RenditionRow(Table):
    __tablename__ = "renditions"
    __table_args__ = (
        Index("renditions_age", "created_at"),
        {
            "comment": "Small pictures for lists, and pictures that browsers show of kinds that they do not. Gone with"
            " what a case says about somebody."
        },
    )

    case_id: Mapped[UUID] = mapped_column(ForeignKey("cases.id"), primary_key=True)
    thumbnail: Mapped[bytes] = mapped_column(comment="JPEG, 192 pixels at its longer side")
    shown: Mapped[bytes | None] = mapped_column(comment="JPEG; null: browsers show the file itself")
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)


class ArtifactRow(Table):
    __tablename__ = "artifacts"
    __table_args__ = ({"comment": "The parts of a rationale: what looks wrong and where."},)

    analysis_id: Mapped[UUID] = mapped_column(ForeignKey("analyses.id"), primary_key=True)
    face: Mapped[Small] = mapped_column(primary_key=True, comment="Index into analyses.faces")
    ordinal: Mapped[Small] = mapped_column(primary_key=True, comment="From 1, in the model's order")
    heading: Mapped[str] = mapped_column(comment="The region in the model's words")
    regions: Mapped[list[str]]
    text: Mapped[str]
    polygon: Mapped[list[Any] | None] = mapped_column(
        JSONB(none_as_null=True), comment="Approximate, in pixels; null when there is none to draw"
    )


class EffectRow(Table):
    __tablename__ = "effects"
    __table_args__ = (
        {"comment": "By how much the score of a face falls without the region of an artifact. Written once."},
    )

    analysis_id: Mapped[UUID] = mapped_column(ForeignKey("analyses.id"), primary_key=True)
    face: Mapped[Small] = mapped_column(primary_key=True, comment="As in artifacts")
    ordinal: Mapped[Small] = mapped_column(primary_key=True, comment="As in artifacts")
    score_without: Mapped[float] = mapped_column(comment="With the region hidden")
    margin_fall: Mapped[float] = mapped_column(comment="How much lower the margin is then")
    control_score: Mapped[float] = mapped_column(comment="With a control region of equal area hidden instead")
    control_fall: Mapped[float] = mapped_column(comment="How much lower the margin is then")
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)


class EvidenceRow(Table):
    __tablename__ = "evidence"
    __table_args__ = (
        CheckConstraint("declared IN ('synthetic', 'captured')", name="evidence_declared_known"),
        CheckConstraint("(declared IS NULL) = (strength IS NULL)", name="evidence_declared_whole"),
        {"comment": "Facts about each case's picture that no model gave: see moderation.evidence."},
    )

    case_id: Mapped[UUID] = mapped_column(ForeignKey("cases.id"), primary_key=True)
    gatherer: Mapped[str] = mapped_column(
        comment="What the facts depend on beside the bytes: code and trust lists"
    )
    declared: Mapped[str | None] = mapped_column(comment="What the strongest fact declares the picture to be")
    strength: Mapped[str | None] = mapped_column(comment="Of that fact: cryptographic or declared")
    facts: Mapped[list[dict[str, Any]]] = mapped_column(JSONB, comment="See moderation.evidence.words.Fact")
    seconds: Mapped[float] = mapped_column(comment="Of CPU, spent on gathering them")
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)


#: The hashes of pictures, each once, however many cases have it. `moderation.likeness` explains the words.
HASHES = SqlTable(
    "hashes",
    _metadata,
    Column("id", Integer, Identity(always=True), primary_key=True),
    Column("hash", BIT(likeness.BITS), nullable=False, comment="PDQ, of a whole picture"),
    Column(
        "leader",
        Integer,
        comment="The hash whose campaign it belongs to, near to it; null: it leads one, perhaps alone",
    ),
    *(
        Column(
            f"word_{number}",
            Integer,
            Computed(f"(substring(hash, {band.first + 1}, {band.width}))::integer", persisted=True),
        )
        for number, band in enumerate(likeness.BANDS)
    ),
    UniqueConstraint("hash", name="hashes_once"),
    *(
        Index(
            f"hashes_word_{number}",
            f"word_{number}",
            postgresql_include=[f"word_{likeness.partner(number)}", "id"],
        )
        for number in range(len(likeness.BANDS))
    ),
    *(
        Index(
            f"hashes_turned_{number}",
            text(likeness.turned(f"word_{number}", band)),
            postgresql_include=[f"word_{number}", f"word_{likeness.partner(number)}", "id"],
        )
        for number, band in enumerate(likeness.BANDS)
        if band.is_wide
    ),
    comment="What pictures look like: of cases, and of lists that others made.",
)


class CaseHashRow(Table):
    __tablename__ = "case_hashes"
    __table_args__ = (
        Index("case_hashes_alike", "hash_id", "case_id"),
        {"comment": "What the picture of each case looks like. No verdict follows from a likeness."},
    )

    case_id: Mapped[UUID] = mapped_column(ForeignKey("cases.id"), primary_key=True)
    hash_id: Mapped[int] = mapped_column(ForeignKey("hashes.id"))
    mirrored: Mapped[str] = mapped_column(BIT(likeness.BITS), comment="Of the picture as a mirror shows it")
    quality: Mapped[Small] = mapped_column(comment="0 to 100: how much there is in the picture")
    faces: Mapped[list[str]] = mapped_column(
        comment="PDQ of the faces that were looked at, the largest first, in hexadecimal"
    )


class HashListRow(Table):
    __tablename__ = "hash_lists"
    __table_args__ = (
        UniqueConstraint("name", name="hash_lists_name"),
        {"comment": "Lists of hashes that others made, and what they are lists of."},
    )

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    name: Mapped[str]
    note: Mapped[str | None] = mapped_column(comment="What it is a list of, for people")
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)


class ListedHashRow(Table):
    __tablename__ = "listed_hashes"
    __table_args__ = (Index("listed_hashes_hash", "hash_id"), {"comment": "The hashes of each list."})

    list_id: Mapped[int] = mapped_column(ForeignKey("hash_lists.id"), primary_key=True)
    hash_id: Mapped[int] = mapped_column(ForeignKey("hashes.id"), primary_key=True)
    reference: Mapped[str | None] = mapped_column(comment="What its list calls it")


class CertificateRow(Table):
    __tablename__ = "certificates"
    __table_args__ = (
        CheckConstraint("zone IN ('clear', 'likely')", name="certificates_zone_known"),
        CheckConstraint(
            "(revoked_at IS NULL) = (revoked_because IS NULL)", name="certificates_revoked_whole"
        ),
        CheckConstraint("(used_since IS NULL) = (used_by IS NULL)", name="certificates_used_whole"),
        CheckConstraint(
            "(closes_since IS NULL) = (closes_by IS NULL) AND (closes_since IS NULL OR used_since IS NOT NULL)",
            name="certificates_closes_whole",
        ),
        {"comment": "What the model may be trusted with: see moderation.evidence.certify."},
    )

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    source: Mapped[str | None] = mapped_column(comment="Whose cases; null: all")
    fingerprint: Mapped[str] = mapped_column(comment="Of the pipeline whose scores were judged")
    zone: Mapped[str] = mapped_column(comment="clear: below the threshold; likely: above it")
    threshold: Mapped[float]
    error: Mapped[float] = mapped_column(comment="The part of the zone that may be wrong")
    confidence: Mapped[float]
    n: Mapped[int] = mapped_column(comment="Pictures inside the zone that were judged blind")
    errors: Mapped[int]
    bound: Mapped[float] = mapped_column(comment="The error is not larger, as sure as was asked")
    since: Mapped[datetime] = mapped_column(comment="When its labels were given: from")
    until: Mapped[datetime] = mapped_column(comment="And to")
    issued_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    issued_by: Mapped[str]
    expires_at: Mapped[datetime]
    used_since: Mapped[datetime | None] = mapped_column(
        comment="When an admin turned it on; null: it is not used"
    )
    used_by: Mapped[str | None]
    closes_since: Mapped[datetime | None] = mapped_column(
        comment="When an admin let it close cases of its zone; null: people decide them"
    )
    closes_by: Mapped[str | None]
    version: Mapped[int] = mapped_column(server_default="0", comment="Events of it: see certificate_events")
    audited_n: Mapped[int | None] = mapped_column(
        comment="At the last look: judged blind inside the zone lately"
    )
    audited_errors: Mapped[int | None]
    audited_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None] = mapped_column(comment="For good: a new one is issued instead")
    revoked_because: Mapped[str | None]


class CertificateEventRow(Table):
    __tablename__ = "certificate_events"
    __table_args__ = (
        {"comment": "Append-only log of what was done with each certificate, hash-chained by a trigger."},
    )

    certificate_id: Mapped[int] = mapped_column(ForeignKey("certificates.id"), primary_key=True)
    seq: Mapped[int] = mapped_column(
        primary_key=True, autoincrement=False, comment="From 1; set by the trigger"
    )
    at: Mapped[datetime] = mapped_column(server_default=_NOW)
    kind: Mapped[str] = mapped_column(comment="See moderation.evidence.zones.Step")
    actor: Mapped[str] = mapped_column(comment="Who did it: operator, sweeper, reviewer:…")
    body: Mapped[dict[str, Any]] = mapped_column(comment="Facts of it")
    previous: Mapped[bytes] = mapped_column(
        comment="Hash of the event before, empty for the first; set by the trigger"
    )
    hash: Mapped[bytes] = mapped_column(comment="Set by the trigger; see moderation.database.events")


class DriftLookRow(Table):
    __tablename__ = "drift_looks"
    __table_args__ = (
        Index("drift_looks_source", "source", "at"),
        {
            "comment": "Whether each source's pictures of late are like those before, as `bonafide drift` found it."
        },
    )

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    at: Mapped[datetime] = mapped_column(server_default=_NOW)
    source: Mapped[str]
    fingerprint: Mapped[str] = mapped_column(comment="Of the pipeline whose analyses were looked at")
    before: Mapped[int] = mapped_column(comment="Cases that were held against")
    late: Mapped[int] = mapped_column(comment="Cases of late")
    p: Mapped[float | None] = mapped_column(comment="Null: too few cases to say")
    doubt: Mapped[float] = mapped_column(comment="An alarm from this p down")
    alarm: Mapped[bool]
    shifted: Mapped[list[dict[str, Any]]] = mapped_column(JSONB, comment="By how much each number shifted")
    examples: Mapped[list[UUID]] = mapped_column(ARRAY(Uuid()), comment="Late cases least like those before")


class EventRow(Table):
    __tablename__ = "events"
    __table_args__ = (
        CheckConstraint(_one_of("kind", Move), name="events_kind_known"),
        # The log grows in the order of time: a block-range index of a few pages is enough for a billion events.
        Index("events_at", "at", postgresql_using="brin", postgresql_with={"autosummarize": "on"}),
        {"comment": "Append-only log of every move, hash-chained per case by a trigger."},
    )

    case_id: Mapped[UUID] = mapped_column(ForeignKey("cases.id"), primary_key=True)
    seq: Mapped[int] = mapped_column(
        primary_key=True, autoincrement=False, comment="From 1; set by the trigger"
    )
    at: Mapped[datetime] = mapped_column(server_default=_NOW)
    kind: Mapped[str]
    actor: Mapped[str] = mapped_column(
        comment="Who did it: platform:…, worker:…, sweeper, operator, reviewer:…"
    )
    body: Mapped[dict[str, Any]] = mapped_column(comment="Facts of the move. No picture, no text of a person")
    previous: Mapped[bytes] = mapped_column(
        comment="Hash of the event before, empty for the first; set by the trigger"
    )
    hash: Mapped[bytes] = mapped_column(comment="Set by the trigger; see moderation.database.events")


class KeyRow(Table):
    __tablename__ = "api_keys"
    __table_args__ = ({"comment": "Platforms' keys. The secret itself is shown once and never stored."},)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(comment="Whose it is; the default source of its cases")
    prefix: Mapped[str] = mapped_column(
        unique=True, comment="The visible part, to find and to recognise it by"
    )
    digest: Mapped[bytes] = mapped_column(comment="sha256 of the whole key")
    scopes: Mapped[list[str]]
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class DeadLetterRow(Table):
    __tablename__ = "dead_letters"
    __table_args__ = (
        {"comment": "Messages nobody could process, kept for an engineer. No case depends on one."},
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    queue: Mapped[str]
    body: Mapped[str] = mapped_column(comment="As it came, at most 64 KB")
    error: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    replayed_at: Mapped[datetime | None]
    dismissed_at: Mapped[datetime | None] = mapped_column(
        comment="When an operator needed it no more; null: it is listed"
    )


class HeartbeatRow(Table):
    __tablename__ = "heartbeats"
    __table_args__ = (
        {"comment": "When each worker and sweeper was last seen: for `doctor` and the console."},
    )

    process: Mapped[str] = mapped_column(primary_key=True, comment="worker:host:pid, sweeper:host:pid")
    seen_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    facts: Mapped[dict[str, Any]]


class PersonRow(Table):
    __tablename__ = "people"
    __table_args__ = (
        CheckConstraint(_one_of("role", Role), name="people_role_known"),
        {"comment": "Who may sign in to the console."},
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(unique=True, comment="Lower-cased; what they sign in with")
    name: Mapped[str]
    role: Mapped[str] = mapped_column(comment="See moderation.people.Role")
    password_digest: Mapped[str | None] = mapped_column(comment="argon2; null: signs in elsewhere only")
    first_password: Mapped[bool] = mapped_column(
        server_default=text("false"),
        comment="Somebody else made the password and knows it: they choose their own before anything else",
    )
    preferences: Mapped[dict[str, Any]] = mapped_column(server_default="{}", comment="How they see pictures")
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    disabled_at: Mapped[datetime | None]


class SignInRow(Table):
    __tablename__ = "sign_ins"
    __table_args__ = (
        Index("sign_ins_person", "person_id"),
        Index("sign_ins_end", "expires_at"),
        {"comment": "Sessions of the console, each named by a cookie whose secret is not stored."},
    )

    digest: Mapped[bytes] = mapped_column(primary_key=True, comment="sha256 of the cookie's secret")
    person_id: Mapped[UUID] = mapped_column(ForeignKey("people.id"))
    csrf: Mapped[str] = mapped_column(comment="Comes back with every form")
    first_password: Mapped[bool] = mapped_column(
        server_default=text("false"), comment="Begun with a first password"
    )
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    seen_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    expires_at: Mapped[datetime]


class SignInFailureRow(Table):
    __tablename__ = "sign_in_failures"
    __table_args__ = (
        Index("sign_in_failures_email", "email", "at"),
        Index("sign_in_failures_address", "address", "at"),
        {"comment": "Sign-ins that failed lately: what throttling counts."},
    )

    id: Mapped[Big] = mapped_column(Identity(always=True), primary_key=True)
    email: Mapped[str]
    address: Mapped[str] = mapped_column(comment="Where it came from")
    at: Mapped[datetime] = mapped_column(server_default=_NOW)


class ClaimRow(Table):
    __tablename__ = "claims"
    __table_args__ = (
        Index("claims_person", "person_id"),
        {"comment": "Which reviewer has which ready case in front of them: a short lease, renewed."},
    )

    case_id: Mapped[UUID] = mapped_column(ForeignKey("cases.id"), primary_key=True)
    person_id: Mapped[UUID] = mapped_column(ForeignKey("people.id"))
    token: Mapped[Big] = mapped_column(comment="Fences every write of its holder")
    claimed_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    expires_at: Mapped[datetime] = mapped_column(comment="By the database's clock")


class DecisionRow(Table):
    __tablename__ = "decisions"
    __table_args__ = (
        CheckConstraint(_one_of("stage", Stage), name="decisions_stage_known"),
        CheckConstraint(_one_of("outcome", Outcome), name="decisions_outcome_known"),
        CheckConstraint(_one_of("technique", Technique), name="decisions_technique_known"),
        CheckConstraint("technique IS NULL OR outcome = 'deepfake'", name="decisions_technique_of_deepfake"),
        Index("decisions_case", "case_id", "created_at"),
        Index("decisions_person", "person_id", "created_at"),
        Index("decisions_at", "created_at", postgresql_using="brin", postgresql_with={"autosummarize": "on"}),
        {"comment": "What people decided. Only ever added to; one taken back in time keeps its row."},
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    case_id: Mapped[UUID] = mapped_column(ForeignKey("cases.id"))
    stage: Mapped[str] = mapped_column(comment="Which review of the case this was")
    outcome: Mapped[str]
    technique: Mapped[str | None]
    reason: Mapped[str | None] = mapped_column(comment="In the reviewer's words")
    policy: Mapped[str | None] = mapped_column(comment="The rule of the platform it rests on")
    person_id: Mapped[UUID] = mapped_column(ForeignKey("people.id"))
    #: For an archived case it names an analysis in the archive.
    analysis_id: Mapped[UUID | None] = mapped_column(comment="What was shown; null: the case had no analysis")
    verdict: Mapped[str | None] = mapped_column(comment="The label of that analysis")
    blind_outcome: Mapped[str | None] = mapped_column(comment="Said before the verdict was shown")
    blind_technique: Mapped[str | None]
    saw_verdict_first: Mapped[bool]
    seconds: Mapped[float | None] = mapped_column(comment="From claim to decision; null: decided in bulk")
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    final_at: Mapped[datetime] = mapped_column(comment="End of the undo window")
    undone_at: Mapped[datetime | None] = mapped_column(comment="The one column that is ever changed")
    supersedes: Mapped[UUID | None] = mapped_column(
        ForeignKey("decisions.id"), comment="The decision of an earlier review whose place it takes"
    )


class BlindJudgementRow(Table):
    __tablename__ = "blind_judgements"
    __table_args__ = (
        CheckConstraint(_one_of("outcome", Outcome), name="blind_judgements_outcome_known"),
        {"comment": "What reviewers said of a case before its verdict was shown to them."},
    )

    case_id: Mapped[UUID] = mapped_column(ForeignKey("cases.id"), primary_key=True)
    person_id: Mapped[UUID] = mapped_column(ForeignKey("people.id"), primary_key=True)
    outcome: Mapped[str]
    technique: Mapped[str | None]
    at: Mapped[datetime] = mapped_column(server_default=_NOW)


class DraftRow(Table):
    __tablename__ = "drafts"
    __table_args__ = (
        Index("drafts_at", "at"),
        {
            "comment": "What people have filled into the forms of a case and not sent yet. Forgotten after a day."
        },
    )

    case_id: Mapped[UUID] = mapped_column(ForeignKey("cases.id"), primary_key=True)
    person_id: Mapped[UUID] = mapped_column(ForeignKey("people.id"), primary_key=True)
    form: Mapped[str] = mapped_column(primary_key=True, comment="See moderation.database.drafts.Form")
    fields: Mapped[dict[str, Any]] = mapped_column(comment="As they were filled in, by name")
    at: Mapped[datetime] = mapped_column(server_default=_NOW)


class ArtifactAnswerRow(Table):
    __tablename__ = "artifact_answers"
    __table_args__ = (
        CheckConstraint(_one_of("answer", Answer), name="artifact_answers_answer_known"),
        {"comment": "Whether a reviewer sees what the model says it sees, artifact by artifact."},
    )

    decision_id: Mapped[UUID] = mapped_column(ForeignKey("decisions.id"), primary_key=True)
    analysis_id: Mapped[UUID]
    face: Mapped[Small] = mapped_column(primary_key=True)
    ordinal: Mapped[Small] = mapped_column(primary_key=True)
    answer: Mapped[str]


class SkipRow(Table):
    __tablename__ = "skips"
    __table_args__ = (
        Index("skips_person", "person_id", "case_id"),
        Index("skips_case", "case_id"),
        {"comment": "Cases that a reviewer passed on, and why: many skips are the sign of a hard one."},
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    case_id: Mapped[UUID] = mapped_column(ForeignKey("cases.id"))
    person_id: Mapped[UUID] = mapped_column(ForeignKey("people.id"))
    reason: Mapped[str]
    at: Mapped[datetime] = mapped_column(server_default=_NOW)


class AppealRow(Table):
    __tablename__ = "appeals"
    __table_args__ = (
        UniqueConstraint("decision_id", name="appeals_once"),
        Index("appeals_case", "case_id"),
        {"comment": "The uploader asks for another decision. One appeal per decision."},
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    case_id: Mapped[UUID] = mapped_column(ForeignKey("cases.id"))
    decision_id: Mapped[UUID] = mapped_column(ForeignKey("decisions.id"), comment="What is appealed against")
    reason: Mapped[str]
    appellant: Mapped[str] = mapped_column(comment="Who passed it on: platform:NAME or reviewer:ID")
    external_id: Mapped[str | None] = mapped_column(comment="The platform's own id of the appeal")
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    resolved_by: Mapped[UUID | None] = mapped_column(
        ForeignKey("decisions.id"), comment="The decision that answered it"
    )


class QuestionRow(Table):
    __tablename__ = "questions"
    __table_args__ = (
        Index("questions_case", "case_id", "created_at"),
        _index("questions_unanswered", "created_at", where="answered_at IS NULL"),
        {"comment": "What people asked DFA-GPT about a picture, and what it answered."},
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    case_id: Mapped[UUID] = mapped_column(ForeignKey("cases.id"))
    asked_by: Mapped[str] = mapped_column(comment="platform:NAME or reviewer:ID")
    question: Mapped[str]
    face: Mapped[Small | None] = mapped_column(
        comment="Which face, from 1 as on the page. Null: the one that decided, or no face was judged"
    )
    #: No foreign key: archiving a case moves its analyses first.
    analysis_id: Mapped[UUID | None] = mapped_column(
        comment="Whose faces are numbered. Null exactly when face is"
    )
    answer: Mapped[str | None] = mapped_column(comment="As the model wrote it")
    failure: Mapped[str | None] = mapped_column(comment="Why there is no answer: a code")
    fingerprint: Mapped[str | None] = mapped_column(comment="Of the pipeline that answered")
    bundle: Mapped[str | None]
    seconds: Mapped[float | None] = mapped_column(comment="The model's part of the wait")
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    answered_at: Mapped[datetime | None] = mapped_column(comment="When it was answered, or given up")
    rung_at: Mapped[datetime | None] = mapped_column(comment="When its id was last put on the queue")
    begun_at: Mapped[datetime | None] = mapped_column(comment="When a worker last took it; null: given back")
    attempts: Mapped[Small] = mapped_column(
        server_default="0", comment="Times a worker took it; the number fences its answer"
    )


class BundleRow(Table):
    __tablename__ = "bundles"
    __table_args__ = ({"comment": "What workers were started with: the names that people may use."},)

    fingerprint: Mapped[str] = mapped_column(
        primary_key=True, comment="Of bundle, preprocessing and pipeline version"
    )
    name: Mapped[str] = mapped_column(comment="Name and version of the bundle, for people")
    basis: Mapped[str | None] = mapped_column(
        comment="What its scores were calibrated on, in words. Null: on nothing"
    )
    basis_sources: Mapped[list[str] | None] = mapped_column(
        ARRAY(Text), comment="Sources of cases on which its calibration holds: there a score is a probability"
    )
    prompts: Mapped[Small | None] = mapped_column(comment="Version of its prompt set")
    first_seen: Mapped[datetime] = mapped_column(server_default=_NOW)
    last_seen: Mapped[datetime] = mapped_column(
        server_default=_NOW, comment="When a worker last started with it"
    )


class RolloutRow(Table):
    __tablename__ = "rollouts"
    __table_args__ = (
        CheckConstraint(_one_of("action", Action), name="rollouts_action_known"),
        CheckConstraint("share BETWEEN 0 AND 1 AND shadow BETWEEN 0 AND 1", name="rollouts_parts"),
        {
            "comment": "Which bundle serves and which is on trial. Only ever added to; the newest row is in force."
        },
    )

    id: Mapped[Big] = mapped_column(Identity(always=True), primary_key=True)
    at: Mapped[datetime] = mapped_column(server_default=_NOW)
    actor: Mapped[str] = mapped_column(comment="Who said so")
    action: Mapped[str] = mapped_column(comment="See moderation.rollout.Action")
    serving: Mapped[str | None] = mapped_column(
        comment="Fingerprint of the bundle that serves; null: each worker's own"
    )
    candidate: Mapped[str | None] = mapped_column(comment="Fingerprint of the bundle on trial")
    share: Mapped[float] = mapped_column(comment="Part of new cases whose own analysis the candidate makes")
    shadow: Mapped[float] = mapped_column(
        comment="Part of new cases that the candidate analyses as well, not shown"
    )
    note: Mapped[str | None] = mapped_column(comment="Why, in the operator's words")


class RerunRow(Table):
    __tablename__ = "reruns"
    __table_args__ = (
        UniqueConstraint("case_id", "fingerprint", name="reruns_once"),
        CheckConstraint("failure IS NULL OR done_at IS NOT NULL", name="reruns_failure_is_an_end"),
        _index("reruns_waiting", "fingerprint, id", where="done_at IS NULL"),
        _index("reruns_to_give_up", "attempts, created_at", where="done_at IS NULL"),
        {"comment": "Analyses asked for beside a case's own, in the shadow or to be shown in its place."},
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    case_id: Mapped[UUID] = mapped_column(ForeignKey("cases.id"))
    fingerprint: Mapped[str] = mapped_column(comment="Of the pipeline that is to analyse")
    shadow: Mapped[bool] = mapped_column(comment="True: not shown; false: takes the place of what is")
    asked_by: Mapped[str] = mapped_column(comment="operator, or rollout for a shadow")
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    rung_at: Mapped[datetime | None] = mapped_column(comment="When its id was last put on the queue")
    begun_at: Mapped[datetime | None] = mapped_column(comment="When a worker last took it; null: given back")
    attempts: Mapped[Small] = mapped_column(
        server_default="0", comment="Times a worker took it; the number fences its analysis"
    )
    done_at: Mapped[datetime | None] = mapped_column(comment="When it was analysed, or given up")
    failure: Mapped[str | None] = mapped_column(comment="Why there is no analysis: a code")


class ViewRow(Table):
    __tablename__ = "views"
    __table_args__ = (
        Index("views_at", "at", postgresql_using="brin", postgresql_with={"autosummarize": "on"}),
        Index("views_case", "case_id"),
        {"comment": "Who looked at which picture, and when."},
    )

    id: Mapped[Big] = mapped_column(Identity(always=True), primary_key=True)
    case_id: Mapped[UUID] = mapped_column(ForeignKey("cases.id"))
    person_id: Mapped[UUID] = mapped_column(ForeignKey("people.id"))
    at: Mapped[datetime] = mapped_column(server_default=_NOW)
    kind: Mapped[str] = mapped_column(comment="sent, thumbnail, revealed, shown, artifact")


class EndpointRow(Table):
    __tablename__ = "endpoints"
    __table_args__ = ({"comment": "Where platforms want to be told what happened to their cases."},)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    url: Mapped[str]
    kinds: Mapped[list[str]] = mapped_column(comment="Which deliveries it takes: case.decided, …")
    source: Mapped[str | None] = mapped_column(comment="Whose cases; null: all")
    secrets: Mapped[list[str]] = mapped_column(comment="Newest first; each signs until it is taken out")
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    disabled_at: Mapped[datetime | None]


class DeliveryRow(Table):
    __tablename__ = "deliveries"
    __table_args__ = (
        _index("deliveries_due", "endpoint_id, due_at", where="delivered_at IS NULL AND dead_at IS NULL"),
        Index("deliveries_endpoint", "endpoint_id", "created_at"),
        _index("deliveries_dead", "created_at", where="dead_at IS NOT NULL"),
        _index("deliveries_delivered", "created_at", where="delivered_at IS NOT NULL"),
        Index("deliveries_case", "case_id"),
        {"comment": "Webhooks to send, and what became of those sent."},
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, comment="The webhook-id, kept over every try")
    endpoint_id: Mapped[UUID] = mapped_column(ForeignKey("endpoints.id"))
    case_id: Mapped[UUID] = mapped_column(ForeignKey("cases.id"))
    kind: Mapped[str]
    body: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    due_at: Mapped[datetime] = mapped_column(server_default=_NOW, comment="Not sent before this")
    attempts: Mapped[Small] = mapped_column(server_default="0")
    delivered_at: Mapped[datetime | None]
    dead_at: Mapped[datetime | None] = mapped_column(comment="When it was given up; it can be sent again")
    last_status: Mapped[int | None]
    last_error: Mapped[str | None]
