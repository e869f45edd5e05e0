"""API keys of platforms: shown once, stored as a digest, found by their visible prefix."""

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from moderation.database.ids import new_id
from moderation.database.shapes import as_value, change_rows, seconds
from moderation.database.tables import KeyRow
from moderation.errors import RequestRefused
from moderation.writing import NO_NAME, is_name

#: What a platform may do with its key.
SCOPES = ("submit", "read", "review", "webhooks", "erase")

#: What a key may do by default.
USUAL_SCOPES = ("submit", "read")


@dataclass(frozen=True)
class Key:
    id: UUID
    name: str
    prefix: str
    scopes: tuple[str, ...]
    created_at: datetime
    last_used_at: datetime | None
    revoked_at: datetime | None


def add_key(session: Session, name: str, scopes: tuple[str, ...] = SCOPES) -> str:
    """Make a key; return its secret, which is shown only once: `bf_<prefix>_<43 characters, 256 random bits>`.

    Raise RequestRefused for a name that no source could have.
    """
    if not is_name(name):
        raise RequestRefused(NO_NAME)
    prefix = secrets.token_hex(4)
    secret = f"bf_{prefix}_{secrets.token_urlsafe(32)}"
    session.add(KeyRow(id=new_id(), name=name, prefix=prefix, digest=digest_of(secret), scopes=list(scopes)))
    session.flush()
    return secret


def find_key(session: Session, secret: str) -> Key | None:
    """The key with this secret, unless it was revoked."""
    parts = secret.split("_", 2)
    if len(parts) != 3 or parts[0] != "bf":
        return None
    row = session.scalars(select(KeyRow).where(KeyRow.prefix == parts[1])).first()
    if row is None or row.revoked_at is not None or not hmac.compare_digest(row.digest, digest_of(secret)):
        return None
    return as_value(Key, row)


def touch_key(session: Session, key_id: UUID) -> None:
    """Note that the key was used, at most once a minute, so that a busy key causes few writes."""
    long_ago = KeyRow.last_used_at.is_(None) | (KeyRow.last_used_at < func.now() - seconds(60))
    change_rows(session, KeyRow, KeyRow.id == key_id, long_ago, last_used_at=func.now())


def list_keys(session: Session) -> list[Key]:
    return [as_value(Key, row) for row in session.scalars(select(KeyRow).order_by(KeyRow.created_at))]


def revoke_key(session: Session, prefix: str) -> bool:
    """Revoke the key for ever. False: no key has this prefix, or it is revoked already."""
    return _revoke(session, KeyRow.prefix == prefix) > 0


def revoke_keys(session: Session, name: str) -> int:
    """Revoke every key with this name for ever; return how many."""
    return _revoke(session, KeyRow.name == name)


def _revoke(session: Session, which: ColumnElement[bool]) -> int:
    return change_rows(session, KeyRow, which, KeyRow.revoked_at.is_(None), revoked_at=func.now())


def digest_of(secret: str) -> bytes:
    """What is stored of a long random secret. Nobody can guess it, so it needs no slow hash."""
    return hashlib.sha256(secret.encode()).digest()
