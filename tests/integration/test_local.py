"""What `bonafide up` does to a database that is kept."""

from moderation.accounts.keys import add_key, find_key, list_keys
from moderation.database.connection import Database
from moderation.local import prepare_database


def test_each_start_leaves_one_key_open(database_url: str, database: Database) -> None:
    with database.transaction() as session:
        add_key(session, "a platform")

    first, second = prepare_database(database_url), prepare_database(database_url)

    with database.transaction() as session:
        still_open = [key.name for key in list_keys(session) if key.revoked_at is None]
        assert sorted(still_open) == ["a platform", "local"]
        assert find_key(session, first) is None
        assert find_key(session, second) is not None
