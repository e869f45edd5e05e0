"""The claims of a sentence about a face: an artifact in some part, none in another, a verdict, a technique.

This module reads words to find contradictions and to score answers, never to decide a verdict. It is made for plain
short sentences. A sentence that it cannot read claims nothing.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from moderation.analysis import Artifact, Region, Technique

# --- parts of a face ---

_PARTS: Mapping[Region, str] = {
    Region.FOREHEAD: r"foreheads?|brow|upper face",
    Region.HAIRLINE: r"hairline|hairs?|strands?|fringe|bangs|curls|ponytail|parting|roots",
    Region.EYES: r"eyes?|eyelids?|lids?|eyelash(?:es)?|lashes|eyebrows?|brows|iris(?:es)?|pupils?|gaze"
    r"|(?:peri)?(?:ocular|orbital)",
    Region.NOSE: r"nose|nostrils?|nasal",
    Region.CHEEKS: r"cheeks?|cheekbones?",
    Region.MOUTH: r"mouth|lips?|tooth|teeth|smile|tongue|moustache|(?:peri)?oral",
    Region.JAWLINE: r"jaw|jawline|chin|beard|goatee|stubble|sideburns?|mandib\w+",
    Region.FACE_BOUNDARY: r"edges? of the face|(?:face |blending )?boundary|contours?|outlines?|seams?|rim|halo",
    Region.EARS: r"ears?|earlobes?|earrings?",
    Region.NECK: r"neck|throat",
    Region.BACKGROUND: r"background",
}
#: Surfaces that every part has. A sentence that names a part and its surface is about the part.
_SURFACES: Mapping[Region, str] = {
    Region.SKIN: r"skin|complexion|pores",
    Region.LIGHTING: r"light|lighting|lit|shadows?|illumination|colou?rs?|tones?|shades?",
}
_WHOLE = re.compile(r"\b(?:whole|entire) (?:picture|image|face)\b|\bevery region\b", re.I)

#: A comparison, to the end of its clause. The sentence is not about what it compares with.
_COMPARED = re.compile(
    r"(?<=\w)\s+(?:(?:(?:off|other|different|differs?|far)\s+)?(?:slightly |clearly )?from|than|beside"
    r"|compared (?:with|to)|unlike|against|outside|while|around|(?:match|matches|fits?|breaks?)\b(?: with)?)\s[^,.;:]*",
    re.I,
)


def parts_named(text: str) -> frozenset[Region]:
    """The parts that a text is about, without those it compares with. Light and skin count only without other parts."""
    about = _COMPARED.sub(" ", text)
    parts = _found(_PARTS, about)
    return parts or _found(_SURFACES, about)


def _found(words: Mapping[Region, str], text: str) -> frozenset[Region]:
    return frozenset(_matches(words, text))


def _matches(words: Mapping[Region, str], text: str) -> dict[Region, list[re.Match[str]]]:
    """The words for each of the parts that a text names."""
    found = {region: [*re.finditer(rf"\b(?:{pattern})\b", text, re.I)] for region, pattern in words.items()}
    return {region: matches for region, matches in found.items() if matches}


def parts_in_order(text: str) -> dict[Region, list[str]]:
    """The parts of a face that a text names, each with its words for it, by first mention."""
    found = sorted(_matches(_PARTS, text).items(), key=lambda named: named[1][0].start())
    return {region: [match[0].lower() for match in matches] for region, matches in found}


# --- claims about them ---


@dataclass(frozen=True)
class Claim:
    """One clause."""

    text: str
    #: The parts it is about. Empty when it is about none, or about the whole face.
    regions: frozenset[Region]
    #: True when it finds an artifact there, False when it finds none. None when it claims neither.
    finds: bool | None
    #: It is about the whole picture.
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
#: Words for a defect that contain a denial.
_DEFECTS = re.compile(
    r"\bnothing in common\b|\bno(?: \w+)? texture left\b|\bhardly any\b|\bnot (?:strong|quite)\b", re.I
)


def claims(text: str) -> list[Claim]:
    """The claims of a text, clause by clause."""
    return [
        Claim(clause, parts_named(clause), _finds(clause), whole=_WHOLE.search(clause) is not None)
        for clause in _clauses(text)
    ]


def _clauses(text: str) -> Iterator[str]:
    """The clauses, without opening words."""
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


#: Other things on a face that a claim may be about: the whole face, and places on it.
_PLACES = (
    r"faces?|pictures?|images?|photos?|photographs?|portraits?|heads?|regions?|areas?|parts?|places?|points?|spots?"
    r"|features?|shapes?|proportions?|surfaces?|textures?|details?|edges?|borders?|joins?|sides?|corners?|half|halves|middle|cent(?:er|re)"
    r"|rest|whole|left|right|upper|lower|top|bottom|inner|outer|surroundings|others?|same|one|two|three|artifacts?"
    r"|traces?|signs?|forgery|seam|pixels?|noise|grain|patterns?|wrinkles?|lines?|makeup|beard|moustache|glasses"
)
_ON_A_FACE = re.compile(rf"\b(?:{'|'.join([*_PARTS.values(), *_SURFACES.values(), _PLACES])})\b", re.I)
#: "in the voice", "around those hands": up to four words after the preposition.
_SOMEWHERE = re.compile(
    r"\b(?:in|at|on|of|around|about)\s+(?:the|this|that|these|those|his|her|its|their)\s+((?:[\w-]+\s*){1,4})",
    re.I,
)
#: "The voice looks natural": the subject.
_SUBJECT = re.compile(
    r"^(?:the|this|that|these|those|his|her|their)\s+((?:[\w-]+\s+){1,3}?)(?:looks?|shows?|seems?|appears?|is|are)\b",
    re.I,
)


def beyond_the_face(text: str) -> str | None:
    """The clause that finds an artifact, or denies one, outside a face. None when there is no such clause.

    "I see no artifact in the voice" claims what no picture can show.
    """
    for claim in claims(text):
        if claim.finds is None or claim.regions:
            continue
        spoken_of = [match[1] for match in (*_SOMEWHERE.finditer(claim.text), *_SUBJECT.finditer(claim.text))]
        if spoken_of and not any(_ON_A_FACE.search(words) for words in spoken_of):
            return claim.text
    return None


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
    forged = rf"\b(?:{_JUDGES})(?:{_FORGED}|{made})\b|{states}(?:not\s+|no\s+)?(?:an?\s+)?(?:{_FORGED})\b"
    if re.search(forged, clause, re.I):
        return not negated
    traceless = r"\bno (?:\w+ )?(?:trace|sign|evidence)s? of (?:forgery|manipulation|editing)\b"
    clean = re.search(traceless, clause, re.I)
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
    """True for a text without markup, lists, turns of a conversation and addresses."""
    return _MARKUP.search(text.strip()) is None


def is_sentence(text: str) -> bool:
    """True for whole plain sentences: at least three words, from a capital letter to a full stop."""
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
    """True when the same four words in a row come three times: the model repeats itself."""
    fours = [tuple(word.lower() for word in words[i : i + 4]) for i in range(len(words) - 3)]
    return any(fours.count(four) >= 3 for four in fours)


# --- contradictions ---

#: Parts that show skin: an artifact there is also one of the skin.
SKINS = frozenset({Region.SKIN, Region.CHEEKS, Region.FOREHEAD, Region.NOSE, Region.JAWLINE})


def contradiction(text: str, *, deepfake: bool | None, artifacts: Sequence[Artifact] | None) -> str | None:
    """How a text contradicts the face's analysis. None when it does not.

    Args:
        text: the text to check.
        deepfake: the verdict. None when there is none.
        artifacts: the listed artifacts. None when the model was not asked for them.
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
    if Region.SKIN in wanted and listed & SKINS:
        wanted = wanted - {Region.SKIN}
    return wanted <= listed


def _single_fault(claim: Claim) -> bool:
    """True when a claim denies only one kind of artifact. There may be others."""
    return _FAULT.search(claim.text) is not None


_FAULT = re.compile(
    r"\bno (?:\w+ )?(?:blur|smoothing|distortion|excess|wrong|noise|sharpness|colou?r|trace of another)\b",
    re.I,
)


def _denies_all(claim: Claim) -> bool:
    denied = re.search(r"\bno (?:\w+ )*?(?:artifacts?|traces?|signs?)\b", claim.text, re.I)
    return denied is not None and not _single_fault(claim)


_SOFTER = re.compile(
    r"\b(?:soft\w*|blurr?\w*|less (?:fine )?(?:detail|noise)|smooth\w*|lost (?:most )?(?:fine )?detail)\b",
    re.I,
)
_SHARPER = re.compile(r"\b(?:sharp\w*|crisp\w*|nois\w+|grain\w*)\b", re.I)


def sharpness_claimed(text: str) -> int:
    """1 when a text calls its part sharper, −1 when softer, 0 when neither or both."""
    about = re.sub(r"\bwhile\b[^.;]*", " ", _COMPARED.sub(" ", text))
    return bool(_SHARPER.search(about)) - bool(_SOFTER.search(about))
