"""Facts in sentences: all can be said, whatever they hold; what may be disclosed quotes nothing and names nobody."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as some

from moderation.evidence.sentences import (
    CAVEATS,
    KIND_WORDS,
    STRENGTH_WORDS,
    disclosed,
    sentence,
    statement_sentences,
)
from moderation.evidence.words import ClaimedOrigin, Evidence, Fact, FactKind, Status, Strength, Value

NAME = "Marguerite"

#: What facts hold, each name with a value of its kind that carries somebody's name where it is a text.
VALUES: dict[str, Value] = {
    "state": "valid",
    "signer": NAME,
    "signer_name": NAME,
    "made_with": (NAME,),
    "made_before_with": (NAME, NAME),
    "actions": ("c2pa.edited", f"{NAME}.did"),
    "source_types": ("trainedAlgorithmicMedia", NAME),
    "source_types_before": ("digitalCapture",),
    "failures": (NAME,),
    "failures_before": (NAME,),
    "list": NAME,
    "reference": NAME,
    "distance": 7,
    "remote_url": f"https://{NAME}",
    "generators": (NAME,),
    "digest": "ab",
    "make": NAME,
    "model": NAME,
    "taken_at": NAME,
    "programs": (NAME,),
    "changed_at": NAME,
    "names": (NAME,),
    "latitude": 48.2,
    "longitude": 16.4,
    "likeness": 0.4,
    "quality": 85,
    "encoder": "libjpeg",
    "score": 9.5,
    "longer_side": 1350,
    "events": 2,
    "differs": True,
    "platforms": (NAME,),
    "shape": "4:5",
    "why": NAME,
}


def test_every_kind_and_strength_has_its_words() -> None:
    assert set(KIND_WORDS) == set(CAVEATS) == set(FactKind)
    assert set(STRENGTH_WORDS) == set(Strength)


@given(
    some.sampled_from(FactKind),
    some.sampled_from(Status),
    some.sets(some.sampled_from(sorted(VALUES))),
)
def test_a_fact_is_said_whatever_is_missing_of_it(kind: FactKind, status: Status, names: set[str]) -> None:
    fact = Fact(kind, Strength.DECLARED, {name: VALUES[name] for name in names}, status=status)

    assert isinstance(sentence(fact), str)
    assert "None" not in sentence(Fact(kind, Strength.DECLARED, VALUES, status=status))


@pytest.mark.parametrize(
    ("kind", "strength", "origin"),
    list(itertools.product(FactKind, Strength, [*ClaimedOrigin, None])),
    ids=str,
)
def test_what_may_be_disclosed_is_a_sentence_of_ours(
    kind: FactKind, strength: Strength, origin: ClaimedOrigin | None
) -> None:
    said = disclosed(Fact(kind, strength, VALUES, origin))

    assert said is None or NAME not in said
    assert said is None or strength in (Strength.CRYPTOGRAPHIC, Strength.DECLARED)


def test_a_statement_says_the_strongest_first_and_nothing_twice() -> None:
    declared = Fact(FactKind.GENERATOR, Strength.DECLARED, points_to=ClaimedOrigin.SYNTHETIC)
    signed = Fact(FactKind.CONTENT_CREDENTIALS, Strength.CRYPTOGRAPHIC, points_to=ClaimedOrigin.SYNTHETIC)
    camera = Fact(FactKind.CAMERA, Strength.CONTEXT, {"make": NAME})

    said = statement_sentences(Evidence((camera, declared, declared, signed)))

    assert [words.split(",")[0] for words in said] == [
        "Content Credentials in the image",
        "The metadata of the image name a program that generates images.",
    ]
    assert statement_sentences(None) == ()
