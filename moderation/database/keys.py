"""Platforms' API keys: shown once, stored as a digest, found by their visible prefix."""

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from moderation.database.ids import new_id
from moderation.database.tables import KeyRow

#: What a platform may do with its key.
SCOPES = ("submit", "read", "review", "webhooks", "erase")

#: What it may do unless it was asked for more.
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
    """Make a key; return its secret, which is not to be had again: `bf_<prefix>_<43 characters, 256 random bits>`."""
    prefix = secrets.token_hex(4)
    secret = f"bf_{prefix}_{secrets.token_urlsafe(32)}"
    # A long random secret needs no slow hash: there is nothing to guess.
    session.add(KeyRow(id=new_id(), name=name, prefix=prefix, digest=_digest(secret), scopes=list(scopes)))
    session.flush()
    return secret


def find_key(session: Session, secret: str) -> Key | None:
    """The key that this secret opens, unless it was revoked."""
    parts = secret.split("_", 2)
    if len(parts) != 3 or parts[0] != "bf":
        return None
    row = session.scalars(select(KeyRow).where(KeyRow.prefix == parts[1])).first()
    if row is None or row.revoked_at is not None or not hmac.compare_digest(row.digest, _digest(secret)):
        return None
    return _key(row)


def touch_key(session: Session, key_id: UUID) -> None:
    """Note that the key was used, at most once a minute: a busy key must not make a row hot."""
    session.execute(
        update(KeyRow)
        .where(KeyRow.id == key_id)
        .where(
            (KeyRow.last_used_at.is_(None))
            | (KeyRow.last_used_at < func.now() - func.make_interval(0, 0, 0, 0, 0, 1))
        )
        .values(last_used_at=func.now())
        .execution_options(synchronize_session=False)
    )


def list_keys(session: Session) -> list[Key]:
    return [_key(row) for row in session.scalars(select(KeyRow).order_by(KeyRow.created_at))]


def revoke_key(session: Session, prefix: str) -> bool:
    """Close the key for ever. False when there is none with this prefix, or it is closed already."""
    done = session.execute(
        update(KeyRow)
        .where(KeyRow.prefix == prefix, KeyRow.revoked_at.is_(None))
        .values(revoked_at=func.now())
        .returning(KeyRow.id)
        .execution_options(synchronize_session=False)
    ).first()
    return done is not None


def revoke_keys(session: Session, name: str) -> int:
    """Close every open key of this name for ever; return how many there were."""
    done = session.execute(
        update(KeyRow)
        .where(KeyRow.name == name, KeyRow.revoked_at.is_(None))
        .values(revoked_at=func.now())
        .returning(KeyRow.id)
        .execution_options(synchronize_session=False)
    )
    return len(done.all())


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _key(row: KeyRow) -> Key:
    return Key(
        row.id, row.name, row.prefix, tuple(row.scopes), row.created_at, row.last_used_at, row.revoked_at
    )
