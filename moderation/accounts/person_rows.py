"""People, their sessions and their failed sign-ins. Times are by the database's clock."""

import dataclasses
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from moderation.database.ids import new_id
from moderation.database.shapes import as_value, change_rows, delete_rows, seconds
from moderation.database.tables import ClaimRow, PersonRow, SignInFailureRow, SignInRow
from moderation.people import RULE, Person, Role


def insert_person(
    session: Session,
    *,
    email: str,
    name: str,
    role: Role,
    password_digest: str | None,
    first_password: bool = False,
) -> Person | None:
    """Add a person. None: the email is taken."""
    row = session.scalars(
        insert(PersonRow)
        .values(
            id=new_id(),
            email=email,
            name=name,
            role=role.value,
            password_digest=password_digest,
            first_password=first_password,
            preferences={},
        )
        .on_conflict_do_nothing(index_elements=["email"])
        .returning(PersonRow)
    ).first()
    return None if row is None else _person(row)


def insert_rule(session: Session) -> None:
    """Insert the person that decisions by rule name as reviewer, unless it exists: disabled, without a password."""
    session.execute(
        insert(PersonRow)
        .values(
            id=RULE,
            email="rule@bonafide.invalid",
            name="A rule of this installation",
            role=Role.REVIEWER.value,
            preferences={},
            disabled_at=func.now(),
        )
        .on_conflict_do_nothing()
    )


def find_person(session: Session, person_id: UUID) -> Person | None:
    row = session.get(PersonRow, person_id)
    return None if row is None else _person(row)


def find_person_by_email(session: Session, email: str) -> Person | None:
    """The person with this email, in any capitalisation."""
    row = session.scalars(select(PersonRow).where(PersonRow.email == email.strip().lower())).first()
    return None if row is None else _person(row)


def find_password(session: Session, email: str) -> tuple[Person, str | None] | None:
    """A person who may sign in, with the digest of their password. None: unknown or disabled."""
    row = session.scalars(
        select(PersonRow).where(PersonRow.email == email, PersonRow.disabled_at.is_(None))
    ).first()
    return None if row is None else (_person(row), row.password_digest)


def list_people(session: Session) -> list[Person]:
    """All people, by name."""
    everybody = select(PersonRow).where(PersonRow.id != RULE).order_by(PersonRow.name, PersonRow.id)
    return [_person(row) for row in session.scalars(everybody)]


def enabled_admins(session: Session) -> Sequence[UUID]:
    """The enabled admins, locked until the end of the transaction, so that two cannot remove each other."""
    return session.scalars(
        select(PersonRow.id)
        .where(PersonRow.role == Role.ADMIN.value, PersonRow.disabled_at.is_(None))
        .order_by(PersonRow.id)
        .with_for_update()
    ).all()


def change_person(session: Session, person_id: UUID, **changes: Any) -> Person | None:
    """Change a person's columns. None: nobody has this id."""
    row = session.scalars(
        update(PersonRow)
        .where(PersonRow.id == person_id)
        .values(**changes)
        .returning(PersonRow)
        .execution_options(populate_existing=True, synchronize_session=False)
    ).first()
    return None if row is None else _person(row)


def disable_person(session: Session, person_id: UUID) -> Person | None:
    """Disable a person: they are signed out everywhere and cannot sign in."""
    end_sign_ins_of(session, person_id)
    # Their claims end now, so that the cases return to the queue at once.
    delete_rows(session, ClaimRow, ClaimRow.person_id == person_id)
    return change_person(session, person_id, disabled_at=func.coalesce(PersonRow.disabled_at, func.now()))


def insert_sign_in(
    session: Session,
    person_id: UUID,
    digest: bytes,
    csrf: str,
    *,
    lasts_seconds: float,
    first_password: bool = False,
) -> None:
    """Begin a session. Delete sessions that have ended, so that the table stays small."""
    delete_rows(session, SignInRow, SignInRow.expires_at < func.now())
    session.execute(
        insert(SignInRow).values(
            digest=digest,
            person_id=person_id,
            csrf=csrf,
            first_password=first_password,
            expires_at=func.now() + seconds(lasts_seconds),
        )
    )


def find_sign_in(
    session: Session, digest: bytes, *, idle_seconds: float, used: bool = True
) -> tuple[Person, str] | None:
    """The person of a session and its CSRF token. None: unknown, ended, idle too long, or the person is disabled.

    With `used=False` the session stays idle.
    """
    found = session.execute(
        select(
            PersonRow,
            SignInRow.csrf,
            SignInRow.first_password,
            (SignInRow.seen_at < func.now() - seconds(60)).label("stale"),
        )
        .join(SignInRow, SignInRow.person_id == PersonRow.id)
        .where(
            SignInRow.digest == digest,
            SignInRow.expires_at > func.now(),
            SignInRow.seen_at > func.now() - seconds(idle_seconds),
            PersonRow.disabled_at.is_(None),
        )
    ).first()
    if found is None:
        return None
    row, csrf, first, stale = found
    if stale and used:
        # At most once a minute, so that a page of twenty pictures does not write twenty times.
        change_rows(session, SignInRow, SignInRow.digest == digest, seen_at=func.now())
    # A person who signed in through the identity provider is not asked for a password.
    person = _person(row)
    return dataclasses.replace(person, first_password=person.first_password and first), csrf


def end_sign_in(session: Session, digest: bytes) -> None:
    delete_rows(session, SignInRow, SignInRow.digest == digest)


def end_sign_ins_of(session: Session, person_id: UUID, *, but: bytes = b"") -> None:
    """End every session of this person except one."""
    delete_rows(session, SignInRow, SignInRow.person_id == person_id, SignInRow.digest != but)


@dataclasses.dataclass(frozen=True)
class Failures:
    """Failed sign-ins with one email, or from one address, within the window."""

    count: int
    #: Seconds since the last one. 0 when there was none.
    since_last: float


def failures_of(
    session: Session, *, email: str, address: str, window_seconds: float
) -> tuple[Failures, Failures]:
    """Failures with this email and from this address. No other transaction counts this email until this one ends."""
    session.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:email, 7301003))"), {"email": email})
    return (
        _failures(session, SignInFailureRow.email == email, window_seconds),
        _failures(session, SignInFailureRow.address == address, window_seconds),
    )


def _failures(session: Session, whose: Any, window_seconds: float) -> Failures:
    count, since_last = session.execute(
        select(
            func.count(),
            func.coalesce(func.extract("epoch", func.clock_timestamp() - func.max(SignInFailureRow.at)), 0),
        ).where(whose, SignInFailureRow.at > func.now() - seconds(window_seconds))
    ).one()
    return Failures(count, float(since_last))


def insert_failure(session: Session, *, email: str, address: str, window_seconds: float) -> None:
    """Count a try before the password is checked. Delete tries that are older than the window."""
    # Of everybody, so that the table stays small enough to read whole.
    delete_rows(session, SignInFailureRow, SignInFailureRow.at < func.now() - seconds(window_seconds))
    session.execute(insert(SignInFailureRow).values(email=email, address=address, at=func.clock_timestamp()))


def forget_failures(session: Session, *, email: str, address: str | None = None) -> None:
    """Delete failures: the right password came from this address, or a new password was set (no address)."""
    where = [SignInFailureRow.email == email]
    if address is not None:
        # Only from this address: a guesser elsewhere gets no new start when the owner signs in.
        where.append(SignInFailureRow.address == address)
    delete_rows(session, SignInFailureRow, *where)


def _person(row: PersonRow) -> Person:
    """Preferences that are not stored have their defaults; those of a newer release are left out."""
    return as_value(Person, row)
