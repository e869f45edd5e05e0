"""Reads cases that two bundles analysed, for `moderation.rollouts.comparison`.

Ids of cases are ordered by time and come first in the index of analyses. The query merges two ranges of that index, the
newest case first. From the table itself it reads only the pairs, and no more than requested.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from moderation.analysis import Label
from moderation.database.ids import first_id_at
from moderation.decisions import Outcome
from moderation.people import RULE
from moderation.rollouts.comparison import BundleVerdict, Pair

#: Pairs that are read at most, the newest ones. More add little: a share of so many is known to 0.7 percent.
PAIRS_AT_MOST = 20_000

_PAIRS = text(f"""
    SELECT a.case_id, a.image_sha256, a.label AS first_label, a.score AS first_score,
           a.calibrated AS first_calibrated, (a.seconds ->> 'engine')::float8 AS first_seconds,
           b.label AS second_label, b.score AS second_score,
           b.calibrated AS second_calibrated, (b.seconds ->> 'engine')::float8 AS second_seconds,
           d.outcome, d.blind_outcome, d.analysis_id = a.id AS showed_first, d.analysis_id = b.id AS showed_second
    FROM (
        SELECT a.case_id FROM analyses a JOIN analyses b USING (case_id)
        WHERE a.fingerprint = :first AND b.fingerprint = :second
          AND a.case_id >= :since AND a.case_id < :until AND b.case_id >= :since AND b.case_id < :until
        ORDER BY a.case_id DESC LIMIT :most
    ) AS paired
    JOIN analyses a ON a.case_id = paired.case_id AND a.fingerprint = :first
    JOIN analyses b ON b.case_id = paired.case_id AND b.fingerprint = :second AND b.image_sha256 = a.image_sha256
    LEFT JOIN LATERAL (
        SELECT d.outcome, d.blind_outcome, d.analysis_id, d.final_at, d.person_id
        FROM decisions d JOIN cases c ON c.id = d.case_id AND c.state = 'decided'
        WHERE d.case_id = a.case_id AND d.undone_at IS NULL
        ORDER BY d.created_at DESC, d.id DESC LIMIT 1
    ) AS d ON d.final_at <= now() AND d.person_id <> '{RULE}'
    ORDER BY a.case_id DESC
""")  # noqa: S608  an id of ours

_MADE = text("""
    SELECT fingerprint, count(*) AS n FROM analyses WHERE id >= :since AND id < :until GROUP BY fingerprint
""")


def read_pairs(
    session: Session,
    first: str,
    second: str,
    *,
    since: datetime,
    until: datetime,
    at_most: int = PAIRS_AT_MOST,
) -> list[Pair]:
    """What two pipelines, by fingerprint, said of the same bytes, for cases opened from `since` to `until`.

    The newest case comes first. Only `at_most` cases are read, the newest.
    """
    wanted = {"first": first, "second": second, "most": at_most}
    days = {"since": first_id_at(since), "until": first_id_at(until)}
    return [_pair(row) for row in session.execute(_PAIRS, {**wanted, **days})]


def analyses_by_fingerprint(session: Session, *, since: datetime, until: datetime) -> dict[str, int]:
    """The number of analyses from `since` to before `until`, by fingerprint."""
    rows = session.execute(_MADE, {"since": first_id_at(since), "until": first_id_at(until)})
    return {row.fingerprint: row.n for row in rows}


def _pair(row: Row[Any]) -> Pair:
    return Pair(
        case_id=row.case_id,
        image=bytes(row.image_sha256),
        first=BundleVerdict(Label(row.first_label), row.first_score, row.first_calibrated, row.first_seconds),
        second=BundleVerdict(
            Label(row.second_label), row.second_score, row.second_calibrated, row.second_seconds
        ),
        decided=row.outcome and Outcome(row.outcome),
        blind=row.blind_outcome and Outcome(row.blind_outcome),
        showed_first=bool(row.showed_first),
        showed_second=bool(row.showed_second),
    )
