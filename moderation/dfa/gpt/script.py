"""A prompt set in a bundle's tokens: every piece that the engine feeds the model, made once when the bundle is loaded.

A tokenizer may merge text across a joint; a prompt cut there would be another prompt. So each piece is a whole
conversation's tokens without those of its beginning. When the beginning's tokens change, the tokenizer is refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from tokenizers import Tokenizer

from moderation.analysis import Technique
from moderation.dfa.gpt.prompts import PromptSet
from moderation.errors import BundleMismatch

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class Script:
    """The conversation about one face, in tokens. A piece goes from one answer's position to the next one's."""

    #: From the start to the picture: the same for every face, so it is computed only once.
    system: Tokens
    #: From the picture to the DF-D answer's position.
    detect: Tokens
    yes: int
    no: int
    #: "Yes." and the DF-C question.
    classify: Tokens
    #: The DF-C answers. Each is scored right after `classify`.
    options: Mapping[Technique, Tokens]
    #: A technique's DF-C answer and the AD question. They follow `classify`.
    explain: Mapping[Technique, Tokens]
    #: "Yes." and the AD question, when techniques are not asked. "No." and the AD question.
    explain_yes: Tokens
    explain_no: Tokens
    #: The token that ends an answer.
    end: int

    def longest(self) -> int:
        """Most tokens that one face needs besides its picture and its rationale."""
        dialogue = len(self.classify) + max(map(len, self.explain.values()))
        tree = len(self.classify) + sum(map(len, self.options.values()))
        return (
            len(self.system)
            + len(self.detect)
            + max(dialogue, tree, len(self.explain_yes), len(self.explain_no))
        )


class Codec:
    """Text to tokens and back. Only the start token is added."""

    def __init__(self, tokenizer: Tokenizer, *, start: int | None) -> None:
        self.tokenizer = tokenizer
        self.start = start

    def encode(self, text: str) -> Tokens:
        """The tokens of a whole conversation, from its start."""
        tokens = self.piece(text)
        return tokens if self.start is None else (self.start, *tokens)

    def piece(self, text: str) -> Tokens:
        """The tokens of a text alone."""
        return tuple(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, tokens: Tokens | list[int]) -> str:
        return self.tokenizer.decode(list(tokens), skip_special_tokens=True)

    def after(self, beginning: str, rest: str) -> Tokens:
        """The tokens that `rest` adds to `beginning`. Raise BundleMismatch when the two merge at their joint."""
        head, whole = self.encode(beginning), self.encode(beginning + rest)
        if whole[: len(head)] != head or len(whole) == len(head):
            raise BundleMismatch(
                f"The tokenizer does not join {beginning[-24:]!r} and {rest[:24]!r}: the joined text gives other "
                "tokens than its two parts. Use the tokenizer.json that belongs to the base model."
            )
        return whole[len(head) :]


def write_script(prompts: PromptSet, codec: Codec, *, image_token: int) -> Script:
    """Tokenise the served prompts. Raise BundleMismatch when the tokenizer does not fit them."""
    opening = prompts.open(prompts.detection[0])
    before, after = _around_the_picture(codec.encode(opening), image_token, prompts.image)
    yes, no = (_answer_word(codec, opening, prompts.reply(word)) for word in (prompts.yes, prompts.no))
    yes_reply, no_reply = (
        prompts.reply(prompts.verdict_answer(deepfake=deepfake)) for deepfake in (True, False)
    )
    classify = yes_reply + prompts.ask(prompts.classification[0])
    describe = prompts.ask(prompts.description[0])
    answers = {technique: prompts.reply(prompts.technique_answers[technique]) for technique in prompts.order}
    return Script(
        system=before,
        detect=after,
        yes=yes,
        no=no,
        classify=_checked(codec.after(opening, classify), yes, prompts.yes),
        options={name: codec.after(opening + classify, text) for name, text in answers.items()},
        explain={name: codec.after(opening + classify, text + describe) for name, text in answers.items()},
        explain_yes=_checked(codec.after(opening, yes_reply + describe), yes, prompts.yes),
        explain_no=_checked(codec.after(opening, no_reply + describe), no, prompts.no),
        end=_end_token(codec, prompts.end),
    )


def _around_the_picture(tokens: Tokens, image_token: int, placeholder: str) -> tuple[Tokens, Tokens]:
    if tokens.count(image_token) != 1:
        raise BundleMismatch(
            f"The tokenizer does not turn {placeholder!r} into the one image token {image_token} that config.json "
            "names. Use the tokenizer.json that belongs to the base model."
        )
    place = tokens.index(image_token)
    return tokens[:place], tokens[place + 1 :]


def _answer_word(codec: Codec, opening: str, word: str) -> int:
    """The single token of an answer word. Its probability is read at this position."""
    tokens = codec.after(opening, word)
    if len(tokens) != 1:
        raise BundleMismatch(
            f"The answer {word.strip()!r} is {len(tokens)} tokens in its place, so its probability cannot be read in "
            "one step. Use a tokenizer in which Yes and No are single tokens."
        )
    return tokens[0]


def _checked(piece: Tokens, first: int, word: str) -> Tokens:
    if piece[0] != first:
        raise BundleMismatch(
            f"The answer {word!r} is a different token when a full stop follows it. "
            "Use the tokenizer.json that belongs to the base model."
        )
    return piece


def _end_token(codec: Codec, end: str) -> int:
    token = codec.tokenizer.token_to_id(end)
    if token is None:
        raise BundleMismatch(
            f"The tokenizer has no token {end!r}, so no answer would end. Use the base model's tokenizer."
        )
    return token
