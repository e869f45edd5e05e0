"""Facts become words and words become tokens, and nothing is added on the way."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from moderation.analysis import Label, Region, Technique
from moderation.dfa.gpt.grounding.facts import Kind, Touch
from moderation.dfa.gpt.grounding.known import artifacts, description
from moderation.dfa.gpt.grounding.sentences import NOUNS, worded
from moderation.dfa.gpt.layouts import train_tokenizer
from moderation.dfa.gpt.prompts import load_prompts
from moderation.dfa.gpt.replies import read_reply
from moderation.dfa.gpt.script import Codec
from moderation.dfa.instruct.builder import build, read_llava, read_picture
from moderation.dfa.instruct.filters import contradicts, leaks
from moderation.dfa.instruct.sources import UNKNOWN_TERMS
from moderation.dfa.instruct.talk import dialogue
from moderation.dfa.train.sequences import CLASSIFIED, DESCRIBED, SAID, pad, tokenise
from moderation.errors import SetupProblem
from tests.dfa.drawn_faces import a_pool

PROMPTS = load_prompts()
IMAGE_TOKEN = 4


@pytest.fixture(scope="module")
def codec() -> Codec:
    return Codec(train_tokenizer(PROMPTS.texts(), 1024), start=1)


@pytest.mark.parametrize("region", list(NOUNS))
def test_a_description_is_read_back_as_the_region_it_was_written_for(region: Region) -> None:
    text = description([Touch(region, Kind.SOFTER, 0.5)], PROMPTS)

    reply = read_reply(text)

    assert reply is not None
    assert [artifact.regions for artifact in reply.artifacts] == [(region,)]


def test_a_bona_fide_face_has_no_artifacts() -> None:
    reply = read_reply(description([], PROMPTS))

    assert reply is not None
    assert reply.artifacts == ()


def test_a_region_is_named_once_and_the_seam_first() -> None:
    facts = [
        Touch(Region.MOUTH, Kind.SOFTER, 0.9),
        Touch(Region.MOUTH, Kind.COLOUR, 0.2),
        Touch(Region.FACE_BOUNDARY, Kind.SEAM, 0.1),
    ]

    headings = [heading for heading, _ in artifacts(facts, PROMPTS)]

    assert headings == ["Face Boundary", "Mouth and Lips"]


@pytest.mark.parametrize("kind", list(Kind))
def test_no_sentence_tells_of_a_second_picture(kind: Kind) -> None:
    assert not any(
        leaks(worded(touch, [touch]))
        for touch in (Touch(region, kind, strength) for region in NOUNS for strength in (0.0, 1.0))
    )


def test_a_conversation_begins_with_the_verdict_or_with_a_free_question() -> None:
    rng = np.random.default_rng(0)

    for _ in range(50):
        turns = dialogue(deepfake=True, technique=Technique.FS, facts=None, prompts=PROMPTS, rng=rng)
        assert turns[0][1] == "Yes." if turns[0][0] in PROMPTS.detection else turns[0][1].endswith(".")


def test_what_is_not_known_is_not_asked() -> None:
    rng = np.random.default_rng(0)

    turns = [
        turn
        for _ in range(50)
        for turn in dialogue(deepfake=True, technique=None, facts=None, prompts=PROMPTS, rng=rng)
    ]

    assert not {question for question, _ in turns} & set(PROMPTS.description)
    assert not {answer for _, answer in turns} & set(PROMPTS.technique_answers.values())


def test_only_answers_are_learnt(codec: Codec) -> None:
    turns = [("Has this face been forged?", "Yes."), (PROMPTS.description[0], "There are no artifacts.")]

    sequence = tokenise(turns, PROMPTS, codec, image_token=IMAGE_TOKEN, patches=9)

    learnt = [token for token, weight in zip(sequence.tokens, sequence.weights, strict=True) if weight]
    assert (
        codec.tokenizer.decode(learnt, skip_special_tokens=False) == " Yes.</s> There are no artifacts.</s>"
    )
    assert sequence.tokens.count(IMAGE_TOKEN) == 9
    assert sequence.verdict is not None
    assert codec.decode([sequence.tokens[sequence.verdict]]) == " Yes"


def test_an_answer_weighs_what_its_task_does_however_long_it_is(codec: Codec) -> None:
    turns = [
        (PROMPTS.classification[1], "Face editing is used."),
        (PROMPTS.description[0], "1. **Nose**: The nose is softer than the face around it."),
        ("Do the eyes look natural?", "Yes."),
        ("And the mouth?", "Yes, I see no artifact in the mouth."),
    ]

    sequence = tokenise(turns, PROMPTS, codec, image_token=IMAGE_TOKEN, patches=3)

    weights = [weight for weight in sequence.weights if weight]
    assert sum(weights) == pytest.approx(CLASSIFIED + DESCRIBED + 2 * SAID)
    assert weights[0] > weights[-1]  # a short answer's token decides more


def test_training_shows_the_tokens_that_are_served(codec: Codec) -> None:
    turns = [(PROMPTS.detection[0], "No."), (PROMPTS.description[0], "There are no artifacts.")]

    sequence = tokenise(turns, PROMPTS, codec, image_token=IMAGE_TOKEN, patches=1)

    assert sequence.tokens == codec.encode(PROMPTS.dialogue(turns))


def test_padding_carries_no_weight(codec: Codec) -> None:
    short = tokenise([(PROMPTS.detection[0], "No.")], PROMPTS, codec, image_token=IMAGE_TOKEN, patches=2)
    long = tokenise(
        [(PROMPTS.detection[0], "Yes."), (PROMPTS.classification[0], "Face editing is used.")],
        PROMPTS,
        codec,
        image_token=IMAGE_TOKEN,
        patches=2,
    )

    padded = pad([short, long], padding=3)

    assert padded.mask.sum(dim=1).tolist() == [len(short.tokens), len(long.tokens)]
    assert padded.weights[0, len(short.tokens) :].sum() == 0
    assert padded.rows.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("deepfake", "text", "expected"),
    [
        pytest.param(True, "There are no artifacts.", True, id="a deepfake without artifacts"),
        pytest.param(
            False, "1. **Nose**: The nose is a little too smooth.", True, id="artifacts on bona fide"
        ),
        pytest.param(True, "1. **Nose**: The nose is a little too smooth.", False, id="a described deepfake"),
        pytest.param(False, "There are no artifacts.", False, id="a clean bona fide"),
    ],
)
def test_a_description_may_not_contradict_the_label(*, deepfake: bool, text: str, expected: bool) -> None:
    assert contradicts(deepfake=deepfake, description=text, none=PROMPTS.no_artifacts) is expected


def test_building_goes_on_where_it_stopped(tmp_path: Path) -> None:
    pool = a_pool()
    build(pool, tmp_path / "broken", PROMPTS, split="train", twos=3, seed=1)
    build(pool, tmp_path / "broken", PROMPTS, split="train", twos=6, seed=1)

    build(pool, tmp_path / "whole", PROMPTS, split="train", twos=6, seed=1)

    for name in ("conversations.json", "manifest.jsonl"):
        assert (tmp_path / "broken" / name).read_text() == (tmp_path / "whole" / name).read_text()


def test_building_does_not_go_on_with_other_settings(tmp_path: Path) -> None:
    pool = a_pool()
    go_on = partial(build, pool, tmp_path, PROMPTS, split="train")
    go_on(twos=3, seed=1)

    with pytest.raises(SetupProblem, match="begun with seed 1"):
        go_on(twos=3, seed=2)
    with pytest.raises(SetupProblem, match="holds 3 pairs already"):
        go_on(twos=2, seed=1)


def test_building_does_not_go_on_with_a_pool_of_other_labels(tmp_path: Path) -> None:
    pool = a_pool()
    build(pool, tmp_path, PROMPTS, split="train", twos=2, seed=1)
    first, *others = pool.rows
    corrected = replace(pool, rows=(replace(first, label=Label.DEEPFAKE), *others))

    for twos in (2, 3):
        with pytest.raises(
            SetupProblem, match=f"other pictures, labels or tables of {first.source}: name another"
        ):
            build(corrected, tmp_path, PROMPTS, split="train", twos=twos, seed=1)

    # An older release did not keep what the pool held.
    (tmp_path / "settings.json").write_text(
        json.dumps({"split": "train", "seed": 1, "prompts": PROMPTS.version})
    )
    build(corrected, tmp_path, PROMPTS, split="train", twos=2, seed=1)


def test_a_pool_of_unlisted_folders_is_told_what_they_lack(tmp_path: Path) -> None:
    pool = a_pool()
    unlisted = {"source": "mine", "origin": "mine", "terms": UNKNOWN_TERMS}
    mine = replace(pool, rows=tuple(replace(row, **unlisted) for row in pool.rows))

    with pytest.raises(SetupProblem, match=r"no table \[sources\.FOLDER\] for mine: .* with --sources"):
        build(mine, tmp_path, PROMPTS, split="train", twos=1, seed=1)


def test_the_manifest_and_the_conversations_belong_together(tmp_path: Path) -> None:
    counts = build(a_pool(), tmp_path, PROMPTS, split="train", twos=5, seed=2)

    entries = [json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines()]
    told = list(read_llava(tmp_path / "conversations.json"))
    assert len(entries) == len(told) == counts["pictures written"]
    assert {entry["label"] for entry in entries} == {"deepfake", "bona_fide"}
    assert all(entry["split"] == "train" and entry["terms"] for entry in entries)
    for entry, (picture, turns) in zip(entries, told, strict=True):
        assert read_picture(picture, 64).shape == (64, 64, 3)
        (question, answer), *_ = turns
        assert question not in PROMPTS.detection or answer == (
            "Yes." if entry["label"] == "deepfake" else "No."
        )
