"""Free conversation about one face: what was said, bounded, in the form the model was trained on.

The model gets the picture, earlier turns and the question, and nothing else: no tools, no verdict of ours, no text
from the case.
"""

from collections.abc import Sequence
from dataclasses import dataclass

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


def ask(prompts: PromptSet, codec: Codec, image_token: int, turns: Sequence[Turn], question: str) -> Asked:
    """The newest turns and the question. Raise RequestRefused for a question that is empty or too long."""
    if not question.strip() or len(question) > LONGEST_QUESTION:
        raise RequestRefused(f"A question has 1 to {LONGEST_QUESTION} characters.")
    said = [(_plain(prompts, turn.question), _plain(prompts, turn.answer)) for turn in turns[-MOST_TURNS:]]
    questions = [*(text for text, _ in said), _plain(prompts, question)]
    text = prompts.open(questions[0])
    for (_, answer), following in zip(said, questions[1:], strict=True):
        text += prompts.reply(answer) + prompts.ask(following)
    tokens = codec.encode(text)
    place = tokens.index(image_token)
    return Asked(before=tokens[:place], after=tokens[place + 1 :])


def _plain(prompts: PromptSet, text: str) -> str:
    """Without the marks that structure a conversation: a question must not end a turn or place a picture."""
    for mark in (prompts.image, prompts.end, "<s>", "<unk>", "<pad>", "USER:", "ASSISTANT:"):
        text = text.replace(mark, " ")
    return " ".join(text.split())
