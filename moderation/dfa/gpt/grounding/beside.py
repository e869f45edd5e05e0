"""Answers that say nothing of this face: what a picture cannot show, how techniques differ, what the model is."""

import re
from collections.abc import Mapping

from moderation.analysis import Technique
from moderation.dfa.gpt.grounding.known import Question
from moderation.dfa.gpt.grounding.phrases import joined, varied

#: What the model cannot do, by the form of the question.
LIMITS: Mapping[str, str] = {
    "open": "I can be wrong: what I never learnt may escape me, now and then I suspect a face without cause, and "
    "outside the face I see nothing. So a person decides.",
    "rates": "I know no rate for a single picture: my model card tells how many forgeries I miss, and how often I "
    "suspect a genuine face.",
    "bias": "That may be: I learnt from faces that are not evenly spread over people and cameras, so I may err more "
    "often with some than with others.",
}
#: What else than a forgery changes how a face looks, by the words for it.
_CAUSES: Mapping[str, str] = {
    "compression": r"compress\w*|recompress\w*|jpe?gs?|webp|whatsapp|screenshots?|blocky",
    "blur": r"blur\w*|focus|(?:depth|shallow) (?:of )?(?:field|focus)|bokeh|portrait mode|motion|shak\w+",
    "a small size": r"small|tiny|low[- ]?res\w*|pixel\w*|resolution|thumbnail",
    "a filter": r"filter\w*|beauty|grading|graded|presets?|retouch\w*|airbrush\w*|denois\w*|noise re\w+"
    r"|(?:over-?)?sharpen\w*",
    "make-up": r"make-?up|foundation|contour(?:ing)?|lipstick|powder|mascara|eyeshadow",
    "light and shadow": r"shadows?|light(?:s|ing)?|flash|sun(?:light)?|glare|backlit|reflections?",
    "a dark or overexposed picture": r"(?:almost|nearly|all|too) black|dark\w*|dim|night\w*|\w*expos\w+|bright\w*",
    "a grey or tinted picture": r"black[- ]and[- ]white|bw|b&w|gr[ae]yscale|sepia|monochrome|colou?rs?|tint\w*",
    "an odd angle": r"turned|profile|sideways|angles?|tilt\w*|upside|(?:look|fac)(?:ing|s) (?:away|down|up)|rotated",
    "what covers or crops a face": r"(?<!blended )masks?|hats?|caps?|hands?|\w*glasses|lenses|fringe|beard|veil"
    r"|cover\w*|half|crop\w*|hid(?:es?|den)|cut off|closed|shut|bars?|borders?",
    "age, health or treatment": r"child(?:'s|ren)?|bab(?:y|ies)|botox|surgery|sunburn\w*|acne|allerg\w*|weathered",
    "a scan, grain or noise": r"scan\w*|prints?|printed|film|grain\w*|nois[ey]\w*",
}
#: Where a person looks for a forgery by each technique; None: by any.
SIGNS: Mapping[Technique | None, str] = {
    Technique.FS: "Compare the inner face with the hair, the ears and the neck around it: a swap changes it alone.",
    Technique.FR: "Compare the mouth and the eyes with the face around them: they are what reenactment draws again.",
    Technique.FE: "Compare each feature with the face around it: editing changes one and leaves the others.",
    Technique.EFS: "Look for one fine pattern all over the picture, and for details that do not go together.",
    None: "Compare the parts of the face with each other and with what is around it: most forgeries spare some.",
}
#: What it does instead of measuring the trace of one kind that a question names.
METHOD = (
    "I do not measure that by itself: I learnt from genuine and forged faces what tells them apart, and "
    "compare each part of a face with what is around it."
)
REPEATED = "What I say comes from one analysis of this very picture, which neither another question nor a word changes."
#: What artifacts are as evidence, by the form of the question.
EVIDENCE: Mapping[str, str] = {
    "why": "What a computer draws or blends in seldom has the detail, the texture and the light of what the camera saw "
    "around it.",
    "genuine": "In a genuine picture detail, texture and light of {the} go with those of what is around {it}.",
    "visible": "Some of what I compare is too fine for the eye, and some shows only in full size.",
    "enough": "My verdict rests on the whole face and not on the number of artifacts, and no single one proves it.",
}
SCOPE = (
    "I looked at the pixels of the whole face, at every region of it, and at nothing else, neither in the picture nor "
    "in the file."
)
DEEPFAKE = (
    "Deepfakes are pictures of faces that a computer made or changed; a filter, other light or a crop makes "
    "none."
)
_POSITIVES = (
    "A false positive is a genuine face that is called a deepfake, and a false negative is a deepfake that is called "
    "bona fide."
)
_GENERATORS = (
    "GANs and diffusion models both draw whole pictures, one at once and the other step by step out of noise; I do not "
    "tell them apart."
)
#: How two words of the field differ, if both are named.
DIFFERENCES: Mapping[str, str] = {
    r"positives?\b.*\bnegatives?|negatives?\b.*\bpositives?": _POSITIVES,
    r"GANs?\b.*\bdiffusion|diffusion\b.*\bGANs?": _GENERATORS,
}
#: What words of the field mean. The first of them that a question has is explained.
MEANINGS: Mapping[str, str] = {
    r"positives?|negatives?|false alarms?": _POSITIVES,
    r"GANs?|diffusion": _GENERATORS,
    r"hid(?:e|den|ing)|effects?|control(?: region)?|supported": "The effect of an artifact is how far the score moves "
    "when its region is hidden; it is supported when hiding a control region of the same size moves it clearly less.",
    r"calibrat\w+": "Calibrated means that the score was fitted on labelled pictures: among such pictures it is the "
    "share that are deepfakes.",
    r"AUC|ROC": "AUC is how often a forged picture scores higher than a genuine one; a coin reaches one half.",
    r"(?:confidence )?intervals?|error bars?": "An interval says how far a measured rate may be off by chance; a "
    "score of one picture has none.",
    r"thresholds?|cut-?offs?": "The threshold is the score from which on I say deepfake.",
    r"undetermined|undecided": "Undetermined means that I do not decide: the score lies between those of deepfakes "
    "and of bona fide faces, or the picture is unlike those I learnt from.",
    r"bona ?fide": "By bona fide I mean a face in which I found nothing; that does not prove that nothing was edited.",
    r"deepfakes?|fakes?": DEEPFAKE,
    r"softer|softness": "Softer means that a part shows less fine detail than the face around it.",
    r"art[ie]facts?|traces?|soft|sharp\w*|blur\w*|smooth\w*|texture": "An artifact is a trace of a forgery: a "
    "part of the face that is softer, sharper, smoother, bent or otherwise coloured than what is around it.",
    r"boundary|borders?|edges?|seams?|blend\w*": "By the edge I mean where the face meets the hair, the ears, the neck "
    "and the background; what was laid over a face ends there.",
    r"regions?": "A region is a part of the face that I can name, such as the nose, the mouth or the edge.",
    r"scores?|confidence|certainty": "The score runs from 0 to 1: the higher it is, the more speaks for a forgery.",
    r"appeals?": "An appeal asks people to look again at a decision; I only say what I see in the face.",
}
_OF_ITSELF: Mapping[str, str] = {
    "model": "I am a program and no person: a model that learnt from genuine and from forged faces. What I learnt from "
    "stands on my model card, and my version in the record of the analysis.",
    "console": "I only answer questions about this face, and can do nothing else here: the console's own buttons can. "
    "The decision is yours.",
    "distress": "I am sorry that you have to see this. Nobody has to go on alone: a colleague can take over this case.",
    "map": "The map shows how foreign each part of the picture looks to me; it is an aid, and proves nothing.",
    "insult": "I am sorry that this does not help you. Ask me about a region, or judge the face yourself.",
    "language": "I can only answer in English; ask me in English if you can.",
    "stored": "I do not know who sees or keeps pictures: ask the people who run this service.",
}


def about_itself(question: Question) -> str:
    """The answer to a question about the model, or to a word to it that is no question."""
    if question.form in _OF_ITSELF:
        return _OF_ITSELF[question.form]
    if question.form == "thanks":
        return varied(question, "You are welcome. The decision is yours.", "Gladly; ask me about any region.")
    return varied(
        question,
        "I am a program that looks at one face for traces of forgery: ask me about a region or the verdict.",
        "I am a program: I examine this face for forgery, and answer what can be seen in it.",
    )


def causes_named(text: str, last: str = "and") -> str | None:
    """The first two of `_CAUSES` that a text names, as "blur and compression". None: it names none."""
    found = [cause for cause, words in _CAUSES.items() if re.search(rf"\b(?:{words})(?!\w)", text, re.I)]
    return joined(found[:2], last) if found else None


def is_alternative(text: str) -> bool:
    """True when a text asks whether a forgery or one of `_CAUSES` is what is seen: "make-up or manipulation?"."""
    return _OR_FORGED.search(text) is not None and causes_named(text) is not None


_FORGED = r"(?:manipulat|tamper|edit|fake|forg|artifact|artefact|swap|splic|generat|synthe|deepfake)\w*|AI"
_OR_FORGED = re.compile(
    rf"\bor (?:is (?:it|that|this) )?(?:just |really |actually |some |an? |the |digital )*(?:{_FORGED})\b"
    rf"|\b(?:{_FORGED}),? or\b",
    re.I,
)
#: A question how much something counts.
WEIGHS = re.compile(
    r"\b(?:influenc\w*|affect\w*|matter\w*|counts?|weigh\w*|role|factor|changes?|effects?)\b", re.I
)
#: What that counts in.
SCORED = re.compile(r"\b(?:scores?|scored|verdict|decision)\b", re.I)


def about_things(question: Question) -> str:
    """The answer to a question about what is worn or beside the face. It names what was asked about."""
    if question.unjudged is None:
        return varied(question, *UNKNOWABLE["things"])
    the = f"the {question.unjudged.word}"
    if WEIGHS.search(question.text) and SCORED.search(question.text):
        return (
            f"What {the} may count for I did not measure: I hide whole regions of the face, and nothing else."
        )
    proof = "; that proves nothing either way" if _PROOF.search(question.text) else ""
    return varied(
        question,
        f"I only judge the face itself, not {the} or anything else on or beside it{proof}.",
        f"I do not judge {the}, nor anything else that is worn or beside the face, only the face itself{proof}.",
    )


#: A question whether something shows that a picture is forged, or genuine.
_PROOF = re.compile(
    r"\b(?:proofs?|prove[sn]?|signs?|clues?|evidence|suspicious|means?|indicat\w+|red flags?|giveaways?|suggests?)\b",
    re.I,
)


def also_unknowable(question: Question) -> str:
    """What cannot be told of the second thing that a question asks for, as a sentence. Empty when it asks for one."""
    _, second, rest = question.text.rpartition(" and ")
    if question.family not in _ASKED_TOO or not second:
        return ""
    return next(
        (
            told
            for family, (words, told) in _ASKED_TOO.items()
            if family != question.family and re.search(rf"\b(?:{words})\b", rest, re.I)
        ),
        "",
    )


#: Words of a second thing that a picture cannot show, and what is said of it.
_ASKED_TOO: Mapping[str, tuple[str, str]] = {
    "who": (r"names?|identit\w+|who (?:he|she|they|this|it) (?:is|are)", "Nor can I tell who it is."),
    "attributes": (r"ages?|how old|nationality|gender|mood", "Nor do I describe people."),
    "where": (r"where|place|location|country|city", "Nor can I tell where it was taken."),
    "when": (r"when|year|date|time", "Nor can I tell when it was taken."),
    "intent": (r"intent\w*|motives?|purpose|consent", "Nor can I tell what was intended."),
    "maker": (r"who (?:took|made|posted|shot)|photographer|camera|account", "Nor can I tell who made it."),
    "sanction": (r"ban|block|remove|delete|report|suspend", "What to do a person decides."),
}


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
        "I cannot tell where this picture was taken, nor on what occasion.",
        "Neither the place nor the occasion can be told from the face; I only look for forgery.",
    ),
    "when": (
        "I cannot tell when this picture was taken or posted, be it the year or the hour, nor by whom.",
        "When it was taken or posted, in which year or at what hour, cannot be told from the face; nor by whom.",
    ),
    "intent": (
        "I cannot tell why it was made, with whose consent, or what was intended.",
        "A picture does not show anybody's intent, consent or honesty, so I cannot say.",
    ),
    "maker": (
        "I cannot tell who took, made, posted or reported this picture, with what, or where else it was shown.",
        "Who took, made, posted or reported it, with what and when cannot be told from the picture.",
    ),
    "sanction": (
        "What is allowed, and what to do, people decide by rules and law; I only say what I see, and that is no proof.",
        "I cannot decide that, nor what law or rules say: I only examine the face, and a person decides.",
    ),
    "other_media": (
        "I only judge the face that this conversation is about, and no other face, picture, frame or sound.",
        "I cannot say: I judge this one face of this one picture, and no other person, picture, frame or sound.",
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
