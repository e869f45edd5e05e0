"""The connection pool, the actions after a commit, and the one place where a driver's exceptions become ours."""

import threading
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import psycopg
from psycopg.errors import (
    InsufficientPrivilege,
    ReadOnlySqlTransaction,
    UndefinedColumn,
    UndefinedFunction,
    UndefinedTable,
)
from sqlalchemy import create_engine, event, text
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session, sessionmaker

from moderation import traces
from moderation.addresses import read_database
from moderation.errors import DatabaseNotUtf8, DatabaseUnavailable

#: A slower statement waits for a lock or lacks an index: it is better to fail and try again.
STATEMENT_TIMEOUT = "15s"
#: A connection is given up after so many seconds without an answer. Postgres itself ends a statement sooner.
ANSWER_SECONDS = 20.0
#: The key under which a session keeps its actions after the commit.
_AFTER_COMMIT = "after_commit"


class _Thread(threading.local):
    """The open transactions of a thread."""

    def __init__(self) -> None:
        self.transactions: set[object] = set()


_thread = _Thread()


class _Answering(psycopg.Connection[Any]):
    """A connection that is closed when Postgres does not answer in time.

    The kernel notices a peer that is gone. It does not notice a peer that accepts every byte and never answers, such as
    a balancer that lost its state. Without this class a thread would wait for it for ever.
    """

    answer_seconds: float | None = None

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        try:
            return super().wait(gen, interval, self.answer_seconds if timeout is None else timeout)
        except psycopg.OperationalError:
            if self.info.transaction_status == psycopg.pq.TransactionStatus.ACTIVE:
                self.close()
            raise


class Database:
    """A pool of connections to one Postgres. Threads may share it, forks may not."""

    def __init__(
        self, url: str, *, pool_size: int = 5, connect_timeout: int = 5, answer_seconds: float | None = None
    ) -> None:
        """`answer_seconds`: ANSWER_SECONDS for services; None for commands whose statements may take long.

        Raise SetupProblem for an address that cannot be read.
        """
        self._answer_seconds = answer_seconds
        self.engine: Engine = create_engine(
            # `connect_args` gives psycopg the address: SQLAlchemy would read it in its own way.
            "postgresql+psycopg://",
            pool_size=pool_size,
            max_overflow=5,
            pool_timeout=10,
            # Parameters hold people's texts: an error names the statement without them.
            hide_parameters=True,
            # This finds a connection that Postgres closed while it was idle, before a case uses it.
            pool_pre_ping=True,
            connect_args={
                "connect_timeout": connect_timeout,
                "application_name": "bonafide",
                "keepalives_idle": 15,
                "keepalives_interval": 5,
                "keepalives_count": 3,
                # This finds a vanished Postgres in the middle of a statement too. Milliseconds.
                "tcp_user_timeout": 30_000,
                **read_database(url),
                # Texts are Unicode, whatever PGCLIENTENCODING says.
                "client_encoding": "utf8",
            },
        )
        event.listen(self.engine, "do_connect", self._connect)
        event.listen(self.engine, "connect", _prepare)
        traces.watch(self.engine)
        self._sessions = sessionmaker(self.engine, expire_on_commit=False)
        plain = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        self._readers = sessionmaker(plain, expire_on_commit=False)

    def transaction(self) -> AbstractContextManager[Session]:
        """Commit on leaving, roll back on an exception.

        Raise DatabaseUnavailable when Postgres does not answer. When the connection dies during the commit, nobody
        knows whether it succeeded. Every caller must be able to try again; the (case, fingerprint) and idempotency
        constraints make that safe.
        """
        return self._session(self._sessions)

    def reading(self) -> AbstractContextManager[Session]:
        """A session without a transaction, for one query: it saves two round trips. Raise DatabaseUnavailable."""
        return self._session(self._readers)

    @contextmanager
    def _session(self, made: sessionmaker[Session]) -> Generator[Session]:
        # It counts for the thread that begins it: another thread may end a generator.
        transactions, this = _thread.transactions, object()
        transactions.add(this)
        try:
            with self._errors(), made.begin() as session:
                yield session
        finally:
            transactions.discard(this)
        for do in session.info.pop(_AFTER_COMMIT, ()):
            do(self)

    @contextmanager
    def _errors(self) -> Generator[None]:
        """Turn the driver's exceptions into ours."""
        try:
            yield
        except (OperationalError, InterfaceError) as error:
            raise DatabaseUnavailable("Postgres does not answer", inside=first_line(error)) from error
        except PoolTimeout as error:
            raise DatabaseUnavailable("every connection to Postgres is in use, and none came free") from error
        except DBAPIError as error:
            # A read-only server was just demoted: the next connection finds the new one.
            if error.connection_invalidated or isinstance(error.orig, ReadOnlySqlTransaction):
                raise DatabaseUnavailable("Postgres does not answer", inside=first_line(error)) from error
            raise

    def _connect(self, _dialect: Any, _record: Any, args: Any, options: Any) -> _Answering:
        connection = _Answering.connect(*args, **options)
        encoding = connection.info.parameter_status("server_encoding")
        if encoding not in (None, "UTF8"):  # None: a pooler in between does not tell
            name = connection.info.dbname
            connection.close()
            raise DatabaseNotUtf8(
                f"the database {name} is in {encoding} and must be in UTF8: make another one with "
                "CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0, and name that"
            )
        connection.answer_seconds = self._answer_seconds
        return connection

    def ping(self) -> None:
        """Raise DatabaseUnavailable unless Postgres answers."""
        with self.transaction() as session:
            session.execute(text("SELECT 1"))

    def close(self) -> None:
        self.engine.dispose()


def after_commit(session: Session, do: Callable[[Database], object]) -> None:
    """Do this after the session's commit, outside the transaction. A rollback drops it."""
    session.info.setdefault(_AFTER_COMMIT, []).append(do)


def in_transaction() -> bool:
    """Whether this thread has a transaction open."""
    return bool(_thread.transactions)


def lacks_rights(error: BaseException) -> bool:
    """Whether Postgres refused because this process's role lacks rights."""
    return isinstance(error, ProgrammingError) and isinstance(error.orig, InsufficientPrivilege)


def lacks_tables(error: BaseException) -> bool:
    """Whether Postgres refused because a table is missing: the migrations have not run, or this is a bug."""
    undefined = (UndefinedTable, UndefinedColumn, UndefinedFunction)
    return isinstance(error, ProgrammingError) and isinstance(error.orig, undefined)


def _prepare(connection: object, _record: object) -> None:
    cursor = connection.cursor()  # pyright: ignore[reportAttributeAccessIssue]
    cursor.execute(f"SET statement_timeout = '{STATEMENT_TIMEOUT}'")
    cursor.execute(f"SET idle_in_transaction_session_timeout = '{STATEMENT_TIMEOUT}'")
    # A server may have another zone. We read times, and count days, in UTC everywhere.
    cursor.execute("SET timezone = 'UTC'")
    connection.commit()  # pyright: ignore[reportAttributeAccessIssue]
    cursor.close()


def first_line(error: DBAPIError) -> str:
    """The error's text on one line; with several hosts, the text of each."""
    lines = str(error.orig).strip().split("\n")
    of_each = [line.removeprefix("- ") for line in lines if line.startswith("- ")]
    return "; ".join(of_each or lines[:1])
