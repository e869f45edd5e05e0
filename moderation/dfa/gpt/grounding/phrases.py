"""Pieces that sentences about a face are put together from."""

import re
from collections.abc import Iterable, Sequence

from moderation.analysis import Region
from moderation.dfa.gpt.grounding.known import Known, Question, Shown
from moderation.dfa.gpt.grounding.sentences import NOUNS, Noun, worded_together


def varied(question: Question, *answers: str) -> str:
    """One of these answers, the same for every question of that wording."""
    return answers[question.wording % len(answers)]


def within(sentence: str) -> str:
    """A sentence to use within another one: lower case, without its full stop."""
    return sentence[:1].lower() + sentence[1:].rstrip(".")


def places(artifacts: Iterable[Shown]) -> str:
    """The artifacts' places in words: "at the edge of the face, in the nose and in the mouth"."""
    return joined([place(shown.touch.region) for shown in artifacts], "and")


def joined(words: Sequence[str], last: str) -> str:
    """The words as a list: "the nose, the ears or the mouth", with `last` before the last of them."""
    return f" {last} ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def one_of(nouns: Iterable[Noun]) -> str:
    """The parts in words: "the nose, the ears or the mouth"."""
    return joined([f"the {noun.word}" for noun in nouns], "or")


def parts_of(artifacts: Iterable[Shown]) -> str:
    """What to look at, in words: "the edge of the face, the nose and the mouth"."""
    return re.sub(r"\b(?:at|in) the\b", "the", places(artifacts))


def place(region: Region) -> str:
    """Where a region's artifact is, in words: "in the nose"."""
    if region is Region.FACE_BOUNDARY:
        return "at the edge of the face"
    return "all over the picture" if region is Region.UNMAPPED else f"in the {NOUNS[region].word}"


def by_strength(shown: Shown) -> float:
    """A key that sorts the strongest first."""
    return -shown.touch.strength


def clearest(known: Known) -> str:
    """The clearest artifact of a deepfake, within a sentence."""
    if known.artifacts:
        return within(min(known.artifacts, key=by_strength).sentence)
    return "the whole picture looks generated" if known.whole else "the face as a whole looks forged"


def capital(sentence: str) -> str:
    """The sentence with a capital letter at its start."""
    return sentence[:1].upper() + sentence[1:]


#: What a part is compared with. It is said once.
_COMPARED = re.compile(
    r"(?: than| beside|: texture and light do not fit) "
    r"(?:the picture outside the seam|the face around (?:it|them)|outside)\b"
)


def listed(artifacts: Sequence[Shown], known: Known) -> str:
    """The sentences of these artifacts of a face in one, without its full stop."""
    facts = [shown.touch for shown in known.artifacts or ()]
    first, *others = map(within, worded_together([shown.touch for shown in artifacts], facts))
    said = _COMPARED.search(first) is not None
    return "; ".join([first, *(_COMPARED.sub("", other) if said else other for other in others)])
