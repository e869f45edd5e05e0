"""The tables. Every change here comes with a migration; a test holds the two together."""

import enum
from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Sequence,
    SmallInteger,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from moderation.analysis import Label
from moderation.cases import CaseState, Move

LEASE_TOKENS = Sequence("lease_tokens", metadata=(_metadata := MetaData()))

_NOW = text("now()")


def _one_of(column: str, values: type[enum.StrEnum]) -> str:
    return f"{column} IN ({', '.join(repr(value.value) for value in values)})"


class Table(DeclarativeBase):
    metadata = _metadata
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        str: Text,
        int: Integer,
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
        Index(
            "cases_external_id",
            "source",
            "external_id",
            unique=True,
            postgresql_where=text("external_id IS NOT NULL"),
        ),
        Index(
            "cases_idempotency_key",
            "source",
            "idempotency_key",
            unique=True,
            postgresql_where=text("idempotency_key IS NOT NULL"),
        ),
        # The live states are a sliver of a table of a hundred million: each has its own small index.
        Index(
            "cases_waiting", text("priority DESC"), "due_at", "id", postgresql_where=text("state = 'waiting'")
        ),
        Index("cases_leased", "lease_expires_at", postgresql_where=text("state = 'analyzing'")),
        Index(
            "cases_ready", text("priority DESC"), "ready_at", "id", postgresql_where=text("state = 'ready'")
        ),
        Index("cases_live", "state", "id", postgresql_where=text("state <> 'decided'")),
        Index("cases_source", "source", "id"),
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
    priority: Mapped[int] = mapped_column(SmallInteger, comment="0 to 100, the higher the sooner")
    context: Mapped[dict[str, Any] | None] = mapped_column(comment="Opaque, echoed back")
    state: Mapped[str] = mapped_column(comment="See moderation.cases.CaseState")
    version: Mapped[int] = mapped_column(comment="Raised by one with every move")
    attempts: Mapped[int] = mapped_column(
        SmallInteger, server_default="0", comment="Leases that count against the cap"
    )
    postponements: Mapped[int] = mapped_column(
        SmallInteger, server_default="0", comment="Leases handed back because something else was unavailable"
    )
    expired_leases: Mapped[int] = mapped_column(
        SmallInteger, server_default="0", comment="Leases that ran out; any makes the case be analysed alone"
    )
    due_at: Mapped[datetime] = mapped_column(server_default=_NOW, comment="Not claimed before this")
    rung_at: Mapped[datetime | None] = mapped_column(comment="When its id was last put on the queue")
    lease_token: Mapped[int | None] = mapped_column(
        BigInteger, comment="Fences every write of the lease's holder"
    )
    lease_owner: Mapped[str | None]
    lease_expires_at: Mapped[datetime | None] = mapped_column(comment="By the database's clock")
    refusal_code: Mapped[str | None] = mapped_column(
        comment="Why there is no analysis: a code of errors.ImageRejected"
    )
    refusal_message: Mapped[str | None] = mapped_column(comment="The same for a reviewer")
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    ready_at: Mapped[datetime | None]


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
    seconds: Mapped[dict[str, Any]] = mapped_column(comment="Spent per stage")
    reused_from: Mapped[UUID | None] = mapped_column(
        comment="The analysis of the same bytes that this one repeats"
    )
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)


class ArtifactRow(Table):
    __tablename__ = "artifacts"
    __table_args__ = ({"comment": "The parts of a rationale: what looks wrong and where."},)

    analysis_id: Mapped[UUID] = mapped_column(ForeignKey("analyses.id"), primary_key=True)
    face: Mapped[int] = mapped_column(SmallInteger, primary_key=True, comment="Index into analyses.faces")
    ordinal: Mapped[int] = mapped_column(
        SmallInteger, primary_key=True, comment="From 1, in the model's order"
    )
    heading: Mapped[str] = mapped_column(comment="The region in the model's words")
    regions: Mapped[list[str]]
    text: Mapped[str]
    polygon: Mapped[list[Any] | None] = mapped_column(
        JSONB(none_as_null=True), comment="Approximate, in pixels; null when there is none to draw"
    )


class EventRow(Table):
    __tablename__ = "events"
    __table_args__ = (
        CheckConstraint(_one_of("kind", Move), name="events_kind_known"),
        # The log grows in the order of time: a block-range index of a few pages serves a billion events.
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


class HeartbeatRow(Table):
    __tablename__ = "heartbeats"
    __table_args__ = (
        {"comment": "When each worker and sweeper was last seen: for `doctor` and the console."},
    )

    process: Mapped[str] = mapped_column(primary_key=True, comment="worker:host:pid, sweeper:host:pid")
    seen_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    facts: Mapped[dict[str, Any]]
