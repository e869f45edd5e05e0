"""Signing in, sessions and who may look after people, against a real Postgres."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from moderation.accounts.accounts import (
    FREE_PER_EMAIL,
    MOST_PER_EMAIL,
    WINDOW,
    Accounts,
    SignedIn,
    network_of,
    new_password,
    wait_seconds,
)
from moderation.database.connection import Database
from moderation.errors import (
    NotAllowed,
    PasswordRefused,
    PersonExists,
    PersonNotFound,
    SignInRefused,
    SignInThrottled,
)
from moderation.local import as_role
from moderation.people import ALLOWED, Act, Person, Preferences, Role, Theme, may, require
from moderation.settings import Settings

PASSWORD = "correct horse battery"
HERE = "192.0.2.1"


@pytest.fixture
def accounts(database: Database, settings: Settings) -> Accounts:
    return Accounts(database, settings)


@pytest.fixture
def ada(accounts: Accounts) -> Person:
    return accounts.add_person("Ada@Example.org", "Ada", Role.REVIEWER, PASSWORD)


@pytest.fixture
def admin(accounts: Accounts) -> Person:
    return accounts.add_person("grace@example.org", "Grace", Role.ADMIN, PASSWORD)


def let_pass(database: Database, seconds: float) -> None:
    with database.transaction() as session:
        session.execute(
            text("UPDATE sign_ins SET seen_at = seen_at - :passed, expires_at = expires_at - :passed"),
            {"passed": timedelta(seconds=seconds)},
        )
        session.execute(
            text("UPDATE sign_in_failures SET at = at - :passed"), {"passed": timedelta(seconds=seconds)}
        )


def fail(accounts: Accounts, email: str, address: str = HERE) -> type[Exception]:
    with pytest.raises((SignInRefused, SignInThrottled)) as refused:
        accounts.sign_in(email, "not the password", address=address)
    return refused.type


def signed_in(accounts: Accounts, email: str = "ada@example.org", address: str = HERE) -> SignedIn:
    return accounts.sign_in(email, PASSWORD, address=address)


def test_a_password_opens_a_session_and_signing_out_ends_it(accounts: Accounts, ada: Person) -> None:
    opened = signed_in(accounts, " ADA@example.org ")

    found = accounts.session(opened.secret)
    accounts.sign_out(opened.secret)

    assert found is not None
    assert (found.person.id, found.csrf) == (ada.id, opened.csrf)
    assert accounts.session(opened.secret) is None


def test_neither_password_nor_cookie_is_in_the_database(
    accounts: Accounts, ada: Person, database: Database
) -> None:
    opened = signed_in(accounts)

    with database.transaction() as session:
        people = str(session.execute(text("SELECT * FROM people")).all())
        sessions = str(session.execute(text("SELECT * FROM sign_ins")).all())

    assert PASSWORD not in people
    assert "$argon2id$" in people
    assert opened.secret not in sessions


def test_an_unknown_email_a_wrong_password_and_a_disabled_person_look_alike(
    accounts: Accounts, ada: Person, admin: Person
) -> None:
    accounts.add_person("elsewhere@example.org", "Signs in elsewhere", Role.REVIEWER, None)
    accounts.add_person("gone@example.org", "Gone", Role.REVIEWER, PASSWORD)
    accounts.disable(admin, accounts.find_person("gone@example.org").id)
    told: set[tuple[str, str]] = set()

    for email, password in [
        ("nobody@example.org", PASSWORD),
        ("ada@example.org", "not the password"),
        ("gone@example.org", PASSWORD),
        ("elsewhere@example.org", ""),
        ("", ""),
    ]:
        with pytest.raises(SignInRefused) as refused:
            accounts.sign_in(email, password, address=HERE)
        told.add((refused.value.code, str(refused.value)))

    assert len(told) == 1


def test_an_unknown_email_takes_the_work_of_a_known_one(
    accounts: Accounts, ada: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Work is counted, not timed: a clock on a busy machine proves nothing.
    from pwdlib.hashers.argon2 import Argon2Hasher

    verified: list[str] = []
    really = Argon2Hasher.verify

    def counted(self: Argon2Hasher, password: Any, hash: Any) -> bool:  # noqa: A002  the library's name
        verified.append(str(hash)[:30])
        return really(self, password, hash)

    monkeypatch.setattr(Argon2Hasher, "verify", counted)
    fail(accounts, "ada@example.org")
    fail(accounts, "nobody@example.org")

    assert len(verified) == 2
    assert verified[0] == verified[1]  # the same parameters


def test_wrong_passwords_slow_down_and_then_shut_until_the_window_has_passed(
    accounts: Accounts, ada: Person, database: Database
) -> None:
    for _ in range(FREE_PER_EMAIL):
        assert fail(accounts, "ada@example.org") is SignInRefused
    with pytest.raises(SignInThrottled) as throttled:
        signed_in(accounts)

    assert 0 < throttled.value.retry_after <= 2
    let_pass(database, 2)
    signed_in(accounts)


def test_the_right_password_does_not_help_while_the_email_is_throttled(
    accounts: Accounts, ada: Person, database: Database
) -> None:
    with database.transaction() as session:
        session.execute(
            text(
                "INSERT INTO sign_in_failures (email, address) SELECT :e, 'elsewhere' FROM generate_series(1, :n)"
            ),
            {"e": ada.email, "n": MOST_PER_EMAIL},
        )

    with pytest.raises(SignInThrottled) as throttled:
        signed_in(accounts)
    let_pass(database, WINDOW + 1)

    assert throttled.value.retry_after > WINDOW - 60
    signed_in(accounts)


def test_guesses_side_by_side_are_as_many_as_in_a_row(accounts: Accounts, ada: Person) -> None:
    with ThreadPoolExecutor(8) as pool:
        ended = list(pool.map(lambda _: fail(accounts, "ada@example.org"), range(16)))

    # One or two more on a slow machine, where a wait of seconds passes meanwhile; unlocked, all eight at once.
    assert FREE_PER_EMAIL <= ended.count(SignInRefused) <= FREE_PER_EMAIL + 2


def test_tries_are_forgotten_after_the_window_whoever_made_them(
    accounts: Accounts, database: Database
) -> None:
    fail(accounts, "nobody@example.org", "198.51.100.7")
    let_pass(database, 16 * 60)

    fail(accounts, "ada@example.org")

    with database.transaction() as session:
        kept = session.execute(text("SELECT email FROM sign_in_failures")).scalars().all()
    assert kept == ["ada@example.org"]


def test_one_address_that_tries_many_emails_is_throttled(accounts: Accounts, database: Database) -> None:
    with database.transaction() as session:
        session.execute(
            text(
                "INSERT INTO sign_in_failures (email, address) SELECT n::text, :a FROM generate_series(1, 30) n"
            ),
            {"a": HERE},
        )

    assert fail(accounts, "another@example.org") is SignInThrottled
    assert fail(accounts, "another@example.org", "198.51.100.7") is SignInRefused


@pytest.mark.parametrize(
    ("address", "network"),
    [
        pytest.param("192.0.2.7", "192.0.2.7", id="IPv4"),
        pytest.param("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64", id="IPv6: one household"),
        pytest.param("::ffff:192.0.2.7", "192.0.2.7", id="IPv4 in IPv6"),
        pytest.param("fe80::1%eth0", "fe80::/64", id="with a zone"),
        pytest.param("testclient", "testclient", id="no address"),
    ],
)
def test_whoever_owns_a_network_is_counted_once(address: str, network: str) -> None:
    assert network_of(address) == network


@pytest.mark.parametrize(
    ("failures", "since_last", "wait"),
    [
        pytest.param(4, 0, 0, id="free"),
        pytest.param(5, 0, 2, id="the first wait"),
        pytest.param(5, 1.5, 0.5, id="part of it has passed"),
        pytest.param(8, 0, 16, id="doubles"),
        pytest.param(19, 0, WINDOW, id="never longer than the window"),
        pytest.param(20, 60, WINDOW - 60, id="refused until the window has passed"),
    ],
)
def test_the_wait_grows_with_the_failures(failures: int, since_last: float, wait: float) -> None:
    assert wait_seconds(failures, since_last, free=5, most=20) == wait


@pytest.mark.parametrize(
    ("pauses", "lives"),
    [
        pytest.param([7 * 3600], True, id="seven hours without a request"),
        pytest.param([9 * 3600], False, id="nine hours without a request"),
        pytest.param([7 * 3600] * 3, True, id="in use all day"),
        pytest.param([7 * 3600] * 4, False, id="in use for longer than a day"),
    ],
)
def test_a_session_ends_by_idleness_and_by_age(
    accounts: Accounts, ada: Person, database: Database, pauses: list[float], lives: bool
) -> None:
    opened = signed_in(accounts)

    for pause in pauses:
        let_pass(database, pause)
        accounts.session(opened.secret)

    assert (accounts.session(opened.secret) is not None) is lives


def test_a_page_that_lies_open_keeps_nobody_signed_in(
    accounts: Accounts, ada: Person, database: Database
) -> None:
    opened = signed_in(accounts)

    let_pass(database, 7 * 3600)
    assert accounts.session(opened.secret, used=False) is not None
    let_pass(database, 2 * 3600)

    assert accounts.session(opened.secret) is None


def test_disabling_somebody_ends_their_sessions_at_once(
    accounts: Accounts, ada: Person, admin: Person
) -> None:
    opened = signed_in(accounts)

    accounts.disable(admin, ada.id)
    assert accounts.session(opened.secret) is None
    accounts.enable(admin, ada.id)

    assert accounts.session(opened.secret) is None
    assert accounts.session(signed_in(accounts).secret) is not None


def test_a_new_password_ends_the_other_sessions(accounts: Accounts, ada: Person) -> None:
    here, there = signed_in(accounts), signed_in(accounts)

    accounts.change_password(ada, PASSWORD, "an entirely new one", secret=here.secret, address=HERE)

    assert accounts.session(here.secret) is not None
    assert accounts.session(there.secret) is None
    assert fail(accounts, "ada@example.org") is SignInRefused
    accounts.sign_in("ada@example.org", "an entirely new one", address=HERE)


def test_a_reset_password_is_shown_once_and_works(accounts: Accounts, ada: Person, admin: Person) -> None:
    opened = signed_in(accounts)

    password = accounts.reset_password(admin, ada.id)

    assert accounts.session(opened.secret) is None
    assert accounts.sign_in("ada@example.org", password, address=HERE).person.id == ada.id


@pytest.mark.parametrize("password", ["short", "x" * 300], ids=["too short", "too long"])
def test_a_password_that_will_not_do_is_refused(accounts: Accounts, password: str) -> None:
    with pytest.raises(PasswordRefused):
        accounts.add_person("new@example.org", "New", Role.REVIEWER, password)


def test_an_email_belongs_to_one_person_however_it_is_written(accounts: Accounts, ada: Person) -> None:
    with pytest.raises(PersonExists):
        accounts.add_person("ADA@EXAMPLE.ORG", "Another", Role.LEAD, PASSWORD)
    with pytest.raises(PersonNotFound):
        accounts.find_person("nobody@example.org")


def test_preferences_are_kept_and_unknown_ones_do_no_harm(
    accounts: Accounts, ada: Person, database: Database
) -> None:
    chosen = Preferences(blur=False, greyscale=True, theme=Theme.DARK, shortcuts=False)
    accounts.set_preferences(ada, chosen)
    opened = signed_in(accounts)
    with database.transaction() as session:
        session.execute(
            text("""UPDATE people SET preferences = preferences || '{"of": "a later release"}'""")
        )

    found = accounts.session(opened.secret)

    assert found is not None
    assert found.person.preferences == chosen
    assert ada.preferences == Preferences()  # blurred and grey until somebody says otherwise


def test_only_an_admin_manages_people(accounts: Accounts, ada: Person, admin: Person) -> None:
    for attempt in (
        lambda: accounts.invite(ada, "x@example.org", "X", Role.ADMIN),
        lambda: accounts.set_role(ada, ada.id, Role.ADMIN),
        lambda: accounts.disable(ada, admin.id),
        lambda: accounts.enable(ada, ada.id),
        lambda: accounts.reset_password(ada, admin.id),
        lambda: accounts.people(ada),
    ):
        with pytest.raises(NotAllowed):
            attempt()

    person, password = accounts.invite(admin, "x@example.org", "X", Role.LEAD)
    assert accounts.sign_in("x@example.org", password, address=HERE).person == person
    assert {one.email for one in accounts.people(admin)} == {ada.email, admin.email, "x@example.org"}


def test_the_last_admin_can_neither_be_disabled_nor_demoted(accounts: Accounts, admin: Person) -> None:
    with pytest.raises(NotAllowed):
        accounts.disable(admin, admin.id)
    with pytest.raises(NotAllowed):
        accounts.set_role(admin, admin.id, Role.LEAD)

    accounts.invite(admin, "second@example.org", "Second", Role.ADMIN)
    assert accounts.set_role(admin, admin.id, Role.LEAD).role is Role.LEAD


def test_each_role_may_all_that_the_one_below_it_may() -> None:
    assert ALLOWED[Role.REVIEWER] < ALLOWED[Role.LEAD] < ALLOWED[Role.ADMIN] == set(Act)


def test_a_disabled_person_may_nothing(accounts: Accounts, ada: Person, admin: Person) -> None:
    gone = accounts.disable(admin, ada.id)

    assert not any(may(gone, act) for act in Act)
    with pytest.raises(NotAllowed):
        require(gone, Act.REVIEW)


def test_the_web_looks_after_people_with_its_own_role_and_a_worker_sees_no_digest(
    database_url: str, settings: Settings
) -> None:
    with (
        closing(Database(as_role(database_url, "bonafide_web"), pool_size=1)) as web,
        closing(Database(as_role(database_url, "bonafide_worker"), pool_size=1)) as worker,
    ):
        accounts = Accounts(web, settings)
        admin = accounts.add_person("grace@example.org", "Grace", Role.ADMIN, PASSWORD)
        opened = signed_in(accounts, "grace@example.org")
        accounts.set_preferences(admin, Preferences(blur=False))
        person, _ = accounts.invite(admin, "ada@example.org", "Ada", Role.REVIEWER)
        accounts.disable(admin, person.id)
        fail(accounts, "ada@example.org")
        accounts.sign_out(opened.secret)

        for table in ("people", "sign_ins"):
            with pytest.raises(ProgrammingError, match="permission denied"), worker.transaction() as session:
                session.execute(text(f"SELECT * FROM {table}"))


def test_first_passwords_differ_and_are_long_enough() -> None:
    assert len({new_password() for _ in range(100)}) == 100
    assert len(new_password()) >= 12
