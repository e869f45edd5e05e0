"""DFA-GPT: pictures in, analyses out. No queue, database or bucket is known here.

A `Detector` owns one bundle and its engine. `prepare` may run in many threads. One thread calls `analyze` or `stream`.
`converse` may run in another thread and takes turns with it.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import torch

from moderation.analysis import (
    Abstain,
    Analysis,
    Basis,
    Face,
    FaceAnalysis,
    Label,
    Technique,
    Verdict,
    image_verdict,
    in_background,
    undetermined,
)
from moderation.dfa.gpt.bundle import Bundle, BundleSpec, base_folder, load_bundle, resolve_bundle
from moderation.dfa.gpt.calibration import Platt, sigmoid
from moderation.dfa.gpt.conversation import LONGEST_REPLY, Turn, ask, checked, served_turns
from moderation.dfa.gpt.crops import FaceCrop, Prepared
from moderation.dfa.gpt.effect import hide, margin_of, variants, with_effects
from moderation.dfa.gpt.engine.engine import Answers, Engine, Heartbeat, Look, Plan, Route, VerdictOnly
from moderation.dfa.gpt.faces import FACES_VERSION, find_faces, unjudgeable
from moderation.dfa.gpt.foreign import foreign_map
from moderation.dfa.gpt.grounding.answers import answer, answer_each
from moderation.dfa.gpt.grounding.intent import asked_alone, halves, told_together, understood
from moderation.dfa.gpt.grounding.intent_head import IntentHead
from moderation.dfa.gpt.grounding.known import Known, Question, description, known_from
from moderation.dfa.gpt.pixels import PREPROCESSING_VERSION, Picture, crop_face, decode_picture
from moderation.dfa.gpt.policy import Policy
from moderation.dfa.gpt.regions import with_outlines, within
from moderation.dfa.gpt.replies import read_reply, sound
from moderation.dfa.gpt.scoring import Normalisation, TechniqueShares, technique_shares
from moderation.errors import BonafideError, BundleMismatch

K = TypeVar("K")

#: Raise this with every code change that can alter the analysis of the same bundle and picture.
PIPELINE_VERSION = 7


class Detector:
    """A loaded bundle and its engine."""

    def __init__(
        self,
        bundle: Bundle,
        policy: Policy,
        *,
        decode: Callable[[bytes], Picture] = decode_picture,
        slots: int | None = None,
        room: float = 1.0,
        max_batch: int | None = None,
    ) -> None:
        self.policy = policy
        self._decode = decode
        self._bundle = bundle
        self._engine = Engine.of(
            bundle,
            route=self._route,
            plan=Plan(
                technique=policy.technique,
                rationale=policy.rationale,
                max_new_tokens=policy.max_new_tokens,
                float8=policy.float8,
                slots=slots,
                room=room,
                max_batch=max_batch,
            ),
            choose=lambda sums, seen: self.shares(sums, seen).technique,
        )
        #: Log-probability of each DF-C answer on a grey picture. None unless the policy subtracts it.
        self._prior: Mapping[Technique, float] | None = None
        if policy.normalisation is Normalisation.PRIOR:
            self._prior = self._grey_answers()
        #: Digest of everything that an analysis depends on, in hexadecimal.
        self.fingerprint = fingerprint(bundle.spec, policy)
        #: For people: "mini 1".
        self.bundle_name = f"{bundle.spec.card.name} {bundle.spec.card.version}"
        calibration = bundle.calibration
        #: What the scores were calibrated on. None: they only order cases.
        self.basis = None if calibration is None else Basis(calibration.basis, calibration.sources)
        self.prompts_version = bundle.prompts.version
        #: Side of a face crop, pixels.
        self.image_size = bundle.spec.image.size

    @classmethod
    def load(
        cls,
        bundle: str | Path,
        *,
        device: str = "auto",
        policy: Policy | None = None,
        decode: Callable[[bytes], Picture] = decode_picture,
        slots: int | None = None,
        room: float = 1.0,
        max_batch: int | None = None,
    ) -> Self:
        """Load a bundle by its name. Raise BundleMismatch when it is not as its card says.

        Args:
            bundle: a folder, `mini`, or `org/name@revision`.
            device: `cpu`, `cuda`, `cuda:1` …, or `auto`: CUDA when there is one.
            policy: what to ask. None: the defaults.
            decode: turns a file into a picture, within its limits.
            slots: faces at once. None: what fits into memory.
            room: share of the memory that slots may take. Less than 1 when another bundle is loaded after this one.
            max_batch: faces of one prefill. None: the device's default.
        """
        spec = resolve_bundle(bundle)
        place = _device(device)
        return cls(
            load_bundle(spec, device=place, dtype=precision(spec, place)),
            policy or Policy(),
            decode=decode,
            slots=slots,
            room=room,
            max_batch=max_batch,
        )

    def close(self) -> None:
        """Free the slots' memory, before another bundle is loaded or another engine is made on this one.

        A closed detector asks nothing more, but still prepares pictures.
        """
        self._engine.close()

    @property
    def bundle(self) -> Bundle:
        """The loaded bundle. Close this detector before another engine takes over its model."""
        return self._bundle

    @property
    def zone(self) -> tuple[float, float]:
        """Scores between these two are UNDETERMINED. From the second on, a face is a deepfake."""
        return zone_of(self.policy, self._bundle.calibration)

    @property
    def heartbeat(self) -> Heartbeat:
        return self._engine.heartbeat

    @property
    def slots(self) -> int:
        """Most faces at once."""
        return self._engine.kv.slots

    @property
    def max_batch(self) -> int:
        """Most faces of one prefill."""
        return self._engine.batch

    def warm(self) -> None:
        """Run everything once, so that the first case does not wait for compilation."""
        self._engine.warm()

    # One picture

    def prepare(self, data: bytes) -> Prepared:
        """Decode a picture, find its faces and crop them. Raise ImageRejected. Safe in many threads."""
        began = time.perf_counter()
        picture = self._decode(data)
        decoded = time.perf_counter()
        faces = find_faces(picture)
        asked, judged = faces_to_ask(picture, faces, at_most=self.policy.max_faces)
        found = time.perf_counter()
        crops = tuple(
            FaceCrop(face, crop_face(picture, face, self.image_size, upright=True)) for face in asked
        )
        seconds = {"decode": decoded - began, "faces": found - decoded, "crop": time.perf_counter() - found}
        return Prepared(picture.facts, crops, judged, seconds, picture.evidence, picture.renditions)

    def conclude(self, prepared: Prepared, faces: Sequence[FaceAnalysis]) -> Analysis:
        """The analysis of a picture, from `faces` that the model saw and from those it could not judge."""
        facts = prepared.facts
        placed = [
            replace(face, rationale=within(face.rationale, width=facts.width, height=facts.height))
            for face in faces
        ]
        verdict, ordered = image_verdict([*placed, *prepared.judged])
        return Analysis(
            fingerprint=self.fingerprint,
            bundle=self.bundle_name,
            verdict=verdict,
            faces=ordered,
            picture=facts,
            seconds=prepared.seconds,
        )

    # Faces

    def analyze(self, crops: Sequence[FaceCrop]) -> list[FaceAnalysis]:
        """The faces' analyses, in order. Raise the first error among them."""
        waiting = list(enumerate(crops))
        results: dict[int, FaceAnalysis] = {}

        def take(room: int, _idle: bool) -> Sequence[tuple[int, FaceCrop]] | None:  # noqa: FBT001  as `stream` calls it
            taken, waiting[:] = waiting[:room], waiting[room:]
            return taken or None

        for index, result in self.stream(take):
            if isinstance(result, BonafideError):
                raise result
            results[index] = result
        return [results[index] for index in range(len(crops))]

    def stream(
        self, take: Callable[[int, bool], Sequence[tuple[K, FaceCrop]] | None]
    ) -> Iterator[tuple[K, FaceAnalysis | BonafideError]]:
        """Analyse faces while `take` brings them. Yield each with its key as soon as it is finished.

        `take(room, idle)` returns at most `room` faces. It may wait only when `idle`: then no face is running. `[]`
        means none now. None means no more: the running faces are finished, and the stream ends. `take` is called before
        every step, also with a `room` of 0; then its result is ignored.
        One face's error is its own result. Closing the stream abandons the running faces.
        """

        def take_pixels(room: int, idle: bool) -> Sequence[tuple[tuple[K, Face], _Asked]] | None:  # noqa: FBT001
            taken = take(room, idle)
            return None if taken is None else [((key, crop.face), _asked(crop)) for key, crop in taken]

        for (key, face), answers in self._engine.run(take_pixels):
            yield key, answers if isinstance(answers, BonafideError) else self.judge(face, answers)

    # Effects

    @property
    def leaves_out_hidden(self) -> bool:
        """True when the tower leaves out hidden pixels: nothing need be filled then."""
        return self._engine.leaves_out_hidden

    def measure(
        self, crops: Sequence[FaceCrop], faces: Sequence[FaceAnalysis], *, at_most: int
    ) -> list[FaceAnalysis]:
        """The faces with the effects of their first `at_most` artifacts: see `effect`. Raise the first error."""
        hidden = [
            hide(crop, face, at_most=at_most, filled=not self.leaves_out_hidden)
            for crop, face in zip(crops, faces, strict=True)
        ]
        asked = [
            variant for crop, ways in zip(crops, hidden, strict=True) for variant in variants(crop, ways)
        ]
        margins = map(margin_of, self.analyze(asked))
        return [
            with_effects(face, ways, margins, self.score) for face, ways in zip(faces, hidden, strict=True)
        ]

    # From answers to verdicts

    def score(self, margin: float) -> float:
        """In [0, 1]: a probability when the bundle is calibrated; otherwise it only orders cases."""
        calibration = self._bundle.calibration
        return sigmoid(margin) if calibration is None else calibration.probability(margin)

    def _route(self, margin: float, mass: float) -> Route:
        score = self.score(margin)
        if mass < self.policy.minimum_mass or score < self.policy.early_exit:
            return Route.LEAVE
        return Route.DEEPFAKE if score >= sum(self.zone) / 2 else Route.BONA_FIDE

    def judge(self, face: Face, answers: Answers) -> FaceAnalysis:
        """One face's analysis from its answers, with the tower's evidence map."""
        analysis = self._judged(face, answers)
        if answers.seen is None:
            return analysis
        return replace(analysis, foreign=foreign_map(face, answers.seen.foreign))

    def _judged(self, face: Face, answers: Answers) -> FaceAnalysis:
        """One face's verdict and rationale. The score decides the verdict; the reply never turns it into the other.

        An unreadable rationale makes the verdict UNDETERMINED: the model was not doing what it was trained for.
        Artifacts of a bona fide face contradict its verdict, and those of an undecided face would decide it: they stay
        in the reply and are not shown. Artifacts that contradict themselves or one another are left out and counted.
        """
        verdict, view = self._verdict(answers), answers.seen and answers.seen.view
        text = reply_of(answers, self._bundle) if self.policy.rationale else None
        if text is None:
            return FaceAnalysis(face, verdict, view=view)
        reply = read_reply(text, complete=answers.complete)
        if reply is None:
            unread = replace(verdict, label=Label.UNDETERMINED, technique=None, abstain=Abstain.UNPARSED)
            return FaceAnalysis(face, unread, reply=text, view=view)
        if verdict.label is not Label.DEEPFAKE:
            return FaceAnalysis(face, verdict, reply=text, view=view)
        kept = sound(reply.artifacts)
        shown = with_outlines(kept.artifacts, face)
        return FaceAnalysis(face, verdict, shown, reply=text, rationale_dropped=kept.dropped, view=view)

    def _verdict(self, answers: Answers) -> Verdict:
        score, (low, high) = self.score(answers.margin), self.zone
        abstain: Abstain | None = None
        if answers.mass < self.policy.minimum_mass:
            abstain = Abstain.LOW_ANSWER_MASS
        elif self._too_strange(answers):
            abstain = Abstain.UNLIKE_TRAINING
        elif low < score < high:
            abstain = Abstain.NEAR_THRESHOLD
        label = Label.DEEPFAKE if score >= high else Label.BONA_FIDE
        named = self.policy.technique and answers.names_technique
        shares = self.shares(answers.options or {}, answers.seen) if named else None
        return Verdict(
            label=label if abstain is None else Label.UNDETERMINED,
            score=score,
            margin=answers.margin,
            answer_mass=min(answers.mass, 1.0),
            calibrated=self._bundle.calibration is not None,
            technique=shares.technique if shares and abstain is None and label is Label.DEEPFAKE else None,
            technique_scores=shares and shares.shares,
            abstain=abstain,
        )

    def _too_strange(self, answers: Answers) -> bool:
        """True when the tower's features are further from the training faces than the calibration allows."""
        calibration, seen = self._bundle.calibration, answers.seen
        if calibration is None or calibration.strangest is None or seen is None or seen.strangeness is None:
            return False
        return seen.strangeness > calibration.strangest

    def shares(self, sums: Mapping[Technique, float], seen: Look | None) -> TechniqueShares:
        """What DF-C serves, from the sums of its answers' log-probabilities and what the tower sees."""
        lengths = {name: len(tokens) for name, tokens in self._bundle.script.options.items()}
        head = seen and seen.technique
        return technique_shares(sums, lengths, how=self.policy.normalisation, prior=self._prior, head=head)

    def _grey_answers(self) -> Mapping[Technique, float]:
        """The sums of the DF-C answers' log-probabilities on a grey picture."""
        size = self._bundle.spec.image.size
        engine = self._engine
        engine.route, engine.choose = lambda _margin, _mass: Route.DEEPFAKE, lambda sums, _: next(iter(sums))
        (answers,) = engine.answer([np.full((size, size, 3), 127, dtype=np.uint8)])
        engine.route, engine.choose = self._route, lambda sums, seen: self.shares(sums, seen).technique
        return answers.options or {}

    # Free conversation

    def converse(
        self,
        crop: FaceCrop,
        turns: Sequence[Turn],
        question: str,
        *,
        about: FaceAnalysis | None = None,
        max_new_tokens: int = 256,
    ) -> Iterator[str]:
        """Answer a question about one face, piece by piece, after its analysis `about` and the earlier turns.

        A bundle with an intent head answers from the analysis: the language model reads what is asked, and the words
        are those that the facts allow. Other bundles answer in the language model's own words.
        Raise RequestRefused for an empty or too long question, EngineUnavailable when memory is short.
        """
        question = checked(self._bundle.prompts, question)
        known = None if about is None else known_from(about, self.zone)
        if self._bundle.intents is not None and known is not None:
            yield self._grounded(self._bundle.intents, [turn.question for turn in turns], question, known)
        else:
            served = () if about is None else served_turns(self._bundle.prompts, about)
            yield from self._generated(crop, turns, question, served, min(max_new_tokens, LONGEST_REPLY))

    def _grounded(self, head: IntentHead, earlier: Sequence[str], question: str, known: Known) -> str:
        """The answer that the facts of the face allow. Two questions at once get two answers."""
        prompts = self._bundle.prompts
        if (parts := halves(question)) is not None:
            first, second = (
                self._understood(head, parts[0], earlier),
                self._understood(head, parts[1], parts[:1]),
            )
            if told_together(first, second):
                return answer_each((first, second), known, prompts)
        return answer(self._understood(head, question, earlier), known, prompts)

    def _understood(self, head: IntentHead, question: str, earlier: Sequence[str]) -> Question:
        tokens, place = asked_alone(self._bundle.prompts, self._bundle.codec, question)
        states = self._engine.states(tokens, depths=head.depths, adapter=head.adapter)
        return understood(question, head.scores(states, place), earlier)

    def _generated(
        self, crop: FaceCrop, turns: Sequence[Turn], question: str, served: Sequence[Turn], longest: int
    ) -> Iterator[str]:
        """The language model's words. It sees only the face and the earlier turns."""
        bundle = self._bundle
        token = bundle.model.config.image_token_id
        asked = ask(bundle.prompts, bundle.codec, token, turns, question, served=served)
        tokens: list[int] = []
        shown = ""
        for token in self._engine.converse(crop.pixels, asked.before, asked.after, max_new_tokens=longest):
            tokens.append(token)
            decoded = bundle.codec.decode(tokens)
            text = _printable(decoded).lstrip()
            # A character may span several tokens: it is yielded once it is whole.
            if len(text) > len(shown) and text.startswith(shown) and not decoded.endswith("\ufffd"):
                yield text[len(shown) :]
                shown = text


#: The engine's input for one face.
_Asked = np.ndarray | VerdictOnly


def _asked(crop: FaceCrop) -> _Asked:
    return VerdictOnly(crop.pixels, crop.hidden) if crop.verdict_only else crop.pixels


def faces_to_ask(
    picture: Picture, faces: Sequence[Face], *, at_most: int
) -> tuple[list[Face], tuple[FaceAnalysis, ...]]:
    """The faces to ask about, largest first, and the others with the reason why they are not judged."""
    asked: list[Face] = []
    others: list[FaceAnalysis] = []
    for face in faces:
        reason = unjudgeable(picture, face)
        if reason is None and len(asked) < at_most:
            asked.append(face)
        else:
            verdict = undetermined(reason or Abstain.FACES_NOT_JUDGED)
            others.append(FaceAnalysis(face, verdict, background=in_background(face, faces)))
    return asked, tuple(others)


def reply_of(answers: Answers, bundle: Bundle) -> str | None:
    """The AD reply: in the language model's words, or worded from the heads' findings. None when a face left before."""
    if answers.rationale is not None:
        return _printable(bundle.codec.decode(answers.rationale)).strip()
    found = answers.seen and answers.seen.findings
    if found is None or answers.route is Route.LEAVE:
        return None
    return description(found if answers.route is Route.DEEPFAKE else (), bundle.prompts)


def zone_of(policy: Policy, calibration: Platt | None) -> tuple[float, float]:
    """Scores between these two decide nothing. The policy's threshold comes before the calibration's zone."""
    if policy.threshold is None and calibration is not None and calibration.zone is not None:
        return calibration.zone
    threshold = 0.5 if policy.threshold is None else policy.threshold
    return threshold - policy.band, threshold + policy.band


def fingerprint(spec: BundleSpec, policy: Policy) -> str:
    """Equal exactly when the same picture gives the same analysis, up to the tolerance of docs/engine.md."""
    parts = {
        "bundle": spec.digest,
        "preprocessing": PREPROCESSING_VERSION,
        "faces": FACES_VERSION,
        "pipeline": PIPELINE_VERSION,
        "policy": dict(vars(policy)),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _printable(text: str) -> str:
    """The text without control characters: it is shown on terminals and pages."""
    return "".join(character for character in text if character.isprintable() or character == "\n")


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise BundleMismatch(f"There is no device {name!r}: use auto, cpu, cuda or cuda:N.") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BundleMismatch(
            f"The device is set to {name!r}, but torch sees no such CUDA device: use auto or cpu."
        )
    return device


#: Below this decoder width float32 is fast enough, and small towers' batch norms fold exactly.
SMALL = 256


def precision(spec: BundleSpec, device: torch.device) -> torch.dtype:
    """bfloat16 on CUDA and on processors that multiply it; float32 elsewhere and for very small models."""
    file = base_folder(spec) / "config.json" if spec.base is None else None
    config: Any = json.loads(file.read_text(encoding="utf-8")) if file is not None and file.is_file() else {}
    if config.get("text_config", {}).get("hidden_size", SMALL) < SMALL:
        return torch.float32
    return torch.bfloat16 if device.type == "cuda" or multiplies_bfloat16() else torch.float32


def multiplies_bfloat16() -> bool:
    """True when this processor multiplies bfloat16 itself (AMX, AVX512-BF16): in a third of float32's time or less."""
    # torch has no public names for these.
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()  # noqa: SLF001
