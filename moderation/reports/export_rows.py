"""Reads the rows of an export through a server-side cursor: many rows need no more memory than few."""

from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import datetime
from typing import Any, cast
from uuid import UUID

from sqlalchemy import CursorResult, TextClause, text
from sqlalchemy.orm import Session

from moderation.database.connection import Database
from moderation.database.ids import first_id_at
from moderation.people import RULE

#: Rows fetched at once.
PAGE = 1000

DECISIONS = text("""
    SELECT d.id AS decision, d.case_id AS case, c.source, c.external_id, d.stage, d.outcome, d.technique, d.reason,
           d.policy, d.person_id AS reviewer, d.verdict, a.technique AS verdict_technique, a.score, a.calibrated,
           a.bundle, a.fingerprint, d.blind_outcome, d.blind_technique, d.saw_verdict_first, d.seconds,
           d.created_at, d.final_at, d.undone_at, d.supersedes, p.decision_id IS NOT NULL AS appealed
    FROM decisions d
    JOIN cases c ON c.id = d.case_id
    LEFT JOIN analyses a ON a.id = d.analysis_id
    LEFT JOIN appeals p ON p.decision_id = d.id
    WHERE d.id >= :first AND d.id < :last
    ORDER BY d.id
""")

ANALYSES = text("""
    SELECT a.id AS analysis, a.case_id AS case, c.source, c.external_id, a.bundle, a.fingerprint, a.label, a.score,
           (a.verdict->>'margin')::float8 AS margin, (a.verdict->>'answer_mass')::float8 AS answer_mass,
           a.calibrated, a.technique, a.abstain, jsonb_array_length(a.faces) AS faces,
           jsonb_array_length(a.faces) AS faces_found,
           coalesce(a.faces_judged, (SELECT count(*) FROM jsonb_array_elements(a.faces) face
                                     WHERE jsonb_typeof(face->'verdict'->'score') = 'number')) AS faces_judged,
           (SELECT count(*) FROM artifacts r WHERE r.analysis_id = a.id) AS artifacts,
           encode(a.image_sha256, 'hex') AS image_sha256, a.picture->>'format' AS format,
           (a.picture->>'width')::int AS width, (a.picture->>'height')::int AS height,
           (a.picture->>'size')::int AS size, a.reused_from, a.created_at
    FROM analyses a JOIN cases c ON c.id = a.case_id AND c.analysis_id = a.id
    WHERE a.id >= :first AND a.id < :last
    ORDER BY a.id
""")

#: One row for each fact about a picture whose analysis is on show.
EVIDENCE = text("""
    SELECT e.case_id AS case, c.source, c.external_id, f.fact->>'kind' AS kind, f.fact->>'status' AS status,
           f.fact->>'strength' AS strength, f.fact->>'points_to' AS points_to, f.fact AS fact,
           e.declared, e.strength AS declared_strength, c.label, e.gatherer, e.created_at
    FROM evidence e JOIN cases c ON c.id = e.case_id, jsonb_array_elements(e.facts) WITH ORDINALITY AS f(fact, place)
    WHERE e.case_id >= :first AND e.case_id < :last
    ORDER BY e.case_id, f.place
""")

#: One row for each artifact that a reviewer answered to.
ANSWERS = text("""
    SELECT d.id AS decision, d.case_id AS case, said.analysis_id AS analysis, said.face, said.ordinal, r.heading,
           array_to_string(r.regions, ' ') AS regions, r.text, said.answer, d.outcome, d.technique, d.verdict,
           d.blind_outcome, a.bundle, a.fingerprint, d.created_at,
           e.score_without, e.margin_fall, e.control_score, e.control_fall
    FROM decisions d
    JOIN artifact_answers said ON said.decision_id = d.id
    JOIN artifacts r ON (r.analysis_id, r.face, r.ordinal) = (said.analysis_id, said.face, said.ordinal)
    LEFT JOIN effects e ON (e.analysis_id, e.face, e.ordinal) = (said.analysis_id, said.face, said.ordinal)
    JOIN analyses a ON a.id = said.analysis_id
    JOIN cases c ON c.id = d.case_id
    WHERE d.id >= :first AND d.id < :last AND d.undone_at IS NULL AND c.erased_at IS NULL
    ORDER BY d.id, said.face, said.ordinal
""")

#: One row for each case with a final decision that says what the picture is, with the reviewers' answers.
LABELLED = text(f"""
    SELECT d.id AS decision, d.case_id AS case, d.outcome, d.technique, d.verdict, d.stage,
           d.blind_outcome, d.blind_technique, d.created_at,
           EXISTS (SELECT FROM blind_judgements b WHERE b.case_id = d.case_id) AS judged_blind,
           c.source, c.bucket, c.key, c.version_id,
           encode(a.image_sha256, 'hex') AS sha256, a.bundle, a.fingerprint, b.prompts, a.faces,
           (SELECT coalesce(jsonb_agg(jsonb_build_object('face', r.face, 'heading', r.heading, 'text', r.text,
                                                         'answer', said.answer, 'effect',
                                                         CASE WHEN e.face IS NOT NULL THEN jsonb_build_object(
                                                             'score_without', e.score_without,
                                                             'margin_fall', e.margin_fall,
                                                             'control_score', e.control_score,
                                                             'control_fall', e.control_fall) END)
                                      ORDER BY r.face, r.ordinal), '[]')
            FROM artifact_answers said
            JOIN artifacts r ON (r.analysis_id, r.face, r.ordinal) = (said.analysis_id, said.face, said.ordinal)
            LEFT JOIN effects e ON (e.analysis_id, e.face, e.ordinal) = (said.analysis_id, said.face, said.ordinal)
            WHERE said.decision_id = d.id) AS answers
    FROM decisions d
    JOIN cases c ON c.id = d.case_id
    JOIN analyses a ON a.id = d.analysis_id
    LEFT JOIN bundles b ON b.fingerprint = a.fingerprint
    WHERE d.id >= :first AND d.id < :last AND d.undone_at IS NULL AND d.final_at <= now()
      AND d.outcome IN ('deepfake', 'bona_fide') AND c.state = 'decided' AND d.person_id <> '{RULE}'
      AND c.erased_at IS NULL
      AND NOT EXISTS (SELECT FROM decisions later
                      WHERE later.case_id = d.case_id AND later.undone_at IS NULL
                        AND (later.created_at, later.id) > (d.created_at, d.id))
    ORDER BY d.id
""")  # noqa: S608  an id of ours


#: One row for each case that was taken back or erased in the period, whenever it was opened.
ERASURES = text("""
    SELECT c.id AS case, c.withdrawn_at, c.erased_at
    FROM cases c, LATERAL (VALUES (c.withdrawn_at), (c.erased_at)) AS ended (at)
    WHERE ended.at >= coalesce(CAST(:since AS timestamptz), '-infinity')
      AND ended.at < coalesce(CAST(:until AS timestamptz), 'infinity')
    GROUP BY c.id ORDER BY c.id
""")


@contextmanager
def stream(
    database: Database, query: TextClause, *, since: datetime | None, until: datetime | None
) -> Generator[Iterator[Mapping[str, Any]]]:
    """The rows of one of the queries above, made from `since` to before `until`, in the order of ids.

    It is one snapshot: later decisions are not in it.
    """
    bounds = {
        "first": UUID(int=0) if since is None else first_id_at(since),
        "last": UUID(int=2**128 - 1) if until is None else first_id_at(until),
        "since": since,
        "until": until,
    }
    with database.transaction() as session:
        _be_patient(session)
        result = session.execute(query, bounds, execution_options={"yield_per": PAGE})
        assert isinstance(result, CursorResult)
        with closing(result):  # a reader that fails leaves rows unread
            yield cast("Iterator[Mapping[str, Any]]", iter(result.mappings()))


def _be_patient(session: Session) -> None:
    """Remove the usual limits: the reader may be slow, and the whole may take hours."""
    for limit in ("statement_timeout", "idle_in_transaction_session_timeout"):
        session.execute(text(f"SET LOCAL {limit} = 0"))
    session.execute(text("SET TRANSACTION READ ONLY"))
