"""Answers about parts of a face, and about what shows in all of them: its edge, its light, its skin."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from moderation.analysis import Region, Technique
from moderation.dfa.gpt.grounding.beside import about_things, causes_named
from moderation.dfa.gpt.grounding.facts import Kind
from moderation.dfa.gpt.grounding.known import Known, Question, Shown
from moderation.dfa.gpt.grounding.phrases import (
    by_strength,
    capital,
    clearest,
    listed,
    one_of,
    parts_of,
    places,
    varied,
    within,
)
from moderation.dfa.gpt.grounding.sentences import NOUNS, Noun, strength_band

#: What a form of the region family asks for, and the kinds for which the answer is yes.
PROPERTIES: Mapping[str, tuple[str, frozenset[Kind]]] = {
    "blur": ("blur", frozenset({Kind.SOFTER})),
    "sharpness": ("excess of sharpness", frozenset({Kind.SHARPER})),
    "smoothing": ("smoothing", frozenset({Kind.SMOOTHED})),
    "distortion": ("distortion", frozenset({Kind.WARPED})),
    "colour": ("wrong colour", frozenset({Kind.COLOUR})),
    "replacement": ("trace of another face", frozenset({Kind.REPLACED})),
}
#: Families about something that shows in all parts, and its region.
ASPECTS: Mapping[str, Region] = {
    "boundary": Region.FACE_BOUNDARY, "light": Region.LIGHTING, "tone": Region.LIGHTING, "skin": Region.SKIN,
}  # fmt: skip


def about_part(question: Question, known: Known, noun: Noun, related: Sequence[Shown]) -> str:
    """The answer about one part of the face, or about something that shows in all parts."""
    artifacts = known.artifacts or ()
    shown = next((artifact for artifact in artifacts if artifact.touch.region is question.region), None)
    shown = shown or next(iter(related), None)
    if question.region is Region.BACKGROUND and shown is None and not known.whole:
        return about_things(question)
    if known.whole and question.family == "boundary":
        return "I see no seam to point to: the whole picture looks generated, the edge of the face included."
    if question.form == "sure":
        measured = shown is not None and shown.effect is not None
        told = replace(question, form="effect" if measured else "open")
        return f"I give no certainty for a single region. {about_part(told, known, noun, related)}"
    if known.whole and question.family in ASPECTS:
        form = question.form if question.form in PROPERTIES else "open"
        return noun.inflected(_whole_picture(replace(question, form=form)))
    if question.form == "seen":
        return noun.inflected(_seen(question, shown, known))
    if known.whole:
        return noun.inflected(_whole_picture(question))
    if question.form == "fits":
        return _fits(shown, known)
    if shown is not None and question.form == "effect":
        return _effect(shown, known)
    if question.form == "replacement" and known.technique is Technique.FS and known.regional:
        return noun.inflected(_swapped(question, shown))
    if shown is not None:
        return noun.inflected(_there(question, shown.sentence, shown.touch.kind))
    if known.regional:
        return noun.inflected(_elsewhere(question, places(artifacts)))
    return noun.inflected(_not_known(question) if known.deepfake else _clean(question))


def _effect(shown: Shown, known: Known) -> str:
    """What the score is without a region, as one sentence."""
    effect, noun = shown.effect, NOUNS[shown.touch.region]
    if effect is None or known.score is None:
        return noun.inflected(f"I did not measure how much {{the}} {{count}}; {within(shown.sentence)}.")
    before, after = f"{known.score:.2f}", f"{effect.score_without:.2f}"
    change = f"falls from {before} to {after}" if after < before else f"rises from {before} to {after}"
    change = f"stays at {after}" if after == before else change
    return noun.inflected(
        f"With {{the}} hidden the score {change}{_then(effect.score_without, known)}; with as large a control region "
        f"hidden it is {effect.control_score:.2f}."
    )


def _then(score: float, known: Known) -> str:
    """What a score would mean, as a part of a sentence. Empty when that is not known."""
    if known.zone is None:
        return ""
    low, high = known.zone
    if score >= high:
        return ", still a deepfake to me"
    return ", too little for a verdict" if score > low else ", far below a deepfake's"


def _weightiest(artifacts: Sequence[Shown]) -> Shown:
    """The artifact that the score needs most, by its measured effect, or the strongest when none is supported."""
    needed = {
        shown.effect.score_without: shown for shown in artifacts if shown.effect and shown.effect.supported
    }
    return needed[min(needed)] if needed else min(artifacts, key=by_strength)


def _seen(question: Question, seen: Shown | None, known: Known) -> str:
    """The answer to a question about a detail that a person sees at a region."""
    if known.whole:
        also = "; the whole picture looks generated, {the} included"
    elif seen is not None:
        also = f", but {within(seen.sentence)}"
    elif known.regional:
        also = f"; I see no artifact {{at}} {{the}}, only {places(known.artifacts or ())}"
    elif known.deepfake:
        also = "; I take the face for a deepfake, and cannot point to {the}"
    else:
        also = "; I see no artifact {at} {the}"
    detail = f"the {question.unjudged.word}" if question.unjudged else "that"
    return f"I cannot judge single details such as {detail}{also}."


def _swapped(question: Question, shown: Shown | None) -> str:
    """The answer to a question whether a region of a swapped face is another person's."""
    inner = "I take the inner face for another person's"
    if shown is not None:
        return f"{inner}, and {within(shown.sentence)}."
    beyond = ", and not what is around it" if question.region in _AROUND else ""
    return f"{inner}{beyond}; I see no artifact {{at}} {{the}} alone."


def _fits(seam: Shown | None, known: Known) -> str:
    """The answer to a question whether the face fits the head around it."""
    if seam is not None:
        return seam.sentence
    if not known.deepfake:
        return "I see no seam around the face, and nothing that does not fit the head."
    swapped = (
        "the face may be another's" if known.technique is Technique.FS else "the artifacts are elsewhere"
    )
    return f"I see no seam around the face, but {swapped}: {clearest(known)}."


def about_match(question: Question, known: Known) -> str:
    """The answer to a question whether two sides of a face match."""
    anywhere = [] if question.region else list(known.artifacts or ())
    return f"I do not measure {question.unmeasured or SIDES}{but_seen(question, known, anywhere)}."


SIDES = "whether the two sides match"


def but_seen(question: Question, known: Known, related: Sequence[Shown]) -> str:
    """What is seen instead of what was asked for, as the end of a sentence."""
    noun = question.noun or Noun("face")
    own = [shown for shown in known.artifacts or () if shown.touch.region is question.region]
    if known.whole:
        return ", but the whole picture looks generated"
    if seen := [*own, *related]:
        return f", but {within(min(seen, key=by_strength).sentence)}"
    if known.deepfake and not known.artifacts:
        return ", but the face as a whole looks forged"
    elsewhere = f"; the artifacts are {places(known.artifacts)}" if known.artifacts else ""
    if question.noun is None and elsewhere:
        return elsewhere
    return noun.inflected(f"; I see no artifact {{at}} {{the}}{elsewhere}")


def _there(question: Question, sentence: str, kind: Kind) -> str:
    if question.form == "explained":
        return f"I cannot rule that out; still, {within(sentence)}."
    if question.form == "natural":
        return f"No, {within(sentence)}."
    if question.form == "forged":
        return f"Yes, {within(sentence)}."
    if question.form in PROPERTIES:
        word, kinds = PROPERTIES[question.form]
        return f"Yes, {within(sentence)}." if kind in kinds else f"I see no {word}, but {within(sentence)}."
    return sentence


def _elsewhere(question: Question, where: str) -> str:
    match question.form:
        case "natural":
            return varied(
                question,
                f"Yes, I see no artifact {{at}} {{the}}; the artifacts are {where}.",
                f"Nothing {{at}} {{the}} stands out; what I see is {where}.",
                f"I find no artifact {{at}} {{the}}, only {where}.",
            )
        case "forged":
            return varied(
                question,
                f"No, I see no artifact {{at}} {{the}}; the artifacts are {where}.",
                f"Not {{the}}: the artifacts that I see are {where}.",
                f"I find nothing {{at}} {{the}}, only {where}.",
            )
        case "effect":
            unmeasured = "so I did not measure how much {the} {count}"
            return f"I name no artifact {{at}} {{the}}, {unmeasured}; the artifacts are {where}."
        case "open":
            return varied(
                question,
                f"I see no artifact {{at}} {{the}}; the artifacts are {where}.",
                f"{{The}} {{show}} no artifact that I can see, only what is {where}.",
                f"Nothing {{at}} {{the}} stands out; what I see is {where}.",
            )
        case "wrong":
            return f"I see nothing wrong {{at}} {{the}}; the artifacts are {where}."
        case "explained":
            return f"{_alone(question)}: I see no artifact {{at}} {{the}}, only {where}."
        case form:
            return f"No, I see no {PROPERTIES[form][0]} in {{the}}; the artifacts are {where}."


def _alone(question: Question) -> str:
    """What is said of a detail that an explanation is offered for, as the start of a sentence."""
    if question.unjudged is None or not question.unjudged.on_face:
        return "That alone proves nothing"
    word = question.unjudged.word
    return f"What the {word} {'are' if word.endswith('s') else 'is'} I cannot tell"


def _clean(question: Question) -> str:
    match question.form:
        case "natural":
            return varied(
                question,
                "Yes, I see no artifact {at} {the}.",
                "Yes, {the} {look} natural to me.",
                "Yes, nothing {at} {the} stands out.",
            )
        case "forged":
            return varied(
                question,
                "No, I see no artifact {at} {the}.",
                "No, nothing {at} {the} looks forged.",
                "No, I find no trace of forgery {at} {the}.",
            )
        case "effect":
            return "How much {the} {count} was not measured; I see no artifact {at} {the}."
        case "open":
            return varied(
                question,
                "I see no artifact {at} {the}.",
                "{The} {look} natural, and I see no artifact there.",
                "Nothing {at} {the} stands out.",
            )
        case "wrong":
            return "I see nothing wrong {at} {the}: {the} {look} natural to me."
        case "explained":
            return f"{_alone(question)}, and I see no artifact {{at}} {{the}}."
        case form:
            return f"No, I see no {PROPERTIES[form][0]} in {{the}}."


def _whole_picture(question: Question) -> str:
    match question.form:
        case "natural":
            return varied(
                question,
                "No, the whole picture looks generated, {the} included.",
                "No, {the} {look} generated, like the whole picture.",
            )
        case "effect":
            return (
                "How much {the} {count} was not measured: the whole picture looks generated, {the} included."
            )
        case "forged" | "open" | "wrong":  # without a yes: it may be a seam that was asked about
            return varied(
                question,
                "The whole picture looks generated, {the} included.",
                "{The} {look} generated, like the whole picture.",
            )
        case "explained":
            also = capital(causes_named(question.text) or "other things")
            return f"{also} can look like that, but the whole picture looks generated, {{the}} included."
        case form if form in PROPERTIES:
            return f"I single out no {PROPERTIES[form][0]} there: the whole picture looks generated, {{the}} included."
        case _:
            return "I cannot single out {the}: the whole picture looks generated."


def _not_known(question: Question) -> str:
    return varied(
        question,
        "I take the face for a deepfake, and cannot point to {the}.",
        "I cannot say for {the} alone; I take the face as a whole for a deepfake.",
    )


def about_several(question: Question, known: Known) -> str:
    """The answer about two regions or more at once."""
    first = (question.region or Region.UNMAPPED, question.noun or NOUNS[Region.UNMAPPED])
    named = dict((first, *question.others))
    if Region.BACKGROUND in named and not known.whole:
        if len(named) <= 2:
            return about_things(question)
        del named[Region.BACKGROUND]
    whole = one_of(named.values())
    if known.whole and named.pop(Region.FACE_BOUNDARY, None):
        rest = one_of(named.values())
        return f"I see no seam to point to: the whole picture looks generated, {rest} included."
    if known.whole:
        return f"I cannot single out {whole}: the whole picture looks generated."
    if known.deepfake and not known.artifacts:
        return f"I take the face for a deepfake, and cannot point to {whole}."
    if known.deepfake and all(each.touch.region is not Region.SKIN for each in known.artifacts or ()):
        named.pop(Region.SKIN, None)  # its artifacts are named by the parts that they are in
        whole = one_of(named.values())
    shown = sorted((each for each in known.artifacts or () if each.touch.region in named), key=by_strength)
    if question.form == "effect":
        return _one_by_one(shown, whole, known)
    if question.colours and not any(each.touch.kind in _COLOURED for each in shown):
        rest = f"; the artifacts are {places(known.artifacts)}" if known.artifacts else ""
        return f"I see no wrong colour in {whole}{rest}."
    seam = next((each for each in known.artifacts or () if each.touch.region is Region.FACE_BOUNDARY), None)
    if not shown and seam is not None and _AROUND & set(named):
        return f"I see no artifact in {whole} alone, but {within(seam.sentence)}."
    if not shown:
        rest = f"; the artifacts are {places(known.artifacts)}" if known.artifacts else ""
        return f"I see no artifact in {whole}{rest}."
    clean = [noun for region, noun in named.items() if all(each.touch.region is not region for each in shown)]
    also = "Beyond that " if seam in shown else ""  # which runs through the others
    sound = f" {also}I see no artifact {clean[0].at} {one_of(clean)}." if clean else ""
    told = listed(shown, known)
    if len(shown) == 1 or question.form == "each":
        return f"{capital(told)}.{sound}"
    return f"{_compared(shown)}: {told}.{sound}"


def _one_by_one(shown: Sequence[Shown], whole: str, known: Known) -> str:
    """What several regions count for: each is hidden by itself."""
    if any(each.effect for each in shown):
        return f"I hide one region at a time, and not several at once. {_effect(_weightiest(shown), known)}"
    rest = f"; the artifacts are {places(known.artifacts)}" if known.artifacts else ""
    return f"I did not measure what the score is without {whole.replace(' or ', ' and ')}{rest}."


#: Kinds that change a part's colour.
_COLOURED = frozenset({Kind.COLOUR, Kind.REPLACED})


def _compared(ranked: Sequence[Shown]) -> str:
    """Which of several artifacts are the strongest, as the start of a sentence."""
    bands = [strength_band(each.touch.strength) for each in ranked]
    strongest = [each for each, band in zip(ranked, bands, strict=True) if band == bands[0]]
    if len(strongest) < len(ranked):
        return f"Rather {places(strongest)}"
    return "Both alike" if len(ranked) == 2 else "All alike"


#: Regions beyond the edge of a face.
_AROUND = frozenset({Region.HAIRLINE, Region.EARS, Region.NECK})
COUNTED = ("none", "one", "two", "three")
#: Words for the bands of strength (`sentences.strength_band`).
_STRENGTHS = ("slight", "plain", "clear", "glaring")


def about_places(question: Question, known: Known) -> str:
    """The answer about all artifacts at once: where, how many, which the clearest."""
    if not known.deepfake:
        return {
            "where": "No region of this face shows an artifact.",
            "list": "There is none to list: I see no artifact in this face.",
            "rank": "There is none to rank: I see no artifact in this face.",
            "least": "I see no artifact in this face, weak or strong.",
            "most": "Nothing stands out: I see no artifact in this face.",
            "effect": "There is nothing to hide: I see no artifact in this face.",
            "count": "I count none: I see no artifact in this face.",
            "more": "I see no artifact anywhere in this face.",
            "much": "Nothing speaks for a change, small or large: I see no artifact in this face.",
        }[question.form]
    if known.whole:
        why = clearest(known)
        return {
            "most": f"No region more than another: {why}.",
            "effect": f"I cannot hide a single region: {why}.",
            "more": f"No region is an exception: {why}.",
            "much": f"All of it: {why}.",
        }.get(question.form, f"I cannot point to a single region: {why}.")
    if not known.artifacts:
        return "I cannot point to one region; I take the face as a whole for a deepfake."
    where, ranked = places(known.artifacts), sorted(known.artifacts, key=by_strength)
    match question.form:
        case "least" | "rank" if len(ranked) == 1:
            return f"There is only one: {within(ranked[0].sentence)}."
        case "where":
            return varied(question, f"The artifacts are {where}.", f"Look at {parts_of(known.artifacts)}.")
        case "most":
            effects = [shown.effect for shown in ranked if shown.effect]
            if len(effects) > 1 and not any(effect.supported for effect in effects):
                told = "hidden one by one, they lower the score no more than a control region"
                return f"None counts for much alone: {told}. The clearest: {within(ranked[0].sentence)}."
            most = _weightiest(ranked)
            measured = f" {_effect(most, known)}" if most.effect else ""
            return f"Above all, {within(most.sentence)}.{measured}"
        case "effect":
            return _effect(_weightiest(ranked), known)
        case "least":
            return f"The weakest of {len(ranked)}: {within(ranked[-1].sentence)}."
        case "rank":
            return f"From the clearest on: {listed(ranked, known)}."
        case "list":
            return capital(f"{listed(known.artifacts, known)}.")
        case "much":
            much = _STRENGTHS[strength_band(ranked[0].touch.strength)]
            seen = f"a {much} artifact" if len(ranked) == 1 else f"{much} artifacts"
            return f"I see {seen} {where}: {within(ranked[0].sentence)}. A person must judge how serious that is."
        case "count":
            number = len(known.artifacts)
            return f"I see {COUNTED[number]} artifact{'s' if number > 1 else ''}: {where}."
        case _:
            return varied(
                question,
                f"I see artifacts {where}, and none in the rest of the face.",
                f"I see artifacts only {where}.",
            )
