"""People, their sessions and their failed sign-ins. Times are by the database's clock."""

import dataclasses
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import delete, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from moderation.database.ids import new_id
from moderation.database.moves import seconds
from moderation.database.tables import ClaimRow, PersonRow, SignInFailureRow, SignInRow
from moderation.people import RULE, Person, Preferences, Role, Theme


def insert_person(
    session: Session,
    *,
    email: str,
    name: str,
    role: Role,
    password_digest: str | None,
    first_password: bool = False,
) -> Person | None:
    """Add somebody. None when the email is taken."""
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
    """Whom decisions by rule name as their maker: there once, disabled, without a password."""
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
    """Somebody by the email they sign in with, however it is capitalised."""
    row = session.scalars(select(PersonRow).where(PersonRow.email == email.strip().lower())).first()
    return None if row is None else _person(row)


def find_password(session: Session, email: str) -> tuple[Person, str | None] | None:
    """Somebody who may sign in, with the digest of their password. None: unknown or disabled."""
    row = session.scalars(
        select(PersonRow).where(PersonRow.email == email, PersonRow.disabled_at.is_(None))
    ).first()
    return None if row is None else (_person(row), row.password_digest)


def list_people(session: Session) -> list[Person]:
    """Everybody, by name."""
    everybody = select(PersonRow).where(PersonRow.id != RULE).order_by(PersonRow.name, PersonRow.id)
    return [_person(row) for row in session.scalars(everybody)]


def enabled_admins(session: Session) -> Sequence[UUID]:
    """Who could still manage people, locked until the end of the transaction: two cannot remove each other."""
    return session.scalars(
        select(PersonRow.id)
        .where(PersonRow.role == Role.ADMIN.value, PersonRow.disabled_at.is_(None))
        .order_by(PersonRow.id)
        .with_for_update()
    ).all()


def change_person(session: Session, person_id: UUID, **changes: Any) -> Person | None:
    """Change columns of somebody; None when there is nobody with this id."""
    row = session.scalars(
        update(PersonRow)
        .where(PersonRow.id == person_id)
        .values(**changes)
        .returning(PersonRow)
        .execution_options(populate_existing=True, synchronize_session=False)
    ).first()
    return None if row is None else _person(row)


def disable_person(session: Session, person_id: UUID) -> Person | None:
    """From now on this person cannot sign in, and is signed out everywhere."""
    end_sign_ins_of(session, person_id)
    # What they have before them goes back to the queue now and not when their claims run out.
    session.execute(delete(ClaimRow).where(ClaimRow.person_id == person_id))
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
    """Begin a session; forget those that have ended, so that the table stays as small as its use."""
    session.execute(delete(SignInRow).where(SignInRow.expires_at < func.now()))
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
    """Whose session this is and its CSRF token. None: unknown, ended, idle for too long, or the person is disabled.

    What is not `used` goes on being idle.
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
        # At most once a minute: a page of twenty pictures must not write twenty times.
        session.execute(update(SignInRow).where(SignInRow.digest == digest).values(seen_at=func.now()))
    # Who came another way, through the identity provider say, is asked for no password.
    person = _person(row)
    return dataclasses.replace(person, first_password=person.first_password and first), csrf


def end_sign_in(session: Session, digest: bytes) -> None:
    session.execute(delete(SignInRow).where(SignInRow.digest == digest))


def end_sign_ins_of(session: Session, person_id: UUID, *, but: bytes = b"") -> None:
    """End every session of this person except one."""
    session.execute(delete(SignInRow).where(SignInRow.person_id == person_id, SignInRow.digest != but))


@dataclasses.dataclass(frozen=True)
class Failures:
    """Failed sign-ins of one email, or from one address, within the window."""

    count: int
    #: Seconds since the last one. 0 when there was none.
    since_last: float


def failures_of(
    session: Session, *, email: str, address: str, window_seconds: float
) -> tuple[Failures, Failures]:
    """Failures of this email and from this address. Until the transaction ends no other counts for this email."""
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
    """Count a try, before the password is looked at; forget what is older than the window."""
    # Anybody's: the table stays as small as what is tried within the window, and reading it whole is quick.
    session.execute(
        delete(SignInFailureRow).where(SignInFailureRow.at < func.now() - seconds(window_seconds))
    )
    session.execute(insert(SignInFailureRow).values(email=email, address=address, at=func.clock_timestamp()))


def forget_failures(session: Session, *, email: str, address: str | None = None) -> None:
    """The right password was given from this address, or, without one, a new password was set."""
    where = [SignInFailureRow.email == email]
    if address is not None:
        # Only those: a guesser elsewhere does not start afresh when the owner signs in.
        where.append(SignInFailureRow.address == address)
    session.execute(delete(SignInFailureRow).where(*where))


def preferences_json(preferences: Preferences) -> dict[str, Any]:
    return dataclasses.asdict(preferences)


def _preferences(stored: dict[str, Any]) -> Preferences:
    """What is stored, over the defaults: an older release knew fewer preferences, a newer one may know more."""
    known = {
        field.name: stored[field.name] for field in dataclasses.fields(Preferences) if field.name in stored
    }
    if "theme" in known:
        known["theme"] = Theme(known["theme"])
    return Preferences(**known)


def _person(row: PersonRow) -> Person:
    return Person(
        id=row.id,
        email=row.email,
        name=row.name,
        role=Role(row.role),
        preferences=_preferences(row.preferences),
        created_at=row.created_at,
        disabled_at=row.disabled_at,
        first_password=row.first_password,
    )
