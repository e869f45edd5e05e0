"""What a sentence about a face claims: an artifact in some part, none in another, a verdict, a technique.

This reads words to find contradictions and to score answers, never to decide a verdict. It is made for plain short
sentences; of one that it cannot read it says that nothing is claimed.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from moderation.analysis import Artifact, Region, Technique

# --- which parts are spoken of ---

_PARTS: Mapping[Region, str] = {
    Region.FOREHEAD: r"foreheads?|brow|upper face",
    Region.HAIRLINE: r"hairline|hairs?|strands?",
    Region.EYES: r"eyes?|eyelids?|lids?|eyelash(?:es)?|lashes|eyebrows?|brows|iris(?:es)?|pupils?|gaze",
    Region.NOSE: r"nose|nostrils?",
    Region.CHEEKS: r"cheeks?|cheekbones?",
    Region.MOUTH: r"mouth|lips?|tooth|teeth|smile|tongue",
    Region.JAWLINE: r"jaw|jawline|chin",
    Region.FACE_BOUNDARY: r"edges? of the face|(?:face |blending )?boundary|contours?|outlines?|seams?|rim|halo",
    Region.EARS: r"ears?|earlobes?|earrings?",
    Region.NECK: r"neck|throat",
    Region.BACKGROUND: r"background",
}
#: What every part has, so that a sentence about a part that has them is about the part.
_SURFACES: Mapping[Region, str] = {
    Region.SKIN: r"skin|complexion|pores",
    Region.LIGHTING: r"light|lighting|lit|shadows?|illumination|colou?rs?|tones?|shades?",
}
_WHOLE = re.compile(r"\b(?:whole|entire) (?:picture|image|face)\b|\bevery region\b", re.I)

#: What a part is held against, to the end of its clause, is not what the sentence is about.
_COMPARED = re.compile(
    r"(?<=\w)\s+(?:(?:(?:off|other|different|differs?|far)\s+)?(?:slightly |clearly )?from|than|beside"
    r"|compared (?:with|to)|unlike|against|outside|while|around|(?:match|matches|fits?|breaks?)\b(?: with)?)\s[^,.;:]*",
    re.I,
)


def parts_named(text: str) -> frozenset[Region]:
    """The parts that a text is about. What they are compared with is left out; light and skin count alone."""
    about = _COMPARED.sub(" ", text)
    parts = _found(_PARTS, about)
    return parts or _found(_SURFACES, about)


def _found(words: Mapping[Region, str], text: str) -> frozenset[Region]:
    return frozenset(
        region for region, pattern in words.items() if re.search(rf"\b(?:{pattern})\b", text, re.I)
    )


# --- what is claimed of them ---


@dataclass(frozen=True)
class Claim:
    """One clause."""

    text: str
    #: The parts it is about; empty when it is about none, or about the face as a whole.
    regions: frozenset[Region]
    #: Whether it finds an artifact there. None when it says neither, or that it cannot tell.
    finds: bool | None
    #: It speaks of the whole picture.
    whole: bool = False


_CLAUSES = re.compile(
    r"(?:[.;!?]+(?:\s+|$)|:\s+(?!(?:in|at|on)\b))|,?\s+\bbut\b|,\s+(?=(?:only|what|though|while|and cannot)\b)",
    re.I,
)
_OPENING = re.compile(
    r"^\s*(?:yes|no|well|none|nowhere|nothing that i can see|above all|also|both|because)\s*[,:.;]\s*", re.I
)
#: "Beside the artifacts in the nose, I see none" claims both.
_EXCEPT = re.compile(
    r"\b(?:beside|besides|apart from|except(?: for)?)\b([^.;:]*?), (?=I\b|the\b|nothing\b|no\b)", re.I
)
_FAULTS = (
    r"artifacts?|traces?|signs?|seams?|blur|smoothing|distortions?|sharpness|noise|colou?r|flaws?|faults?|problems?"
    r"|anomal\w+|irregularit\w+|evidence|manipulation|forgery|difference|editing"
)
_SOUND = (
    r"natural|normal|fine|real|genuine|clean|consistent|intact|okay|ok|authentic|untouched|convincing|in order"
    r"|unremarkable"
)
_UNSURE = re.compile(r"\b(?:cannot|can't|can not|could not|unable|not able)\b|\bwhether\b", re.I)
_DENIES = re.compile(
    rf"\b(?:no|not any|without|free of|neither|never)\s+(?:[\w-]+\s+){{0,6}}?(?:{_FAULTS})\b"
    rf"|\bnothing\b|\bnot\s+(?:in\s+|at\s+)?the\b|\b(?:shows?|sees?) none\b"
    rf"|(?<!not )\b(?:looks?|seems?|appears?|is|are)\s+(?:(?:\w+ly|quite|all|rather)\s+)?(?:{_SOUND})\b"
    r"|\b(?:does|do|is|are) not (?:show|forged|edited|manipulated|blurred|distorted)\b"
    rf"|\b(?:does|do) not (?:look|appear|seem)\b(?!\s+(?:\w+ly\s+)?(?:{_SOUND}))",
    re.I,
)
_FINDS = re.compile(
    rf"\b(?:artifacts?|traces?|seams?|halo|blur\w*|soft\w*|sharp\w*|crisp\w*|nois\w+|grain\w*|smooth\w*|airbrush\w*"
    r"|pasted|warp\w*|distort\w*|bent|stretch\w*|pulled|smear\w*|pattern|generated|forged|fake|manipulat\w+|edited"
    r"|altered|unnatural\w*|mismatch\w*|differ\w*|off|wrong|painted|odd|strange|swapped|replaced|even|out of shape"
    r"|another|other tone|far from|less|lost|hardly|nothing in common|breaks?|parts? of the forgery|stands? out)\b"
    rf"|\b(?:does|do|is|are) not (?:\w+ )?(?:fit|match|{_SOUND})\b|^\s*look\b|\bwhat i see\b|^\s*only\b",
    re.I,
)
#: Words in which a defect is put, that hold a word of denial.
_DEFECTS = re.compile(
    r"\bnothing in common\b|\bno(?: \w+)? texture left\b|\bhardly any\b|\bnot (?:strong|quite)\b", re.I
)


def claims(text: str) -> list[Claim]:
    """What a text claims, clause by clause."""
    return [
        Claim(clause, parts_named(clause), _finds(clause), whole=_WHOLE.search(clause) is not None)
        for clause in _clauses(text)
    ]


def _clauses(text: str) -> Iterator[str]:
    """The clauses, without what only opens them."""
    for clause in _CLAUSES.split(_OPENING.sub("", _EXCEPT.sub(r"the artifacts \1. ", text))):
        plain = _OPENING.sub("", clause).strip()
        if plain:
            yield plain


def _finds(clause: str) -> bool | None:
    if _UNSURE.search(clause):
        return None
    if _DENIES.search(_DEFECTS.sub(" ", clause)):
        return False
    return True if _FINDS.search(clause) else None


# --- verdicts and techniques ---

_FORGED = r"deepfake|fake|forged|forgery|generated|manipulated|synthetic|doctored"
_BONA_FIDE = r"bona fide|genuine|authentic|real|untouched|unaltered"
_JUDGES = (
    r"(?:take|call|consider|judge|find|hold|deem|think)s?\b(?:\s+[\w']+){0,5}?\s+"
    r"(?:for\s+|as\s+|is\s+|to be\s+)?(?:an?\s+)?"
)
_STATES = (
    r"(?:^|\b(?:it|this|face|picture|image|whole|photo)\b(?:\s+[\w']+){0,3}?\s+(?:is|looks|was)\s+"
    r"|\bit's\s+|^in my view\s+)(?:an?\s+)?"
)


def verdict_stated(text: str) -> bool | None:
    """True when a text calls the face a deepfake, False when bona fide, None when neither or both."""
    said = {said for clause in _clauses(text) if (said := _stated(clause)) is not None}
    return said.pop() if len(said) == 1 else None


def _stated(clause: str) -> bool | None:
    if _UNSURE.search(clause) and not re.search(r"\btake\b", clause):
        return None
    negated = re.search(r"\b(?:not|no|never|nothing|isn't|wasn't)\b(?!\s+beyond)", clause, re.I) is not None
    # "The nose looks real" is no verdict.
    states = "(?!)" if parts_named(clause) else _STATES
    if re.search(rf"\b(?:{_JUDGES})(?:{_BONA_FIDE})\b|{states}(?:not\s+)?(?:{_BONA_FIDE})\b", clause, re.I):
        return negated
    made = r"face \w+ing|face reenactment|entire face synthesis"
    if re.search(
        rf"\b(?:{_JUDGES})(?:{_FORGED}|{made})\b|{states}(?:not\s+|no\s+)?(?:an?\s+)?(?:{_FORGED})\b",
        clause,
        re.I,
    ):
        return not negated
    clean = re.search(
        r"\bno (?:\w+ )?(?:trace|sign|evidence)s? of (?:forgery|manipulation|editing)\b", clause, re.I
    )
    return False if clean and not parts_named(clause) else None


_TECHNIQUES: Mapping[Technique, str] = {
    Technique.FS: r"face[- ]?swap\w*|swapped face|another face was laid",
    Technique.FR: r"re-?enact\w*|another expression|puppeteer\w*",
    Technique.FE: r"face edit\w*|edited face|single features|attribute\w* (?:was|were) changed",
    Technique.EFS: r"entire face synthesis|(?:whole|entire) (?:face|picture)(?: \w+){0,3} generated|fully generated",
}


def techniques_named(text: str) -> frozenset[Technique]:
    return frozenset(
        technique for technique, words in _TECHNIQUES.items() if re.search(rf"\b(?:{words})", text, re.I)
    )


# --- sentences ---

_MARKUP = re.compile(
    r"[*_#<>`{}\[\]|\\~^\n]|https?:|www\.|\b(?:USER|ASSISTANT|SYSTEM):|^\s*(?:[-•]|\d{1,2}[.)])\s"
)


def is_plain(text: str) -> bool:
    """No markup, no list, no turn of a conversation, no address."""
    return _MARKUP.search(text.strip()) is None


def is_sentence(text: str) -> bool:
    """One or more whole plain sentences: of three words at least, from a capital letter to a full stop."""
    stripped = text.strip()
    words = re.findall(r"[^\W\d_][\w']*", stripped)
    return (
        is_plain(stripped)
        and len(words) >= 3
        and stripped[0].isupper()
        and stripped[-1] in ".!?"
        and not re.search(r"\b(?:a|an|the|in|of|at|than|and|or|with)\s*[.!?]$", stripped, re.I)
        and not _loops(words)
    )


def _loops(words: Sequence[str]) -> bool:
    """Whether four words in a row come for the third time: the model runs in a circle."""
    fours = [tuple(word.lower() for word in words[i : i + 4]) for i in range(len(words) - 3)]
    return any(fours.count(four) >= 3 for four in fours)


# --- contradictions ---

#: Parts on which the skin shows: an artifact there is one of the skin.
_SKINS = frozenset({Region.SKIN, Region.CHEEKS, Region.FOREHEAD, Region.NOSE, Region.JAWLINE})


def contradiction(text: str, *, deepfake: bool | None, artifacts: Sequence[Artifact] | None) -> str | None:
    """How a text contradicts what was said of the face before; None when it does not.

    Args:
        text: what is said now.
        deepfake: the verdict. None when there is none.
        artifacts: those that were listed. None when the model was not asked for them.
    """
    stated = verdict_stated(text)
    if deepfake is not None and stated is not None and stated != deepfake:
        return "states the other verdict"
    listed = None if artifacts is None else {region for artifact in artifacts for region in artifact.regions}
    for claim in claims(text):
        if deepfake is False and claim.finds and claim.regions:
            return "finds an artifact in a bona fide face"
        if not deepfake or not listed:
            continue
        if claim.finds and not _borne_out(claim, listed):
            return "finds an artifact where none was listed"
        if claim.finds is False and claim.regions & listed and not _single_fault(claim):
            return "finds none where one was listed"
        if claim.finds is False and not claim.regions and _denies_all(claim):
            return "finds none at all"
    return None


def _borne_out(claim: Claim, listed: set[Region]) -> bool:
    if claim.whole or Region.UNMAPPED in listed:
        return True
    wanted = claim.regions - {Region.LIGHTING}
    if Region.SKIN in wanted and listed & _SKINS:
        wanted = wanted - {Region.SKIN}
    return wanted <= listed


def _single_fault(claim: Claim) -> bool:
    """It denies one way of being wrong: others may be there."""
    return _FAULT.search(claim.text) is not None


_FAULT = re.compile(
    r"\bno (?:\w+ )?(?:blur|smoothing|distortion|excess|wrong|noise|sharpness|colou?r|trace of another)\b",
    re.I,
)


def _denies_all(claim: Claim) -> bool:
    return re.search(
        r"\bno (?:\w+ )*?(?:artifacts?|traces?|signs?)\b", claim.text, re.I
    ) is not None and not (_single_fault(claim))


_SOFTER = re.compile(
    r"\b(?:soft\w*|blurr?\w*|less (?:fine )?(?:detail|noise)|smooth\w*|lost (?:most )?(?:fine )?detail)\b",
    re.I,
)
_SHARPER = re.compile(r"\b(?:sharp\w*|crisp\w*|nois\w+|grain\w*)\b", re.I)


def sharpness_claimed(text: str) -> int:
    """1 when a text calls its part sharper, −1 when softer, 0 when neither or both."""
    about = re.sub(r"\bwhile\b[^.;]*", " ", _COMPARED.sub(" ", text))
    return bool(_SHARPER.search(about)) - bool(_SOFTER.search(about))
