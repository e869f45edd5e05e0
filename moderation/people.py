"""Who works in the console, and what each role may do. `review`, `web` and the templates ask one table.

Nothing here knows a password or a session: `moderation.accounts.accounts` does.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from moderation.errors import NotAllowed


class Role(enum.StrEnum):
    #: Decides cases.
    REVIEWER = "reviewer"
    #: Also decides escalated cases, decides in bulk and sees how the review is going.
    LEAD = "lead"
    #: Also manages people and webhooks.
    ADMIN = "admin"


class Act(enum.StrEnum):
    """Something a person may be allowed to do."""

    #: Claim, skip, decide and undo.
    REVIEW = "review"
    #: Ask DFA-GPT about a case.
    ASK = "ask"
    #: Decide a case that a reviewer escalated.
    REVIEW_ESCALATED = "review_escalated"
    BULK_DECIDE = "bulk_decide"
    #: Reopen a decision on somebody's behalf.
    APPEAL = "appeal"
    SEE_INSIGHT = "see_insight"
    #: Send a webhook once more.
    RESEND = "resend"
    MANAGE_WEBHOOKS = "manage_webhooks"
    #: Let a certificate move cases in the queue, or stop it.
    USE_CERTIFICATES = "use_certificates"
    MANAGE_PEOPLE = "manage_people"


_REVIEWER = frozenset({Act.REVIEW, Act.ASK})
_LEAD = _REVIEWER | {Act.REVIEW_ESCALATED, Act.BULK_DECIDE, Act.APPEAL, Act.SEE_INSIGHT, Act.RESEND}

#: The one table of permissions. What is not listed is never allowed.
ALLOWED: Mapping[Role, frozenset[Act]] = {
    Role.REVIEWER: _REVIEWER,
    Role.LEAD: _LEAD,
    Role.ADMIN: _LEAD | {Act.MANAGE_WEBHOOKS, Act.USE_CERTIFICATES, Act.MANAGE_PEOPLE},
}


#: The reviewer of decisions that a rule made. It is no person and cannot sign in.
RULE = UUID("00000000-0000-7000-8000-000000000001")
#: Its name in events.
RULE_ACTOR = "rule"


class Theme(enum.StrEnum):
    #: As the browser prefers.
    AUTO = "auto"
    LIGHT = "light"
    DARK = "dark"


@dataclass(frozen=True)
class Preferences:
    """How a person sees pictures and pages. By default a picture is shown only on request."""

    blur: bool = True
    greyscale: bool = True
    theme: Theme = Theme.AUTO
    #: Single keys act on the page. People who dictate need to turn them off (WCAG 2.1.4).
    shortcuts: bool = True


@dataclass(frozen=True)
class Person:
    """Somebody who may sign in."""

    id: UUID
    #: In lower case; they sign in with it.
    email: str
    name: str
    role: Role
    preferences: Preferences = field(default_factory=Preferences)
    created_at: datetime | None = None
    #: None while the person may sign in.
    disabled_at: datetime | None = None
    #: Somebody else made and knows their password: they must choose their own before anything else.
    first_password: bool = False

    @property
    def actor(self) -> str:
        """This person's name in events: an id, which stays when the name is erased."""
        return f"reviewer:{self.id}"


def may(person: Person, act: Act) -> bool:
    """True when the person's role allows it. A disabled person may do nothing."""
    return person.disabled_at is None and act in ALLOWED[person.role]


def require(person: Person, act: Act) -> None:
    """Raise NotAllowed when the person may not do this."""
    if not may(person, act):
        raise NotAllowed(f"a {person.role} may not do this ({act})")
