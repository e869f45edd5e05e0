"""A real browser before the real system: Debian's Chromium, all our processes, and the shipped model."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import pytest
from fastapi.testclient import TestClient
from playwright.sync_api import Browser, BrowserContext, Page, expect
from sqlalchemy import text

from moderation.accounts.accounts import Accounts
from moderation.analysis import (
    Analysis,
    Artifact,
    Box,
    Face,
    FaceAnalysis,
    Label,
    PictureFacts,
    Point,
    Region,
    Technique,
    Verdict,
)
from moderation.cases import Flag, ImageRef
from moderation.client import BonaFide
from moderation.database.analyses import insert_analysis, record_analysis
from moderation.database.cases import Opening, insert_case
from moderation.database.connection import Database
from moderation.database.moves import begin_analysis
from moderation.decisions import is_blind_first, needs_second
from moderation.local import BUCKET, Stack, System, open_folder, start_system
from moderation.people import Person, Role
from moderation.rollouts.rollout_rows import note_bundles, try_bundle
from moderation.settings import Settings
from moderation.storage import Storage
from moderation.web.app import create_app
from moderation.web.sessions import COOKIE
from tests.acceptance.flood import QUICK
from tests.builders import new_id
from tests.conftest import end_at_once

BLIND_SHARE, SECOND_SHARE = 0.25, 0.25
#: Milliseconds, as Playwright counts: a laden machine takes long, and a page that never comes fails all the same.
PATIENCE = 30_000
expect.set_options(timeout=PATIENCE)

PASSWORD = "a long enough password"

#: Fingerprint of the bundle on trial. No worker holds it: its analyses are the tests' own.
ON_TRIAL = "scripted, on trial"


@pytest.fixture
def rosa(database: Database, settings: Settings) -> Person:
    return Accounts(database, settings).add_person("rosa@example.org", "Rosa Diaz", Role.REVIEWER, None)


@pytest.fixture
def reviewer(database: Database, settings: Settings, rosa: Person) -> Iterator[TestClient]:
    """Rosa at her desk, in this process. Nothing is judged blind or twice."""
    secret = Accounts(database, settings).sign_in_as(rosa).secret
    plain = settings.model_copy(update={"blind_first_share": 0.0, "second_review_share": 0.0})
    with TestClient(create_app(plain), follow_redirects=False, cookies={COOKIE: secret}) as client:
        yield client


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    overrides = {
        **QUICK,
        "BONAFIDE_BLIND_FIRST_SHARE": str(BLIND_SHARE),
        "BONAFIDE_SECOND_REVIEW_SHARE": str(SECOND_SHARE),
    }
    with Stack(open_folder(tmp_path_factory.mktemp("console")), durable=False) as stack:
        yield start_system(stack, overrides=overrides)
        end_at_once(stack)


@pytest.fixture(scope="session")
def owner(system: System) -> Iterator[Database]:
    """The system's database, seen by its owner."""
    database = Database(system.env["BONAFIDE_DATABASE_URL"], pool_size=2)
    yield database
    database.close()


@pytest.fixture(scope="session")
def chosen(system: System) -> Settings:
    values = {name.removeprefix("BONAFIDE_").lower(): value for name, value in system.env.items()}
    return Settings.model_validate(values)


@pytest.fixture(scope="session")
def accounts(owner: Database, chosen: Settings) -> Accounts:
    return Accounts(owner, chosen)


@pytest.fixture(scope="session")
def client(system: System) -> Iterator[BonaFide]:
    with BonaFide(system.url, system.key) as opened:
        yield opened


@dataclasses.dataclass(frozen=True)
class Team:
    rosa: Person  # reviewer
    ben: Person  # reviewer
    lin: Person  # lead
    ada: Person  # admin


@pytest.fixture(scope="session")
def team(accounts: Accounts) -> Team:
    def add(name: str, role: Role) -> Person:
        return accounts.add_person(f"{name.split(maxsplit=1)[0].lower()}@example.org", name, role, PASSWORD)

    return Team(
        add("Rosa Diaz", Role.REVIEWER),
        add("Ben Okafor", Role.REVIEWER),
        add("Lin Wei", Role.LEAD),
        add("Ada Byron", Role.ADMIN),
    )


class Desk:
    """Somebody's own browser, signed in. What goes wrong in it fails the test."""

    def __init__(self, context: BrowserContext, system: System) -> None:
        self.context = context
        self.page: Page = context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.wrong: list[str] = []
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on(
            "console", lambda said: self.wrong.append(said.text) if _matters(said.text, said.type) else None
        )
        self._url = system.url

    def open(self, path: str) -> Page:
        self.page.goto(self._url + path)
        return self.page


def _matters(text: str, kind: str) -> bool:
    """An answer that is refused on purpose is logged by the browser too; a broken content policy is our fault."""
    return kind == "error" and "Failed to load resource" not in text


Sit = Callable[..., Desk]


@pytest.fixture
def sit(browser: Browser, system: System, accounts: Accounts) -> Iterator[Sit]:
    """Sit somebody down before a browser of their own; `options` are those of a Playwright context."""
    desks: list[Desk] = []

    def sit_down(person: Person, **options: object) -> Desk:
        context = browser.new_context(**{"viewport": {"width": 1440, "height": 900}, **options})  # pyright: ignore[reportArgumentType]
        signed_in = accounts.sign_in_as(person)
        context.add_cookies([{"name": COOKIE, "value": signed_in.secret, "url": system.url}])
        desk = Desk(context, system)
        desks.append(desk)
        return desk

    yield sit_down
    for desk in desks:
        desk.context.close()
    assert [wrong for desk in desks for wrong in desk.wrong] == []


@dataclasses.dataclass
class Cases:
    """Opens cases for tests: their own source keeps tests apart from each other."""

    owner: Database
    storage: Storage
    client: BonaFide
    samples: Path

    def submitted(self, name: str = "portrait-1.jpg", *, source: str, reason: str = "somebody asked") -> UUID:
        """A sample picture all the way through intake and the worker."""
        while True:
            opened = self.client.submit_file(
                self.samples / name, source=source, reason=reason, external_id=new_id().hex
            )
            if plain(opened.id):
                return self.client.wait(opened.id).id
            with self.owner.transaction() as session:  # out of this test's way
                session.execute(
                    text("UPDATE cases SET source = 'set aside' WHERE id = :id"), {"id": opened.id}
                )

    def ready(
        self,
        *,
        source: str,
        name: str = "forged-swap-1.jpg",
        blind: bool = False,
        second: bool = False,
        priority: int = 0,
        reason: str | None = "somebody asked",
        analysis: Analysis | None = None,
        key: str | None = None,
    ) -> UUID:
        """A ready case whose verdict is the test's own, with two artifacts to look at, of a real picture."""
        data = (self.samples / name).read_bytes()
        image = self.storage.put_image(key or f"console/{name}", data, "image/jpeg")
        case_id = new_id()
        while is_blind_first(case_id, BLIND_SHARE) != blind or needs_second(case_id, SECOND_SHARE) != second:
            case_id = new_id()
        flag = Flag(
            ImageRef(BUCKET, image.key), source, external_id=case_id.hex, reason=reason, priority=priority
        )
        with self.owner.transaction() as session:
            insert_case(session, Opening(flag, id=case_id), actor=f"platform:{source}")
            lease = begin_analysis(session, case_id, owner="test", lease_seconds=60, quarantined=False)
            assert lease is not None
            record_analysis(
                session,
                case_id,
                lease.lease_token,
                analysis or an_analysis_of(data),
                actor="worker:test",
                new_id=new_id(),
            )
        return case_id

    def compared(self, label: Label, *, source: str) -> UUID:
        """A ready case, not to be judged blind, that the bundle on trial analysed in the shadow with this label."""
        of_its_own = new_id().bytes  # pictures count once: each is another one
        shown = an_analysis_of(of_its_own)
        deepfake = label is Label.DEEPFAKE
        verdict = dataclasses.replace(
            shown.verdict,
            label=label,
            score=0.95 if deepfake else 0.07,
            technique=shown.verdict.technique if deepfake else None,
        )
        case_id = self.ready(source=source, analysis=shown)
        with self.owner.transaction() as session:
            beside = dataclasses.replace(shown, fingerprint=ON_TRIAL, bundle="scripted 2", verdict=verdict)
            insert_analysis(session, case_id, beside, new_id=new_id())
        return case_id


def put_on_trial(owner: Database) -> None:
    """A second bundle beside the one that the cases of tests were analysed by."""
    with owner.transaction() as session:
        note_bundles(session, {"scripted": "scripted 1", ON_TRIAL: "scripted 2"})
        try_bundle(session, ON_TRIAL, share=0.05, shadow=0.0, actor="operator")


def plain(case_id: UUID) -> bool:
    """Neither judged before its verdict is shown, nor read twice."""
    return not is_blind_first(case_id, BLIND_SHARE) and not needs_second(case_id, SECOND_SHARE)


def an_analysis_of(data: bytes, *, text: str = "The corner of the mouth is smeared.") -> Analysis:
    """A verdict with two artifacts, one outlined and one not, for a sample of 327 × 400 pixels."""
    mouth = tuple(Point(x, y) for x, y in ((134, 214), (163, 206), (196, 214), (163, 234)))
    verdict = Verdict(
        label=Label.DEEPFAKE,
        score=0.93,
        margin=2.6,
        answer_mass=0.99,
        calibrated=True,
        technique=Technique.FS,
        technique_scores={Technique.FS: 0.7, Technique.FR: 0.1, Technique.FE: 0.1, Technique.EFS: 0.1},
    )
    rationale = (
        Artifact("Mouth and Lips", text, (Region.MOUTH,), mouth),
        Artifact("Overall", "The light on the face is not that on the collar.", (Region.UNMAPPED,), None),
    )
    face = FaceAnalysis(Face(Box(92, 78, 236, 270), 0.99), verdict, rationale, "1. **Mouth** …")
    facts = PictureFacts(hashlib.sha256(data).hexdigest(), len(data), "JPEG", 327, 400)
    return Analysis("scripted", "scripted 1", verdict, (face,), facts, {"engine": 0.2})


@pytest.fixture(scope="session")
def cases(owner: Database, chosen: Settings, client: BonaFide, samples: Path) -> Cases:
    return Cases(owner, Storage(chosen), client, samples)


@pytest.fixture
def source(request: pytest.FixtureRequest) -> str:
    """A source of the test's own, so that "next" means one of its cases."""
    return request.node.name[:60].replace("[", "-").rstrip("]")
