"""What somebody has filled into a form of a case and not sent: so that a session that ends loses nothing of it.

Nobody but its writer reads a draft. It goes when its form is sent, when the case is decided or erased, and after a day.
"""

import enum
from collections.abc import Mapping
from uuid import UUID

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from moderation.database.moves import seconds
from moderation.database.tables import DraftRow

#: Characters of all fields of a form together. What is longer is no draft.
DRAFT_AT_MOST = 50_000
#: How long a draft is kept after it was last changed.
DRAFT_SECONDS = 24 * 3600.0

Draft = Mapping[str, str]


class Form(enum.StrEnum):
    """The forms of a case that hold what a person says."""

    DECIDE = "decide"
    #: What somebody sees before the verdict is shown to them.
    JUDGE = "judge"
    SKIP = "skip"
    ASK = "ask"
    APPEAL = "appeal"


def save_draft(session: Session, case_id: UUID, person_id: UUID, form: Form, fields: Draft) -> None:
    """Keep this in the place of what was kept before. Nothing filled in, or too much, is not kept."""
    filled = {name: value for name, value in fields.items() if value}
    if not filled or sum(len(value) for value in filled.values()) > DRAFT_AT_MOST:
        drop_draft(session, case_id, person_id, form)
        return
    kept = insert(DraftRow).values(case_id=case_id, person_id=person_id, form=form.value, fields=filled)
    session.execute(
        kept.on_conflict_do_update(
            index_elements=[DraftRow.case_id, DraftRow.person_id, DraftRow.form],
            set_={"fields": kept.excluded.fields, "at": func.now()},
        )
    )


def drafts_of(session: Session, case_id: UUID, person_id: UUID) -> dict[Form, Draft]:
    """What this person has filled in and not sent, by form."""
    rows = session.execute(
        select(DraftRow.form, DraftRow.fields).where(
            DraftRow.case_id == case_id,
            DraftRow.person_id == person_id,
            DraftRow.at > func.now() - seconds(DRAFT_SECONDS),
        )
    )
    return {Form(form): fields for form, fields in rows}


def drop_draft(session: Session, case_id: UUID, person_id: UUID, form: Form) -> None:
    """The form was sent, or taken back."""
    session.execute(
        delete(DraftRow).where(
            DraftRow.case_id == case_id, DraftRow.person_id == person_id, DraftRow.form == form.value
        )
    )


def drop_drafts(session: Session, case_id: UUID) -> None:
    """The case was decided: what others had filled in is about a case that is no more."""
    session.execute(delete(DraftRow).where(DraftRow.case_id == case_id))


def forget_drafts(session: Session) -> None:
    """Take away what nobody came back to."""
    session.execute(delete(DraftRow).where(DraftRow.at < func.now() - seconds(DRAFT_SECONDS)))
