"""Free conversation about one face, bounded, in the form the model was trained on.

The model gets only the picture, its own analysis of it, earlier turns and the question: no tools, no verdict of ours,
no text from the case.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from moderation.analysis import Artifact, FaceAnalysis, Label
from moderation.dfa.gpt.claims import beyond_the_face, contradiction, is_sentence
from moderation.dfa.gpt.prompts import PromptSet
from moderation.dfa.gpt.script import Codec, Tokens
from moderation.errors import RequestRefused

#: Characters of one question. A longer one is not a question about a face.
LONGEST_QUESTION = 500
#: Most earlier turns that the model gets, the newest ones. It was not trained on more.
MOST_TURNS = 8
#: Most tokens of a reply, even when the caller asks for more.
LONGEST_REPLY = 512


@dataclass(frozen=True)
class Turn:
    """A question and the model's answer to it."""

    question: str
    answer: str


@dataclass(frozen=True)
class Asked:
    """A conversation in tokens before and after its picture, up to the next answer's position."""

    before: Tokens
    after: Tokens


def served_turns(prompts: PromptSet, face: FaceAnalysis) -> tuple[Turn, ...]:
    """The analysis of a face, as the turns that begin a conversation about it.

    They hold only the shown artifacts: the conversation must not mention the others. Empty without a verdict.
    """
    if face.verdict.label is Label.UNDETERMINED:
        return ()
    deepfake = face.verdict.label is Label.DEEPFAKE
    turns = [Turn(prompts.detection[0], prompts.verdict_answer(deepfake=deepfake))]
    if face.verdict.technique is not None:
        turns.append(Turn(prompts.classification[0], prompts.technique_answers[face.verdict.technique]))
    if face.rationale or (face.reply is not None and not deepfake):
        listed = prompts.artifacts_answer([(artifact.heading, artifact.text) for artifact in face.rationale])
        turns.append(Turn(prompts.description[0], listed))
    return tuple(turns)


def checked(prompts: PromptSet, question: str) -> str:
    """The question in one line, without marks. Raise RequestRefused when it is empty or too long."""
    if not question.strip() or len(question) > LONGEST_QUESTION:
        raise RequestRefused(f"A question has 1 to {LONGEST_QUESTION} characters.")
    return _plain(prompts, question)


def ask(
    prompts: PromptSet,
    codec: Codec,
    image_token: int,
    turns: Sequence[Turn],
    question: str,
    *,
    served: Sequence[Turn] = (),
) -> Asked:
    """The served turns, the newest turns and the question."""
    earlier = [(turn.question, _unmarked(prompts, turn.answer)) for turn in served]
    earlier += [
        (_plain(prompts, turn.question), _plain(prompts, turn.answer)) for turn in turns[-MOST_TURNS:]
    ]
    questions = [*(text for text, _ in earlier), _plain(prompts, question)]
    text = prompts.open(questions[0])
    for (_, answer), following in zip(earlier, questions[1:], strict=True):
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
    """The part of an answer that a reviewer is shown. None when there is no usable answer.

    Unusable is an answer that is empty, a fragment, a list or markup, that repeats itself, that contradicts the model's
    analysis of the face, or that judges something outside the face. An incomplete answer is shown up to its last whole
    sentence.

    Args:
        text: the answer as written.
        complete: the answer was not cut off.
        deepfake: the verdict on the face. None when there is none.
        artifacts: the shown artifacts. None when the model was not asked for them.
    """
    written = text.strip()
    if not complete:
        written = written[: max(written.rfind(mark) for mark in ".!?") + 1]
    if not is_sentence(written) or beyond_the_face(written) is not None:
        return None
    against = contradiction(written, deepfake=deepfake, artifacts=artifacts)
    return written if against is None else None


#: A special token of some tokenizer: <|im_end|>, <image>, <file_sep> …
_TOKEN = re.compile(r"</?[^<>\s]{1,40}>")


def _plain(prompts: PromptSet, text: str) -> str:
    """The text in one line, without the marks that structure a conversation."""
    return " ".join(_unmarked(prompts, text).split())


def _unmarked(prompts: PromptSet, text: str) -> str:
    """The text without the marks that structure a conversation: it must not end a turn or place a picture."""
    for mark in (prompts.image, prompts.end, "USER:", "ASSISTANT:"):
        text = text.replace(mark, " ")
    return _TOKEN.sub(" ", text)
