"""Two bundles beside each other, for tests about what is seen of them."""

import hashlib
from uuid import UUID

from moderation.analysis import Analysis, PictureFacts, Verdict
from moderation.database.analyses import insert_analysis
from moderation.database.connection import Database
from moderation.database.operations import beat
from moderation.rollouts.rollout_rows import note_bundles, try_bundle
from tests.builders import an_analysis, new_id, with_verdict
from tests.integration.conftest import ready

#: Fingerprints and names of what serves and what is on trial.
OLD, NEW = "0" * 64, "1" * 64
NAMES = {OLD: "old 1", NEW: "new 2"}


def said(verdict: Verdict, *, by: str, of: str = "picture", seconds: float | None = 0.2) -> Analysis:
    """What a bundle said of a picture, of which `of` stands for the bytes."""
    return an_analysis(
        faces=(with_verdict(verdict),),
        fingerprint=by,
        bundle=NAMES[by],
        picture=PictureFacts(hashlib.sha256(of.encode()).hexdigest(), 1234, "JPEG", 640, 480),
        seconds={} if seconds is None else {"engine": seconds},
    )


def both(
    database: Database, first: Verdict, second: Verdict, *, of: str | None = None, also_of: str | None = None
) -> UUID:
    """A case that OLD analysed and that NEW analysed in the shadow; `also_of` makes the second of other bytes."""
    of = of or new_id().hex
    case_id = ready(database, analysis=said(first, by=OLD, of=of))
    beside(database, case_id, said(second, by=NEW, of=also_of or of, seconds=0.4))
    return case_id


def beside(database: Database, case_id: UUID, analysis: Analysis) -> None:
    """An analysis that the case does not show, as a rerun in the shadow leaves it."""
    with database.transaction() as session:
        insert_analysis(session, case_id, analysis, new_id=new_id())


def on_trial(
    database: Database, *, share: float = 0.05, shadow: float = 0.2, stopped: str | None = None
) -> None:
    """A live worker in which OLD serves and that holds NEW too, which is on trial."""
    told = {fingerprint: {"name": name, "stopped": None} for fingerprint, name in NAMES.items()}
    told[NEW]["stopped"] = stopped
    with database.transaction() as session:
        note_bundles(session, NAMES)
        beat(session, "worker:here:1", {"fingerprint": OLD, "bundle": NAMES[OLD], "bundles": told})
        try_bundle(session, NEW, share=share, shadow=shadow, actor="operator")
