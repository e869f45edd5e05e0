"""Questions of free conversation (FC) by family, answered from the facts of the face.

An answer is one short sentence, or two at most. It depends only on the known facts and the question's form, so a model
can learn it, and a reader can check it. It never contradicts the verdict or the artifacts before it. When a picture
cannot show what is asked, the answer says so.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from moderation.analysis import TECHNIQUE_WORDS, Effect, FaceAnalysis, Label, Region, Technique
from moderation.dfa.gpt.grounding.facts import MOST_ARTIFACTS, Kind, Touch
from moderation.dfa.gpt.grounding.sentences import (
    NOUNS,
    Noun,
    strength_band,
    touch_of,
    worded,
    worded_together,
)
from moderation.dfa.gpt.prompts import PromptSet


@dataclass(frozen=True)
class Question:
    """One question, and everything that its answer depends on."""

    text: str
    #: Its table in the grammar: "region", "verdict", "who" …
    family: str
    #: The kind of question within its family, which decides the kind of answer: "natural", "forged", "open" …
    form: str
    #: Index of its wording within the form. Questions with the same wording get the same answer.
    wording: int
    region: Region | None = None
    #: The question's name for the region.
    noun: Noun | None = None
    #: The second region of a comparison, and its name.
    other: tuple[Region, Noun] | None = None
    #: The technique that the question names, in the families of techniques.
    technique: Technique | None = None
    #: The second technique of a comparison.
    second_technique: Technique | None = None
    #: It was read with little certainty.
    unsure: bool = False


@dataclass(frozen=True)
class Shown:
    """One artifact and its sentence."""

    touch: Touch
    sentence: str
    #: What the score is without the region. None when that was not measured.
    effect: Effect | None = None


@dataclass(frozen=True)
class Known:
    """What may be said about one face."""

    deepfake: bool | None  # None when undecided
    technique: Technique | None  # None unless a deepfake of a known technique
    #: The named artifacts, in order. None when the changes are unknown, or the face is undecided; empty when bona fide.
    artifacts: tuple[Shown, ...] | None
    #: Touched regions that are not among the artifacts. No question asks about them.
    untold: frozenset[Region] = frozenset()
    #: In [0, 1], as reviewers see it. None when it is not known.
    score: float | None = None
    #: Share of each technique, summing to 1. None when it is not known.
    shares: Mapping[Technique, float] | None = None
    #: Why it is undecided, in words. None when it is not, or when that is not known.
    why_undecided: str | None = None

    @property
    def whole(self) -> bool:
        """True when the whole picture is synthesised: no region is special."""
        named = {shown.touch.region for shown in self.artifacts or ()}
        return bool(self.deepfake) and (
            named == {Region.UNMAPPED} or (not named and self.technique is Technique.EFS)
        )

    @property
    def regional(self) -> bool:
        """True for a deepfake with artifacts in single regions."""
        return bool(self.deepfake) and bool(self.artifacts) and not self.whole


def artifacts(facts: Sequence[Touch], prompts: PromptSet) -> list[tuple[str, str]]:
    """(heading, sentence) for each touched region once: seams first, then by strength, at most `MOST_ARTIFACTS`."""
    named = named_touches(facts)
    return [(prompts.headings[touch.region][0], worded(touch, named)) for touch in named]


def named_touches(facts: Sequence[Touch]) -> list[Touch]:
    """The changes that an answer names, in its order."""
    strongest: dict[Region, Touch] = {}
    for touch in sorted(facts, key=lambda touch: (touch.kind is not Kind.SEAM, -touch.strength)):
        strongest.setdefault(touch.region, touch)
    return list(strongest.values())[:MOST_ARTIFACTS]


def description(facts: Sequence[Touch], prompts: PromptSet) -> str:
    """The AD answer."""
    return prompts.artifacts_answer(artifacts(facts, prompts))


def known_from(face: FaceAnalysis) -> Known | None:
    """What an analysis allows to say about its face. None when an artifact is in other words than `sentences`."""
    score = face.verdict.score
    if face.verdict.label is Label.UNDETERMINED:
        abstain = face.verdict.abstain
        return Known(None, None, None, score=score, why_undecided=abstain.words if abstain else None)
    shown: list[Shown] = []
    for artifact in face.rationale:
        touch = touch_of(artifact.regions, artifact.text)
        if touch is None:
            return None
        shown.append(Shown(touch, artifact.text, artifact.effect))
    deepfake = face.verdict.label is Label.DEEPFAKE
    listed = tuple(shown) if shown or not deepfake else None
    return Known(deepfake, face.verdict.technique, listed, score=score, shares=face.verdict.technique_scores)


def known(*, deepfake: bool, technique: Technique | None, facts: Sequence[Touch] | None) -> Known:
    """What a conversation may say about a face."""
    if facts is None:
        return Known(deepfake, technique, None)
    named = named_touches(facts)
    shown = tuple(Shown(touch, worded(touch, named)) for touch in named)
    return Known(deepfake, technique, shown, frozenset(touch.region for touch in facts if touch not in named))


#: What a form of the region family asks for, and the kinds for which the answer is yes.
PROPERTIES: Mapping[str, tuple[str, frozenset[Kind]]] = {
    "blur": ("blur", frozenset({Kind.SOFTER})),
    "sharpness": ("excess of sharpness", frozenset({Kind.SHARPER})),
    "smoothing": ("smoothing", frozenset({Kind.SMOOTHED})),
    "distortion": ("distortion", frozenset({Kind.WARPED})),
    "colour": ("wrong colour", frozenset({Kind.COLOUR})),
    "replacement": ("trace of another face", frozenset({Kind.REPLACED})),
}

#: Regions whose artifacts are also artifacts of the skin, and kinds that also affect light and colours.
_SKINS = frozenset({Region.SKIN, Region.CHEEKS, Region.FOREHEAD, Region.NOSE, Region.JAWLINE})
_LIT = frozenset({Kind.COLOUR, Kind.REPLACED})


def answer(question: Question, known: Known, prompts: PromptSet) -> str:
    """The answer from the known facts, in the form of the question.

    When it is not sure what is asked, an answer that does not speak of this face is followed by the verdict.
    """
    said = _answer(question, known, prompts)
    if question.unsure and question.family in _BESIDE_THE_FACE:
        return f"{said} {_verdict_of(known)}"
    return said


#: Between two sentences of an answer.
_NEXT = re.compile(r"(?<=\.) (?=[A-Z])")


def answer_each(questions: Iterable[Question], known: Known, prompts: PromptSet) -> str:
    """The answers to several questions in one. A sentence that another one repeats and goes on from is left out."""
    said = (answer(question, known, prompts) for question in questions)
    sentences = list(dict.fromkeys(sentence for text in said for sentence in _NEXT.split(text)))
    return " ".join(
        sentence
        for sentence in sentences
        if not any(other is not sentence and other.startswith(sentence[:-1]) for other in sentences)
    )


def _answer(question: Question, known: Known, prompts: PromptSet) -> str:
    if question.family == "who" and known.deepfake and known.technique is Technique.EFS:
        return "I take this face for generated as a whole, so it may show nobody; I cannot tell who it is."
    if (question.family, question.form) == ("who", "exists"):
        return "Whether this person exists I cannot tell; I only look for traces of forgery in the face."
    if question.family in UNKNOWABLE:
        return _worded(question, *UNKNOWABLE[question.family])
    if known.deepfake is None and question.family not in _SAID_OF_ANY:
        return _undecided(question, known)
    match question.family:
        case "compare":
            return _compare(question, known)
        case "region" | "detail":
            return _region(question, known, question.noun or NOUNS[question.region or Region.UNMAPPED], [])
        case "boundary":
            seams = [shown for shown in known.artifacts or () if shown.touch.region is Region.FACE_BOUNDARY]
            return _region(question, known, NOUNS[Region.FACE_BOUNDARY], seams)
        case "light":
            lit = _of_kinds(known, _LIT)
            if question.form == "direction":
                return f"I do not work out where the light comes from{_but(question, known, lit)}."
            return _region(question, known, NOUNS[Region.LIGHTING], lit)
        case "tone":
            colours = _of_kinds(known, frozenset({Kind.COLOUR}))
            return _region(question, known, Noun("colours", plural=True), colours)
        case "skin":
            surface = _of_kinds(known, frozenset(Kind) - {Kind.WARPED})
            skin = [shown for shown in known.artifacts or () if shown.touch.region is Region.SKIN]
            skin += [shown for shown in surface if shown.touch.region in _SKINS]
            return _region(question, known, NOUNS[Region.SKIN], skin)
        case "verdict":
            return _verdict(question, known)
        case "technique":
            return _technique(question, known)
        case "technique_named":
            return _technique_named(question, known)
        case "technique_meant":
            if question.form == "signs":
                return f"{_SIGNS[question.technique]} {_judged(known)}."
            if question.form == "difference":
                return f"{_difference(question, known, prompts)} {_judged(known)}."
            if question.technique is None:
                return _UNDETERMINED if _UNDECIDED.search(question.text) else _DEEPFAKE
            return prompts.technique_explanations[question.technique]
        case "match":
            return _match(question, known)
        case "certainty":
            return _certainty(question, known)
        case "reasons":
            return _reasons(question, known)
        case "summary":
            return _summary(question, known)
        case "places":
            return _places(question, known)
        case "challenge":
            return _challenge(question, known)
        case "otherwise":
            return _otherwise(known)
        case "counter":
            return _counter(question, known)
        case "plain":
            return _for_user(known) if question.form == "user" else _plainly(known)
        case "score":
            return _score(question, known)
        case "limits":
            return _limits(question, known)
        case "scope":
            return _SCOPE
        case "next":
            return _next(known)
        case "about":
            return _about(question)
        case _:
            return f"I am not sure what you ask. {_verdict(replace(question, form='open'), known)}"


def _verdict_of(known: Known) -> str:
    asked = Question("", "verdict", "open", 0)
    return _undecided(asked, known) if known.deepfake is None else _verdict(asked, known)


#: A question that is not understood.
UNCLEAR = "unclear"
#: Families whose answers need no verdict.
_SAID_OF_ANY = frozenset({"technique_meant", "about", "plain", "score", "limits", "scope", "next"})
_LIMITS: Mapping[str, str] = {
    "open": "I can be wrong: what I never learnt may escape me, now and then I suspect a face without cause, and "
    "outside the face I see nothing. So a person decides.",
    "rates": "I know no rate for a single picture: my model card tells how many forgeries I miss, and how often I "
    "suspect a genuine face.",
    "bias": "That may be: I learnt from faces that are not evenly spread over people and cameras, so I may err more "
    "often with some than with others.",
}
#: Where a person looks for a forgery by each technique; None: by any.
_SIGNS: Mapping[Technique | None, str] = {
    Technique.FS: "Compare the inner face with the hair, the ears and the neck around it: a swap changes it alone.",
    Technique.FR: "Compare the mouth and the eyes with the face around them: they are what reenactment draws again.",
    Technique.FE: "Compare each feature with the face around it: editing changes one and leaves the others.",
    Technique.EFS: "Look for one fine pattern all over the picture, and for details that do not go together.",
    None: "Compare the parts of the face with each other and with what is around it: most forgeries spare some.",
}
_SCOPE = (
    "I looked at the pixels of the whole face, at every region of it, and at nothing else, neither in the picture nor "
    "in the file."
)
_UNDECIDED = re.compile(r"\bundetermined\b|\bundecided\b", re.I)
_UNDETERMINED = (
    "Undetermined means that I do not decide: the score lies between those of deepfakes and of bona fide faces, or the "
    "picture is unlike those I learnt from."
)
_DEEPFAKE = "Deepfakes are pictures of faces that a computer made or changed."


def _undecided(question: Question, known: Known) -> str:
    """The answer about a face without a verdict. Its artifacts are not known: they would decide it."""
    why = known.why_undecided or "the reason stands beside the score"
    if question.region is Region.BACKGROUND:
        return _worded(question, *UNKNOWABLE["things"])
    match question.family:
        case "match":
            return "I do not measure whether the two sides match, and I am undecided about this face."
        case "light" if question.form == "direction":
            return "I do not work out where the light comes from, and I am undecided about this face."
        case "region" if question.form == "seen":
            return "I cannot name single details such as that, and I am undecided about this face."
        case "compare" if question.other:
            both = f"the {(question.noun or NOUNS[Region.UNMAPPED]).word} or the {question.other[1].word}"
            return f"I am undecided about this face, and cannot say more of {both}."
        case "region" | "detail" | "boundary" | "light" | "tone" | "skin":
            noun = question.noun or NOUNS[ASPECTS.get(question.family) or question.region or Region.UNMAPPED]
            return noun.inflected(
                "I am undecided about this face, and cannot say whether {the} {was} changed."
            )
        case "technique" | "technique_named":
            return "I am undecided about this face, so I name no technique."
        case "summary" if question.form == "short":
            return f"Undecided: {why}{_short_score(known)}."
        case "summary" if question.form == "record":
            return f"A model could not decide about this face: {why}{_short_score(known)}. A person must."
        case "summary":
            return f"I am undecided about this face: {why}{_scored(known)}."
        case "certainty":
            return f"I am not sure, so I left this face undecided: {why}{_scored(known)}."
        case "places":
            return "I am undecided about this face, and can point to no region; look at it in full size."
        case "reasons":
            return f"I am undecided about this face: {why}."
        case "challenge":
            return "I remain undecided about this face, and can point to no artifact; the decision is yours."
        case "otherwise":
            return f"{_ALIKE}, and they can hide one; I am undecided about this face."
        case "counter":
            return f"I am undecided about this face: {why}; {_BETTER} could settle it."
        case "unclear":
            return "I am not sure what you ask; I am undecided about this face."
        case _:
            return _worded(
                question,
                "I am undecided about this face: it looks neither clearly forged nor clearly genuine to me.",
                f"I cannot decide about this face: {why}.",
            )


#: Families about something that shows in all parts, and its region.
ASPECTS: Mapping[str, Region] = {
    "boundary": Region.FACE_BOUNDARY, "light": Region.LIGHTING, "tone": Region.LIGHTING, "skin": Region.SKIN,
}  # fmt: skip


def _worded(question: Question, *answers: str) -> str:
    return answers[question.wording % len(answers)]


def _of_kinds(known: Known, kinds: frozenset[Kind]) -> list[Shown]:
    return [shown for shown in known.artifacts or () if shown.touch.kind in kinds]


def _small(sentence: str) -> str:
    """A sentence to use within another one: lower case, without its full stop."""
    return sentence[:1].lower() + sentence[1:].rstrip(".")


def places(artifacts: Iterable[Shown]) -> str:
    """The artifacts' places in words: "at the edge of the face, in the nose and in the mouth"."""
    words = [_place(shown.touch.region) for shown in artifacts]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _parts(artifacts: Iterable[Shown]) -> str:
    """What to look at, in words: "the edge of the face, the nose and the mouth"."""
    return re.sub(r"\b(?:at|in) the\b", "the", places(artifacts))


def _place(region: Region) -> str:
    if region is Region.FACE_BOUNDARY:
        return "at the edge of the face"
    return "all over the picture" if region is Region.UNMAPPED else f"in the {NOUNS[region].word}"


def _region(question: Question, known: Known, noun: Noun, related: Sequence[Shown]) -> str:
    """The answer about one part of the face, or about something that shows in all parts."""
    artifacts = known.artifacts or ()
    shown = next((artifact for artifact in artifacts if artifact.touch.region is question.region), None)
    shown = shown or next(iter(related), None)
    if question.region is Region.BACKGROUND and shown is None:
        return _worded(question, *UNKNOWABLE["things"])
    if known.whole and question.family in ASPECTS:
        return noun.inflected(_whole_picture(replace(question, form="open")))
    if question.form == "seen":
        return noun.inflected(_seen(question, shown, known))
    if known.whole:
        return noun.inflected(_whole_picture(question))
    if question.form == "fits":
        return _fits(shown, known)
    if shown is not None and question.form == "effect":
        return _effect(shown, known)
    if shown is not None:
        return noun.inflected(_there(question, shown.sentence, shown.touch.kind))
    if known.regional:
        return noun.inflected(_elsewhere(question, places(artifacts)))
    return noun.inflected(_not_known(question) if known.deepfake else _clean(question))


def _effect(shown: Shown, known: Known) -> str:
    """The answer to a question about how much a region counts."""
    effect, noun = shown.effect, NOUNS[shown.touch.region]
    if effect is None or known.score is None:
        return noun.inflected(f"I did not measure how much {{the}} {{count}}; {_small(shown.sentence)}.")
    before, after = f"{known.score:.2f}", f"{effect.score_without:.2f}"
    change = f"falls from {before} to {after}" if after < before else f"rises from {before} to {after}"
    change = f"stays at {after}" if after == before else change
    return noun.inflected(
        f"With {{the}} hidden the score {change}; with as large a control region hidden it is "
        f"{effect.control_score:.2f}."
    )


def _seen(question: Question, seen: Shown | None, known: Known) -> str:
    """The answer to a question about a detail that a person sees at a region."""
    if known.whole:
        also = "; the whole picture looks generated, {the} included"
    elif seen is not None:
        also = f", but {_small(seen.sentence)}"
    elif known.regional:
        also = f"; I see no artifact {{at}} {{the}}, only {places(known.artifacts or ())}"
    elif known.deepfake:
        also = "; I take the face for a deepfake, and cannot point to {the}"
    else:
        also = "; I see no artifact {at} {the}"
    return f"I cannot name single details such as that{also}."


def _fits(seam: Shown | None, known: Known) -> str:
    """The answer to a question whether the face fits the head around it."""
    if seam is not None:
        return seam.sentence
    if not known.deepfake:
        return "I see no seam around the face, and nothing that does not fit the head."
    swapped = (
        "the face may be another's" if known.technique is Technique.FS else "the artifacts are elsewhere"
    )
    return f"I see no seam around the face, but {swapped}: {_clearest(known)}."


def _match(question: Question, known: Known) -> str:
    """The answer to a question whether two sides of a face match."""
    anywhere = [] if question.region else list(known.artifacts or ())
    return f"I do not measure whether the two sides match{_but(question, known, anywhere)}."


def _but(question: Question, known: Known, related: Sequence[Shown]) -> str:
    """What is seen instead of what was asked for, as the end of a sentence."""
    noun = question.noun or Noun("face")
    own = [shown for shown in known.artifacts or () if shown.touch.region is question.region]
    if known.whole:
        return ", but the whole picture looks generated"
    if seen := [*own, *related]:
        return f", but {_small(min(seen, key=_weakness).sentence)}"
    if known.deepfake and not known.artifacts:
        return ", but the face as a whole looks forged"
    elsewhere = f"; the artifacts are {places(known.artifacts)}" if known.artifacts else ""
    if question.noun is None and elsewhere:
        return elsewhere
    return noun.inflected(f"; I see no artifact {{at}} {{the}}{elsewhere}")


def _there(question: Question, sentence: str, kind: Kind) -> str:
    if question.form == "explained":
        return f"I cannot rule that out; still, {_small(sentence)}."
    if question.form == "natural":
        return f"No, {_small(sentence)}."
    if question.form == "forged":
        return f"Yes, {_small(sentence)}."
    if question.form in PROPERTIES:
        word, kinds = PROPERTIES[question.form]
        return f"Yes, {_small(sentence)}." if kind in kinds else f"I see no {word}, but {_small(sentence)}."
    return sentence


def _elsewhere(question: Question, where: str) -> str:
    match question.form:
        case "natural":
            return _worded(
                question,
                f"Yes, I see no artifact {{at}} {{the}}; the artifacts are {where}.",
                f"Nothing {{at}} {{the}} stands out; what I see is {where}.",
                f"I find no artifact {{at}} {{the}}, only {where}.",
            )
        case "forged":
            return _worded(
                question,
                f"No, I see no artifact {{at}} {{the}}; the artifacts are {where}.",
                f"Not {{the}}: the artifacts that I see are {where}.",
                f"I find nothing {{at}} {{the}}, only {where}.",
            )
        case "effect":
            return f"How much {{the}} {{count}} was not measured; the artifacts are {where}."
        case "open":
            return _worded(
                question,
                f"I see no artifact {{at}} {{the}}; the artifacts are {where}.",
                f"{{The}} {{show}} no artifact that I can see, only what is {where}.",
                f"Nothing {{at}} {{the}} stands out; what I see is {where}.",
            )
        case "wrong":
            return f"Nothing that I can see {{at}} {{the}}; the artifacts are {where}."
        case "explained":
            return f"That alone proves nothing: I see no artifact {{at}} {{the}}, only {where}."
        case form:
            return f"No, I see no {PROPERTIES[form][0]} in {{the}}; the artifacts are {where}."


def _clean(question: Question) -> str:
    match question.form:
        case "natural":
            return _worded(
                question,
                "Yes, I see no artifact {at} {the}.",
                "Yes, {the} {look} natural to me.",
                "Yes, nothing {at} {the} stands out.",
            )
        case "forged":
            return _worded(
                question,
                "No, I see no artifact {at} {the}.",
                "No, nothing {at} {the} looks forged.",
                "No, I find no trace of forgery {at} {the}.",
            )
        case "effect":
            return "How much {the} {count} was not measured; I see no artifact {at} {the}."
        case "open":
            return _worded(
                question,
                "I see no artifact {at} {the}.",
                "{The} {look} natural, and I see no artifact there.",
                "Nothing {at} {the} stands out.",
            )
        case "wrong":
            return "Nothing that I can see: {the} {look} natural."
        case "explained":
            return "That alone proves nothing, and I see no artifact {at} {the}."
        case form:
            return f"No, I see no {PROPERTIES[form][0]} in {{the}}."


def _whole_picture(question: Question) -> str:
    match question.form:
        case "natural":
            return _worded(
                question,
                "No, the whole picture looks generated, {the} included.",
                "No, {the} {look} generated, like the whole picture.",
            )
        case "forged":
            return _worded(
                question,
                "Yes, the whole picture looks generated, {the} included.",
                "Yes, {the} {look} generated, like the whole picture.",
            )
        case "effect":
            return (
                "How much {the} {count} was not measured: the whole picture looks generated, {the} included."
            )
        case "open" | "wrong":
            return _worded(
                question,
                "The whole picture looks generated, {the} included.",
                "{The} {look} generated, like the whole picture.",
            )
        case _:
            return "I cannot single out {the}: the whole picture looks generated."


def _not_known(question: Question) -> str:
    return _worded(
        question,
        "I take the face for a deepfake, and cannot point to {the}.",
        "I cannot say for {the} alone; I take the face as a whole for a deepfake.",
    )


def _compare(question: Question, known: Known) -> str:
    """The answer about two regions at once."""
    first = question.noun or NOUNS[Region.UNMAPPED]
    second = question.other or (Region.UNMAPPED, first)
    both = f"the {first.word} or the {second[1].word}"
    if Region.BACKGROUND in {question.region, second[0]}:
        return _worded(question, *UNKNOWABLE["things"])
    if known.whole:
        return f"I cannot single out {both}: the whole picture looks generated."
    if known.deepfake and not known.artifacts:
        return f"I take the face for a deepfake, and cannot point to {both}."
    pair = {question.region: first, second[0]: second[1]}
    shown = [artifact for artifact in known.artifacts or () if artifact.touch.region in pair]
    seam = next((each for each in known.artifacts or () if each.touch.region is Region.FACE_BOUNDARY), None)
    if not shown and seam is not None and _AROUND & set(pair):
        return f"I see no artifact in {both} alone, but {_small(seam.sentence)}."
    if not shown:
        rest = f"; the artifacts are {places(known.artifacts)}" if known.artifacts else ""
        return f"I see no artifact in {both}{rest}."
    if len(shown) == 2:
        strong, weak = sorted(shown, key=_weakness)
        listed = _listed([strong, weak], known)
        if question.form == "each":
            return _capital(f"{listed}.")
        even = strength_band(strong.touch.strength) == strength_band(weak.touch.strength)
        return f"{'Both alike' if even else 'Rather ' + _place(strong.touch.region)}: {listed}."
    clean = next(noun for region, noun in pair.items() if region is not shown[0].touch.region)
    return f"{shown[0].sentence} I see no artifact in the {clean.word}."


#: Regions beyond the edge of a face.
_AROUND = frozenset({Region.HAIRLINE, Region.EARS, Region.NECK})


def _words(known: Known) -> str:
    return TECHNIQUE_WORDS[known.technique] if known.technique else ""


def _verdict(question: Question, known: Known) -> str:
    if not known.deepfake:
        word = {"fake": "No, ", "real": "Yes, "}.get(question.form, "")
        return _sentence(
            word,
            _worded(
                question,
                "I take this face for bona fide: I see no artifact.",
                "I see no trace of forgery in this face.",
                "I take it for bona fide; no region shows an artifact.",
            ),
        )
    word = {"fake": "Yes, ", "real": "No, "}.get(question.form, "")
    if known.regional or known.whole:
        why = _clearest(known)
        return _sentence(
            word,
            _worded(
                question,
                f"I take this face for {_what(known)}: {why}.",
                f"I take it for {_what(known)}: {why}.",
            ),
        )
    return _sentence(word, f"I take this face for {_what(known)}, and cannot point to one region.")


def _what(known: Known) -> str:
    return f"a deepfake by {_words(known)}" if known.technique else "a deepfake"


def _sentence(start: str, rest: str) -> str:
    return start + (rest if not start or rest.startswith("I ") else rest[:1].lower() + rest[1:])


#: What each technique does to a face.
_DONE: Mapping[Technique, str] = {
    Technique.FS: "another face was laid over this one",
    Technique.FR: "the face was given another expression",
    Technique.FE: "single features of the face were changed",
    Technique.EFS: "the whole face was generated",
}


def _technique(question: Question, known: Known) -> str:
    if question.form == "before":
        done = f"I take it for {_what(known)}" if known.deepfake else "I see no change in this face"
        return f"{done}; what it looked like before cannot be told from the picture."
    if not known.deepfake:
        return _worded(
            question,
            "By none: I take this face for bona fide.",
            "I see no forgery in this face, so I name no technique.",
        )
    if known.technique is None:
        return "I take it for a deepfake, and cannot say by which technique."
    if question.form == "others":
        return _other_techniques(known)
    return _worded(
        question,
        f"I take it for {_words(known)}: {_DONE[known.technique]}.",
        f"By {_words(known)}, in my view: {_DONE[known.technique]}.",
    )


def _other_techniques(known: Known) -> str:
    """The answer to a question about the techniques that are less likely."""
    told = f"{_capital(_words(known))} is the likeliest to me"
    others = sorted((known.shares or {}).items(), key=lambda each: -each[1])
    second = next((each for each in others if each[0] is not known.technique), None)
    if known.shares is None or known.technique is None or second is None:
        return f"{told}, and I cannot rule the others out: {_clearest(known)}."
    return (
        f"{told}, with a share of {known.shares[known.technique]:.2f}; next is {TECHNIQUE_WORDS[second[0]]}, with "
        f"{second[1]:.2f}. That rules nothing out: {_clearest(known)}."
    )


def _difference(question: Question, known: Known, prompts: PromptSet) -> str:
    """How two techniques differ, or forgeries from pictures that are only retouched or poor."""
    named = [question.technique, question.second_technique, known.technique]
    pair = list(dict.fromkeys(technique for technique in named if technique is not None))[:2]
    if len(pair) == 2 and question.technique is not None:
        first, second = (prompts.technique_explanations[technique] for technique in pair)
        return f"{first[:-1]}; {_small(second)}."
    return (
        "What a computer draws leaves traces in one part or all over; a filter, make-up or a poor picture changes "
        "light, colour or detail alike everywhere. They can look alike, so I can be wrong."
    )


def _technique_named(question: Question, known: Known) -> str:
    if question.form == "why_not":
        if not known.deepfake:
            return "I see no forgery in this face, so I name no technique."
        if known.technique is None:
            return "I cannot rule it out: I take the face for a deepfake, by a technique I cannot name."
        if known.technique is question.technique:
            return f"I do take it for {_words(known)}: {_DONE[known.technique]}."
        return f"It looks rather like {_words(known)} to me: {_clearest(known)}."
    if not known.deepfake:
        return "No, I take this face for bona fide: I see no artifact."
    if known.technique is None:
        return "I cannot say: I take it for a deepfake, by a technique I cannot name."
    if known.technique is question.technique:
        return _worded(question, f"Yes, I take it for {_words(known)}.", f"Yes: {_DONE[known.technique]}.")
    return _worded(
        question,
        f"No, I take it for {_words(known)}.",
        f"No, rather {_words(known)}: {_DONE[known.technique]}.",
    )


#: Scores by which confidence in a verdict is told as high, and as medium: those of a deepfake, or of its opposite.
_HIGH, _MEDIUM = 0.9, 0.75


def _scored(known: Known) -> str:
    """The score, as the end of a sentence. Empty when it is not known."""
    return "" if known.score is None else f"; the score is {known.score:.2f}, where 1 is a deepfake"


def _confidence(known: Known) -> str:
    """How sure the verdict is, as the start of a sentence, and the score."""
    if known.score is None or known.deepfake is None:
        return "I can be wrong, and the score gives my certainty"
    sure = known.score if known.deepfake else 1 - known.score
    told = "high" if sure >= _HIGH else "medium" if sure >= _MEDIUM else "low"
    return f"My confidence is {told}{_scored(known)}"


def _certainty(question: Question, known: Known) -> str:
    if question.form == "than":
        return f"I remember no other face, so I cannot rank this one. {_confidence(known)}."
    told = f"{_taken(known)}. {_confidence(known)}"
    if not known.deepfake:
        return f"{told}. A good forgery may show no artifact."
    if not known.regional:
        return f"{told}."
    return f"{told}; the clearest artifact is {places(sorted(known.artifacts or (), key=_weakness)[:1])}."


def _score(question: Question, known: Known) -> str:
    if known.score is None:
        return "The score runs from 0 to 1: the higher it is, the more speaks for a forgery."
    told = f"The score is {known.score:.2f}"
    if question.form == "probability":
        forged = round(100 * known.score)
        alike = f"about {forged} of 100 faces with this score are deepfakes and {100 - forged} are not"
        return (
            f"{told}. Among pictures like those that it was calibrated on, {alike}; for others it only orders them. "
            f"{_judged(known)}."
        )
    if question.form == "other":
        return (
            f"I do not know how others judge, and their numbers are on another scale. {told}. {_judged(known)}. "
            "Where two disagree, a person must look closely."
        )
    if known.deepfake is None:
        side = "for a forgery than against one" if known.score > 0.5 else "against a forgery than for one"
        return f"{told}, where 1 is a deepfake: more speaks {side}, but too little to decide."
    if question.form == "why":
        much = "much" if known.score >= _MEDIUM else "little" if known.score <= 1 - _MEDIUM else "something"
        end, alike = (
            (1, "other things can look like a forgery")
            if known.deepfake
            else (0, "a good forgery may show no artifact")
        )
        return f"{told}, for {much} speaks for a forgery; it is seldom {end}, because {alike}."
    return f"{told}, on a scale from 0 to 1: the higher, the more speaks for a forgery. {_taken(known)}."


def _limits(question: Question, known: Known) -> str:
    """The answer to a question about what the model cannot do."""
    if question.form != "picture":
        return _LIMITS[question.form]
    if known.deepfake is None:
        return f"{_HIDES}. I am undecided about this face; {_BETTER} could settle it."
    return f"{_HIDES}; {_BETTER} would show more. {_taken(known)}. {_confidence(known)}."


#: What a picture's quality does to a verdict.
_HIDES = "An odd angle, poor quality, compression or a filter can hide traces, or look like some"
#: What would make a face easier to judge.
_BETTER = "a larger, sharper or uncovered copy"


def _taken(known: Known) -> str:
    return f"I take this face for {_what(known) if known.deepfake else 'bona fide'}"


def _judged(known: Known) -> str:
    return "I am undecided about this face" if known.deepfake is None else _taken(known)


def _next(known: Known) -> str:
    """The answer to a question about what a person should look at or do."""
    look = f"closely at {_parts(known.artifacts or ())}" if known.regional else "at the face in full size"
    return (
        f"Look {look}, ask for the file as the camera wrote it, and search for other copies of the picture; "
        "the decision is yours."
    )


#: What else can look like an artifact.
_ALIKE = "Compression, a filter, make-up or a poor picture can look like a forgery"


def _otherwise(known: Known) -> str:
    """The answer to a question about another explanation than a forgery."""
    if not known.deepfake:
        return (
            "I see no artifact that compression, a filter or make-up has to explain; but they can hide one."
        )
    why = _clearest(known)
    return f"{_ALIKE}, and I cannot rule that out; still I take this face for a deepfake: {why}."


def _counter(question: Question, known: Known) -> str:
    if question.form == "change":
        better = f"{_BETTER}, or the file as the camera wrote it,"
        return (
            f"I judge this copy alone, and another one can get another score: {better} could change my mind. "
            f"As it is, {_taken(known)}."
        )
    if question.form == "wrong":
        return _if_wrong(known)
    if not known.deepfake:
        return f"No artifact speaks against it, but a good forgery may show none{_scored(known)}."
    if known.regional:
        return f"Against a forgery speaks only that I see artifacts {places(known.artifacts or ())} and no others."
    return f"I see nothing that speaks against a forgery: {_clearest(known)}."


def _if_wrong(known: Known) -> str:
    """Why the verdict is wrong, if it is."""
    if not known.deepfake:
        return "If I am wrong, it is a good forgery, whose traces I never learnt or this picture hides."
    if known.regional:
        seen = f"compression, a filter or make-up is what I see {places(known.artifacts or ())}"
    else:
        seen = "compression or sharpening gave the picture what I take for the traces of a forgery"
    return f"If I am wrong, {seen}."


def _weakness(shown: Shown) -> float:
    """A key that sorts the strongest first."""
    return -shown.touch.strength


def _clearest(known: Known) -> str:
    """The clearest artifact of a deepfake, within a sentence."""
    if known.artifacts:
        return _small(min(known.artifacts, key=_weakness).sentence)
    return "the whole picture looks generated" if known.whole else "the face as a whole looks forged"


def _plainly(known: Known) -> str:
    """The verdict for somebody who knows none of the field's words."""
    if known.deepfake is None:
        return "In plain words: I cannot tell whether this face is genuine."
    if not known.deepfake:
        return "In plain words: I see nothing that shows that a computer changed this face."
    done = f": {_DONE[known.technique]}" if known.technique else ""
    return f"In plain words: I think that a computer changed this picture{done}."


def _for_user(known: Known) -> str:
    """Words for the person who uploaded the picture."""
    if known.deepfake is None:
        told = "Our check could not tell whether this face was changed, so a person will look at it"
    elif known.deepfake:
        told = f"Our check found signs that software made or changed the face in this picture: {_clearest(known)}"
    else:
        told = "Our check found no sign that the face in this picture was changed"
    return f"{told}. A check by machine can be wrong, and a person can review it."


def _reasons(question: Question, known: Known) -> str:
    if not known.deepfake:
        return _worded(
            question,
            "I see no artifact in any region of the face.",
            "No region of the face shows an artifact.",
        )
    if not known.artifacts:
        return f"I cannot point to one region: {_clearest(known)}."
    return _capital(f"{_listed(known.artifacts, known)}.")


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


#: What a part is compared with. It is said once.
_COMPARED = re.compile(
    r"(?: than| beside|: texture and light do not fit) "
    r"(?:the picture outside the seam|the face around (?:it|them)|outside)\b"
)


def _listed(artifacts: Sequence[Shown], known: Known) -> str:
    """The sentences of these artifacts of a face in one, without its full stop."""
    facts = [shown.touch for shown in known.artifacts or ()]
    first, *others = map(_small, worded_together([shown.touch for shown in artifacts], facts))
    said = _COMPARED.search(first) is not None
    return "; ".join([first, *(_COMPARED.sub("", other) if said else other for other in others)])


def _short_score(known: Known) -> str:
    return "" if known.score is None else f"; score {known.score:.2f}"


def _in_short(known: Known) -> str:
    """The verdict, its ground and the score, in as few words as are a sentence."""
    score = _short_score(known)
    if not known.deepfake:
        return f"Bona fide: I see no artifact{score}."
    by = f" by {_words(known)}" if known.technique else ""
    return f"Deepfake{by}: {_clearest(known)}{score}."


def _summary(question: Question, known: Known) -> str:
    if question.form == "short":
        return _in_short(known)
    if question.form == "record":
        return f"A model judged this face, and it can be wrong. {_in_short(known)} That is no proof."
    if not known.deepfake:
        taken = _worded(
            question,
            "I take this face for bona fide: no region shows an artifact",
            "Bona fide, in my view: I see no artifact",
        )
        return f"{taken}{_scored(known)}. A good forgery may show none."
    if known.regional:
        why = _listed(known.artifacts or (), known)
    else:
        why = "the whole picture looks generated" if known.whole else "I cannot point to one region"
    return f"{_taken(known)}: {why}{_scored(known)}."


_COUNTED = ("none", "one", "two", "three")
#: Words for the bands of strength (`sentences.strength_band`).
_STRENGTHS = ("slight", "plain", "clear", "glaring")


def _places(question: Question, known: Known) -> str:
    if not known.deepfake:
        return {
            "where": "No region of this face shows an artifact.",
            "list": "There is none to list: I see no artifact in this face.",
            "rank": "There is none to rank: I see no artifact in this face.",
            "least": "I see no artifact in this face, weak or strong.",
            "most": "Nothing stands out: I see no artifact in this face.",
            "count": "None: I see no artifact in this face.",
            "more": "I see no artifact anywhere in this face.",
            "much": "Nothing speaks for a change, small or large: I see no artifact in this face.",
        }[question.form]
    if known.whole:
        return {
            "most": "None more than another: the whole picture looks generated.",
            "more": "No region is an exception: the whole picture looks generated.",
            "much": "All of it: the whole picture looks generated.",
        }.get(question.form, "In no single region: the whole picture looks generated.")
    if not known.artifacts:
        return "I cannot point to one region; I take the face as a whole for a deepfake."
    where, ranked = places(known.artifacts), sorted(known.artifacts, key=_weakness)
    match question.form:
        case "least" | "rank" if len(ranked) == 1:
            return f"There is only one: {_small(ranked[0].sentence)}."
        case "where":
            return _worded(question, f"The artifacts are {where}.", f"Look at {_parts(known.artifacts)}.")
        case "most":
            return _worded(question, ranked[0].sentence, f"Above all, {_small(ranked[0].sentence)}.")
        case "least":
            return f"The weakest of {len(ranked)}: {_small(ranked[-1].sentence)}."
        case "rank":
            return f"From the clearest on: {_parts(ranked)}."
        case "list":
            return _capital(f"{_listed(known.artifacts, known)}.")
        case "much":
            much = _STRENGTHS[strength_band(ranked[0].touch.strength)]
            seen = f"a {much} artifact" if len(ranked) == 1 else f"{much} artifacts"
            return f"I see {seen} {where}: {_small(ranked[0].sentence)}. A person must judge how serious that is."
        case "count":
            number = len(known.artifacts)
            return f"I see {_COUNTED[number]} artifact{'s' if number > 1 else ''}: {where}."
        case _:
            return _worded(
                question, f"I see artifacts {where}, and no others.", f"I see artifacts only {where}."
            )


def _challenge(question: Question, known: Known) -> str:
    agrees = question.form == "agrees" or (
        question.form != "disagrees" and (question.form == "says_fake") == known.deepfake
    )
    if question.form == "open":  # it is not clear what was said
        return _verdict(question, known)
    if not known.deepfake:
        if agrees:
            return "I take it for bona fide too: I see no artifact."
        return _worded(
            question,
            "I still take it for bona fide: I see no artifact.",
            "I see it otherwise: no region shows an artifact.",
        )
    why = _clearest(known)
    if agrees:
        return f"I take it for a deepfake too: {why}."
    return _worded(question, f"I still take it for a deepfake: {why}.", f"I see it otherwise: {why}.")


_OF_ITSELF: Mapping[str, str] = {
    "map": "The map shows how foreign each part of the picture looks to me; it is an aid, and proves nothing.",
    "insult": "I am sorry that this does not help you. Ask me about a region, or judge the face yourself.",
    "language": "I can only answer in English.",
    "stored": "I do not know who sees or keeps pictures: ask the people who run this service.",
}


def _about(question: Question) -> str:
    if question.form in _OF_ITSELF:
        return _OF_ITSELF[question.form]
    if question.form == "thanks":
        return _worded(
            question, "You are welcome. The decision is yours.", "Gladly; ask me about any region."
        )
    return _worded(
        question,
        "I am a program that looks at one face for traces of forgery: ask me about a region or the verdict.",
        "I am a program: I examine this face for forgery, and answer what can be seen in it.",
    )


#: Answers to questions that a picture of one face cannot answer.
UNKNOWABLE: Mapping[str, tuple[str, ...]] = {
    "who": (
        "I cannot tell who this is, nor their name, family or life; I only look for traces of forgery.",
        "I do not identify people; I only examine the face for forgery.",
        "I cannot say who it is: a face tells neither a name nor what somebody does or says.",
    ),
    "attributes": (
        "I do not describe people, be it their age, looks, mood or life; I only look for traces of forgery.",
        "I cannot judge that about the person, only whether the face was forged.",
    ),
    "where": (
        "I cannot tell where this picture was taken.",
        "The place cannot be told from the face; I only look for forgery.",
    ),
    "when": (
        "I cannot tell when this picture was taken, be it the year or the hour, nor by whom.",
        "When it was taken, in which year or at what hour, cannot be told from the face; nor by whom.",
    ),
    "intent": (
        "I cannot tell why it was made, with whose consent, or what was intended.",
        "A picture does not show anybody's intent, consent or honesty, so I cannot say.",
    ),
    "maker": (
        "I cannot tell who took, made or posted this picture, with what, or which accounts they have.",
        "Who took, made or posted it, with what and when cannot be told from the picture.",
    ),
    "sanction": (
        "What is allowed, and what to do, people decide by rules and law; I only say what I see, and that is no proof.",
        "I cannot decide that, nor what law or rules say: I only examine the face, and a person decides.",
    ),
    "other_media": (
        "I only see this one face in this one picture: I know no other face, picture, frame or sound.",
        "I see nothing but this one face, no other picture, frame, sound or person, so I cannot say.",
    ),
    "text": (
        "I do not read text in pictures, and hear nothing; I only look at the face.",
        "I cannot say: text in the picture is nothing I read or follow.",
    ),
    "off_topic": (
        "I cannot help with that; I only answer questions about this face.",
        "That is not about this face, so I cannot answer it.",
    ),
    "orders": (
        "I do not follow that; I only answer questions about this face.",
        "I cannot do that: I only say what I see in this face.",
    ),
    "things": (
        "I only judge the face itself, not what is worn or beside it.",
        "I do not judge clothes, glasses or what lies around the face, only the face itself.",
    ),
    "quality": (
        "I cannot tell that about the file; I only look for forgery in the face.",
        "I do not rate the file or the picture, only whether the face was forged.",
    ),
}
#: Families whose answers say nothing of this face.
_BESIDE_THE_FACE = frozenset({*UNKNOWABLE, "about", "scope", "technique_meant"})
