"""How fast a reviewer gets a page of the review queue and the next case, with ten thousand and with a million cases.

    python -m benchmarks.review [--small 10000] [--large 1000000] [--rounds 400] [--json]

Two databases of one Postgres hold the real schema, filled by generate_series: a tenth of the cases is ready, one in a
hundred waits, and the others are decided, each with its analysis and its decision; twenty reviewers hold a case each.
So the review queue grows with the history, a hundred times. A "queue page" is everything that the page asks for: fifty
lines, the counts and the sources, under each of nine filters in turn, every third time the second page. "Claim next"
claims and releases. The two databases alternate, so that a slow machine slows both.
"""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psycopg

from benchmarks.servers import new_database
from benchmarks.show import Row, growth, options, report
from moderation.analysis import Label, Technique
from moderation.cases import Stage
from moderation.database.connection import Database
from moderation.database.queue import QueueFilter, queue_counts, queue_page, sources_in_queue
from moderation.local import Stack, scratch_folder
from moderation.people import Person, Role
from moderation.review import Review
from moderation.settings import Settings
from tests.builders import a_person

PEOPLE = 20
#: The filters of the page, in turn.
FILTERS = (
    QueueFilter(),
    QueueFilter(unclaimed=True),
    QueueFilter(label=Label.DEEPFAKE),
    QueueFilter(label=Label.UNDETERMINED),
    QueueFilter(technique=Technique.FR, label=Label.DEEPFAKE),
    QueueFilter(source="source-3"),
    QueueFilter(stage=Stage.ESCALATED),
    QueueFilter(priority_at_least=90),
    QueueFilter(older_than_seconds=3600),
)

#: Triggers and foreign keys are off in this one transaction: the rows are right, and a million hashes of a log that
#: nobody reads here take minutes.
_FILL = """
SET LOCAL session_replication_role = replica;
SET LOCAL statement_timeout = 0;
SELECT setseed(0.4);
CREATE TEMPORARY TABLE made ON COMMIT DROP AS
SELECT n, uuidv7(make_interval(secs => -age)) AS id, now() - make_interval(secs => age) AS created_at,
       CASE WHEN n % 10 = 0 THEN 'ready' WHEN n % 100 = 1 THEN 'waiting' ELSE 'decided' END AS state,
       CASE WHEN random() < 0.8 THEN 0 ELSE (random() * 100)::int END AS priority,
       random() AS score, (ARRAY['FS', 'FR', 'FE', 'EFS'])[1 + n / 10 % 4] AS technique,
       CASE WHEN n % 10 <> 0 OR n % 500 > 0 THEN 'first' WHEN n % 1000 = 0 THEN 'escalated' ELSE 'appeal' END AS stage
FROM (SELECT n, 60 + random() * 86400 * 30 AS age FROM generate_series(1, {count}) AS n) AS drawn;
ALTER TABLE made ADD COLUMN label text, ADD COLUMN analysis uuid;
UPDATE made SET label = CASE WHEN score > 0.7 THEN 'deepfake' WHEN score > 0.6 THEN 'undetermined' ELSE 'bona_fide' END,
                analysis = CASE WHEN state <> 'waiting' THEN uuidv7() END;
INSERT INTO cases (id, source, external_id, request_digest, bucket, key, reason, priority, state, version, created_at,
                   ready_at, queued_at, label, technique, stage, decided_at, analysis_id)
SELECT id, 'source-' || n / 10 % 10, n::text, '\\x00', 'flagged', 'uploads/2026/11/23/' || n || '.jpg',
       'reported by a user', priority, state, 4, created_at,
       CASE WHEN state <> 'waiting' THEN created_at + interval '5 seconds' END,
       created_at - make_interval(secs => 864 * priority + 3600 * (1 - abs(2 * score - 1))), label,
       CASE WHEN label = 'deepfake' THEN technique END, stage,
       CASE WHEN state = 'decided' THEN created_at + interval '1 hour' END, analysis
FROM made;
INSERT INTO analyses (id, case_id, fingerprint, bundle, image_sha256, picture, label, score, calibrated, technique,
                      verdict, faces, seconds)
SELECT analysis, id, 'f1', 'mini 1', sha256(id::text::bytea), '{{"format": "JPEG"}}', label,
       score, false, CASE WHEN label = 'deepfake' THEN technique END, '{{}}', '[]', '{{}}'
FROM made WHERE state <> 'waiting';
INSERT INTO decisions (id, case_id, stage, outcome, person_id, verdict, saw_verdict_first, created_at, final_at)
SELECT uuidv7(), made.id, 'first', 'cannot_tell', people.id, label, true, made.created_at, made.created_at
FROM made JOIN (SELECT id, row_number() OVER (ORDER BY id) AS place FROM people) AS people
  ON people.place = 1 + made.n % {people}
WHERE state = 'decided' OR stage <> 'first';
"""


@dataclass(frozen=True)
class Filled:
    """A database with so many cases."""

    count: int
    database: Database
    review: Review
    people: Sequence[Person]


def fill(server_url: str, count: int) -> Filled:
    url = new_database(server_url, f"review_{count}")
    database = Database(url, pool_size=2)
    people = [a_person(name=f"Reviewer {number}", role=Role.LEAD) for number in range(PEOPLE + 1)]
    with psycopg.connect(url) as connection:
        for person in people:
            connection.execute(
                "INSERT INTO people (id, email, name, role) VALUES (%s, %s, %s, %s)",
                (person.id, person.email, person.name, person.role.value),
            )
        connection.execute(_FILL.format(count=count, people=PEOPLE).encode())
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM (ANALYZE)")
    review = Review(database, Settings(second_review_share=0, blind_first_share=0))  # pyright: ignore[reportCallIssue]
    for person in people[1:]:
        assert review.claim_next(person) is not None
    return Filled(count, database, review, people)


def show_queue(filled: Filled, turn: int) -> None:
    """What the queue page asks for."""
    wanted = FILTERS[turn % len(FILTERS)]
    with filled.database.transaction() as session:
        page = queue_page(session, wanted)
        if turn % 3 == 0 and page:
            queue_page(session, wanted, after=page[-1].place)
        queue_counts(session)
        sources_in_queue(session)


def claim_next(filled: Filled, turn: int) -> None:
    """Claim the next case and release it."""
    person = filled.people[0]
    wanted = FILTERS[0] if turn % 2 else FILTERS[2]
    claim = filled.review.claim_next(person, wanted)
    assert claim is not None
    filled.review.release(person, claim.case_id, claim.token)


def timed(work: Callable[[Filled, int], None], filled: Filled, turn: int) -> float:
    """Milliseconds."""
    started = time.perf_counter()
    work(filled, turn)
    return 1000 * (time.perf_counter() - started)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--small", type=int, default=10_000)
    parser.add_argument("--large", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=400, help="of each kind at each size")
    asked = parser.parse_args()
    works = {"queue": ("queue page", show_queue), "claim": ("claim next", claim_next)}
    spent = {key: {asked.small: list[float](), asked.large: list[float]()} for key in works}
    with scratch_folder() as folder, Stack(folder) as stack:
        url = stack.start_servers().database_url
        sizes = [fill(url, count) for count in (asked.small, asked.large)]
        for turn in range(-len(FILTERS), asked.rounds):
            for (key, (_, work)), filled in itertools.product(works.items(), sizes):
                took = timed(work, filled, turn)
                if turn >= 0:  # the first ones warm everything up
                    spent[key][filled.count].append(took)
        for filled in sizes:
            filled.database.close()
    rows, figures = list[Row](), dict[str, float]()
    for key, (words, _) in works.items():
        shown, found = growth(words, key, "cases", spent[key])
        rows += shown
        figures |= found
    report("Review: the queue and the next case", rows, {"review": figures}, as_json=asked.json)


if __name__ == "__main__":
    main()
