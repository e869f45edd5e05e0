"""What people do while a campaign goes on: they decide, ask the model, have cases moved away and erased.

Every one of these doors may be broken at any moment. But what a door has answered, it has promised.
"""

import random
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Self
from uuid import UUID

from sqlalchemy import text

from moderation.accounts.accounts import Accounts
from moderation.archive.archiver import ArchivePlace, Archives
from moderation.archive.erasure import erase_case
from moderation.database.cases import find_case
from moderation.database.connection import ANSWER_SECONDS, Database
from moderation.decisions import Judgement, Outcome
from moderation.dispatch import Publisher
from moderation.errors import RequestRefused, ReviewConflict, Unavailable
from moderation.people import Role
from moderation.questions import Questions
from moderation.review import Review
from moderation.rollouts.rollout_rows import try_bundle
from moderation.storage import Storage
from tests.chaos.pictures import CANDIDATE
from tests.chaos.yard import ARCHIVES, Yard

#: Parts of new cases that the candidate analyses, for reviewers to see and in the shadow.
SHARE, SHADOW = 0.2, 0.3
#: Seconds between two things that somebody does, and cases of one object.
PAUSE, ARCHIVED = 0.1, 5


class People:
    """At work until the block ends, in a thread of their own. Asks Postgres and the store the way our processes do."""

    def __init__(self, yard: Yard, seed: int) -> None:
        settings = yard.settings(
            undo_seconds=0.0, blind_first_share=0.0, second_review_share=0.0, reason_required="never"
        )
        self._yard = yard
        self._chance = random.Random(seed)
        url = settings.database_url.get_secret_value()
        self._database = Database(url, pool_size=2, answer_seconds=ANSWER_SECONDS)
        self._review = Review(self._database, settings)
        self._person = Accounts(self._database, settings).add_person(
            "ada@example.org", "Ada", Role.REVIEWER, None
        )
        publisher = Publisher(settings.broker_url.get_secret_value(), at_most=settings.messages_at_most)
        self._questions = Questions(self._database, publisher)
        self._archives = Archives(self._database, Storage(settings), settings)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="people")
        with self._database.transaction() as session:
            try_bundle(session, CANDIDATE, share=SHARE, shadow=SHADOW, actor="operator")
        #: What was acknowledged.
        self.decided = set[UUID]()
        self.asked = set[UUID]()
        self.erased = set[UUID]()
        self.archived = 0
        #: What no door may answer with.
        self.faults: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def close(self) -> None:
        self._database.close()

    def bring_back(self) -> None:
        """Restore what is archived. Nothing is broken any more."""
        for row in self._yard.ask("SELECT id FROM cases WHERE archive_id IS NOT NULL"):
            self._archives.restore(row.id)

    def _work(self) -> None:
        acts = [self._decide] * 6 + [self._ask] * 2 + [self._archive, self._erase]
        while not self._over.wait(PAUSE):
            self._try(self._chance.choice(acts))

    def _try(self, act: Callable[[], None]) -> None:
        try:
            act()
        except (Unavailable, RequestRefused, ReviewConflict):
            return  # refused, or something is away: they are told so, and go on
        except Exception as error:  # noqa: BLE001  anything else is a fault of ours
            self.faults.append(f"{act.__name__}: {type(error).__name__}: {error}")

    def _decide(self) -> None:
        claim = self._review.claim_next(self._person)
        if claim is None:
            return
        with self._database.transaction() as session:
            case = find_case(session, claim.case_id)
        assert case is not None
        judgement = Judgement(
            self._chance.choice([Outcome.DEEPFAKE, Outcome.BONA_FIDE, Outcome.CANNOT_TELL]), reason="because"
        )
        self._review.decide(
            self._person, case.id, token=claim.token, version=case.version, judgement=judgement
        )
        self.decided.add(case.id)

    def _ask(self) -> None:
        case_id = self._any("state = 'ready' AND analysis_id IS NOT NULL")
        if case_id is not None:
            asked = self._questions.ask(case_id, "What about the mouth?", actor="operator")
            self.asked.add(asked.id)

    def _archive(self) -> None:
        place = ArchivePlace(ARCHIVES, "cases")
        for batch in self._archives.archive(place, datetime.now(UTC) + timedelta(days=1), limit=ARCHIVED):
            self.archived += batch.cases

    def _erase(self) -> None:
        case_id = self._any("state = 'decided' AND erased_at IS NULL AND archive_id IS NULL")
        if case_id is None:
            return
        with self._database.transaction() as session:
            erased = erase_case(session, case_id, actor="operator")
        if erased:
            self.erased.add(case_id)

    def _any(self, where: str) -> UUID | None:
        with self._database.transaction() as session:
            return session.scalar(text(f"SELECT id FROM cases WHERE {where} ORDER BY random() LIMIT 1"))
