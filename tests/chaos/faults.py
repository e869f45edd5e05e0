"""Every fault of the campaign: what is done to the running system, and how it is lifted again.

A fault is a context manager: what comes before its `yield` does the harm, what comes after lifts it.
"""

import random
import signal
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import psycopg
import redis
from tenacity import Retrying, retry_if_exception_type, stop_after_delay

from moderation.dispatch import ANALYSIS_QUEUE, LANES
from tests.chaos.pictures import Mark
from tests.chaos.store import Manner
from tests.chaos.yard import Yard

Act = Callable[[Yard, random.Random], AbstractContextManager[None]]


@dataclass(frozen=True)
class Fault:
    name: str
    #: What it harms. Two faults at once harm different things: one lifts nothing that the other needs.
    part: str
    act: Act
    #: Seconds between the harm and its lifting, least and most.
    lasts: tuple[float, float] = (0.3, 1.2)
    #: Pictures of the round that carry the fault themselves.
    marks: tuple[Mark, ...] = ()


# --- processes


@contextmanager
def _killed(yard: Yard, chance: random.Random) -> Generator[None]:
    yard.send(chance.choice(yard.workers), signal.SIGKILL)
    yield


@contextmanager
def _all_killed(yard: Yard, chance: random.Random) -> Generator[None]:
    for name in yard.workers:
        yard.send(name, signal.SIGKILL)
    yield


@contextmanager
def _terminated(yard: Yard, chance: random.Random) -> Generator[None]:
    yard.send(chance.choice(yard.workers), signal.SIGTERM)
    yield


@contextmanager
def _stopped(yard: Yard, chance: random.Random) -> Generator[None]:
    """Longer than a lease: it wakes up holding what others have taken."""
    name = chance.choice(yard.workers)
    yard.send(name, signal.SIGSTOP)
    yield
    yard.send(name, signal.SIGCONT)


#: What a later release's migrations do to the busiest table: an index and a constraint more, and away again. The
#: running release knows neither; a column of its own could not be taken from it.
_LATER = (
    "CREATE INDEX CONCURRENTLY IF NOT EXISTS cases_of_later ON cases (version, id)",
    "ALTER TABLE cases DROP CONSTRAINT IF EXISTS cases_of_later_check",
    "ALTER TABLE cases ADD CONSTRAINT cases_of_later_check CHECK (version >= 0) NOT VALID",
    "ALTER TABLE cases VALIDATE CONSTRAINT cases_of_later_check",
    "ALTER TABLE cases DROP CONSTRAINT IF EXISTS cases_of_later_check",
    "DROP INDEX CONCURRENTLY IF EXISTS cases_of_later",
)


def _migrate_again(yard: Yard) -> None:
    """Migrate against everybody's statements.

    What takes a lock may meet one: it gives up after seconds, lest everybody wait behind it, and is run again.
    """
    with psycopg.connect(yard.addresses.database_url, autocommit=True) as owner:
        owner.execute("SET lock_timeout = '3s'")
        for statement in _LATER:
            for again in Retrying(
                retry=retry_if_exception_type(psycopg.OperationalError), stop=stop_after_delay(60)
            ):
                with again:
                    owner.execute(statement)


@contextmanager
def _deployed(yard: Yard, chance: random.Random) -> Generator[None]:
    """A migration runs while the old release serves; then process by process is replaced."""
    first, *others = yard.workers
    _migrate_again(yard)
    yard.send("web", signal.SIGTERM)
    yard.send(first, signal.SIGTERM)
    yield
    for name in [*others, *yard.sweepers]:
        yard.send(name, signal.SIGTERM)


@contextmanager
def _clock_wrong(yard: Yard, chance: random.Random) -> Generator[None]:
    name = chance.choice(yard.workers)
    yard.restart(name, CHAOS_CLOCK_SKEW=str(chance.choice([-600, 600])))
    yield
    yard.restart(name)


@contextmanager
def _sweepers_killed(yard: Yard, chance: random.Random) -> Generator[None]:
    for name in yard.sweepers:
        yard.send(name, signal.SIGKILL)
    yield


@contextmanager
def _sweeper_stopped(yard: Yard, chance: random.Random) -> Generator[None]:
    name = chance.choice(yard.sweepers)
    yard.send(name, signal.SIGSTOP)
    yield
    yard.send(name, signal.SIGCONT)


@contextmanager
def _api_killed(yard: Yard, chance: random.Random) -> Generator[None]:
    yard.send("web", signal.SIGKILL)
    yield


# --- the broker


@contextmanager
def _broker_restarted(yard: Yard, chance: random.Random) -> Generator[None]:
    yard.stack.stop_process("valkey", signal.SIGKILL)
    yield
    yard.restart_broker(signal.SIGKILL)


@contextmanager
def _broker_flushed(yard: Yard, chance: random.Random) -> Generator[None]:
    yard.broker().flushall()
    yield
    yard.broker().flushall()


@contextmanager
def _broker_paused(yard: Yard, chance: random.Random) -> Generator[None]:
    yard.broker().client_pause(1500, all=True)
    yield


@contextmanager
def _broker_stopped(yard: Yard, chance: random.Random) -> Generator[None]:
    """Connections stay open and nobody answers on them."""
    yard.stack.signal_process("valkey", signal.SIGSTOP)
    yield
    yard.stack.signal_process("valkey", signal.SIGCONT)


@contextmanager
def _broker_full(yard: Yard, chance: random.Random) -> Generator[None]:
    yard.broker().config_set("maxmemory", 1)
    yield
    yard.broker().config_set("maxmemory", 0)


@contextmanager
def _broker_slow(yard: Yard, chance: random.Random) -> Generator[None]:
    def pause() -> None:
        try:
            yard.broker().client_pause(100, all=True)
        except redis.RedisError:
            return

    yard.meanwhile.append(pause)
    yield
    yard.meanwhile.remove(pause)


# --- messages


@contextmanager
def _messages_lost(yard: Yard, chance: random.Random) -> Generator[None]:
    yard.broker().delete(*LANES)
    yield
    yard.broker().delete(*LANES)


@contextmanager
def _messages_repeated(yard: Yard, chance: random.Random) -> Generator[None]:
    """Everything that is on the queue is there four times, in another order."""

    def repeat() -> None:
        broker = yard.broker()
        for lane in LANES:
            messages = broker.lrange(lane, 0, 200) * 3
            if messages:
                chance.shuffle(messages)
                broker.lpush(lane, *messages)

    repeat()
    yield
    repeat()


@contextmanager
def _messages_unreadable(yard: Yard, chance: random.Random) -> Generator[None]:
    broker = yard.broker()
    broker.lpush(ANALYSIS_QUEUE, b"\xff\xfe\x00", b"[]", b'{"body": "AA", "headers": {}, "properties": {}}')
    yield
    broker.rpush(ANALYSIS_QUEUE, b"not json at all", b"{" * 10_000)


# --- Postgres


@contextmanager
def _connections_ended(yard: Yard, chance: random.Random) -> Generator[None]:
    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'bonafide'"
    yard.ask(end)
    yield
    yard.ask(end)


@contextmanager
def _postgres_restarted(yard: Yard, chance: random.Random) -> Generator[None]:
    yard.restart_postgres(signal.SIGINT, away=chance.random())
    yield


@contextmanager
def _postgres_crashed(yard: Yard, chance: random.Random) -> Generator[None]:
    """SIGQUIT: every backend ends at once, and it recovers from its log."""
    yard.restart_postgres(signal.SIGQUIT, away=chance.random())
    yield


@contextmanager
def _postgres_read_only(yard: Yard, chance: random.Random) -> Generator[None]:
    """As a replica that was just demoted."""
    yard.ask("ALTER SYSTEM SET default_transaction_read_only = on")
    yard.ask("SELECT pg_reload_conf()")
    yield
    yard.ask("ALTER SYSTEM RESET default_transaction_read_only")
    yard.ask("SELECT pg_reload_conf()")


@contextmanager
def _connections_silent(yard: Yard, chance: random.Random) -> Generator[None]:
    """Half-open: what is open stays open and nobody answers on it, now and ever."""
    yard.pipe.fall_silent()
    yield


def _refusing(code: str, share: float) -> Act:
    """A trigger that makes Postgres itself refuse a share of all writes to cases with this SQLSTATE."""

    @contextmanager
    def act(yard: Yard, chance: random.Random) -> Generator[None]:
        yard.ask(f"""
            CREATE OR REPLACE FUNCTION chaos() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                IF random() < {share} THEN
                    RAISE EXCEPTION USING ERRCODE = '{code}', MESSAGE = 'injected';
                END IF;
                RETURN NULL;
            END $$;
            CREATE OR REPLACE TRIGGER chaos BEFORE INSERT OR UPDATE ON cases
                FOR EACH STATEMENT EXECUTE FUNCTION chaos();
        """)
        yield
        yard.ask("DROP TRIGGER IF EXISTS chaos ON cases")

    return act


# --- the store


#: Seconds that a store goes on misbehaving until somebody has met it.
MET_WITHIN = 15.0


def _store(manner: Manner) -> Act:
    @contextmanager
    def act(yard: Yard, chance: random.Random) -> Generator[None]:
        before, latest = yard.store.faults, time.monotonic() + MET_WITHIN
        with yard.store.behaving(manner):
            yield
            while yard.store.faults == before and time.monotonic() < latest:
                yard.tend()
                time.sleep(0.02)

    return act


@contextmanager
def _nothing(yard: Yard, chance: random.Random) -> Generator[None]:
    """The pictures of the round are the fault."""
    yield


LONGER_THAN_A_LEASE = (2.5, 3.5)
FAULTS = (
    Fault("none", "nothing", _nothing),
    Fault("worker SIGKILL", "processes", _killed),
    Fault("all workers SIGKILL", "processes", _all_killed),
    Fault("worker SIGTERM", "processes", _terminated),
    Fault("worker SIGSTOP", "processes", _stopped, LONGER_THAN_A_LEASE),
    Fault("deploy and migration", "processes", _deployed, (0.8, 1.5)),
    Fault("clock off by 10 min", "processes", _clock_wrong, (1.5, 2.5)),
    Fault("sweepers SIGKILL", "processes", _sweepers_killed),
    Fault("sweeper SIGSTOP", "processes", _sweeper_stopped, (1.0, 2.0)),
    Fault("API SIGKILL", "processes", _api_killed),
    Fault("Redis restarted", "broker", _broker_restarted),
    Fault("Redis FLUSHALL", "broker", _broker_flushed),
    Fault("Redis paused", "broker", _broker_paused),
    Fault("Redis SIGSTOP", "broker", _broker_stopped, (1.0, 3.0)),
    Fault("Redis full", "broker", _broker_full),
    Fault("Redis slow", "broker", _broker_slow),
    Fault("messages lost", "broker", _messages_lost),
    Fault("messages repeated, reordered", "broker", _messages_repeated),
    Fault("messages unreadable", "broker", _messages_unreadable),
    Fault("Postgres connections ended", "database", _connections_ended),
    Fault("Postgres connections half-open", "database", _connections_silent),
    Fault("Postgres restarted", "database", _postgres_restarted),
    Fault("Postgres crashed", "database", _postgres_crashed),
    Fault("Postgres read-only", "database", _postgres_read_only),
    Fault("Postgres disk full", "database", _refusing("53100", 1.0)),
    Fault("serialization failures", "database", _refusing("40001", 0.4)),
    Fault("deadlocks", "database", _refusing("40P01", 0.4)),
    Fault("S3 500", "store", _store(Manner(500, "InternalError"))),
    Fault("S3 503", "store", _store(Manner(503, "SlowDown", share=0.7))),
    Fault("S3 slow", "store", _store(Manner(slow=0.05))),
    Fault("S3 trickles", "store", _store(Manner(slow=0.3)), LONGER_THAN_A_LEASE),
    Fault("S3 short bodies", "store", _store(Manner(short=True))),
    Fault("S3 403", "store", _store(Manner(403, "AccessDenied"))),
    Fault("poison pictures", "pictures", _nothing, marks=(Mark.POISON,) * 2),
    Fault("dies while preparing", "pictures", _nothing, marks=(Mark.DIES_PREPARING,)),
    Fault("dies in the model", "pictures", _nothing, marks=(Mark.DIES_ANALYZING,)),
    Fault("dies while concluding", "pictures", _nothing, marks=(Mark.DIES_CONCLUDING,)),
    Fault("dies before the commit", "pictures", _nothing, marks=(Mark.DIES_BEFORE_COMMIT,)),
    Fault("dies after the commit", "pictures", _nothing, marks=(Mark.DIES_AFTER_COMMIT,)),
    Fault("objects vanish or change", "pictures", _nothing, marks=(Mark.VANISHES, Mark.CHANGES) * 2),
    Fault("ambiguous commit", "pictures", _nothing, marks=(Mark.AMBIGUOUS,) * 4),
    Fault("model hangs", "pictures", _nothing, marks=(Mark.HANGS,)),
    Fault("out of memory", "pictures", _nothing, marks=(Mark.OUT_OF_MEMORY,) * 2),
)
assert len({fault.name for fault in FAULTS}) == len(FAULTS)
