"""A case on its page for one person: what is stored, in words, without what is hidden from them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from moderation.analysis import Analysis, Basis, Box, Label, PictureFacts, Technique, Verdict
from moderation.archive.archived import Archived, archived_cases
from moderation.cases import Case, CaseState, Flag, Move, Stage
from moderation.database.analyses import StoredAnalysis, shown_analyses
from moderation.database.cases import find_case, require_case
from moderation.database.console import names_of
from moderation.database.drafts import Draft, Form, drafts_of
from moderation.database.events import Event, EventChain, read_chain
from moderation.database.questions import Question, questions_of
from moderation.database.renditions import NOT_SHOWN, is_rendered
from moderation.database.review import appeals_of, decisions_of, find_claim, find_holder, same_picture
from moderation.decisions import Appeal, Decision, Outcome, ReasonPolicy, may_review
from moderation.errors import BonafideError
from moderation.evidence.rows import evidence_of
from moderation.evidence.sentences import CAVEATS, KIND_WORDS, STRENGTH_WORDS, disclosed, sentence
from moderation.evidence.words import Fact, Strength, contradicts, declared, ordered
from moderation.people import RULE_ACTOR, Act, Person, may
from moderation.questions import FAILURES
from moderation.review import Visibility
from moderation.rollouts.rollout_rows import bases_of
from moderation.web.console import words
from moderation.web.console.access import number
from moderation.web.console.alike import Likenesses, read_alike
from moderation.web.console.face_maps import FaceMap, maps
from moderation.web.console.marks import Mark, marks
from moderation.web.console.suggestions import Suggestion, suggestions

#: Characters of a file's name.
_NAME_AT_MOST = 26

_NOTES = {
    "rotated": "turned upright, as the file says",
    "colour_profile": "shown in the colours of its profile",
    "flattened_alpha": "had transparency",
    "cmyk": "was CMYK",
    "sixteen_bit": "was 16 bits deep",
    "animated": "is animated",
}
_REASON_WORDS = {"never": "optional", "disagreeing": "when you disagree or escalate", "always": "always"}


@dataclass(frozen=True)
class Hold:
    """The person who has claimed the case."""

    by: str
    expires_at: datetime
    mine: bool
    token: int  # 0 unless mine


@dataclass(frozen=True)
class DecisionWords:
    """A decision in words."""

    id: UUID
    words: str
    tone: str
    by: str
    reason: str | None
    stage_words: str
    blind_words: str | None
    created_at: datetime
    final_at: datetime
    undone_at: datetime | None
    final: bool


@dataclass(frozen=True)
class FaceLine:
    """One of several faces, by its number on the picture."""

    number: int
    words: str
    tone: str
    score: float | None
    decides: bool


@dataclass(frozen=True)
class Logged:
    """An event in words."""

    seq: int
    at: datetime
    words: str
    by: str
    facts: str


@dataclass(frozen=True)
class QuestionWords:
    """A question to DFA-GPT and its answer."""

    question: str
    #: The face it is about, when there are several: "face 2". Otherwise empty.
    face_words: str
    answer: str | None
    failure: str | None
    failure_words: str
    by_words: str


@dataclass(frozen=True)
class Appealed:
    reason: str
    by: str
    created_at: datetime


@dataclass(frozen=True)
class Known:
    """A fact in words."""

    title: str
    strength: str
    says: str
    cannot_tell: str
    disclosable: bool
    #: `synthetic`, `captured` or neither.
    tone: str


@dataclass(frozen=True)
class Beside:
    """The evidence card."""

    #: Facts that are signed, declared or do not fit, the strongest first.
    strong: tuple[Known, ...]
    #: Facts that alone prove nothing.
    context: tuple[Known, ...]
    #: Whether the verdict contradicts what the picture is declared to be. False while the verdict is hidden.
    conflict: bool
    headline: str


@dataclass(frozen=True)
class CaseView:
    """Everything that `case.html` needs. It holds nothing that is hidden from this person."""

    id: UUID
    state: CaseState
    stage: Stage
    version: int
    flag: Flag
    created_at: datetime
    #: The verdict, and what others decided, are hidden until this person has judged.
    hidden: bool
    #: What others decided is hidden until this person has decided too.
    earlier_hidden: bool
    claim: Hold | None
    may_claim: bool
    why_not: str
    may_ask: bool
    may_appeal: bool
    analysis: Analysis | None  # None when there is none, and while it is hidden
    #: What its scores were calibrated on. None: nothing, or it is unknown.
    basis: Basis | None
    picture: PictureFacts | None
    #: Boxes of the faces. None while the verdict is hidden, because the model's work found them.
    faces: tuple[Box, ...]
    marks: tuple[Mark, ...]
    headline: str
    tone: str
    blind: str | None
    decision: DecisionWords | None
    earlier: tuple[DecisionWords, ...]
    appeal: Appealed | None
    chain: EventChain
    #: The archive of its analysis, questions and events. None: the database holds them.
    archived: Archived | None
    #: When its platform took it back, and when its picture and all texts were erased.
    withdrawn_at: datetime | None
    erased_at: datetime | None
    events: tuple[Logged, ...]
    #: Other cases with exactly the same bytes.
    related: tuple[Case, ...]
    #: Similar pictures, not the same bytes. Empty while the verdict is hidden: a copy's outcome would reveal it.
    alike: Likenesses
    questions: tuple[QuestionWords, ...]
    worker_away: bool
    open_outcomes: tuple[Outcome, ...]
    reason_words: str
    #: Evidence beside the verdict. None: nothing was gathered.
    evidence: Beside | None = None
    #: The person's drafts in its forms, or the form that came back with a complaint.
    kept: Mapping[Form, Draft] = field(default_factory=dict[Form, Draft])
    complaint: str | None = None
    #: The form that came back, and the field of the complaint.
    complained: Form = Form.DECIDE
    missing: str = ""
    #: Why a question was refused.
    question_refused: str = ""
    #: Whether a copy is shown instead of a file that browsers do not show.
    rendered: bool = False
    #: Number of the face chosen for a question. None: none was chosen.
    asking: int | None = None
    #: Number, from 1, of this look for a running measurement. 0: the last look was in vain. None: nothing is measured.
    measuring: int | None = None

    @property
    def has_picture(self) -> bool:
        """Whether people may look at it."""
        return self.erased_at is None and self.state is not CaseState.WITHDRAWN

    @property
    def copy_gone(self) -> bool:
        """Whether the picture cannot be shown: browsers do not show its kind, and its copy was not kept."""
        return self.picture is not None and self.picture.format in NOT_SHOWN and not self.rendered

    def said_in(self, form: str) -> Draft:
        """The person's draft of this form."""
        return self.kept.get(Form(form), {})

    def complaint_about(self, form: str) -> str | None:
        return self.complaint if self.complained == form else None

    @property
    def judging(self) -> str:
        """The person's first judgement while they can take it back. Empty: none, or the verdict is shown."""
        said = self.said_in(Form.JUDGE)
        if not self.hidden or "said" not in said:
            return ""
        technique = said.get("technique")
        return words.decided_words(Outcome(said["outcome"]), Technique(technique) if technique else None)

    @property
    def takes_back(self) -> bool:
        """Whether the page offers to take a first judgement back."""
        return self.deciding and bool(self.judging)

    @property
    def kept_words(self) -> tuple[str, ...]:
        """Texts of the person that no form of this page shows, because they do not hold the case now."""
        if self.deciding:
            return ()
        forms = (Form.DECIDE, Form.SKIP, *(() if self.may_ask else (Form.ASK,)))
        said = [
            self.said_in(form).get(name, "") for form in forms for name in ("reason", "policy", "question")
        ]
        return tuple(text for text in said if text)

    @property
    def no_question(self) -> str:
        """Why no question can be asked. Empty when one can."""
        if self.may_ask:
            return ""
        if self.hidden:
            return "Questions can be asked once you have judged and the verdict is shown."
        if not self.has_picture or self.archived is not None:
            return "No question can be asked about this case any more."
        if self.state in (CaseState.WAITING, CaseState.ANALYZING):
            return "Questions can be asked once the model has looked at this picture."
        if self.verdict is None:
            return "No question can be asked: the model could not look at this picture."
        why = f" ({self.verdict.abstain.words})" if self.verdict.abstain else ""
        return f"No question can be asked: the model judged no face of this picture{why}."

    @property
    def unseen(self) -> bool:
        """Whether it has no analysis: perhaps the picture cannot be shown."""
        return self.analysis is None and not self.hidden

    @property
    def verdict(self) -> Verdict | None:
        return None if self.analysis is None else self.analysis.verdict

    @property
    def region(self) -> str:
        """The region for the viewing aids: the first face, or the whole picture. Left, top, width, height in pixels."""
        if self.picture is None:
            return ""
        box = self.faces[0] if self.faces else Box(0, 0, self.picture.width, self.picture.height)
        return f"{box.left:.0f} {box.top:.0f} {box.width:.0f} {box.height:.0f}"

    @property
    def outlined(self) -> bool:
        return bool(self.faces) or any(mark.points for mark in self.marks)

    @property
    def deciding(self) -> bool:
        """Whether this person holds the open case."""
        return self.state is CaseState.READY and self.claim is not None and self.claim.mine

    @property
    def not_deciding(self) -> str:
        if self.state in (CaseState.WAITING, CaseState.ANALYZING):
            return "The model has not looked yet. The case is decided when it is ready."
        if self.state is CaseState.WITHDRAWN:
            return "The platform took the image back. There is nothing left to decide."
        if self.claim is not None:
            return f"{self.claim.by} has this case in front of them."
        return self.why_not or "Claim the case to decide it. While you have it, nobody else does."

    @property
    def state_words(self) -> str:
        return words.STATE_WORDS[self.state]

    @property
    def state_tone(self) -> str:
        return "caution" if self.state in (CaseState.WAITING, CaseState.ANALYZING) else ""

    @property
    def stage_words(self) -> str:
        return "" if self.stage is Stage.FIRST else words.STAGE_WORDS[self.stage]

    @property
    def score_words(self) -> str:
        return "" if self.verdict is None else words.score_words(self.verdict, self.basis, self.flag.source)

    @property
    def basis_words(self) -> tuple[str, str]:
        """What the score was calibrated on, and the names that are folded. Empty: there are none."""
        if self.verdict is None:
            return "", ""
        return words.basis_words(self.verdict, self.basis, self.flag.source)

    @property
    def maps(self) -> tuple[FaceMap, ...]:
        return () if self.analysis is None else maps(self.analysis.faces)

    @property
    def unmeasured(self) -> bool:
        """Whether artifacts have a place, but none was measured."""
        return any(mark.points for mark in self.marks) and not any(mark.effect_words for mark in self.marks)

    @property
    def effects_words(self) -> str:
        """The sentence about all artifacts together."""
        if self.measuring is None:
            return ""
        if self.measuring == 0:
            return "It was not measured whether the score depends on these regions."
        return "DFA-GPT is asked again with each of these regions hidden …"

    @property
    def techniques(self) -> tuple[tuple[Technique, float], ...]:
        """The likeliest first. None unless the model was asked."""
        scores = None if self.verdict is None else self.verdict.technique_scores
        if scores is None or self.verdict is None or self.verdict.label is Label.BONA_FIDE:
            return ()
        return tuple(sorted(scores.items(), key=lambda pair: -pair[1]))

    @property
    def several_faces(self) -> bool:
        return self.analysis is not None and len(self.analysis.faces) > 1

    @property
    def face_lines(self) -> tuple[FaceLine, ...]:
        """A line for each face. The first face decides for the picture."""
        if self.analysis is None:
            return ()
        return tuple(
            FaceLine(
                number,
                "In the background, not judged" if face.background else words.headline(face.verdict, None),
                "none" if face.background else words.tone(face.verdict),
                face.verdict.score,
                decides=number == 1,
            )
            for number, face in enumerate(self.analysis.faces, start=1)
        )

    @property
    def askable(self) -> tuple[FaceLine, ...]:
        """The judged faces, which questions can be about."""
        faces = () if self.analysis is None else self.analysis.faces
        return tuple(line for line in self.face_lines if faces[line.number - 1].judged)

    @property
    def asked_face(self) -> int | None:
        """Number of the face that the question box is about: the chosen one, else the first. None: none was judged."""
        face = self.asking or number(self.said_in(Form.ASK).get("face"))
        numbers = [line.number for line in self.askable]
        return face if face in numbers else next(iter(numbers), None)

    @property
    def suggestions(self) -> tuple[Suggestion, ...]:
        number = self.asked_face
        return () if self.analysis is None or number is None else suggestions(self.analysis.faces[number - 1])

    @property
    def faces_words(self) -> str:
        """How many faces there are, when there are several."""
        if self.analysis is None or not self.several_faces:
            return ""
        return f"{self.analysis.faces_found} faces found, {self.analysis.faces_judged} judged"

    @property
    def number_size(self) -> float:
        """Size of the numbers on faces, in pixels of the picture, so that they are readable at any size."""
        return 0.0 if self.picture is None else 0.035 * max(self.picture.width, self.picture.height)

    @property
    def picture_notes(self) -> tuple[str, ...]:
        if self.picture is None:
            return ()
        notes = [_NOTES.get(note, note.replace("_", " ")) for note in self.picture.notes]
        if self.picture.frames > 1:
            notes.append(f"frame {self.picture.frame + 1} of {self.picture.frames} was analysed")
        return tuple(notes)

    @property
    def took(self) -> str:
        spent = {} if self.analysis is None else self.analysis.seconds
        engine = f", {spent['engine']:.2f} of it the model" if "engine" in spent else ""
        return f"{sum(spent.values()):.2f} s{engine}" if spent else "not measured"

    @property
    def context(self) -> str:
        return "" if self.flag.context is None else json.dumps(self.flag.context, ensure_ascii=False)

    @property
    def file_name(self) -> str:
        """The last part of the image's key, shortened to fit on a line."""
        name = self.flag.image.key.rpartition("/")[2]
        return name if len(name) <= _NAME_AT_MOST else f"{name[: _NAME_AT_MOST - 1]}…"

    @property
    def chain_words(self) -> str:
        if self.chain.broken_at is not None:
            return "chain BROKEN"
        if self.archived is not None:
            return "archived"
        return f"{len(self.chain.events)} entries, chain verified"

    @property
    def opens(self) -> str:
        return "earlier" if self.earlier else "flag"

    @property
    def waits_for_answer(self) -> bool:
        return any(turn.answer is None and turn.failure is None for turn in self.questions)


def read_case(
    session: Session,
    person: Person,
    case_id: UUID,
    *,
    visibility: Visibility,
    worker_away: bool,
    reason_policy: ReasonPolicy,
    blind_share: float,
) -> CaseView:
    """Read the case's page. `visibility` comes from `Review.visibility`. Raise CaseNotFound."""
    judge_first, blind = visibility.judge_first, visibility.blind
    case = require_case(session, case_id)
    decisions = decisions_of(session, case_id)
    standing = [decision for decision in decisions if decision.undone_at is None]
    mine = any(decision.reviewer_id == person.id for decision in standing)
    earlier_hidden = (
        case.state is CaseState.READY
        and bool(standing)
        and not mine
        and (judge_first or case.stage is Stage.SECOND)
    )
    stored = shown_analyses(session, [case_id]).get(case_id)
    analysis = None if stored is None else stored.analysis
    shown = None if judge_first else analysis
    bases = {} if shown is None else bases_of(session, [shown.fingerprint])
    holder, claim = find_holder(session, case_id), find_claim(session, case_id)
    is_mine = holder is not None and holder.person_id == person.id
    token = claim.token if is_mine and claim else 0
    chain = read_chain(session, case_id)
    archived = archived_cases(session, [case]).get(case_id)
    appeals = appeals_of(session, case_id)
    names = names_of(session, _people_in(chain.events, appeals))
    why_not = _why_not(case, person, standing)
    now = datetime.now(UTC)
    decided = case.state is CaseState.DECIDED and bool(standing)
    older = decisions[:-1] if decided and not decisions[-1].undone_at else decisions
    return CaseView(
        id=case.id,
        state=case.state,
        stage=case.stage,
        version=case.version,
        flag=case.flag,
        created_at=case.created_at,
        hidden=judge_first,
        earlier_hidden=earlier_hidden,
        claim=holder and Hold(holder.name, holder.expires_at, is_mine, token),
        may_claim=case.state is CaseState.READY and holder is None and not why_not,
        why_not=why_not,
        may_ask=shown is not None
        and shown.faces_judged > 0
        and case.erased_at is None
        and case.state is not CaseState.WITHDRAWN
        and may(person, Act.ASK),
        may_appeal=decided
        and may(person, Act.APPEAL)
        and standing[-1].final_at <= now
        and not archived
        and case.erased_at is None,
        analysis=shown,
        basis=shown and bases.get(shown.fingerprint),
        picture=analysis and analysis.picture,
        faces=() if shown is None else tuple(face.face.box for face in shown.faces),
        marks=() if shown is None else marks(shown.faces, shown.picture),
        headline=_kept_headline(archived) or words.headline(shown.verdict if shown else None, case.refusal),
        tone=words.tone(shown.verdict if shown else None),
        blind=blind and words.decided_words(blind.outcome, blind.technique),
        decision=in_words(standing[-1], now) if decided else None,
        earlier=() if earlier_hidden else tuple(in_words(past, now) for past in reversed(older)),
        appeal=_open_appeal(appeals, names) if case.state is CaseState.READY else None,
        chain=chain,
        archived=archived,
        withdrawn_at=case.withdrawn_at,
        erased_at=case.erased_at,
        events=tuple(_logged(event, names, plain=judge_first or earlier_hidden) for event in chain.events),
        related=() if judge_first else _elsewhere(session, case_id),
        alike=Likenesses()
        if judge_first or earlier_hidden
        else read_alike(session, person, case_id, blind_share=blind_share),
        questions=() if judge_first else tuple(_turn(one, stored) for one in questions_of(session, case_id)),
        evidence=_beside(session, case_id, shown),
        worker_away=worker_away,
        open_outcomes=_open_outcomes(case.stage),
        reason_words=_REASON_WORDS[reason_policy]
        if analysis is not None
        else "needed for deepfake and bona fide: the model saw nothing",
        kept=_kept(session, person, case_id, decisions),
        rendered=is_rendered(session, case_id),
    )


def log_in_words(session: Session, case_id: UUID, since: int) -> list[Logged]:
    """The events of the case after this version, without their details."""
    events = [event for event in read_chain(session, case_id).events if event.seq > since]
    names = names_of(session, _people_in(events, ()))
    return [_logged(event, names, plain=True) for event in events]


def _beside(session: Session, case_id: UUID, shown: Analysis | None) -> Beside | None:
    """The evidence card. Only people who see the verdict learn whether the two fit."""
    stored = evidence_of(session, [case_id]).get(case_id)
    if stored is None:
        return None
    conflict = shown is not None and contradicts(stored.evidence, shown.verdict)
    facts = ordered(stored.evidence.facts)
    return Beside(
        strong=tuple(_known(fact) for fact in facts if fact.strength is not Strength.CONTEXT),
        context=tuple(_known(fact) for fact in facts if fact.strength is Strength.CONTEXT),
        conflict=conflict,
        headline=words.declared_words(declared(stored.evidence)),
    )


def _known(fact: Fact) -> Known:
    return Known(
        title=KIND_WORDS[fact.kind],
        strength=STRENGTH_WORDS[fact.strength],
        says=sentence(fact),
        cannot_tell=CAVEATS[fact.kind],
        disclosable=disclosed(fact) is not None,
        tone=fact.points_to or "",
    )


def _kept(
    session: Session, person: Person, case_id: UUID, decisions: Sequence[Decision]
) -> Mapping[Form, Draft]:
    """The person's drafts, or after an undo the decision that they have just taken back."""
    drafts = drafts_of(session, case_id, person.id)
    last = decisions[-1] if decisions else None
    if last is not None and last.undone_at is not None and last.reviewer_id == person.id:
        drafts.setdefault(Form.DECIDE, _as_filled_in(last))
    return drafts


def _as_filled_in(decision: Decision) -> Draft:
    said = {
        "outcome": decision.outcome.value,
        "technique": decision.technique and decision.technique.value,
        "reason": decision.reason,
        "policy": decision.policy,
        **{f"answer-{answer.face}-{answer.ordinal}": answer.answer.value for answer in decision.feedback},
    }
    return {name: value for name, value in said.items() if value}


def _kept_headline(archived: Archived | None) -> str:
    """The verdict of an archived case. Empty when it is not archived, or had none."""
    if archived is None or archived.label is None:
        return ""
    technique = None if archived.technique is None else Technique(archived.technique)
    return words.label_words(Label(archived.label), technique)


def _why_not(case: Case, person: Person, standing: Sequence[Decision]) -> str:
    """Why this person may not review the case. Empty when they may, and while it is not open for review."""
    if case.state is not CaseState.READY:
        return ""
    try:
        may_review(case.stage, person, {decision.reviewer_id for decision in standing})
    except BonafideError as error:
        return words.sentence(str(error))
    return ""


def _open_outcomes(stage: Stage) -> tuple[Outcome, ...]:
    """The outcomes to choose from. A lead cannot escalate an escalated case."""
    return tuple(outcome for outcome in Outcome if (outcome, stage) != (Outcome.ESCALATE, Stage.ESCALATED))


def in_words(decision: Decision, now: datetime) -> DecisionWords:
    blind = decision.blind_outcome
    return DecisionWords(
        id=decision.id,
        words=words.decided_words(decision.outcome, decision.technique),
        tone=decision.outcome.value,
        by=decision.reviewer,
        reason=decision.reason,
        stage_words=words.STAGE_WORDS[decision.stage],
        blind_words=None if blind is None else words.decided_words(blind, decision.blind_technique),
        created_at=decision.created_at,
        final_at=decision.final_at,
        undone_at=decision.undone_at,
        final=decision.final_at <= now,
    )


def _open_appeal(appeals: Sequence[Appeal], names: Mapping[UUID, str]) -> Appealed | None:
    waiting = [appeal for appeal in appeals if appeal.resolved_by is None]
    if not waiting:
        return None
    return Appealed(waiting[-1].reason, actor_words(waiting[-1].appellant, names), waiting[-1].created_at)


def _people_in(events: Sequence[Event], appeals: Sequence[Appeal]) -> set[UUID]:
    actors = [event.actor for event in events] + [appeal.appellant for appeal in appeals]
    return {found for actor in actors if (found := person_in(actor))}


def person_in(actor: str) -> UUID | None:
    """The person behind an actor's name. None: it is no person."""
    kind, _, name = actor.partition(":")
    try:
        return UUID(name) if kind == "reviewer" else None
    except ValueError:
        return None


def actor_words(actor: str, names: Mapping[UUID, str]) -> str:
    """An actor's name for people."""
    person_id = person_in(actor)
    if person_id is not None:
        return names.get(person_id, "a former reviewer")
    kind, _, name = actor.partition(":")
    if actor == RULE_ACTOR:
        return "a rule of this installation"
    if kind == "platform":
        return f"the platform {name}"
    return f"a {kind}" if kind == "worker" else f"the {kind}"


def _logged(event: Event, names: Mapping[UUID, str], *, plain: bool) -> Logged:
    """An event in words. `plain` leaves out its contents, which are hidden from this person."""
    # A later release may have moves that this one does not know.
    known = event.kind in set(Move)
    said = words.MOVE_WORDS[Move(event.kind)] if known else event.kind.replace("_", " ").capitalize()
    facts = "" if plain else _facts(event.body)
    return Logged(event.seq, event.at, said, actor_words(event.actor, names), facts)


def _facts(body: Mapping[str, Any]) -> str:
    """The details of an event that help a reviewer."""
    told = map(body.get, ("label", "score", "outcome", "technique", "code", "stage"))
    return ", ".join(
        f"{value:.2f}" if isinstance(value, float) else str(value).replace("_", " ")
        for value in told
        if value is not None
    )


def _turn(question: Question, stored: StoredAnalysis | None) -> QuestionWords:
    about = _face_words(question, stored)
    spent = "" if question.seconds is None else f" in {question.seconds:.1f} s"
    return QuestionWords(
        question=question.question,
        face_words=about,
        answer=question.answer,
        failure=question.failure,
        failure_words=_failure_words(question.failure or "", stored),
        by_words=f"{question.bundle or 'DFA-GPT'}{spent}{about and f', about {about}'}",
    )


def _failure_words(failure: str, stored: StoredAnalysis | None) -> str:
    """Why a question has no answer. When no face was judged, also why not."""
    abstain = None if stored is None else stored.analysis.verdict.abstain
    if failure == "no_face" and abstain is not None:
        return f"No answer: the model judged no face of this picture ({abstain.words})."
    return FAILURES.get(failure, f"No answer: {failure.replace('_', ' ')}.")


def _face_words(question: Question, stored: StoredAnalysis | None) -> str:
    """The face of a question, by its number on the picture. Empty when there is only one, or none was named."""
    if question.face is None:
        return ""
    if stored is None or question.analysis_id != stored.id:
        return "a face of an earlier analysis"
    return f"face {question.face}" if len(stored.analysis.faces) > 1 else ""


def _elsewhere(session: Session, case_id: UUID) -> tuple[Case, ...]:
    others = (find_case(session, other_id) for other_id in same_picture(session, case_id))
    return tuple(case for case in others if case is not None)
