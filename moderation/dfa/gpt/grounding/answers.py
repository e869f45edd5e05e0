"""Questions of free conversation (FC) by family, answered from the facts of the face.

An answer is one short sentence, or two at most. It depends only on the known facts and the question's form, so a model
can learn it, and a reader can check it. It never contradicts the verdict or the artifacts before it. When a picture
cannot show what is asked, the answer says so.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from moderation.analysis import SMALLEST_JUDGED, TECHNIQUE_WORDS, Region, Technique
from moderation.dfa.gpt.claims import SKINS
from moderation.dfa.gpt.grounding.beside import (
    DEEPFAKE,
    DIFFERENCES,
    EVIDENCE,
    LIMITS,
    MEANINGS,
    METHOD,
    REPEATED,
    SCOPE,
    SIGNS,
    UNKNOWABLE,
    about_itself,
    about_things,
    also_unknowable,
    causes_named,
    is_alternative,
)
from moderation.dfa.gpt.grounding.facts import Kind
from moderation.dfa.gpt.grounding.known import Known, Question, Shown
from moderation.dfa.gpt.grounding.parts import (
    ASPECTS,
    COUNTED,
    SIDES,
    about_match,
    about_part,
    about_places,
    about_several,
    but_seen,
)
from moderation.dfa.gpt.grounding.phrases import (
    by_strength,
    capital,
    clearest,
    joined,
    listed,
    one_of,
    parts_of,
    places,
    varied,
    within,
)
from moderation.dfa.gpt.grounding.sentences import NOUNS, Noun
from moderation.dfa.gpt.prompts import PromptSet

#: Kinds that also affect light and colours.
_LIT = frozenset({Kind.COLOUR, Kind.REPLACED})


def answer(question: Question, known: Known, prompts: PromptSet) -> str:
    """The answer from the known facts, in the form of the question.

    An answer that does not speak of this face is followed by the verdict if the question may be about it.
    """
    said = _answer(question, known, prompts)
    if question.sideless:
        said = capital(_SIDE.sub("", said))
    refused = question.family in UNKNOWABLE and _OF_THE_VERDICT.search(question.text)
    if question.family == "things" or refused or (question.unsure and question.family in _BESIDE_THE_FACE):
        return _together([said, _verdict_of(known)])
    passed_over = _passed_over(question, said)
    return f"{capital(_SIDE.sub('', said)) if passed_over else said}{passed_over}"


#: Begins an answer that takes a side.
_SIDE = re.compile(r"^(?:Yes|No)[,:] ")
#: Families whose answers speak of what is seen. A thing that such a question names is not passed over.
_OF_SIGHT = frozenset({
    "region", "compare", "boundary", "light", "tone", "skin", "places", "reasons", "challenge", "evidence", "counter",
})  # fmt: skip
#: Forms whose answers leave the thing open: it may be what explains an artifact, or what throws a shadow.
_ANSWERED = frozenset({"explained", "direction"})

#: Of an answer that grows.
_MOST_WORDS = 50


def _passed_over(question: Question, said: str) -> str:
    """That the first detail or thing which the question names is not judged, unless the answer speaks of it."""
    unjudged = question.unjudged
    if unjudged is None or question.form in _ANSWERED:
        return ""
    if question.family not in _OF_SIGHT and not (question.family == "verdict" and unjudged.on_face):
        return ""
    if unjudged.word in said:
        return ""
    detail, thing = (
        f"single details such as the {unjudged.word}",
        f"the {unjudged.word}, only the face",
    )
    told = f" I cannot judge {detail if unjudged.on_face else thing}."
    return told if len(f"{said}{told}".split()) <= _MOST_WORDS else ""


_OF_THE_VERDICT = re.compile(
    r"\b(?:fakes?|faked|deepfakes?|real|genuine|authentic|AI|forg\w+|swapp?\w*|animated|generated|edited|manipulat\w+"
    r"|verdict|finding|confiden\w+|result)\b",
    re.I,
)
#: Between two sentences of an answer.
_NEXT = re.compile(r"(?<=\.) (?=[A-Z])")


def answer_each(questions: Iterable[Question], known: Known, prompts: PromptSet) -> str:
    """The answers to several questions in one."""
    return _together(answer(question, known, prompts) for question in questions)


def _together(answers: Iterable[str]) -> str:
    """Several answers as one. A sentence that stands in another one is left out."""
    sentences = list(dict.fromkeys(sentence for text in answers for sentence in _NEXT.split(text)))
    return " ".join(
        sentence
        for sentence in sentences
        if not any(other is not sentence and within(sentence) in within(other) for other in sentences)
    )


def _answer(question: Question, known: Known, prompts: PromptSet) -> str:
    if question.family == "who" and known.deepfake and known.technique is Technique.EFS:
        return "I take this face for generated as a whole, so it may show nobody; I cannot tell who it is."
    if (question.family, question.form) == ("who", "exists"):
        return "Whether this person exists I cannot tell; I only look for traces of forgery in the face."
    if question.family == "things":
        return about_things(question)
    if question.family in UNKNOWABLE:
        return _together(
            [varied(question, *UNKNOWABLE[question.family]), *filter(None, [also_unknowable(question)])]
        )
    if known.deepfake is None and question.family not in _SAID_OF_ANY:
        return _undecided(question, known)
    match question.family:
        case "compare":
            return about_several(question, known)
        case "region" | "detail":
            return about_part(question, known, question.noun or NOUNS[question.region or Region.UNMAPPED], [])
        case "boundary":
            seams = [shown for shown in known.artifacts or () if shown.touch.region is Region.FACE_BOUNDARY]
            return about_part(question, known, NOUNS[Region.FACE_BOUNDARY], seams)
        case "light":
            lit = _of_kinds(known, _LIT)
            if question.form == "direction":
                return f"I do not work out where the light comes from{but_seen(question, known, lit)}."
            return about_part(question, known, NOUNS[Region.LIGHTING], lit)
        case "tone":
            colours = _of_kinds(known, frozenset({Kind.COLOUR}))
            return about_part(question, known, Noun("colours", plural=True), colours)
        case "skin":
            surface = _of_kinds(known, frozenset(Kind) - {Kind.WARPED})
            skin = [shown for shown in known.artifacts or () if shown.touch.region is Region.SKIN]
            skin += [shown for shown in surface if shown.touch.region in SKINS]
            return about_part(question, known, NOUNS[Region.SKIN], skin)
        case "verdict":
            return _verdict(question, known)
        case "technique":
            return _technique(question, known)
        case "technique_named":
            return _technique_named(question, known)
        case "technique_meant":
            return _meant(question, known, prompts)
        case "match":
            return about_match(question, known)
        case "certainty":
            return _certainty(question, known)
        case "reasons":
            return _reasons(question, known)
        case "summary":
            return _summary(question, known)
        case "places":
            return about_places(question, known)
        case "challenge":
            return _challenge(question, known)
        case "otherwise":
            return _otherwise(question, known)
        case "counter":
            return _counter(question, known)
        case "plain":
            return _for_user(known) if question.form == "user" else _plainly(known)
        case "score":
            return _score(question, known)
        case "limits":
            return _limits(question, known)
        case "evidence":
            return _evidence(question, known)
        case "scope":
            return SCOPE if question.form == "open" else f"{METHOD} {_judged(known)}."
        case "next":
            return _next(known)
        case "about" if question.form == "repeat":
            return f"{REPEATED} {_judged(known)}{_scored(known)}."
        case "about":
            said = about_itself(question)
            if question.form == "map":
                return f"{said}{_highest(known)}"
            return _together([said, _verdict_of(known)]) if question.form in _WITH_VERDICT else said
        case _:
            return f"I am not sure what you ask. {_verdict(replace(question, form='open'), known)}"


def _verdict_of(known: Known) -> str:
    asked = Question("", "verdict", "open", 0)
    return _undecided(asked, known) if known.deepfake is None else _verdict(asked, known)


#: A question that is not understood.
UNCLEAR = "unclear"
#: Families whose answers need no verdict.
_SAID_OF_ANY = frozenset(
    {"technique_meant", "about", "plain", "score", "limits", "evidence", "scope", "next"}
)
#: Words to the model that are best answered with the verdict too.
_WITH_VERDICT = frozenset({"distress", "language"})


def _undecided(question: Question, known: Known) -> str:
    """The answer about a face without a verdict. Its artifacts are not known: they would decide it."""
    why = known.why_undecided or "the reason stands beside the score"
    if question.region is Region.BACKGROUND:
        return about_things(question)
    match question.family:
        case "match":
            return f"I do not measure {question.unmeasured or SIDES}, and I am undecided about this face."
        case "light" if question.form == "direction":
            return "I do not work out where the light comes from, and I am undecided about this face."
        case "region" if question.form == "seen":
            detail = f"the {question.unjudged.word}" if question.unjudged else "that"
            return f"I cannot judge single details such as {detail}, and I am undecided about this face."
        case "region" if question.form == "effect" and question.noun:
            return question.noun.inflected(
                "How much {the} {count} was not measured, as I am undecided about this face."
            )
        case "compare" if question.noun:
            named = one_of([question.noun, *(noun for _, noun in question.others)])
            return f"I am undecided about this face, and cannot say more of {named}."
        case "region" | "detail" | "boundary" | "light" | "tone" | "skin" if question.form == "explained":
            return "I cannot rule that out; I am undecided about this face."
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
            return f"I am undecided about this face: {why}; so I name no region."
        case "challenge":
            return "I remain undecided about this face, and can point to no artifact; the decision is yours."
        case "otherwise":
            return f"{_alike(question)}, and can hide one; I am undecided about this face, and name no artifact in it."
        case "counter":
            limits = f". {_limits_told(known)}" if known.zone else ""
            return f"I am undecided about this face: {why}; {_BETTER} could settle it{limits}."
        case "unclear":
            return "I am not sure what you ask; I am undecided about this face."
        case _:
            return varied(
                question,
                "I am undecided about this face: it looks neither clearly forged nor clearly genuine to me.",
                f"I cannot decide about this face: {why}.",
            )


def _of_kinds(known: Known, kinds: frozenset[Kind]) -> list[Shown]:
    return [shown for shown in known.artifacts or () if shown.touch.kind in kinds]


def _words(known: Known) -> str:
    return TECHNIQUE_WORDS[known.technique] if known.technique else ""


def _verdict(question: Question, known: Known) -> str:
    if not known.deepfake:
        word = {"fake": "No, ", "real": "Yes, "}.get(question.form, "")
        return _sentence(
            word,
            varied(
                question,
                "I take this face for bona fide: I see no artifact.",
                "I take it for bona fide: I see no trace of forgery.",
                "I take it for bona fide; no region shows an artifact.",
            ),
        )
    word = {"fake": "Yes, ", "real": "No, "}.get(question.form, "")
    if known.regional or known.whole:
        why = clearest(known)
        return _sentence(
            word,
            varied(
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
    Technique.EFS: "the whole picture was generated",
}


#: The same, of a computer.
_DONE_PLAINLY: Mapping[Technique, str] = {
    Technique.FS: "put another person's face over this one",
    Technique.FR: "gave this face another expression",
    Technique.FE: "changed single parts of this face",
    Technique.EFS: "made this whole picture, and nobody took it with a camera",
}


def _technique(question: Question, known: Known) -> str:
    if question.form == "before":
        where = f" {places(known.artifacts or ())}" if known.regional else ""
        done = f"I take it for {_what(known)}{where}" if known.deepfake else "I see no change in this face"
        return f"{done}; what it looked like before cannot be told from the picture."
    if not known.deepfake and _RULE_OUT.search(question.text):
        told = f"I take this face for bona fide: I see no artifact{_scored(known)}"
        return f"I cannot rule that out. {told}. A good forgery may show no artifact."
    if not known.deepfake:
        return varied(
            question,
            "By no technique: I take this face for bona fide.",
            "I see no forgery in this face, so I name no technique.",
        )
    if known.technique is None:
        return "I take it for a deepfake, and cannot say by which technique."
    if question.form == "others":
        return _other_techniques(known)
    return varied(
        question,
        f"I take it for {_words(known)}: {_DONE[known.technique]}.",
        f"By {_words(known)}, in my view: {_DONE[known.technique]}.",
    )


def _other_techniques(known: Known) -> str:
    """The answer to a question about the techniques that are less likely."""
    told = f"{capital(_words(known))} is the likeliest to me"
    others = sorted((known.shares or {}).items(), key=lambda each: -each[1])
    second = next((each for each in others if each[0] is not known.technique), None)
    if known.shares is None or known.technique is None or second is None:
        return f"{told}, and I cannot rule the others out: {clearest(known)}."
    return (
        f"{told}, with a share of {known.shares[known.technique]:.2f}; next is {TECHNIQUE_WORDS[second[0]]}, with "
        f"{second[1]:.2f}. That rules nothing out: {clearest(known)}."
    )


def _meant(question: Question, known: Known, prompts: PromptSet) -> str:
    """What a technique or a word of the field means, how two differ, or where a person looks for a forgery."""
    if question.form == "signs":
        return f"{SIGNS[question.technique]} {_judged(known)}."
    if question.form == "difference":
        return f"{_difference(question, known, prompts)} {_judged(known)}."
    if question.technique is None:
        return _meaning(question.text) or DEEPFAKE
    return prompts.technique_explanations[question.technique]


def _meaning(text: str, meanings: Mapping[str, str] = MEANINGS) -> str | None:
    """The meaning of the first word of the field that a text has."""
    return next(
        (said for words, said in meanings.items() if re.search(rf"\b(?:{words})\b", text, re.I)), None
    )


def _difference(question: Question, known: Known, prompts: PromptSet) -> str:
    """How two techniques or words differ, or forgeries from pictures that are only retouched or poor."""
    apart = _meaning(question.text, DIFFERENCES)
    if apart and question.second_technique is None:
        return apart
    named = [question.technique, question.second_technique, known.technique]
    pair = list(dict.fromkeys(technique for technique in named if technique is not None))[:2]
    if len(pair) == 2 and question.technique is not None:
        first, second = (prompts.technique_explanations[technique] for technique in pair)
        return f"{first[:-1]}; {within(second)}."
    return (
        "What a computer draws leaves traces in one part or all over; a filter, make-up or a poor picture changes "
        "light, colour or detail alike everywhere. They can look alike, so I can be wrong."
    )


#: "Can you rule out a swap?", "rule it out", "ruling a swap out".
_RULE_OUT = re.compile(r"\brul(?:e|es|ed|ing)(?: \w+){0,4} out\b|\bexclude", re.I)


def _technique_named(question: Question, known: Known) -> str:
    if known.deepfake is False and _RULE_OUT.search(question.text):
        return _technique(question, known)
    if question.form == "why_not":
        if not known.deepfake:
            return "I see no forgery in this face, so I name no technique."
        if known.technique is None:
            return "I cannot rule it out: I take the face for a deepfake, by a technique I cannot name."
        if known.technique is question.technique:
            return f"I do take it for {_words(known)}: {clearest(known)}."
        return f"It looks rather like {_words(known)} to me: {clearest(known)}."
    if not known.deepfake:
        return "No, I take this face for bona fide: I see no artifact."
    if known.technique is None:
        return "I cannot say: I take it for a deepfake, by a technique I cannot name."
    if known.technique is question.technique:
        return varied(question, f"Yes, I take it for {_words(known)}.", f"Yes: {_DONE[known.technique]}.")
    return varied(
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
    sure = _sure(known.score, known)
    told = "high" if sure >= _HIGH else "medium" if sure >= _MEDIUM else "low"
    return f"My confidence is {told}{_scored(known)}"


def _sure(score: float, known: Known) -> float:
    """The score of a deepfake, or of its opposite."""
    return score if known.deepfake else 1 - score


def _certainty(question: Question, known: Known) -> str:
    if question.form == "than":
        return f"I remember no other face, so I cannot rank this one. {_confidence(known)}."
    told = f"{_taken(known)}. {_confidence(known)}{_sized(question, known)}"
    if not known.deepfake:
        return f"{told}. A good forgery may show no artifact."
    if not known.regional:
        return f"{told}."
    return f"{told}; the clearest artifact is {places(sorted(known.artifacts or (), key=by_strength)[:1])}."


def _score(question: Question, known: Known) -> str:
    if known.score is None:
        return "The score runs from 0 to 1: the higher it is, the more speaks for a forgery."
    told = f"The score is {known.score:.2f}"
    if question.form == "probability" and not known.calibrated:
        return f"{told}. It was not calibrated, so it is no probability: it only orders pictures. {_judged(known)}."
    if question.form == "probability":
        forged = round(100 * known.score)
        alike = f"about {forged} of 100 faces with this score are deepfakes and {100 - forged} are not"
        return (
            f"{told}. Among pictures like those that it was calibrated on, {alike}; for others it only orders them. "
            f"{_judged(known)}."
        )
    if question.form == "other":
        why = f": {clearest(known)}" if known.deepfake else ""
        return (
            f"{told}. {_judged(known)}{why}. How others judge I do not know, and their numbers are on another scale; "
            "where two disagree, a person must look closely."
        )
    if known.deepfake is None:
        if known.zone is None:
            why = f": {known.why_undecided}" if known.why_undecided else ""
            return f"{told}, where 1 is a deepfake; I am undecided about this face{why}."
        side = "for a forgery than against one" if known.score > 0.5 else "against a forgery than for one"
        return f"{told}: more speaks {side}, but too little to decide. {_limits_told(known)}."
    if question.form == "why":
        much = "much" if known.score >= _MEDIUM else "little" if known.score <= 1 - _MEDIUM else "something"
        end, alike = (
            (1, "other things can look like a forgery")
            if known.deepfake
            else (0, "a good forgery may show no artifact")
        )
        speaks = f"{much} in the pixels of the face speaks for a forgery"
        begins = f" {_limits_told(known)}." if known.zone else ""
        return f"{told}, for {speaks}; it is seldom {end}, because {alike}.{begins}"
    if known.zone is None:
        return f"{told}, on a scale from 0 to 1: the higher, the more speaks for a forgery. {_taken(known)}."
    clear = _sure(known.score, known) >= _MEDIUM
    return f"{told}. {_limits_told(known)}. {_taken(known)}, {'clearly' if clear else 'narrowly'}."


def _limits_told(known: Known) -> str:
    """The scores where verdicts begin, as a sentence without its full stop."""
    low, high = known.zone or (0.5, 0.5)
    between = "" if low == high else ", between them I do not decide"
    return f"From {high:.2f} on I say deepfake, below {low:.2f} bona fide{between}"


def _limits(question: Question, known: Known) -> str:
    """The answer to a question about what the model cannot do."""
    if question.form == "rates":
        return f"{LIMITS['rates']} {_confidence(known)}."
    if question.form != "picture":
        return LIMITS[question.form]
    worn = question.unjudged and not question.unjudged.on_face and f"the {question.unjudged.word}"
    hides = f"{causes_named(question.text) or worn or _HIDING} can hide traces, or look like one"
    where = question.noun.inflected(" for {the}") if question.noun else ""
    told = f"It may matter{where}: {hides}{_sized(question, known)}"
    if known.deepfake is None:
        return f"{told}. I am undecided about this face; {_BETTER} could settle it."
    return f"{told}; {_BETTER} would show more. {_taken(known)}. {_confidence(known)}."


def _highest(known: Known) -> str:
    """Where the map is highest, as a sentence after others."""
    if known.highest is None:
        return ""
    if not known.highest:
        return " No region stands out in it here."
    return (
        f" It is highest at {joined([f'the {NOUNS[region].word}' for region in known.highest], 'and')} here."
    )


def _evidence(question: Question, known: Known) -> str:
    """The answer to a question about artifacts as evidence: why they are, how much, and whether one can see them."""
    noun = question.noun or Noun("face")
    return f"{noun.inflected(EVIDENCE[question.form])} {_here(question, known)}."


def _here(question: Question, known: Known) -> str:
    """What of that this face shows, as a sentence without its full stop."""
    if known.deepfake is None:
        return _judged(known)
    if question.form == "enough":
        number = len(known.artifacts or ()) if known.regional else 0
        first = ", the clearest" if number > 1 else ""
        named = f"I name {COUNTED[number]} here{first}: {clearest(known)}" if number else _taken(known)
        return f"{named}. {_confidence(known)}"
    if not known.deepfake:
        return "I see no artifact in this face"
    if question.form == "visible" and known.regional:
        return f"Look at {parts_of(known.artifacts or ())}: {clearest(known)}"
    return f"Here {clearest(known)}"


def _sized(question: Question, known: Known) -> str:
    """How large the face is, within a sentence, when a question is about that."""
    if known.size is None or not _SIZE.search(question.text):
        return ""
    return f"; this face is {known.size} pixels wide, and I judge none below {SMALLEST_JUDGED}"


_SIZE = re.compile(
    r"\b(?:small\w*|tiny|little|larg\w+|big\w*|size|pixel\w*|res(?:olution)?|far|thumbnail)\b", re.I
)


#: What can hide traces, when a question names nothing of it.
_HIDING = "an odd angle, poor quality, a filter or a cover"
#: What would make a face easier to judge.
_BETTER = "a larger, sharper or uncovered copy"


def _taken(known: Known) -> str:
    return f"I take this face for {_what(known) if known.deepfake else 'bona fide'}"


def _judged(known: Known) -> str:
    return "I am undecided about this face" if known.deepfake is None else _taken(known)


def _next(known: Known) -> str:
    """The answer to a question about what a person should look at or do."""
    if known.deepfake is None:
        return f"I am undecided about this face: look at it in full size, {_ELSEWHERE}."
    look = f"closely at {parts_of(known.artifacts or ())}" if known.regional else "at the face in full size"
    return f"Look {look}, {_ELSEWHERE}."


#: What a person can find out beside the picture.
_ELSEWHERE = (
    "ask for the file as the camera wrote it, and look for other copies of the picture; the decision is yours"
)


#: What else can look like a forgery, when a question names nothing of it.
_ALIKE = "compression, a filter, make-up or a poor picture"


def _alike(question: Question) -> str:
    return f"{capital(causes_named(question.text) or _ALIKE)} can look like a forgery"


def _otherwise(question: Question, known: Known) -> str:
    """The answer to a question about another explanation than a forgery."""
    if not known.deepfake:
        hiding = causes_named(question.text) or "compression, a filter or make-up"
        told = causes_named(question.text, "or")
        which = f"Whether it is {told} I cannot tell; " if told and is_alternative(question.text) else ""
        return f"{which}I see no artifact to explain in this face; but {hiding} can hide one."
    why = clearest(known)
    return f"{_alike(question)}, and I cannot rule that out; still I take this face for a deepfake: {why}."


def _counter(question: Question, known: Known) -> str:
    if question.form == "change":
        better = f"{_BETTER}, or the file as the camera wrote it,"
        return (
            f"I judge this copy alone, and another one can get another score: {better} could change my mind. "
            f"As it is, {_taken(known)}{_other_side(known)}."
        )
    if question.form == "wrong":
        return _if_wrong(known)
    if not known.deepfake:
        return f"No artifact speaks against it, but a good forgery may show none{_scored(known)}."
    if known.regional:
        seen = f"I see artifacts {places(known.artifacts or ())}, and no others"
        return f"{seen}{_unsupported(known)}. {_confidence(known)}."
    return f"I see nothing that speaks against a forgery: {clearest(known)}. {_confidence(known)}."


def _unsupported(known: Known) -> str:
    """Which artifacts the score does not need, as the end of a sentence."""
    idle = [shown for shown in known.artifacts or () if shown.effect and not shown.effect.supported]
    if not idle:
        return ""
    one_by_one = " one by one" if len(idle) > 1 else ""
    return f"; hiding {parts_of(idle)}{one_by_one} lowers the score no more than hiding a control region"


def _other_side(known: Known) -> str:
    """From which score on the verdict would be another, as the end of a sentence."""
    if known.zone is None or known.score is None:
        return ""
    low, high = known.zone
    turned = (
        f"I say bona fide only below {low:.2f}"
        if known.deepfake
        else f"I say deepfake only from {high:.2f} on"
    )
    return f"{_scored(known)}, and {turned}"


def _if_wrong(known: Known) -> str:
    """Why the verdict is wrong, if it is."""
    if not known.deepfake:
        return "If I am wrong, it is a good forgery, whose traces I never learnt or this picture hides."
    if known.regional:
        seen = f"compression, a filter or make-up is what I see {places(known.artifacts or ())}"
    else:
        seen = "compression or sharpening gave the picture what I take for the traces of a forgery"
    return f"If I am wrong, {seen}."


def _plainly(known: Known) -> str:
    """The verdict for somebody who knows none of the field's words."""
    if known.deepfake is None:
        return "In plain words: I cannot tell whether this face is genuine, so a person has to look closely."
    if not known.deepfake:
        return "In plain words: I see nothing that shows that a computer changed this face."
    done = "changed this face" if known.technique is None else _DONE_PLAINLY[known.technique]
    where = f"; it shows {places(known.artifacts or ())}" if known.regional else ""
    return f"In plain words: I think that a computer {done}{where}."


def _for_user(known: Known) -> str:
    """Words for the person who uploaded the picture."""
    if known.deepfake is None:
        told = "Our check could not tell whether this face was changed, so a person will look at it"
    elif known.deepfake:
        where = f", {places(sorted(known.artifacts or (), key=by_strength)[:1])}" if known.regional else ""
        told = f"Our check found signs that software made or changed the face in this picture{where}"
    else:
        told = "Our check found no sign that the face in this picture was changed"
    return f"{told}. A check by machine can be wrong, and a person can review it."


def _reasons(question: Question, known: Known) -> str:
    if not known.deepfake:
        return varied(
            question,
            "I see no artifact in any region of the face.",
            "No region of the face shows an artifact.",
        )
    if not known.artifacts:
        return f"I cannot point to one region: {clearest(known)}."
    return capital(f"{listed(known.artifacts, known)}.")


def _short_score(known: Known) -> str:
    return "" if known.score is None else f"; score {known.score:.2f}"


def _in_short(known: Known) -> str:
    """The verdict, its ground and the score, in as few words as are a sentence."""
    score = _short_score(known)
    if not known.deepfake:
        return f"Bona fide: I see no artifact{score}."
    by = f" by {_words(known)}" if known.technique else ""
    return f"Deepfake{by}: {clearest(known)}{score}."


def _summary(question: Question, known: Known) -> str:
    if question.form == "short":
        return _in_short(known)
    if question.form == "record":
        return f"A model judged this face, and it can be wrong. {_in_short(known)} That is no proof."
    if not known.deepfake:
        why = "no region shows an artifact, and a good forgery may show none"
    elif known.regional:
        why = listed(known.artifacts or (), known)
    else:
        why = "the whole picture looks generated" if known.whole else "I cannot point to one region"
    return f"{_taken(known)}. {capital(why)}. {_confidence(known)}."


def _challenge(question: Question, known: Known) -> str:
    agrees = question.form == "agrees" or (
        question.form != "disagrees" and (question.form == "says_fake") == known.deepfake
    )
    if question.form == "open":  # it is not clear what was said
        return _verdict(question, known)
    if not known.deepfake:
        if agrees:
            return "I take it for bona fide too: I see no artifact."
        return varied(
            question,
            "I still take it for bona fide: I see no artifact.",
            "I see it otherwise: no region shows an artifact.",
        )
    why = clearest(known)
    if agrees:
        return f"I take it for a deepfake too: {why}."
    return varied(question, f"I still take it for a deepfake: {why}.", f"I see it otherwise: {why}.")


#: Families whose answers say nothing of this face.
_BESIDE_THE_FACE = frozenset({*UNKNOWABLE, "about", "scope", "technique_meant"})
