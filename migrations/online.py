"""For migrations of tables that are large and in use: what takes long is done in nobody's way."""

from collections.abc import Generator
from contextlib import contextmanager

from alembic import op

#: A migration that waits behind a long transaction would make everybody else wait behind it: it gives up instead.
IN_THE_WAY = ("SET lock_timeout = '4s'", "SET statement_timeout = '5min'")
_IN_NOBODYS_WAY = ("SET lock_timeout = 0", "SET statement_timeout = 0")


@contextmanager
def unhurried() -> Generator[None]:
    """Outside of any transaction, for as long as it takes: for `CONCURRENTLY`, `VALIDATE` and filling in by pages.

    Cut off half way nothing is taken back: what is done within must bear being done again.
    """
    with op.get_context().autocommit_block():
        for setting in _IN_NOBODYS_WAY:
            op.execute(setting)
        yield
        for setting in IN_THE_WAY:
            op.execute(setting)
