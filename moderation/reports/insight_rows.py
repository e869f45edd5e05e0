"""Counts of the review over a period. `moderation.reports.insight` computes and explains the numbers.

The period limits every query: by a block-range index of the log or of decisions, or by ids, which are ordered by time.
None reads the whole history. Each query says which columns it gives.
"""

from sqlalchemy import TextClause, text

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


#: Day, opened, made_ready, decided, appealed. Days without any are left out.
DAYS = text("""
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

#: Seconds that the ready cases have waited: n, at (median, 90 %), oldest.
AGES = text("""
    SELECT count(*) AS n,
           percentile_cont(ARRAY[0.5, 0.9]) WITHIN GROUP (ORDER BY extract(epoch FROM now() - ready_at)) AS at,
           extract(epoch FROM max(now() - ready_at)) AS oldest
    FROM cases WHERE state = 'ready'
""")

#: Seconds from ready to the first decision: n, at. An appeal sets `ready_at` again: then that time is not known.
WAITS = text("""
    SELECT count(*) AS n,
           percentile_cont(ARRAY[0.5, 0.9])
               WITHIN GROUP (ORDER BY extract(epoch FROM d.created_at - c.ready_at)) AS at
    FROM decisions d JOIN cases c ON c.id = d.case_id
    WHERE d.created_at >= :since AND d.created_at < :until AND d.undone_at IS NULL
      AND d.stage = 'first' AND c.ready_at <= d.created_at
""")

#: Seconds from claim to decision: n, at.
WORK = text("""
    SELECT count(*) AS n, percentile_cont(ARRAY[0.5, 0.9]) WITHIN GROUP (ORDER BY seconds) AS at
    FROM decisions
    WHERE created_at >= :since AND created_at < :until AND undone_at IS NULL AND seconds IS NOT NULL
""")

#: By verdict, verdict_technique and bundle: n, agreed, and of those the named and the same techniques.
AGREEMENT = _of_standing("""
    SELECT verdict, verdict_technique, bundle, count(*) AS n, count(*) FILTER (WHERE outcome = verdict) AS agreed,
           count(*) FILTER (WHERE outcome = verdict AND technique IS NOT NULL) AS named,
           count(*) FILTER (WHERE outcome = verdict AND technique = verdict_technique) AS same_technique
    FROM standing WHERE verdict IN ('deepfake', 'bona_fide')
    GROUP BY verdict, verdict_technique, bundle
""")

#: Answered appeals: n, overturned.
APPEALS = text("""
    SELECT count(*) AS n, count(*) FILTER (WHERE answer.outcome <> first.outcome) AS overturned
    FROM decisions answer
    JOIN appeals p ON p.resolved_by = answer.id
    JOIN decisions first ON first.id = p.decision_id
    WHERE answer.created_at >= :since AND answer.created_at < :until AND answer.undone_at IS NULL
""")

#: Second reviews that ended in a judgement: n, agreed.
SECOND = text("""
    SELECT count(*) AS n, count(*) FILTER (WHERE second.outcome = first.outcome) AS agreed
    FROM decisions second JOIN decisions first ON first.id = second.supersedes
    WHERE second.created_at >= :since AND second.created_at < :until AND second.undone_at IS NULL
      AND second.stage = 'second' AND second.outcome <> 'escalate' AND first.outcome <> 'escalate'
""")

#: Judged blind: differed, and of those switched to the verdict; same, and of those kept.
SWITCHES = text("""
    SELECT count(*) FILTER (WHERE blind_outcome <> verdict) AS differed,
           count(*) FILTER (WHERE blind_outcome <> verdict AND outcome = verdict) AS switched,
           count(*) FILTER (WHERE blind_outcome = verdict) AS same,
           count(*) FILTER (WHERE blind_outcome = verdict AND outcome = verdict) AS kept
    FROM decisions
    WHERE created_at >= :since AND created_at < :until AND undone_at IS NULL AND outcome <> 'escalate'
      AND blind_outcome IS NOT NULL AND verdict IN ('deepfake', 'bona_fide')
""")

#: Verdicts that another person's later decision, which still stands, calls wrong, and of those followed_wrong; the
#: same for correct ones.
RELIANCE = text("""
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

#: Analyses on show by abstain code, null for those with a verdict: abstain, n.
ABSTAINED = text("""
    SELECT a.abstain, count(*) AS n FROM analyses a JOIN cases c ON c.id = a.case_id AND c.analysis_id = a.id
    WHERE a.id >= :first AND a.id < :last GROUP BY a.abstain
""")

#: Images that could not be analysed: code, n.
REFUSED = text("""
    SELECT body->>'code' AS code, count(*) AS n FROM events
    WHERE at >= :since AND at < :until AND kind = 'refused' GROUP BY code
""")

#: Calibrated scores against decisions: band, n, mean_score, deepfakes, blind, blind_deepfakes.
BANDS = _of_standing("""
    SELECT least(floor(score * :bands), :bands - 1)::int AS band, count(*) AS n, avg(score) AS mean_score,
           count(*) FILTER (WHERE outcome = 'deepfake') AS deepfakes,
           count(*) FILTER (WHERE blind_outcome IN ('deepfake', 'bona_fide')) AS blind,
           count(*) FILTER (WHERE blind_outcome = 'deepfake') AS blind_deepfakes
    FROM standing WHERE score IS NOT NULL AND calibrated AND outcome IN ('deepfake', 'bona_fide')
    GROUP BY band ORDER BY band
""")

#: What reviewers said of artifacts, by region: n, agreed.
ANSWERS = text("""
    SELECT region, count(*) FILTER (WHERE said.answer <> 'unclear') AS n,
           count(*) FILTER (WHERE said.answer = 'agree') AS agreed
    FROM decisions d
    JOIN artifact_answers said ON said.decision_id = d.id
    JOIN artifacts a ON (a.analysis_id, a.face, a.ordinal) = (said.analysis_id, said.face, said.ordinal)
    CROSS JOIN LATERAL unnest(a.regions) AS region
    WHERE d.created_at >= :since AND d.created_at < :until AND d.undone_at IS NULL
    GROUP BY region ORDER BY region
""")
