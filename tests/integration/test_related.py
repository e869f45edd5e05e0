"""Pictures that look alike are found, shown, collapsed and forgotten; nothing is ever decided by it."""

import random
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import combinations
from uuid import UUID

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text
from sqlalchemy.orm import Session

from moderation.accounts.keys import add_key
from moderation.archive.erasure import erase_case
from moderation.cases import CaseState
from moderation.database.connection import Database
from moderation.database.queue import QueueFilter, queue_page
from moderation.decisions import Decision, Judgement, Outcome
from moderation.evidence.related import (
    LISTS_AT_MOST,
    campaigns_of,
    hash_lists,
    hashes_decided,
    hashes_of_list,
    likeness_of,
    lists_with,
    put_list,
    record_likeness,
    related_to,
    remove_list,
    with_lists,
)
from moderation.evidence.sentences import sentence, statement_sentences
from moderation.evidence.words import Evidence, Fact, FactKind, Strength, declared
from moderation.evidence.zones import apply_certificates, audit
from moderation.likeness import BANDS, BITS, NEAR, BitBand, Faces, Likeness
from moderation.local import as_role
from moderation.people import Role
from moderation.settings import Settings
from tests.builders import an_analysis, new_id
from tests.integration.conftest import enrolled, ready, stored
from tests.integration.deciding import a_review, decide

DRAW = random.Random(18)


def a_hash() -> int:
    return DRAW.getrandbits(BITS)


def near_to(value: int, bits: int) -> int:
    return value ^ sum(1 << bit for bit in DRAW.sample(range(BITS), bits))


def alike(frame: int, *faces: int, mirrored: int | None = None) -> Likeness:
    return Likeness(frame, a_hash() if mirrored is None else mirrored, 100, faces)


def seen(database: Database, likeness: Likeness) -> UUID:
    case_id = ready(database)
    with database.transaction() as session:
        record_likeness(session, case_id, likeness)
    return case_id


def test_the_index_finds_what_a_look_at_all_hashes_finds(session: Session) -> None:
    """Half of the hashes lie around a few, as campaigns do: many are just within, or just beyond, what is near."""
    centres = [a_hash() for _ in range(5)]
    hashes = [near_to(DRAW.choice(centres), DRAW.randint(0, 40)) for _ in range(1500)]
    hashes += [a_hash() for _ in range(1500)]
    put_list(session, "all", None, [(value, None) for value in dict.fromkeys(hashes)])
    near = text(
        "SELECT h.hash, n.distance FROM near_hashes(CAST(:hash AS bit(256))) n JOIN hashes h ON h.id = n.hash_id"
    )

    for centre in centres:
        wanted = near_to(centre, 5)
        found = {int(row.hash, 2): row.distance for row in session.execute(near, {"hash": f"{wanted:0256b}"})}

        apart = {value: (value ^ wanted).bit_count() for value in hashes}
        assert found == {value: bits for value, bits in apart.items() if bits <= NEAR}
        assert len(found) > 100


def test_each_index_finds_what_no_other_finds(session: Session) -> None:
    """In these hashes all bands but one differ by one bit too many, and this one in every way in which it may."""
    wanted = a_hash()

    def flipped(band: BitBand, bits: Iterable[int]) -> int:
        return sum(1 << BITS - 1 - band.first - bit for bit in bits)

    hidden = {
        wanted
        ^ flipped(band, way)
        ^ sum(flipped(other, DRAW.sample(range(other.width), other.reach + 1)) for other in BANDS if other != band)
        for band in BANDS
        for way in combinations(range(band.width), band.reach)
    }  # fmt: skip
    put_list(session, "hidden", None, [(value, None) for value in hidden])

    found = session.execute(
        text("SELECT distance FROM near_hashes(CAST(:hash AS bit(256)))"), {"hash": f"{wanted:0256b}"}
    ).scalars()

    assert list(found) == [NEAR] * len(hidden)
    assert len(hidden) == 4 * 231 + 8 * 17 + 2 * 16


def test_what_looks_alike_is_found_with_its_faces(database: Database) -> None:
    frame, face = a_hash(), a_hash()
    ours = seen(database, alike(frame, face))
    copy = seen(database, alike(near_to(frame, 4), near_to(face, 2)))
    swapped = seen(database, alike(near_to(frame, NEAR), near_to(face, 60)))
    seen(database, alike(near_to(frame, NEAR + 1), face))

    with database.transaction() as session:
        found = related_to(session, ours)

    assert [(one.case_id, one.distance, one.faces, one.face_distance) for one in found] == [
        (copy, 4, Faces.SAME, 2),
        (swapped, NEAR, Faces.OTHER, 60),
    ]
    assert stored(database, copy).state is CaseState.READY


def test_a_mirrored_copy_is_found_from_either_side(database: Database) -> None:
    frame, mirrored = a_hash(), a_hash()
    one = seen(database, alike(frame, mirrored=mirrored))
    other = seen(database, alike(mirrored, mirrored=frame))

    with database.transaction() as session:
        assert [(found.case_id, found.mirrored) for found in related_to(session, one)] == [(other, True)]
        assert [(found.case_id, found.mirrored) for found in related_to(session, other)] == [(one, True)]


def test_a_decision_is_never_copied_by_likeness(database: Database, settings: Settings) -> None:
    frame = a_hash()
    first, copy = seen(database, alike(frame)), seen(database, alike(frame))
    before = stored(database, copy)
    review = a_review(database, settings)

    decide(review, database, enrolled(database), first, Outcome.DEEPFAKE)
    late = seen(database, alike(frame))

    assert stored(database, copy) == before
    assert stored(database, late).state is CaseState.READY


def test_a_campaign_is_one_line_of_the_queue_until_it_is_opened(database: Database) -> None:
    frame = a_hash()
    first = seen(database, alike(frame))
    others = [seen(database, alike(near_to(frame, 3))) for _ in range(3)]
    alone = seen(database, alike(a_hash()))

    with database.transaction() as session:
        lines = queue_page(session, QueueFilter(collapsed=True))
        campaign = lines[0].campaign
        assert campaign is not None
        opened = queue_page(session, QueueFilter(campaign=campaign))
        counted = campaigns_of(session, [campaign])

    assert [line.id for line in lines] == [first, alone]
    assert {line.id for line in opened} == {first, *others}
    assert counted[campaign].ready == 4


def test_a_collapsed_page_goes_on_where_the_last_ended(database: Database) -> None:
    frame = a_hash()
    cases = [seen(database, alike(frame)), seen(database, alike(a_hash())), seen(database, alike(frame))]
    cases.append(seen(database, alike(a_hash())))

    with database.transaction() as session:
        first = queue_page(session, QueueFilter(collapsed=True), limit=2)
        second = queue_page(session, QueueFilter(collapsed=True), after=first[-1].place, limit=2)

    assert [line.id for line in [*first, *second]] == [cases[0], cases[1], cases[3]]


def test_a_campaign_is_decided_together_and_each_case_keeps_its_record(
    database: Database, settings: Settings
) -> None:
    frame = a_hash()
    cases = [seen(database, alike(near_to(frame, 2))) for _ in range(3)]
    lead = enrolled(database, role=Role.LEAD)
    decided = a_review(database, settings).decide_many(
        lead,
        [(case, stored(database, case).version) for case in cases],
        Judgement(Outcome.DEEPFAKE, reason="one"),
    )

    assert [one.case_id for one in decided if isinstance(one, Decision)] == cases
    assert len({one.id for one in decided if isinstance(one, Decision)}) == 3


@pytest.mark.parametrize(
    "kept", [pytest.param(False, id="forgotten"), pytest.param(True, id="kept by setting")]
)
def test_erasing_takes_the_hash_unless_a_setting_keeps_it(
    database: Database, settings: Settings, *, kept: bool
) -> None:
    frame = a_hash()
    case_id = seen(database, alike(frame, a_hash()))
    decide(a_review(database, settings), database, enrolled(database), case_id, Outcome.DEEPFAKE)

    with database.transaction() as session:
        session.execute(text("DELETE FROM deliveries"))
        assert erase_case(session, case_id, actor="operator", keep_hash=kept)

    late = seen(database, alike(near_to(frame, 2)))
    with database.transaction() as session:
        assert (likeness_of(session, case_id) is not None) is kept
        assert [one.case_id for one in related_to(session, late)] == ([case_id] if kept else [])
        assert session.scalar(text("SELECT count(*) FROM hashes")) == (2 if kept else 1)
        # What comes after the erasure, of a rerun that was under way, is not stored.
        record_likeness(session, case_id, alike(frame))
        assert (likeness_of(session, case_id) is not None) is kept


def test_a_hash_that_another_case_or_a_list_has_stays(database: Database, settings: Settings) -> None:
    frame = a_hash()
    case_id, other = seen(database, alike(frame)), seen(database, alike(frame))
    decide(a_review(database, settings), database, enrolled(database), case_id, Outcome.DEEPFAKE)

    with database.transaction() as session:
        session.execute(text("DELETE FROM deliveries"))
        assert erase_case(session, case_id, actor="operator")

    with database.transaction() as session:
        assert likeness_of(session, other) is not None


def test_a_match_names_its_list(database: Database) -> None:
    frame = a_hash()
    case_id = seen(database, alike(frame))
    with database.transaction() as session:
        added = put_list(
            session, "known", "pictures taken down", [(near_to(frame, 9), "case 7"), (a_hash(), None)]
        )
        again = put_list(session, "known", None, [(frame, "exact")])
        put_list(session, "unlike", None, [(a_hash(), None)])

    with database.transaction() as session:
        found = lists_with(session, case_id)

    assert (added, again) == (2, 1)
    assert [(one.name, one.note, one.reference, one.distance) for one in found] == [
        ("known", "pictures taken down", "exact", 0)
    ]


def test_a_match_is_a_fact_of_the_case_with_its_lists_name(database: Database) -> None:
    frame = a_hash()
    with database.transaction() as session:
        for number in range(LISTS_AT_MOST + 1):
            put_list(session, f"list {number}", None, [(near_to(frame, number + 1), f"ref {number}")])
    case_id = seen(database, alike(frame))
    own = Fact(FactKind.JPEG, Strength.CONTEXT, {"quality": 85})
    stale = Fact(FactKind.KNOWN_PICTURE, Strength.CONTEXT, {"list": "of another day", "distance": 1})

    with database.transaction() as session:
        found = with_lists(session, case_id, Evidence((own, stale)))

    assert found.facts[0] == own
    assert [
        (fact.data["list"], fact.data["reference"], fact.data["distance"]) for fact in found.facts[1:]
    ] == [(f"list {number}", f"ref {number}", number + 1) for number in range(LISTS_AT_MOST)]
    assert "“list 0” as “ref 0”: 1 of 256 bits differ" in sentence(found.facts[1])
    assert declared(found) is None
    assert statement_sentences(found) == ()


def test_a_platform_reads_what_looks_alike_with_what_was_decided_of_it(
    database: Database, settings: Settings, api: TestClient
) -> None:
    frame, face = a_hash(), a_hash()
    ours, copy = (
        seen(database, alike(frame, face)),
        seen(database, alike(near_to(frame, 4), near_to(face, 2))),
    )
    swapped = seen(database, alike(near_to(frame, 9), near_to(face, 60)))
    with database.transaction() as session:
        put_list(session, "known", "of a partner", [(near_to(frame, 3), "no. 5")])
    decide(a_review(database, settings), database, enrolled(database), copy, Outcome.DEEPFAKE)

    answer = api.get(f"/v1/cases/{ours}/related")

    assert answer.status_code == 200
    cases = answer.json()["cases"]
    assert [(one["id"], one["distance"], one["faces"], one["state"], one["outcome"]) for one in cases] == [
        (str(copy), 4, "same", "decided", "deepfake"),
        (str(swapped), 9, "other", "ready", None),
    ]
    assert cases[0]["links"]["self"] == f"/v1/cases/{copy}"
    assert answer.json()["lists"] == [
        {"name": "known", "note": "of a partner", "reference": "no. 5", "distance": 3}
    ]


def test_who_may_not_read_cases_reads_no_related_ones_and_no_case_has_none(
    database: Database, api: TestClient
) -> None:
    case_id = seen(database, alike(a_hash()))
    with database.transaction() as session:
        secret = add_key(session, "only submits", scopes=("submit",))

    assert api.get(f"/v1/cases/{case_id}/related").json() == {"cases": [], "lists": []}
    assert api.get(f"/v1/cases/{new_id()}/related").json()["code"] == "case_not_found"
    refused = api.get(f"/v1/cases/{case_id}/related", headers={"Authorization": f"Bearer {secret}"})
    assert (refused.status_code, refused.json()["code"]) == (403, "scope_missing")


def test_a_list_comes_back_as_it_was_and_goes_with_its_hashes(database: Database) -> None:
    frame, only = a_hash(), a_hash()
    case_id = seen(database, alike(frame))
    entries = [(frame, "a"), (only, None)]
    with database.transaction() as session:
        put_list(session, "ours", None, entries)

    with database.transaction() as session:
        assert sorted(hashes_of_list(session, "ours")) == sorted(entries)
        assert [(one.name, one.hashes) for one in hash_lists(session)] == [("ours", 2)]
        assert remove_list(session, "ours")
        assert not remove_list(session, "ours")

    with database.transaction() as session:
        assert lists_with(session, case_id) == []
        assert session.scalar(text("SELECT count(*) FROM hashes")) == 1


def test_only_what_stands_is_exported(database: Database, settings: Settings) -> None:
    review = a_review(database, settings)
    reviewer = enrolled(database)
    hashes = [a_hash() for _ in range(3)]
    cases = [seen(database, alike(value)) for value in hashes]
    decide(review, database, reviewer, cases[0], Outcome.DEEPFAKE)
    decide(review, database, reviewer, cases[1], Outcome.BONA_FIDE)

    with database.transaction() as session:
        assert list(hashes_decided(session, Outcome.DEEPFAKE)) == [(hashes[0], str(cases[0]))]


def test_each_role_can_do_its_part(database_url: str, database: Database) -> None:
    """A worker records what a picture looks like and moves a case by a certificate; the sweeper audits."""
    frame = a_hash()
    case_id, other = ready(database), seen(database, alike(near_to(frame, 3)))
    worker = Database(as_role(database_url, "bonafide_worker"), pool_size=1)
    with worker.transaction() as session:
        record_likeness(session, case_id, alike(frame))
        assert [one.case_id for one in related_to(session, case_id)] == [other]
        assert apply_certificates(session, case_id, "s", an_analysis(), blind_share=0.0) is None
    worker.close()
    sweeper = Database(as_role(database_url, "bonafide_sweeper"), pool_size=1)
    with sweeper.transaction() as session:
        assert audit(session, now=datetime.now(UTC)) == []
    sweeper.close()
