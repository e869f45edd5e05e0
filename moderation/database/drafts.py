"""Drafts: what a person has filled into a case's form and not sent, so that the end of a session loses nothing.

Only its writer reads a draft. It is deleted when its form is sent, when the case is decided or erased, and after a day.
"""

import enum
from collections.abc import Mapping
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from moderation.database.shapes import delete_rows, seconds
from moderation.database.tables import DraftRow

#: Characters in all fields of a form. A longer text is not kept.
DRAFT_AT_MOST = 50_000
#: How long a draft is kept after it was last changed.
DRAFT_SECONDS = 24 * 3600.0

Draft = Mapping[str, str]


class Form(enum.StrEnum):
    """The forms of a case in which people write."""

    DECIDE = "decide"
    #: What a person says before they see the verdict.
    JUDGE = "judge"
    SKIP = "skip"
    ASK = "ask"
    APPEAL = "appeal"


def save_draft(session: Session, case_id: UUID, person_id: UUID, form: Form, fields: Draft) -> None:
    """Replace the draft. Empty and too long ones are not kept."""
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
    """This person's drafts, by form."""
    rows = session.execute(
        select(DraftRow.form, DraftRow.fields).where(
            DraftRow.case_id == case_id,
            DraftRow.person_id == person_id,
            DraftRow.at > func.now() - seconds(DRAFT_SECONDS),
        )
    )
    return {Form(form): fields for form, fields in rows}


def drop_draft(session: Session, case_id: UUID, person_id: UUID, form: Form) -> None:
    """Delete the draft: the form was sent, or undone."""
    of_form = (DraftRow.case_id == case_id, DraftRow.person_id == person_id, DraftRow.form == form.value)
    delete_rows(session, DraftRow, *of_form)


def drop_drafts(session: Session, case_id: UUID) -> None:
    """Delete all drafts of a case: it was decided."""
    delete_rows(session, DraftRow, DraftRow.case_id == case_id)


def forget_drafts(session: Session) -> None:
    """Delete drafts that are too old."""
    delete_rows(session, DraftRow, DraftRow.at < func.now() - seconds(DRAFT_SECONDS))
