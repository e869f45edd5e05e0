"""Prompt sets: the model's questions and the form of its answers. Versioned data, one file per version.

A prompt set is part of the model. Training, calibration and serving must use the same set, so a bundle names its
version, which is part of the fingerprint.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from moderation.analysis import Region, Technique
from moderation.errors import BundleMismatch

#: The default set. Set 2 is for small language models that use ChatML; their bundles name it.
PROMPTS_VERSION = 1

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class PromptSet:
    """Everything that the model is told, and the answers expected from it. The first question of a task is served."""

    version: int
    system: str
    #: Templates of the first turn, an answer and every later turn: see `chat` in the file.
    first: str
    answer: str
    next: str
    #: The picture's placeholder, and the token that ends an answer.
    image: str
    end: str
    detection: tuple[str, ...]
    yes: str
    no: str
    detection_answer: str
    classification: tuple[str, ...]
    #: The order in which techniques are scored and shown.
    order: tuple[Technique, ...]
    technique_answers: Mapping[Technique, str]
    technique_explanations: Mapping[Technique, str]
    description: tuple[str, ...]
    artifact_line: str
    no_artifacts: str
    headings: Mapping[Region, tuple[str, ...]]
    conversation: tuple[str, ...]

    def open(self, question: str) -> str:
        """The conversation up to the first answer's position."""
        return self.first.format(system=self.system, question=question).lstrip()

    def reply(self, answer: str) -> str:
        """An answer as it follows a question, without its end token."""
        return self.answer.format(answer=answer)

    def ask(self, question: str) -> str:
        """The end of an answer and the next question, up to its answer's position."""
        return self.next.format(question=question)

    def verdict_answer(self, *, deepfake: bool) -> str:
        return self.detection_answer.format(word=self.yes if deepfake else self.no)

    def dialogue(self, turns: Sequence[tuple[str, str]]) -> str:
        """A whole conversation of (question, answer) turns with its end, as in training."""
        text = ""
        for question, answer in turns:
            text += (self.ask(question) if text else self.open(question)) + self.reply(answer)
        return text + self.end

    def artifacts_answer(self, artifacts: Sequence[tuple[str, str]]) -> str:
        """The AD answer for (heading, sentence) pairs, numbered from 1."""
        lines = [
            self.artifact_line.format(number=number, heading=heading, text=text)
            for number, (heading, text) in enumerate(artifacts, start=1)
        ]
        return "\n".join(lines) or self.no_artifacts

    def texts(self) -> list[str]:
        """Every sentence of the set, to train a small tokenizer."""
        questions = [*self.detection, *self.classification, *self.description, *self.conversation]
        answers = [self.reply(self.verdict_answer(deepfake=deepfake)) for deepfake in (True, False)]
        answers += [self.reply(text) for text in (*self.technique_answers.values(), self.no_artifacts)]
        answers += list(self.technique_explanations.values())
        headed = [name for names in self.headings.values() for name in names]
        lines = [f"{number}. **{name}**: The {name.lower()} " for number in range(1, 10) for name in headed]
        return [self.open(q) for q in questions] + [self.ask(q) for q in questions] + answers + lines


@lru_cache(maxsize=8)
def load_prompts(version: int = PROMPTS_VERSION) -> PromptSet:
    """Load a prompt set. Raise BundleMismatch when this release does not have it."""
    try:
        data = tomllib.loads((_HERE / f"{version}.toml").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BundleMismatch(
            f"The bundle asks for prompt set {version}, which this release does not have; "
            "upgrade bonafide, or use a bundle made for an older set."
        ) from error
    return _prompt_set(data)


def _prompt_set(data: Mapping[str, Any]) -> PromptSet:
    chat, detection = data["chat"], data["detection"]
    classification, description = data["classification"], data["description"]
    return PromptSet(
        version=data["version"],
        system=chat["system"],
        first=chat["first"],
        answer=chat["answer"],
        next=chat["next"],
        image=chat["image"],
        end=chat["end"],
        detection=tuple(detection["questions"]),
        yes=detection["yes"],
        no=detection["no"],
        detection_answer=detection["answer"],
        classification=tuple(classification["questions"]),
        order=tuple(Technique(name) for name in classification["order"]),
        technique_answers={Technique(name): text for name, text in classification["answers"].items()},
        technique_explanations={
            Technique(name): text for name, text in classification["explanations"].items()
        },
        description=tuple(description["questions"]),
        artifact_line=description["line"],
        no_artifacts=description["none"],
        headings={Region(name): tuple(words) for name, words in description["headings"].items()},
        conversation=tuple(data["conversation"]["questions"]),
    )
