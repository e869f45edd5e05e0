"""Conversations in tokens, with a weight on every token that is learnt: answers alone, the verdict most of all.

B sequences, T tokens, P visual tokens.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from moderation.dfa.gpt.prompts import PromptSet
from moderation.dfa.gpt.script import Codec


@dataclass(frozen=True)
class Tokenised:
    """One conversation."""

    tokens: tuple[int, ...]
    #: Weight of predicting each token; 0 for what people say. Those of one answer sum to its task's.
    weights: tuple[float, ...]
    #: Index of the DF-D answer word. None when the conversation does not begin with DF-D.
    verdict: int | None


@dataclass(frozen=True)
class Padded:
    """Conversations side by side, padded at the end."""

    tokens: Tensor  # (B, T) int64
    mask: Tensor  # (B, T) int64: 1 where there is a token
    weights: Tensor  # (B, T) float32
    #: Index of the token that predicts the verdict.
    verdicts: Tensor  # (V,) int64
    rows: Tensor  # (V,) int64: which sequences have a verdict


#: What an answer weighs, however long it is: the few words that a picture decides must not drown in fluent ones.
CLASSIFIED, DESCRIBED, SAID = 2.0, 3.0, 1.0


def tokenise(
    turns: Sequence[tuple[str, str]],
    prompts: PromptSet,
    codec: Codec,
    *,
    image_token: int,
    patches: int,
) -> Tokenised:
    """A conversation with the picture's place widened to P tokens."""
    text, spans = _spans(turns, prompts)
    encoding = codec.tokenizer.encode(text, add_special_tokens=False)
    tokens: list[int] = [] if codec.start is None else [codec.start]
    answers: list[int | None] = [None] * len(tokens)  # the turn that each token answers
    verdict = None
    for token, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True):
        if token == image_token:
            tokens += [token] * patches
            answers += [None] * patches
            continue
        turn = next((index for index, (begin, end) in enumerate(spans) if start < end and stop > begin), None)
        if turn is not None and verdict is None:
            verdict = len(tokens)
        tokens.append(token)
        answers.append(turn)
    weights = _weights(answers, [_task_weight(question, prompts) for question, _ in turns])
    detects = turns[0][0] in prompts.detection
    return Tokenised(tuple(tokens), weights, verdict if detects else None)


def _task_weight(question: str, prompts: PromptSet) -> float:
    if question in prompts.classification:
        return CLASSIFIED
    return DESCRIBED if question in prompts.description else SAID


def _weights(answers: Sequence[int | None], heavy: Sequence[float]) -> tuple[float, ...]:
    """Each token's share of its answer's weight."""
    lengths = Counter(answers)
    return tuple(0.0 if turn is None else heavy[turn] / lengths[turn] for turn in answers)


def _spans(turns: Sequence[tuple[str, str]], prompts: PromptSet) -> tuple[str, list[tuple[int, int]]]:
    """The text of a conversation and where its answers are, each with the mark that ends it."""
    text, spans = "", list[tuple[int, int]]()
    for question, answer in turns:
        text += prompts.ask(question) if text else prompts.open(question)
        spans.append((len(text), len(text) + len(prompts.reply(answer)) + len(prompts.end)))
        text += prompts.reply(answer)
    return text + prompts.end, spans


def pad(sequences: Sequence[Tokenised], *, padding: int) -> Padded:
    tokens = [torch.tensor(sequence.tokens) for sequence in sequences]
    weights = [torch.tensor(sequence.weights) for sequence in sequences]
    answered = [(row, s.verdict - 1) for row, s in enumerate(sequences) if s.verdict is not None]
    return Padded(
        tokens=pad_sequence(tokens, batch_first=True, padding_value=padding),
        mask=pad_sequence([torch.ones_like(each) for each in tokens], batch_first=True),
        weights=pad_sequence(weights, batch_first=True),
        verdicts=torch.tensor([place for _, place in answered], dtype=torch.int64),
        rows=torch.tensor([row for row, _ in answered], dtype=torch.int64),
    )
