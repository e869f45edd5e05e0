"""Questions that people ask about a face: thousands, by family.

They are drawn from the grammar in `questions.toml`, or stand in `asked.toml` as people type them.
"""

import itertools
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from moderation.analysis import Region, Technique
from moderation.dfa.gpt.grounding.known import Question
from moderation.dfa.gpt.grounding.sentences import Noun
from moderation.dfa.instruct.draws import Rng, picked

GRAMMAR, TYPED = (Path(__file__).with_name(name) for name in ("questions.toml", "asked.toml"))

#: Words that may come before and after a question.
OPENERS = (
    "Hi, ", "Hello, ", "Please, ", "OK, ", "Hmm, ", "Quick question: ", "So, ", "Thanks. ", "Sorry, ", "Well, ", "And ",
    "Please tell me: ", "One more thing: ", "I wonder: ", "Next: ", "Be honest: ", "A question: ",
)  # fmt: skip
CLOSERS = (
    " Thanks.", " Please be brief.", " I need to know.", " Just asking.", " Thank you!", " In a sentence, please.",
)  # fmt: skip


@dataclass(frozen=True)
class _Grammar:
    nouns: Mapping[Region, Sequence[Noun]]
    #: Wordings by family and form.
    wordings: Mapping[str, Mapping[str, Sequence[str]]]
    #: Names of the techniques, by family.
    techniques: Mapping[str, Mapping[Technique, Sequence[str]]]


def families() -> list[str]:
    return list(_grammar().wordings)


def regions() -> list[Region]:
    """Regions that questions name."""
    return list(_grammar().nouns)


def drawn(
    family: str,
    rng: Rng,
    *,
    region: Region | None = None,
    other: Region | None = None,
    technique: Technique | None = None,
) -> Question:
    """A random question of a family, about these regions or this technique when the family names any."""
    grammar = _grammar()
    # A form is as likely as it has wordings, so that every wording is equally likely.
    places = [
        (form, index)
        for form, wordings in grammar.wordings[family].items()
        for index in range(len(wordings))
        if family != "detail" or _detail(form)[0] is region
    ]
    form, index = picked(places, rng)
    noun = None if region is None or family == "detail" else _one_of(grammar.nouns[region], rng, first=0.5)
    second = None if other is None else (other, _one_of(grammar.nouns[other], rng, first=0.5))
    called = "" if technique is None else _one_of(grammar.techniques[family][technique], rng)
    text = _filled(_resolved(grammar.wordings[family][form][index], rng), noun, second, called)
    asked = _detail(form)[1] if family == "detail" else form
    return Question(text, family, asked, index, region, noun, () if second is None else (second,), technique)


def detailed() -> list[Region]:
    """Regions with questions about their details."""
    return list(dict.fromkeys(_detail(form)[0] for form in _grammar().wordings["detail"]))


def _detail(form: str) -> tuple[Region, str]:
    region, asked = form.rsplit("_", 1)
    return Region(region), asked


def as_typed(text: str, rng: Rng) -> str:
    """The question as people type it in a hurry: with a greeting, in lower case, without punctuation, or misspelt."""
    if rng.random() < 0.15:
        opener = _one_of(OPENERS, rng)
        text = opener + (text if opener.endswith(". ") else _small(text))
    if rng.random() < 0.06:
        text += _one_of(CLOSERS, rng)
    if rng.random() < 0.10:
        text = _misspelt(text, rng)
    if rng.random() < 0.18:
        text = text.lower()
    if rng.random() < 0.15:
        text = text.rstrip("?.! ") or text
    return text.upper() if rng.random() < 0.01 else text


def typed() -> Iterator[tuple[str, str]]:
    """The questions of `asked.toml`, each after its intent, "family/form"."""
    for family, forms in tomllib.loads(TYPED.read_text(encoding="utf-8")).items():
        for form, questions in forms.items():
            for question in questions:
                yield f"{family}/{form}", question


def every() -> Iterator[Question]:
    """Every question of the grammar once, before `as_typed`."""
    grammar = _grammar()
    for family, forms in grammar.wordings.items():
        for form, wordings in forms.items():
            for index, wording in enumerate(wordings):
                for text in _expanded(wording):
                    yield from _named(text, family, form, index)


def _named(text: str, family: str, form: str, index: int) -> Iterator[Question]:
    grammar = _grammar()
    if family == "region":
        for region, nouns in grammar.nouns.items():
            for noun in nouns:
                yield Question(_filled(text, noun, None, ""), family, form, index, region, noun)
    elif family == "compare":
        named = [(region, noun) for region, nouns in grammar.nouns.items() for noun in nouns]
        for (region, noun), other in itertools.product(named, repeat=2):
            if region is not other[0]:
                asked = _filled(text, noun, other, "")
                yield Question(asked, family, form, index, region, noun, (other,))
    elif family == "detail":
        yield Question(_filled(text, None, None, ""), family, _detail(form)[1], index, _detail(form)[0])
    elif family in grammar.techniques:
        for technique, names in grammar.techniques[family].items():
            for name in names:
                yield Question(_filled(text, None, None, name), family, form, index, technique=technique)
    else:
        yield Question(_filled(text, None, None, ""), family, form, index)


def _filled(text: str, noun: Noun | None, other: tuple[Region, Noun] | None, technique: str) -> str:
    text = text.replace("{technique}", technique)
    if other is not None:
        text = text.replace("{that}", f"the {other[1].word}")
    text = text if noun is None else noun.inflected(text)
    return text[:1].upper() + text[1:]


#: An innermost choice, without another choice inside.
_CHOICE = re.compile(r"\(([^()]*)\)")


def _resolved(text: str, rng: Rng) -> str:
    """The text with every choice made at random."""
    while match := _CHOICE.search(text):
        text = text[: match.start()] + _one_of(match[1].split("|"), rng) + text[match.end() :]
    return text


def _expanded(text: str) -> Iterator[str]:
    match = _CHOICE.search(text)
    if match is None:
        yield text
        return
    for choice in match[1].split("|"):
        yield from _expanded(text[: match.start()] + choice + text[match.end() :])


def _one_of(choices: Sequence[Any], rng: Rng, *, first: float = 0.0) -> Any:
    """A random choice. The first is taken with probability `first`, or like the others otherwise."""
    return choices[0] if rng.random() < first else picked(choices, rng)


def _small(text: str) -> str:
    return text if text[:2] in {"I ", "I'"} or text[:2].isupper() else text[:1].lower() + text[1:]


def _misspelt(text: str, rng: Rng) -> str:
    """The text with one longer word misspelt: two letters swapped, one left out, or one doubled."""
    words = list(re.finditer(r"[A-Za-z]{4,}", text))
    if not words:
        return text
    word = picked(words, rng)
    place = int(rng.integers(word.start() + 1, word.end() - 1))
    how = int(rng.integers(3))
    if how == 0:
        return text[:place] + text[place + 1] + text[place] + text[place + 2 :]
    return text[:place] + text[place + 1 :] if how == 1 else text[:place] + text[place] + text[place:]


@cache
def _grammar() -> _Grammar:
    tables = tomllib.loads(GRAMMAR.read_text(encoding="utf-8"))
    nouns = tables.pop("nouns")
    techniques = {family: forms.pop("words") for family, forms in tables.items() if "words" in forms}
    return _Grammar(
        nouns={
            Region(name): tuple(Noun(word.rstrip("*"), plural=word.endswith("*")) for word in words)
            for name, words in nouns.items()
        },
        wordings=tables,
        techniques={
            family: {Technique(name): words for name, words in named.items()}
            for family, named in techniques.items()
        },
    )
