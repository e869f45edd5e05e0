"""Free conversation about one face: what was said, bounded, in the form the model was trained on.

The model gets the picture, what it said of it before, earlier turns and the question, and nothing else: no tools, no
verdict of ours, no text from the case.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from moderation.analysis import Artifact, FaceAnalysis, Label
from moderation.dfa.gpt.claims import contradiction, is_sentence
from moderation.dfa.gpt.prompts import PromptSet
from moderation.dfa.gpt.script import Codec, Tokens
from moderation.errors import RequestRefused

#: Characters of one question. A longer one is not a question about a face.
LONGEST_QUESTION = 500
#: Earlier turns that the model is shown, the newest ones. Beyond this it was never trained.
MOST_TURNS = 8
#: Tokens of a reply, whatever the caller asks for.
LONGEST_REPLY = 512


@dataclass(frozen=True)
class Turn:
    """A question and the model's answer to it."""

    question: str
    answer: str


@dataclass(frozen=True)
class Asked:
    """A conversation in tokens, around its picture, up to the place of the next answer."""

    before: Tokens
    after: Tokens


def served_turns(prompts: PromptSet, face: FaceAnalysis) -> tuple[Turn, ...]:
    """What the model said of a face when it was analysed, as the turns that a conversation goes on from.

    Of the artifacts those that are shown: what was left out is not to be talked about. Nothing without a verdict.
    """
    if face.verdict.label is Label.UNDETERMINED:
        return ()
    deepfake = face.verdict.label is Label.DEEPFAKE
    turns = [Turn(prompts.detection[0], prompts.verdict_answer(deepfake=deepfake))]
    if face.verdict.technique is not None:
        turns.append(Turn(prompts.classification[0], prompts.technique_answers[face.verdict.technique]))
    if face.rationale or (face.reply is not None and not deepfake):
        listed = prompts.artifacts_answer([(each.heading, each.text) for each in face.rationale])
        turns.append(Turn(prompts.description[0], listed))
    return tuple(turns)


def ask(
    prompts: PromptSet,
    codec: Codec,
    image_token: int,
    turns: Sequence[Turn],
    question: str,
    *,
    served: Sequence[Turn] = (),
) -> Asked:
    """What was served, the newest turns and the question.

    Raise RequestRefused for a question that is empty or too long.
    """
    if not question.strip() or len(question) > LONGEST_QUESTION:
        raise RequestRefused(f"A question has 1 to {LONGEST_QUESTION} characters.")
    said = [(turn.question, _unmarked(prompts, turn.answer)) for turn in served]
    said += [(_plain(prompts, turn.question), _plain(prompts, turn.answer)) for turn in turns[-MOST_TURNS:]]
    questions = [*(text for text, _ in said), _plain(prompts, question)]
    text = prompts.open(questions[0])
    for (_, answer), following in zip(said, questions[1:], strict=True):
        text += prompts.reply(answer) + prompts.ask(following)
    tokens = codec.encode(text)
    place = tokens.index(image_token)
    return Asked(before=tokens[:place], after=tokens[place + 1 :])


def answer_or_none(
    text: str,
    *,
    complete: bool = True,
    deepfake: bool | None = None,
    artifacts: Sequence[Artifact] | None = None,
) -> str | None:
    """What a reviewer is shown of an answer. None when the model has none.

    That is when it is empty, a fragment, a list or markup, runs in a circle, or contradicts what the same model said of
    the face. An answer that was cut off is shown up to its last whole sentence.

    Args:
        text: the answer as it was written.
        complete: it was not cut off.
        deepfake: the verdict on the face. None when there is none.
        artifacts: those that are shown for it. None when the model was not asked for them.
    """
    written = text.strip()
    if not complete:
        written = written[: max(written.rfind(mark) for mark in ".!?") + 1]
    if not is_sentence(written) or contradiction(written, deepfake=deepfake, artifacts=artifacts) is not None:
        return None
    return written


#: A token of a tokenizer's own: <|im_end|>, <image>, <file_sep> …
_TOKEN = re.compile(r"</?[^<>\s]{1,40}>")


def _plain(prompts: PromptSet, text: str) -> str:
    """In one line, without the marks that structure a conversation."""
    return " ".join(_unmarked(prompts, text).split())


def _unmarked(prompts: PromptSet, text: str) -> str:
    """Without the marks that structure a conversation: what is said must not end a turn or place a picture."""
    for mark in (prompts.image, prompts.end, "USER:", "ASSISTANT:"):
        text = text.replace(mark, " ")
    return _TOKEN.sub(" ", text)
