"""Signing in: argon2 passwords, sessions on the server, slow guesses. Also the management of people.

A cookie holds 32 random bytes; only their sha256 is stored. A session ends after a day, after some hours without a
request, when the person is disabled and when the password changes.
"""

import ipaddress
import secrets
import threading
from dataclasses import asdict, dataclass
from functools import lru_cache
from uuid import UUID

import structlog
from pwdlib import PasswordHash
from sqlalchemy.orm import Session as DatabaseSession

from moderation.accounts import person_rows as rows
from moderation.accounts.keys import digest_of
from moderation.database.connection import Database
from moderation.errors import (
    NotAllowed,
    PasswordRefused,
    PersonExists,
    PersonNotFound,
    RequestRefused,
    SignInRefused,
    SignInThrottled,
)
from moderation.people import Act, Person, Preferences, Role, require
from moderation.settings import Settings
from moderation.writing import NO_NAME, is_name

#: Characters. NIST SP 800-63B asks for 8, and no rules of composition. These accounts see private pictures.
PASSWORD_AT_LEAST = 12
PASSWORD_AT_MOST = 256

#: Seconds within which failed sign-ins count.
WINDOW = 15 * 60.0
#: Failures of one email before a wait begins, and failures after which the wait lasts as long as the window.
FREE_PER_EMAIL, MOST_PER_EMAIL = 5, 20
#: The same for one network address, which a whole office may share.
FREE_PER_ADDRESS, MOST_PER_ADDRESS = 20, 100

#: Hashes at the same time in one process: each needs 64 MB.
_HASHES_AT_ONCE = threading.BoundedSemaphore(4)

log = structlog.get_logger()


@dataclass(frozen=True)
class SignedIn:
    """A new session."""

    #: Only for the cookie: it is not stored and cannot be read again.
    secret: str
    #: Every form must send it.
    csrf: str
    person: Person


@dataclass(frozen=True)
class Session:
    """The person of a request."""

    person: Person
    csrf: str


def wait_seconds(failures: int, since_last: float, *, free: int, most: int) -> float:
    """Seconds that the next try must wait after so many failures: 0 at first, then 2, 4, 8 …, then the window."""
    if failures < free:
        return 0.0
    wait = WINDOW if failures >= most else min(2.0 ** (failures - free + 1), WINDOW)
    return max(0.0, wait - since_last)


def network_of(address: str) -> str:
    """The network that an address counts for: itself, or for IPv6 its /64, because one household has all of it."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:100]
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    return str(ip.ipv4_mapped or ipaddress.ip_network((ip, 64), strict=False))


class Accounts:
    """People and their sessions. Threads may share it."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings

    def sign_in(self, email: str, password: str, *, address: str) -> SignedIn:
        """Begin a session.

        Raise SignInRefused, with the same words and the same work for a wrong email and a wrong password, or
        SignInThrottled after many wrong tries with this email or from this address.
        """
        email, address = email.strip().lower()[:320], network_of(address)
        with self._database.transaction() as session:
            wait = _wait(session, email, address)
            found = None
            if wait == 0:
                # Count before the check, so that parallel tries count as much as tries in a row.
                rows.insert_failure(session, email=email, address=address, window_seconds=WINDOW)
                found = rows.find_password(session, email)
        if wait > 0:
            raise SignInThrottled(f"too many sign-ins failed; try again in {_words(wait)}", retry_after=wait)
        person, digest = found or (None, None)
        right, better = _verify(password, digest)
        if person is None or not right:
            log.info("sign_in_failed", action="sign_in")
            raise SignInRefused("the email or the password is wrong")
        with self._database.transaction() as session:
            rows.forget_failures(session, email=email, address=address)
            if better is not None:
                rows.change_person(session, person.id, password_digest=better)
        return self._begin(person, first_password=person.first_password)

    def sign_in_as(self, person: Person) -> SignedIn:
        """Begin a session for a person whom another service identified. Raise SignInRefused when they are disabled."""
        return self._begin(person, first_password=False)

    def _begin(self, person: Person, *, first_password: bool) -> SignedIn:
        if person.disabled_at is not None:
            raise SignInRefused("this person may not sign in")
        signed_in = SignedIn(secrets.token_urlsafe(32), secrets.token_urlsafe(32), person)
        with self._database.transaction() as session:
            rows.insert_sign_in(
                session,
                person.id,
                digest_of(signed_in.secret),
                signed_in.csrf,
                lasts_seconds=self._settings.session_seconds,
                first_password=first_password,
            )
        log.info("signed_in", action="sign_in", person=str(person.id))
        return signed_in

    def session(self, secret: str, *, used: bool = True) -> Session | None:
        """The session of a cookie. None: there is none, or it has ended. `used=False`: an open page asks by itself."""
        with self._database.transaction() as session:
            found = rows.find_sign_in(
                session, digest_of(secret), idle_seconds=self._settings.session_idle_seconds, used=used
            )
        return None if found is None else Session(*found)

    def sign_out(self, secret: str) -> None:
        """End this session. The second call does nothing."""
        with self._database.transaction() as session:
            rows.end_sign_in(session, digest_of(secret))

    def set_preferences(self, person: Person, preferences: Preferences) -> Person:
        with self._database.transaction() as session:
            return _known(rows.change_person(session, person.id, preferences=asdict(preferences)))

    def change_password(self, person: Person, old: str, new: str, *, secret: str, address: str) -> None:
        """Change the person's own password. The session of `secret` stays, all others end.

        Raise SignInRefused or SignInThrottled when the old one is wrong, PasswordRefused when the new one is not good.
        """
        _check_password(new)
        self.sign_out(self.sign_in(person.email, old, address=address).secret)
        with self._database.transaction() as session:
            rows.change_person(session, person.id, password_digest=_hash(new), first_password=False)
            rows.end_sign_ins_of(session, person.id, but=digest_of(secret))

    def choose_password(self, person: Person, new: str, *, secret: str) -> None:
        """Replace the first password by the person's own. The session of `secret` stays, all others end.

        Raise PasswordRefused when it is not good or is the first one, NotAllowed when they already chose their own.
        """
        _check_password(new)
        with self._database.transaction() as session:
            found = rows.find_password(session, person.email)
            if found is None or not found[0].first_password:
                raise NotAllowed("you have already chosen your password: change it under Preferences")
            if _verify(new, found[1])[0]:
                raise PasswordRefused("this is the password that you were given: choose another")
            rows.change_person(session, person.id, password_digest=_hash(new), first_password=False)
            rows.end_sign_ins_of(session, person.id, but=digest_of(secret))
        log.info("password_chosen", action="sign_in", person=str(person.id))

    def add_person(
        self, email: str, name: str, role: Role, password: str | None, *, first: bool = False
    ) -> Person:
        """Add a person. Without a password they can sign in only through the identity provider.

        `first`: somebody gives them the password, and they choose another when they sign in. Only for commands on the
        server, whose caller may do anything. Raise RequestRefused, PersonExists or PasswordRefused.
        """
        email, name = email.strip().lower(), name.strip()
        if "@" not in email or not name:
            raise RequestRefused("a person needs an email and a name")
        if not (is_name(email) and is_name(name)):
            raise RequestRefused(NO_NAME)
        if password is not None:
            _check_password(password)
        digest = None if password is None else _hash(password)
        with self._database.transaction() as session:
            person = rows.insert_person(
                session, email=email, name=name, role=role, password_digest=digest, first_password=first
            )
        if person is None:
            raise PersonExists(f"somebody already has the email {email}")
        return person

    def people(self, by: Person) -> list[Person]:
        require(by, Act.MANAGE_PEOPLE)
        return self.list_people()

    def list_people(self) -> list[Person]:
        """All people. Only for commands on the server."""
        with self._database.transaction() as session:
            return rows.list_people(session)

    def find_person(self, email: str) -> Person:
        """The person with this email. Raise PersonNotFound."""
        with self._database.transaction() as session:
            return _known(rows.find_person_by_email(session, email))

    def invite(self, by: Person, email: str, name: str, role: Role) -> tuple[Person, str]:
        """Add a person and return their first password, which is shown only once.

        Raise RequestRefused or PersonExists.
        """
        actor = _manager(by)
        password = new_password()
        person = self.add_person(email, name, role, password, first=True)
        log.info("person_added", action="manage_people", by=actor, person=str(person.id), role=role)
        return person, password

    def set_role(self, by: Person | None, person_id: UUID, role: Role) -> Person:
        """Change a role. Raise NotAllowed when nobody could manage people any more. `by` is None for a command."""
        actor = _manager(by)
        with self._database.transaction() as session:
            if role is not Role.ADMIN:
                _leave_an_admin(session, person_id)
            person = _known(rows.change_person(session, person_id, role=role.value))
        log.info("role_set", action="manage_people", by=actor, person=str(person_id), role=role)
        return person

    def disable(self, by: Person | None, person_id: UUID) -> Person:
        """Disable a person at once, in all sessions. `by` is None for a command."""
        actor = _manager(by)
        with self._database.transaction() as session:
            _leave_an_admin(session, person_id)
            person = _known(rows.disable_person(session, person_id))
        log.info("person_disabled", action="manage_people", by=actor, person=str(person_id))
        return person

    def enable(self, by: Person | None, person_id: UUID) -> Person:
        """Enable a person again, with their old password. `by` is None for a command."""
        actor = _manager(by)
        with self._database.transaction() as session:
            person = _known(rows.change_person(session, person_id, disabled_at=None))
        log.info("person_enabled", action="manage_people", by=actor, person=str(person_id))
        return person

    def reset_password(self, by: Person | None, person_id: UUID) -> str:
        """Set and return a new first password; all sessions of the person end. `by` is None for a command."""
        actor = _manager(by)
        password = new_password()
        digest = _hash(password)
        with self._database.transaction() as session:
            person = _known(
                rows.change_person(session, person_id, password_digest=digest, first_password=True)
            )
            rows.end_sign_ins_of(session, person_id)
            rows.forget_failures(session, email=person.email)
        log.info("password_reset", action="manage_people", by=actor, person=str(person_id))
        return password


def _manager(by: Person | None) -> str:
    """Who manages people, for the log. Raise NotAllowed. None: a command on the server, which may do anything."""
    if by is None:
        return "operator"
    require(by, Act.MANAGE_PEOPLE)
    return str(by.id)


def new_password() -> str:
    """A first password that nobody can guess: 16 characters, 96 random bits."""
    return secrets.token_urlsafe(12)


def _wait(session: DatabaseSession, email: str, address: str) -> float:
    of_email, from_address = rows.failures_of(session, email=email, address=address, window_seconds=WINDOW)
    return max(
        wait_seconds(of_email.count, of_email.since_last, free=FREE_PER_EMAIL, most=MOST_PER_EMAIL),
        wait_seconds(
            from_address.count, from_address.since_last, free=FREE_PER_ADDRESS, most=MOST_PER_ADDRESS
        ),
    )


def _words(wait: float) -> str:
    return f"{wait:.0f} seconds" if wait < 90 else f"{wait / 60:.0f} minutes"


@lru_cache(maxsize=1)
def _hasher() -> tuple[PasswordHash, str]:
    """The hash function, and a digest for the comparison when there is no such person."""
    hasher = PasswordHash.recommended()
    return hasher, hasher.hash(secrets.token_urlsafe(32))


def _hash(password: str) -> str:
    with _HASHES_AT_ONCE:
        return _hasher()[0].hash(password)


def _verify(password: str, digest: str | None) -> tuple[bool, str | None]:
    """Whether the password fits, and a new digest when the stored one is weaker than today's."""
    hasher, nobody = _hasher()
    with _HASHES_AT_ONCE:
        right, better = hasher.verify_and_update(password[: PASSWORD_AT_MOST + 1], digest or nobody)
    return right and digest is not None, better


def _check_password(password: str) -> None:
    if not PASSWORD_AT_LEAST <= len(password) <= PASSWORD_AT_MOST:
        raise PasswordRefused(
            f"a password has {PASSWORD_AT_LEAST} to {PASSWORD_AT_MOST} characters, this one {len(password)}"
        )


def _known(person: Person | None) -> Person:
    if person is None:
        raise PersonNotFound("nobody has this id or email")
    return person


def _leave_an_admin(session: DatabaseSession, leaving: UUID) -> None:
    if set(rows.enabled_admins(session)) == {leaving}:
        raise NotAllowed("this is the last admin: make somebody else one first")
