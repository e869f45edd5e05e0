"""Counts of the review over a period. `moderation.reports.insight` computes and explains the numbers.

The period limits every query: by a block-range index of the log or of decisions, or by ids, which are ordered by time.
None reads the whole history.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, cast

from sqlalchemy import Row, TextClause, text
from sqlalchemy.orm import Session

from moderation.database.ids import first_id_at
from moderation.people import RULE

#: For each case decided in the period: its decision at the end of the period, and the model's verdict.
_STANDING = f"""
    WITH standing AS (
        SELECT DISTINCT ON (d.case_id) d.id, d.case_id, d.person_id, d.outcome, d.technique, d.verdict,
               d.blind_outcome, a.technique AS verdict_technique, a.bundle, a.score, a.calibrated
        FROM decisions d LEFT JOIN analyses a ON a.id = d.analysis_id
        WHERE d.created_at >= :since AND d.created_at < :until AND d.undone_at IS NULL AND d.outcome <> 'escalate'
          AND d.person_id <> '{RULE}'
        ORDER BY d.case_id, d.created_at DESC, d.id DESC
    )
"""  # noqa: S608  an id of ours


def _of_standing(query: str) -> TextClause:
    return text(_STANDING + query)


_DAYS = text("""
    SELECT (at AT TIME ZONE 'UTC')::date AS day,
           count(*) FILTER (WHERE kind = 'accepted') AS opened,
           count(*) FILTER (WHERE kind IN ('analyzed', 'refused')) AS made_ready,
           count(*) FILTER (WHERE kind = 'decided') - count(*) FILTER (WHERE kind = 'decision_undone') AS decided,
           count(*) FILTER (WHERE kind = 'appealed') AS appealed
    FROM events
    WHERE at >= :since AND at < :until
      AND kind IN ('accepted', 'analyzed', 'refused', 'decided', 'decision_undone', 'appealed')
    GROUP BY day ORDER BY day
""")

_AGES = text("""
    SELECT count(*) AS n,
           percentile_cont(ARRAY[0.5, 0.9]) WITHIN GROUP (ORDER BY extract(epoch FROM now() - ready_at)) AS at,
           extract(epoch FROM max(now() - ready_at)) AS oldest
    FROM cases WHERE state = 'ready'
""")

# An appeal sets `ready_at` again, so that the time to the first decision is no longer known.
_WAITS = text("""
    SELECT count(*) AS n,
           percentile_cont(ARRAY[0.5, 0.9])
               WITHIN GROUP (ORDER BY extract(epoch FROM d.created_at - c.ready_at)) AS at
    FROM decisions d JOIN cases c ON c.id = d.case_id
    WHERE d.created_at >= :since AND d.created_at < :until AND d.undone_at IS NULL
      AND d.stage = 'first' AND c.ready_at <= d.created_at
""")

_WORK = text("""
    SELECT count(*) AS n, percentile_cont(ARRAY[0.5, 0.9]) WITHIN GROUP (ORDER BY seconds) AS at
    FROM decisions
    WHERE created_at >= :since AND created_at < :until AND undone_at IS NULL AND seconds IS NOT NULL
""")

_AGREEMENT = _of_standing("""
    SELECT verdict, verdict_technique, bundle, count(*) AS n, count(*) FILTER (WHERE outcome = verdict) AS agreed,
           count(*) FILTER (WHERE outcome = verdict AND technique IS NOT NULL) AS named,
           count(*) FILTER (WHERE outcome = verdict AND technique = verdict_technique) AS same_technique
    FROM standing WHERE verdict IN ('deepfake', 'bona_fide')
    GROUP BY verdict, verdict_technique, bundle
""")

_APPEALS = text("""
    SELECT count(*) AS n, count(*) FILTER (WHERE answer.outcome <> first.outcome) AS overturned
    FROM decisions answer
    JOIN appeals p ON p.resolved_by = answer.id
    JOIN decisions first ON first.id = p.decision_id
    WHERE answer.created_at >= :since AND answer.created_at < :until AND answer.undone_at IS NULL
""")

_SECOND = text("""
    SELECT count(*) AS n, count(*) FILTER (WHERE second.outcome = first.outcome) AS agreed
    FROM decisions second JOIN decisions first ON first.id = second.supersedes
    WHERE second.created_at >= :since AND second.created_at < :until AND second.undone_at IS NULL
      AND second.stage = 'second' AND second.outcome <> 'escalate' AND first.outcome <> 'escalate'
""")

_SWITCHES = text("""
    SELECT count(*) FILTER (WHERE blind_outcome <> verdict) AS differed,
           count(*) FILTER (WHERE blind_outcome <> verdict AND outcome = verdict) AS switched,
           count(*) FILTER (WHERE blind_outcome = verdict) AS same,
           count(*) FILTER (WHERE blind_outcome = verdict AND outcome = verdict) AS kept
    FROM decisions
    WHERE created_at >= :since AND created_at < :until AND undone_at IS NULL AND outcome <> 'escalate'
      AND blind_outcome IS NOT NULL AND verdict IN ('deepfake', 'bona_fide')
""")

# The truth about a judgement is another person's later decision on the same case that still stands.
_RELIANCE = text("""
    SELECT count(*) FILTER (WHERE truth.outcome <> d.verdict) AS wrong,
           count(*) FILTER (WHERE truth.outcome <> d.verdict AND d.outcome = d.verdict) AS followed_wrong,
           count(*) FILTER (WHERE truth.outcome = d.verdict) AS correct,
           count(*) FILTER (WHERE truth.outcome = d.verdict AND d.outcome = d.verdict) AS followed_correct
    FROM decisions d
    JOIN LATERAL (
        SELECT t.outcome FROM decisions t
        WHERE t.case_id = d.case_id AND t.person_id <> d.person_id AND t.created_at > d.created_at
          AND t.undone_at IS NULL AND t.outcome IN ('deepfake', 'bona_fide')
        ORDER BY t.created_at DESC, t.id DESC LIMIT 1
    ) truth ON true
    WHERE d.created_at >= :since AND d.created_at < :until AND d.undone_at IS NULL
      AND d.blind_outcome IS NOT NULL AND d.verdict IN ('deepfake', 'bona_fide') AND d.outcome <> 'escalate'
""")

_ABSTAINED = text("""
    SELECT a.abstain, count(*) AS n FROM analyses a JOIN cases c ON c.id = a.case_id AND c.analysis_id = a.id
    WHERE a.id >= :first AND a.id < :last GROUP BY a.abstain
""")

_REFUSED = text("""
    SELECT body->>'code' AS code, count(*) AS n FROM events
    WHERE at >= :since AND at < :until AND kind = 'refused' GROUP BY code
""")

_BANDS = _of_standing("""
    SELECT least(floor(score * :bands), :bands - 1)::int AS band, count(*) AS n, avg(score) AS mean_score,
           count(*) FILTER (WHERE outcome = 'deepfake') AS deepfakes,
           count(*) FILTER (WHERE blind_outcome IN ('deepfake', 'bona_fide')) AS blind,
           count(*) FILTER (WHERE blind_outcome = 'deepfake') AS blind_deepfakes
    FROM standing WHERE score IS NOT NULL AND calibrated AND outcome IN ('deepfake', 'bona_fide')
    GROUP BY band ORDER BY band
""")

_ANSWERS = text("""
    SELECT region, count(*) FILTER (WHERE said.answer <> 'unclear') AS n,
           count(*) FILTER (WHERE said.answer = 'agree') AS agreed
    FROM decisions d
    JOIN artifact_answers said ON said.decision_id = d.id
    JOIN artifacts a ON (a.analysis_id, a.face, a.ordinal) = (said.analysis_id, said.face, said.ordinal)
    CROSS JOIN LATERAL unnest(a.regions) AS region
    WHERE d.created_at >= :since AND d.created_at < :until AND d.undone_at IS NULL
    GROUP BY region ORDER BY region
""")

Rows = Sequence[Row[Any]]


class Period:
    """The counts of one period, `since` to before `until`. Each is read on demand."""

    def __init__(self, session: Session, since: datetime, until: datetime) -> None:
        self._session = session
        self._bounds = {"since": since, "until": until}
        self._ids = {"first": first_id_at(since), "last": first_id_at(until)}

    def days(self) -> Rows:
        """Day, opened, made_ready, decided, appealed. Days without any are left out."""
        return self._rows(_DAYS)

    def ages(self) -> Row[Any]:
        """Seconds that the ready cases have waited: n, at (median, 90 %), oldest."""
        return self._session.execute(_AGES).one()

    def waits(self) -> Row[Any]:
        """Seconds from ready to the first decision: n, at."""
        return self._rows(_WAITS)[0]

    def work(self) -> Row[Any]:
        """Seconds from claim to decision: n, at."""
        return self._rows(_WORK)[0]

    def agreement(self) -> Rows:
        """By verdict, verdict_technique and bundle: n, agreed, and of those the named and the same techniques."""
        return self._rows(_AGREEMENT)

    def appeals(self) -> Row[Any]:
        """Appeals answered: n, overturned."""
        return self._rows(_APPEALS)[0]

    def second_reviews(self) -> Row[Any]:
        """Second reviews that ended in a judgement: n, agreed."""
        return self._rows(_SECOND)[0]

    def switches(self) -> Row[Any]:
        """After judging blind: differed, switched to the verdict; same, kept."""
        return self._rows(_SWITCHES)[0]

    def reliance(self) -> Row[Any]:
        """Verdicts that another person later held wrong, followed_wrong; those held correct, followed_correct."""
        return self._rows(_RELIANCE)[0]

    def abstained(self) -> Rows:
        """Analyses on show by abstain code, null for those with a verdict: abstain, n."""
        return self._session.execute(_ABSTAINED, self._ids).all()

    def refused(self) -> Rows:
        """Images that could not be analysed: code, n."""
        return self._rows(_REFUSED)

    def bands(self, bands: int) -> Rows:
        """Calibrated scores against decisions: band, n, mean_score, deepfakes, blind, blind_deepfakes."""
        return self._rows(_BANDS, bands=bands)

    def answers(self) -> Rows:
        """What reviewers said of artifacts, by region: n, agreed."""
        return self._rows(_ANSWERS)

    def _rows(self, statement: TextClause, **others: Any) -> Rows:
        return cast("Rows", self._session.execute(statement, {**self._bounds, **others}).all())
