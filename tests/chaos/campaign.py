"""Rounds of cases, each under one or two faults that a seed chooses, and what became of every case.

Lost: accepted, and not before a person in time. Duplicated: more than one analysis of one fingerprint, or more than
one ending. Wrong: ended as something its picture does not deserve, or with a broken chain of events; or a decision that
was acknowledged is gone, or a question or a rerun has no end. A candidate is on trial and people are at work meanwhile.
"""

import random
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from moderation.database.connection import Database
from moderation.database.events import read_chain
from tests.chaos.faults import FAULTS, Fault
from tests.chaos.people import People
from tests.chaos.pictures import VERDICT, Mark, Planned, plan
from tests.chaos.yard import QUICK, Submitted, Yard, open_yard

#: Seconds after which a healthy case of a round counts as stuck.
ROUND_AT_MOST = 90.0
#: Seconds for what is left at the end: poison has its delays.
END_AT_MOST = 150.0


@dataclass(frozen=True)
class Round:
    number: int
    faults: tuple[str, ...]
    accepted: Mapping[UUID, Planned]
    refused: Sequence[str]
    #: Seconds from the end of the harm, and of the submitting, until every healthy case was before a person.
    recovery: float
    #: Seconds of the slowest call of a platform, with its client's retries.
    slowest_call: float


@dataclass(frozen=True)
class Outcome:
    """What one fault did, over all rounds that it was part of."""

    trials: int
    cases: int
    lost: int
    duplicated: int
    wrong: int
    recovery_median: float
    recovery_worst: float
    call_worst: float


@dataclass(frozen=True)
class Report:
    seed: int
    cases: int
    lost: int
    duplicated: int
    wrong: list[str]
    refused: dict[str, int]
    #: Of healthy cases: how many needed so many leases.
    attempts: dict[int, int]
    leases_expired: int
    processes_restarted: int
    store_faults: int
    #: What people did meanwhile: cases decided, archived and brought back, erased; questions and reruns, and how many
    #: of those were given up.
    meanwhile: dict[str, int]
    seconds: float
    faults: dict[str, Outcome] = field(default_factory=dict[str, Outcome])


def run(
    folder: Path,
    *,
    cases: int,
    seed: int,
    per_round: int = 25,
    at_once: float = 1.3,
    faults: Sequence[Fault] = FAULTS,
    minutes: float = 600,
    every_fault: bool = False,
    workers: int = 3,
) -> Report:
    """Submit at least `cases` cases, or for so many minutes, round by round, and audit them.

    `at_once` faults on average in one round. With `every_fault` the rounds go on until each has had its turn.
    """
    started = time.monotonic()
    chance = random.Random(seed)
    rounds: list[Round] = []
    with open_yard(folder, Yard, workers=workers, seed=seed) as yard, ThreadPoolExecutor(1) as submitter:
        people = People(yard, seed)
        with people:
            line: list[Fault] = []
            until = started + 60 * minutes
            while time.monotonic() < until:
                unmet = every_fault and (line or not rounds)
                if not unmet and sum(len(one.accepted) for one in rounds) >= cases:
                    break
                if not line:
                    line = list(faults)
                    chance.shuffle(line)
                chosen = [line.pop()]
                wanted = int(at_once) + (chance.random() < at_once % 1)
                while len(chosen) < wanted and (more := _another(line, chosen)) is not None:
                    chosen.append(more)
                rounds.append(play(yard, submitter, len(rounds), chosen, per_round, chance))
        _wait_for_all(yard, rounds)
        people.bring_back()
        people.close()
        return _audit(yard, people, rounds, seed, started)


def _another(line: list[Fault], chosen: Sequence[Fault]) -> Fault | None:
    """The next fault that harms something else."""
    for fault in reversed(line):
        if fault.part not in {one.part for one in chosen}:
            line.remove(fault)
            return fault
    return None


def play(
    yard: Yard,
    submitter: ThreadPoolExecutor,
    number: int,
    faults: Sequence[Fault],
    cases: int,
    chance: random.Random,
    *,
    at_most: float = ROUND_AT_MOST,
) -> Round:
    """One round: cases come, these faults happen meanwhile, and every healthy case is waited for, but no longer."""
    planned = plan(cases, tuple(mark for fault in faults for mark in fault.marks), chance)
    yard.accepted = 0
    submitting: Future[Submitted] = submitter.submit(
        yard.submit, planned, name=f"round-{number}", seed=chance.randrange(2**32), within=1.2
    )
    # Counted in cases and not in seconds: on a busy machine a fault would be over before anything was under way.
    begins = {fault.name: int(chance.uniform(0.0, 0.8) * cases) for fault in faults}
    harm: dict[str, ExitStack] = {}
    ends: dict[str, float] = {}
    left = list(faults)
    while left or not submitting.done():
        for fault in list(left):
            if fault.name in harm:
                if time.monotonic() >= ends[fault.name]:
                    harm[fault.name].close()
                    left.remove(fault)
            elif yard.accepted >= begins[fault.name] or submitting.done():
                harm[fault.name] = ExitStack()
                harm[fault.name].enter_context(fault.act(yard, chance))
                ends[fault.name] = time.monotonic() + chance.uniform(*fault.lasts)
        yard.tend()
        time.sleep(0.02)
    submitted, over = submitting.result(), time.monotonic()
    healthy = [id_ for id_, one in submitted.accepted.items() if one.mark is not Mark.POISON]
    _wait(yard, healthy, at_most)
    names = tuple(fault.name for fault in faults)
    recovery = time.monotonic() - over
    return Round(number, names, submitted.accepted, submitted.refused, recovery, submitted.slowest)


def _wait(yard: Yard, ids: Sequence[UUID], at_most: float) -> None:
    """Until all of them are before a person, or time is up: then they count as lost."""
    deadline = time.monotonic() + at_most
    while yard.unfinished(ids) != [] and time.monotonic() < deadline:
        yard.tend()
        time.sleep(0.05)


def _wait_for_all(yard: Yard, rounds: Sequence[Round]) -> None:
    _wait(yard, [id_ for one in rounds for id_ in one.accepted], END_AT_MOST)
    deadline = time.monotonic() + END_AT_MOST
    while yard.ask(_OPEN)[0].n and time.monotonic() < deadline:
        yard.tend()
        time.sleep(0.05)


#: What was asked for beside the cases' own analyses, and has no end yet.
_OPEN = """
    SELECT (SELECT count(*) FROM reruns WHERE done_at IS NULL)
         + (SELECT count(*) FROM questions WHERE answered_at IS NULL) AS n
"""

_ENDS = """
    SELECT c.*, count(a.id) AS analyses, count(DISTINCT a.fingerprint) AS fingerprints,
           (SELECT count(*) FROM events e WHERE e.case_id = c.id AND e.kind IN ('analyzed', 'refused')) AS ends
    FROM cases c LEFT JOIN analyses a ON a.case_id = c.id GROUP BY c.id
"""


def _audit(yard: Yard, people: People, rounds: Sequence[Round], seed: int, started: float) -> Report:
    rows = {row.id: row for row in yard.ask(_ENDS)}
    accepted = {id_: one for turn in rounds for id_, one in turn.accepted.items()}
    lost, duplicated, wrong = set[UUID](), set[UUID](), dict[UUID, str]()
    for id_, planned in accepted.items():
        row = rows.get(id_)
        if row is None or row.state not in ("ready", "decided"):
            lost.add(id_)
        elif row.analyses > row.fingerprints or row.ends != 1:
            duplicated.add(id_)
        elif words := _misjudged(row, planned):
            wrong[id_] = f"{planned.kind} {id_}: {words}"
    wrong |= dict.fromkeys(_broken_chains(yard, accepted), "its chain of events is broken")
    wrong |= {id_: "was decided, and is not" for id_ in people.decided if rows[id_].state != "decided"}
    unknown = rows.keys() - accepted.keys()
    wrong |= dict.fromkeys(unknown, "opened, and never answered for")
    expired = yard.ask("SELECT count(*) AS n FROM events WHERE kind = 'lease_expired'")
    return Report(
        seed=seed,
        cases=len(accepted),
        lost=len(lost),
        duplicated=len(duplicated),
        wrong=[*people.faults, *_open_ends(yard, people)]
        + [f"{_named(rounds, id_)}: {words}" for id_, words in wrong.items()]
        + [
            f"{_named(rounds, id_)}: lost {id_}, {rows[id_].state if id_ in rows else 'gone'}" for id_ in lost
        ],
        refused=dict(Counter(code for turn in rounds for code in turn.refused)),
        attempts=dict(
            sorted(
                Counter(
                    rows[i].attempts for i, p in accepted.items() if i in rows and VERDICT in p.ends_as
                ).items()
            )
        ),
        leases_expired=expired[0].n,
        processes_restarted=yard.restarts,
        store_faults=yard.store.faults,
        meanwhile=_meanwhile(yard, people),
        seconds=round(time.monotonic() - started, 1),
        faults={
            name: _outcome([turn for turn in rounds if name in turn.faults], lost, duplicated, wrong)
            for name in sorted({name for turn in rounds for name in turn.faults})
        },
    )


def _misjudged(row: Any, planned: Planned) -> str | None:
    end = row.refusal_code or VERDICT
    if end not in planned.ends_as:
        return f"ended as {end}, {row.refusal_message}"
    # One that it was before a person with, and perhaps one of the other bundle.
    if not (1 <= row.analyses <= 2 if end == VERDICT else row.analyses == 0):
        return f"{row.analyses} analyses beside {end}"
    if planned.mark is Mark.POISON and row.attempts != int(QUICK["BONAFIDE_ATTEMPTS_AT_MOST"]):
        return f"given up after {row.attempts} attempts"
    return None


def _open_ends(yard: Yard, people: People) -> list[str]:
    """Reruns and questions that nobody will ever end, and an analysis that a rerun claims and there is not."""
    reruns = yard.ask("""
        SELECT r.case_id, r.done_at FROM reruns r
        WHERE r.done_at IS NULL OR r.failure IS NULL AND NOT EXISTS
            (SELECT 1 FROM analyses a WHERE a.case_id = r.case_id AND a.fingerprint = r.fingerprint)
    """)
    ended = {row.id for row in yard.ask("SELECT id FROM questions WHERE answered_at IS NOT NULL")}
    return [
        *(
            f"the rerun of {row.case_id} {'has no end' if row.done_at is None else 'made nothing'}"
            for row in reruns
        ),
        *(f"the question {id_} has no end" for id_ in people.asked - ended),
    ]


def _meanwhile(yard: Yard, people: People) -> dict[str, int]:
    (counts,) = yard.ask("""
        SELECT (SELECT count(*) FROM reruns) AS reruns,
               (SELECT count(*) FROM reruns WHERE failure IS NOT NULL) AS "reruns given up",
               (SELECT count(*) FROM questions) AS questions,
               (SELECT count(*) FROM questions WHERE failure IS NOT NULL) AS "questions given up"
    """)
    done = {"decided": len(people.decided), "archived": people.archived, "erased": len(people.erased)}
    return {**done, **counts._asdict()}


def _broken_chains(yard: Yard, ids: Mapping[UUID, Planned]) -> list[UUID]:
    database = Database(yard.addresses.database_url, pool_size=1)
    with database.transaction() as session:
        broken = [id_ for id_ in ids if read_chain(session, id_).broken_at is not None]
    database.close()
    return broken


def _named(rounds: Sequence[Round], id_: UUID) -> str:
    turn = next((turn for turn in rounds if id_ in turn.accepted), None)
    return "no round" if turn is None else f"round {turn.number} ({', '.join(turn.faults)})"


def _outcome(
    turns: Sequence[Round], lost: set[UUID], duplicated: set[UUID], wrong: Mapping[UUID, str]
) -> Outcome:
    ids = {id_ for turn in turns for id_ in turn.accepted}
    times = [turn.recovery for turn in turns]
    return Outcome(
        trials=len(turns),
        cases=len(ids),
        lost=len(ids & lost),
        duplicated=len(ids & duplicated),
        wrong=len(ids & wrong.keys()),
        recovery_median=round(statistics.median(times), 1),
        recovery_worst=round(max(times), 1),
        call_worst=round(max(turn.slowest_call for turn in turns), 1),
    )
