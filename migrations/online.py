"""For migrations of large tables in use: a step that takes long blocks nobody."""

from collections.abc import Generator
from contextlib import contextmanager

from alembic import op

#: A migration that waits behind a long transaction would make everybody else wait behind it: it gives up instead.
IN_THE_WAY = ("SET lock_timeout = '4s'", "SET statement_timeout = '5min'")
_IN_NOBODYS_WAY = ("SET lock_timeout = 0", "SET statement_timeout = 0")


@contextmanager
def unhurried() -> Generator[None]:
    """Run the block outside of any transaction, however long it takes: `CONCURRENTLY`, `VALIDATE`, filling in by pages.

    If it is cut off half way, nothing is taken back. The block must be safe to run again.
    """
    with op.get_context().autocommit_block():
        for setting in _IN_NOBODYS_WAY:
            op.execute(setting)
        yield
        for setting in IN_THE_WAY:
            op.execute(setting)
