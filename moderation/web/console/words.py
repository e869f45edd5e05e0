"""The console's words: outcomes, moves, ages and scores in sentences, only with words of the glossary."""

from datetime import UTC, datetime

from moderation.analysis import Basis, Effect, Label, Technique, Verdict
from moderation.cases import CaseState, Move, Refusal, Stage
from moderation.decisions import Outcome
from moderation.evidence.words import ClaimedOrigin, Fact, Strength

#: The outcomes, with the key for each (`docs/reviewers.md`).
OUTCOMES = (
    (Outcome.DEEPFAKE, "Deepfake", "f"),
    (Outcome.BONA_FIDE, "Bona fide", "r"),
    (Outcome.CANNOT_TELL, "Cannot tell", "u"),
    (Outcome.ESCALATE, "Escalate", "e"),
)
TECHNIQUES = tuple((technique.value, technique.words.capitalize()) for technique in Technique)
LABELS = (
    (Label.DEEPFAKE, "Likely deepfake"),
    (Label.BONA_FIDE, "Likely bona fide"),
    (Label.UNDETERMINED, "Cannot tell"),
)
ANSWERS = (
    ("agree", "✓", "I see it", "a"),
    ("disagree", "✗", "I do not see it", "d"),
    ("unclear", "?", "Unclear", "s"),
)

#: Names of sources in a sentence, at most. More are counted.
NAMES_AT_MOST = 3

OUTCOME_WORDS = {outcome: words for outcome, words, _ in OUTCOMES}
STAGE_WORDS = {
    Stage.FIRST: "first review",
    Stage.SECOND: "second review",
    Stage.ESCALATED: "escalated",
    Stage.APPEAL: "appeal",
}
STATE_WORDS = {
    CaseState.WAITING: "waiting for a worker",
    CaseState.ANALYZING: "being analysed",
    CaseState.READY: "ready for review",
    CaseState.DECIDED: "decided",
    CaseState.WITHDRAWN: "withdrawn by its platform",
}
MOVE_WORDS = {
    Move.ACCEPT: "Flagged",
    Move.BEGIN: "Analysis begun",
    Move.RELEASE: "Released",
    Move.EXPIRE: "Lease ran out",
    Move.RECORD: "Analysed",
    Move.REFUSE: "Could not be analysed",
    Move.RETRY: "Tried again",
    Move.REANALYZE: "Analysed anew",
    Move.DECIDE: "Decided",
    Move.SECOND: "Decided; a second review was asked for",
    Move.ESCALATE: "Escalated",
    Move.UNDO: "Decision taken back",
    Move.WITHDRAW: "Decision taken back",
    Move.APPEAL: "Appealed",
    Move.RECALL: "Withdrawn by the platform",
}


def headline(verdict: Verdict | None, refusal: Refusal | None, *, hidden: bool = False) -> str:
    """The verdict in words, or why there is none or it is hidden."""
    if hidden:
        return "Judge first: the verdict is hidden"
    if verdict is None:
        return "No verdict yet" if refusal is None else f"No verdict: {_sentence_end(refusal.message)}"
    why = f": {verdict.abstain.words}" if verdict.abstain else ""
    return label_words(verdict.label, verdict.technique) + why


def label_words(label: Label, technique: Technique | None) -> str:
    match label:
        case Label.DEEPFAKE:
            return "Likely deepfake" + (f": {technique.words}" if technique else "")
        case Label.BONA_FIDE:
            return "Likely bona fide"
        case Label.UNDETERMINED:
            return "Cannot tell"


def tone(verdict: Verdict | None, *, hidden: bool = False) -> str:
    """The colour and icon of the headline."""
    if hidden:
        return "hidden"
    return "none" if verdict is None else verdict.label.value


def effect_words(score: float, effect: Effect) -> str:
    """How a score changes without a region, beside a control region."""
    before, without, control = (f"{each:.2f}" for each in (score, effect.score_without, effect.control_score))
    if without == before:
        change = f"stays at {before}"
    else:
        change = f"{'falls' if without < before else 'rises'} from {before} to {without}"
    return f"Without this region the score {change} (a control region: {control})."


def score_words(verdict: Verdict, basis: Basis | None, source: str) -> str:
    """What the number means, and what it does not mean, for a picture from this source."""
    if verdict.score is None:
        return ""
    if not verdict.calibrated:
        return "not calibrated: it orders cases, it is no probability"
    if basis is None or not basis.holds(verdict, source):
        return "score: it orders cases, it is no probability here"
    sure = max(verdict.score, 1 - verdict.score)
    levels = ((0.95, "confident"), (0.8, "fairly confident"), (0.65, "unsure"))
    said = next((words for least, words in levels if sure >= least), "very unsure")
    return f"probability of a deepfake; {said}"


def basis_words(verdict: Verdict, basis: Basis | None, source: str) -> tuple[str, str]:
    """What the score was calibrated on, in one sentence, and the sources that it only counts. Empty: there are none."""
    if verdict.score is None or not verdict.calibrated:
        return "", ""
    if basis is None:
        return "What it was calibrated on is not known here.", ""
    others = "" if source in basis.sources else f" Pictures of {source} are not among them."
    _, _, names = basis.words.partition(": ")
    count = len(names.split(", "))
    if count <= NAMES_AT_MOST:
        return f"Calibrated on {basis.words}.{others}", ""
    return f"Calibrated on {count} sources.{others}", f"On {basis.words}."


def place_words(head_start: float) -> str:
    """Why a case stands where it does in the queue. `head_start` in seconds: see `triage.head_start`."""
    how = f"{span(abs(head_start))} {'less' if head_start < 0 else 'more'}"
    return (
        f"Comes as if it had waited {how} than it has: for its priority, its review, the model's doubt, "
        "evidence that contradicts the verdict, or a certificate."
    )


def declared_words(fact: Fact | None) -> str:
    """What the strongest fact declares the picture to be."""
    if fact is None or fact.points_to is None:
        return "Nothing declares where this picture comes from. Most pictures have nothing that does."
    how = "Signed as" if fact.strength is Strength.CRYPTOGRAPHIC else "Declared"
    synthetic = fact.points_to is ClaimedOrigin.SYNTHETIC
    return f"{how} {'AI-made, wholly or in part' if synthetic else 'captured by a camera'}."


def decided_words(outcome: Outcome, technique: Technique | None) -> str:
    return OUTCOME_WORDS[outcome] + (f": {technique.words}" if technique else "")


def ago(at: datetime, now: datetime | None = None) -> str:
    """How long ago, in few words."""
    return f"{span(((now or datetime.now(UTC)) - at).total_seconds())} ago"


def span(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{max(0, int(seconds))} s"


def stamp(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def clock(at: datetime) -> str:
    return f"{at.astimezone(UTC):%H:%M:%S} UTC"


def size(count: int) -> str:
    for unit, large in (("MB", 2**20), ("KB", 2**10)):
        if count >= large:
            return f"{count / large:.1f} {unit}"
    return f"{count} bytes"


def sentence(text: str) -> str:
    """An error's text as a sentence on a page."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?")) else ".")


def _sentence_end(message: str) -> str:
    return message[:1].lower() + message[1:].rstrip(".") if message[1:2].islower() else message.rstrip(".")
