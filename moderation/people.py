"""Who works in the console, and what each role may do. One table; `review`, `web` and the templates ask it.

Nothing here knows a password or a session: `moderation.accounts` does.
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
    #: Also decides what was escalated, decides in bulk and sees how the review is going.
    LEAD = "lead"
    #: Also manages people and webhooks.
    ADMIN = "admin"


class Act(enum.StrEnum):
    """Something a person may be allowed to do."""

    #: Claim, skip, decide and undo.
    REVIEW = "review"
    #: Put a question to DFA-GPT about a case.
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
_LEAD = _REVIEWER | {
    Act.REVIEW_ESCALATED,
    Act.BULK_DECIDE,
    Act.APPEAL,
    Act.SEE_INSIGHT,
    Act.RESEND,
}

#: The one table of permissions. What is not here is not allowed, on any path.
ALLOWED: Mapping[Role, frozenset[Act]] = {
    Role.REVIEWER: _REVIEWER,
    Role.LEAD: _LEAD,
    Role.ADMIN: _LEAD | {Act.MANAGE_WEBHOOKS, Act.USE_CERTIFICATES, Act.MANAGE_PEOPLE},
}


#: In whose name a rule of this installation closes what stands aside. It is nobody: it cannot sign in.
RULE = UUID("00000000-0000-7000-8000-000000000001")
#: How events name it.
RULE_ACTOR = "rule"


class Theme(enum.StrEnum):
    #: As the browser says.
    AUTO = "auto"
    LIGHT = "light"
    DARK = "dark"


@dataclass(frozen=True)
class Preferences:
    """How a person sees pictures and pages. The defaults protect: a picture is shown when it is asked for."""

    blur: bool = True
    greyscale: bool = True
    theme: Theme = Theme.AUTO
    #: Single keys act on the page. Some people dictate: WCAG 2.1.4 wants a way to turn them off.
    shortcuts: bool = True


@dataclass(frozen=True)
class Person:
    """Somebody who may sign in."""

    id: UUID
    #: Lower-cased; what they sign in with.
    email: str
    name: str
    role: Role
    preferences: Preferences = field(default_factory=Preferences)
    created_at: datetime | None = None
    #: None while the person may sign in.
    disabled_at: datetime | None = None
    #: Somebody else made their password and knows it: they choose their own before they do anything.
    first_password: bool = False

    @property
    def actor(self) -> str:
        """How events name this person: an id, which stays when the name is erased."""
        return f"reviewer:{self.id}"


def may(person: Person, act: Act) -> bool:
    """True when the person's role allows it. A disabled person may do nothing."""
    return person.disabled_at is None and act in ALLOWED[person.role]


def require(person: Person, act: Act) -> None:
    """Raise NotAllowed when the person may not do this."""
    if not may(person, act):
        raise NotAllowed(f"a {person.role} may not do this ({act})")
