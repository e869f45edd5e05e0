"""From face crops to answers: one pass per face, many faces at once, slots refilled as soon as they are free.

A face walks through one conversation and is never read twice:

    [system | picture | DF-D]  → P(Yes) from the logits of the answer's place; nothing is generated
    "Yes." [DF-C]              → the four answers scored in one forward, as branches of a tree
    its answer [AD]            → the rationale, decoded greedily; the slot goes to the next face at its last token

`Route` decides after the first line who goes on. Rows of one forward have stored equally many tokens and get equally
many, because prompts are templates: nothing is padded and nothing masked for padding.

B rows, T new tokens, P patches, D model width, V vocabulary.
"""

import enum
import itertools
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, cast

import numpy as np
import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from moderation.analysis import Technique
from moderation.dfa.gpt.bundle import ImageSpec
from moderation.dfa.gpt.engine.attention import Decode, attach, decode, extend, has_kernel
from moderation.dfa.gpt.engine.kv import SlotKV, bytes_per_slot
from moderation.dfa.gpt.engine.memory import is_out_of_memory, slots_that_fit
from moderation.dfa.gpt.heads import Heads, Seen
from moderation.dfa.gpt.scoring import technique_shares
from moderation.dfa.gpt.script import Script, Tokens
from moderation.errors import BonafideError, EngineUnavailable, ImageRejected

K = TypeVar("K")

#: Faces of one prefill. On CUDA 16 of LLaVA-1.5's pictures are 10,000 tokens, far beyond where matrices are efficient.
CUDA_BATCH, CPU_BATCH = 16, 8


class Route(enum.Enum):
    """Where a face goes once its margin is known."""

    #: Nothing more is asked.
    LEAVE = enum.auto()
    #: "Yes." is said for it, its technique and rationale are asked.
    DEEPFAKE = enum.auto()
    #: "No." is said for it, its rationale is asked.
    BONA_FIDE = enum.auto()


@dataclass(frozen=True)
class Answers:
    """What the model said about one face, before anyone judges it."""

    #: logit(Yes) − logit(No) at the answer's place.
    margin: float
    #: P(Yes) + P(No) there, in [0, 1].
    mass: float
    route: Route
    #: Sum of log-probabilities of each DF-C answer. None when not asked.
    options: Mapping[Technique, float] | None
    #: Tokens of the rationale without the end token. None when not asked.
    rationale: Tokens | None
    #: False when the rationale was cut off at its longest length.
    complete: bool = True
    #: What the heads say of the tower's features. None for a bundle without heads.
    seen: "Look | None" = None


@dataclass(frozen=True, eq=False)
class Look:
    """What the tower sees in one face, beside what the language model says of it."""

    #: The verdict head's logit: what the margin was taught.
    opinion: float
    #: (G, G) float32 in [0, 1], rows from the top of the crop: how foreign the pixels of each place look.
    foreign: np.ndarray
    #: How far the face lies from those the tower learnt on, in spreads of theirs. None when heads know no such measure.
    strangeness: float | None
    #: Its features along a few directions that were drawn by chance once, in spreads of the faces learnt on: rounded
    #: to halves, so that they tell kinds of pictures and not faces.
    view: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class VerdictOnly:
    """A picture that leaves after DF-D, whatever its margin."""

    pixels: np.ndarray


@dataclass(frozen=True)
class Plan:
    """What is asked, and how much at once."""

    technique: bool = True
    rationale: bool = True
    max_new_tokens: int = 120
    #: Faces at once. None: what fits into memory.
    slots: int | None = None
    #: Part of that memory to take: less than 1 when another model is to be loaded beside this one.
    room: float = 1.0
    #: Faces of one prefill. None: the device's default.
    max_batch: int | None = None
    #: Compile the decoder layers and capture decode steps. For CUDA; ignored elsewhere.
    accelerate: bool = True
    #: Take the decoder's products in eight bits: see `float8`.
    float8: bool = False


@dataclass
class Heartbeat:
    """A sign of life that another thread may read at any time."""

    #: By time.monotonic(), when the last step ended or work last arrived.
    last_step_at: float = field(default_factory=time.monotonic)
    steps: int = 0
    #: False while there is nothing to do: waiting is not hanging.
    busy: bool = False

    def beat(self, *, busy: bool) -> None:
        self.steps += 1
        self.busy = busy
        self.last_step_at = time.monotonic()

    def silent_for(self, now: float) -> float:
        """Seconds since the last step, 0 when there is nothing to do."""
        return now - self.last_step_at if self.busy else 0.0


@dataclass(eq=False)
class _Face(Generic[K]):
    """One face on its way."""

    key: K
    pixels: np.ndarray  # (S, S, 3) uint8
    verdict_only: bool = False
    slot: int | None = None
    stored: int = 0
    margin: float = 0.0
    mass: float = 0.0
    route: Route = Route.LEAVE
    options: dict[Technique, float] | None = None
    written: list[int] | None = None
    seen: Look | None = None

    def answers(self, end: int) -> Answers:
        written = self.written
        complete = written is None or written[-1] == end
        return Answers(
            margin=self.margin,
            mass=self.mass,
            route=self.route,
            options=self.options,
            rationale=None if written is None else tuple(token for token in written if token != end),
            complete=complete,
            seen=self.seen,
        )


class Engine:
    """Owns the model and its slots. One thread runs it; `converse` may be called from others."""

    def __init__(
        self,
        model: LlavaForConditionalGeneration,
        script: Script,
        image: ImageSpec,
        *,
        route: Callable[[float, float], Route],
        plan: Plan,
        choose: Callable[[Mapping[Technique, float]], Technique] | None = None,
        heads: Heads | None = None,
    ) -> None:
        """Attach to the model, size the slots and read the system prefix into each of them.

        Args:
            model: loaded, on its device.
            script: what is said.
            image: what a picture must be.
            route: where a face goes, from its margin and answer mass.
            plan: what is asked, and how much at once.
            choose: the technique that is said for a face, from the sums of its answers' log-probabilities; the
                likeliest by the token when None.
            heads: what reads the tower's features beside the language model.
        """
        self.model = model
        self.script = script
        self.image = image
        self.route = route
        self.choose = choose or self._likeliest
        self.plan = plan
        self.reader = None if heads is None else TowerReader(model, heads)
        self.heartbeat = Heartbeat()
        self._lock = threading.RLock()
        self.device = next(model.parameters()).device
        self.dtype = model.lm_head.weight.dtype
        self._lm: Any = model.model.language_model
        self._embed: Any = model.get_input_embeddings()
        self._current = attach(self._lm)
        self._tree = _option_tree(script, self.device)
        #: Faces of one prefill; halved when memory does not hold so many.
        self.batch = plan.max_batch or (CUDA_BATCH if self.device.type == "cuda" else CPU_BATCH)
        self._scale, self._shift = normalisation(image, self.device)
        with self._device_is_current():
            if plan.float8:
                from moderation.dfa.gpt.engine.float8 import use_float8

                use_float8(self._lm)
            with torch.inference_mode():
                blank = np.zeros((image.size, image.size, 3), dtype=np.uint8)
                self.patches = self._see([blank]).shape[1]
                self.kv = self._allocate(self._longest(), plan.slots)
                self._read_system()
            self._decode_limit = self.kv.slots
            #: Whether decode steps use the kernel of `triton_decode`.
            self._kernel = has_kernel(self.device) and self._kernel_runs()
            self._graphs = self._accelerated() if plan.accelerate and self._kernel else None

    def close(self) -> None:
        """Give the memory of the slots back, for another engine on this model or another model. This one is done.

        Dropping an engine is not enough: it is part of circles, which are collected when Python finds the time.
        """
        self._graphs = None
        self._current.step = None
        if self.reader is not None:
            self.reader.close()
        self.kv.release()

    def warm(self, sizes: Sequence[int] | None = None) -> None:
        """Walk blank faces down both roads, before the first that counts: nothing is left to be compiled on the way.

        Compiled layers have a form for one row, and one for any number of rows once they have met two. So groups of
        three `sizes` bring out all of them. Raise EngineUnavailable when the model cannot answer even these.
        """
        if sizes is None:
            sizes = (self.batch, max(1, self.batch - 1), 1) if self._graphs is not None else (1,)
        side, chosen = self.image.size, self.route
        blank = np.zeros((side, side, 3), dtype=np.uint8)
        try:
            for road, size in itertools.product((Route.DEEPFAKE, Route.BONA_FIDE), sizes):
                self.route = lambda _margin, _mass, road=road: road
                self.answer([blank] * size)
        finally:
            self.route = chosen

    # What runs it

    @contextmanager
    def _at_work(self) -> Generator[None]:
        """The model is this thread's for a step."""
        with self._lock, torch.inference_mode(), self._device_is_current():
            yield

    def _device_is_current(self) -> AbstractContextManager[object]:
        """Kernels are launched and graphs captured on the current device, which every thread has its own of."""
        return torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()

    def run(
        self, take: Callable[[int, bool], Sequence[tuple[K, np.ndarray | VerdictOnly]] | None]
    ) -> Iterator[tuple[K, Answers | BonafideError]]:
        """Answer faces for as long as `take` brings them; yield each as it finishes, with its key.

        `take(room, idle)` is called before every step and returns at most `room` faces. It may wait when `idle`, for
        nothing else is running; `[]` means nothing now, None means no more ever. With a `room` of 0 nothing is asked
        for: who shares this thread has its turn then, and what comes back says nothing. One face's error is its own
        result and stops nobody else.
        """
        running: list[_Face[K]] = []
        refill = max(1, min(self.batch, self.kv.slots // 4))
        ended = False
        while not ended or running:
            if not ended:
                self.heartbeat.beat(busy=bool(running))
                # Admitting one face at a time would starve the matrices; a few free slots wait for each other.
                room = self.kv.room if not running or self.kv.room >= refill else 0
                taken = take(room, not running)
                ended = taken is None and room > 0
                waiting = [_waiting(key, picture) for key, picture in taken or ()]
                yield from ((face.key, _misfit(face.pixels)) for face in waiting if not self._fits(face))
                waiting = [face for face in waiting if self._fits(face)]
                while waiting:
                    # The size of a group may shrink on the way, when memory does not hold it.
                    group, waiting = waiting[: self.batch], waiting[self.batch :]
                    yield from self._admit_safely(group, running)
            if running:
                yield from self._decode_safely(running)
        self.heartbeat.beat(busy=False)

    def answer(self, pictures: Sequence[np.ndarray]) -> list[Answers]:
        """The answers about these face crops and no others, in their order. Raise the first error among them."""
        waiting = iter(enumerate(pictures))
        answered: dict[int, Answers] = {}
        for index, answers in self.run(lambda room, _idle: list(itertools.islice(waiting, room)) or None):
            if isinstance(answers, BonafideError):
                raise answers
            answered[index] = answers
        return [answered[index] for index in range(len(pictures))]

    def _fits(self, face: _Face[K]) -> bool:
        side = self.image.size
        return face.pixels.shape == (side, side, 3) and face.pixels.dtype == np.uint8

    def _admit_safely(
        self, group: list[_Face[K]], running: list[_Face[K]]
    ) -> Iterator[tuple[K, Answers | BonafideError]]:
        """Admit; when memory does not hold the group, its halves; when it does not hold one face, say so."""
        try:
            with self._at_work():
                self.heartbeat.beat(busy=True)
                self._admit(group)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            exhausted = True
        else:
            exhausted = False
        # Outside the handler, where the traceback no longer keeps the failed step's tensors alive.
        if exhausted:
            yield from self._halve(group, running)
            return
        self.heartbeat.beat(busy=True)
        for face in group:
            if face.written is not None:
                running.append(face)
            else:
                yield self._finish(face)
        running.sort(key=lambda face: cast("int", face.slot))

    def _halve(
        self, group: list[_Face[K]], running: list[_Face[K]]
    ) -> Iterator[tuple[K, Answers | BonafideError]]:
        for face in group:
            self._leave(face)
            face.stored, face.options, face.written = 0, None, None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(group) == 1:
            yield group[0].key, EngineUnavailable("The model's memory does not hold this face.")
            return
        half = (len(group) + 1) // 2
        self.batch = min(self.batch, half)
        yield from self._admit_safely(group[:half], running)
        yield from self._admit_safely(group[half:], running)

    def _decode_safely(self, running: list[_Face[K]]) -> Iterator[tuple[K, Answers | BonafideError]]:
        """One token for every running face; those that end leave, and are yielded."""
        rows: list[_Face[K]] = []
        try:
            with self._at_work():
                for start in range(0, len(running), self._decode_limit):
                    rows = running[start : start + self._decode_limit]
                    for face, token in zip(rows, self._next_tokens(rows), strict=True):
                        cast("list[int]", face.written).append(token)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if len(rows) == 1:
                running.remove(rows[0])
                self._leave(rows[0])
                yield rows[0].key, EngineUnavailable("The model's memory does not hold this face.")
            # Rows before the failed ones have their token; the others get it in the next, smaller step.
            self._decode_limit = max(1, len(rows) // 2)
        self.heartbeat.beat(busy=True)
        ended = [face for face in running if self._has_ended(face)]
        for face in ended:
            running.remove(face)
            yield self._finish(face)

    def _has_ended(self, face: _Face[K]) -> bool:
        written = cast("list[int]", face.written)
        return written[-1] == self.script.end or len(written) >= self.plan.max_new_tokens

    def _finish(self, face: _Face[K]) -> tuple[K, Answers | BonafideError]:
        self._leave(face)
        if not np.isfinite(face.margin):
            return face.key, EngineUnavailable("The model's numbers for this face are not finite.")
        return face.key, face.answers(self.script.end)

    def _leave(self, face: _Face[K]) -> None:
        if face.slot is not None:
            self.kv.give_back(face.slot)
            face.slot = None

    # The conversation

    def _admit(self, group: Sequence[_Face[K]]) -> None:
        """From pixels to the first token of the rationale, for those who get there."""
        for face in group:
            face.slot = self.kv.take()
            face.stored = len(self.script.system)
        self._detect(group)
        deepfakes = [face for face in group if face.route is Route.DEEPFAKE]
        if self.plan.technique and deepfakes:
            self._classify(deepfakes)
        if self.plan.rationale:
            self._begin_rationales([face for face in group if face.route is not Route.LEAVE])

    def _detect(self, group: Sequence[_Face[K]]) -> None:
        patches = self._see([face.pixels for face in group])  # (B, P, D)
        looks = [None] * len(group) if self.reader is None else self.reader.looks()
        for face, look in zip(group, looks, strict=True):
            face.seen = look
        question = self._words(self.script.detect).expand(len(group), -1, -1)
        log_p = self._forward(torch.cat([patches, question], dim=1), group)[:, -1].log_softmax(-1)  # (B, V)
        pair = log_p[:, [self.script.yes, self.script.no]].tolist()
        for face, (yes, no) in zip(group, pair, strict=True):
            face.margin = yes - no
            face.mass = float(np.exp(yes) + np.exp(no))
            goes_on = np.isfinite(face.margin) and not face.verdict_only
            face.route = self.route(face.margin, face.mass) if goes_on else Route.LEAVE

    def _classify(self, group: Sequence[_Face[K]]) -> None:
        """Score every answer by the sum of its tokens' log-probabilities, all answers in one forward.

        The answers lie behind each other in one row. Each sees the conversation and itself, and stands at the
        positions it would have alone. What they store is overwritten by the answer that is chosen.
        """
        question = self._words(self.script.classify).expand(len(group), -1, -1)
        first = self._forward(question, group)[:, -1].log_softmax(-1)  # (B, V)
        tree = self._tree
        branches = self._words(tree.tokens).expand(len(group), -1, -1)
        later = self._forward(branches, group, tree=tree).log_softmax(-1)  # (B, T, V)
        starts = first[:, tree.first].tolist()  # (B, options)
        steps = later[:, tree.places, tree.following].tolist()  # (B, steps)
        for face, start, step in zip(group, starts, steps, strict=True):
            sums = dict(zip(self.script.options, start, strict=True))
            for option, value in zip(tree.owners, step, strict=True):
                sums[option] += value
            face.options = sums

    def _begin_rationales(self, faces: Sequence[_Face[K]]) -> None:
        """Say the answers, ask AD. Answers differ in length, so faces go in groups of one length."""
        pieces = {id(face): self._said(face) for face in faces}

        def size(face: _Face[K]) -> tuple[int, int]:
            return face.stored, len(pieces[id(face)])

        for _, rows in itertools.groupby(sorted(faces, key=size), key=size):
            group = sorted(rows, key=lambda face: cast("int", face.slot))
            tokens = torch.tensor([pieces[id(face)] for face in group], device=self.device)
            logits = self._forward(self._embed(tokens), group)[:, -1]
            for face, token in zip(group, logits.argmax(-1).tolist(), strict=True):
                face.written = [token]

    def _said(self, face: _Face[K]) -> Tokens:
        if face.route is Route.BONA_FIDE:
            return self.script.explain_no
        if face.options is None:
            return self.script.explain_yes
        return self.script.explain[self.choose(face.options)]

    def _likeliest(self, sums: Mapping[Technique, float]) -> Technique:
        lengths = {technique: len(tokens) for technique, tokens in self.script.options.items()}
        return technique_shares(sums, lengths).technique

    # The model

    def _see(self, pictures: Sequence[np.ndarray]) -> Tensor:
        """(S, S, 3) uint8 pictures -> their visual tokens (B, P, D)."""
        # Bytes travel, a quarter of the numbers; normalised in float32, for bfloat16 has fewer steps than a byte.
        stacked = torch.from_numpy(np.stack(pictures)).to(self.device)
        pixels = stacked.permute(0, 3, 1, 2).float() * self._scale + self._shift  # (B, 3, S, S)
        return visual_tokens(self.model, pixels.to(self.dtype)).to(self.dtype)

    def _words(self, tokens: Tokens) -> Tensor:
        return self._embed(torch.tensor([tokens], device=self.device))  # (1, T, D)

    def _forward(self, embeds: Tensor, group: Sequence[_Face[K]], *, tree: "_Tree | None" = None) -> Tensor:
        """Read (B, T, D) new tokens into the group's slots: logits of the last, (B, 1, V), or of all of a tree."""
        past, count = group[0].stored, embeds.shape[1]
        assert all(face.stored == past for face in group), (
            "rows of one forward have stored equally many tokens"
        )
        slots = [cast("int", face.slot) for face in group]
        step = extend(
            self.kv, slots, past, count, tree=None if tree is None else tree.sees, device=self.device
        )
        offsets = torch.arange(count, device=self.device) if tree is None else tree.offsets
        hidden = self._through_layers(embeds, (past + offsets)[None], step)
        if tree is not None:
            return self._logits(hidden)
        for face in group:
            face.stored += count
        return self._logits(hidden[:, -1:])

    def _through_layers(self, x: Tensor, positions: Tensor, step: object) -> Tensor:
        """The decoder without transformers' own loop around it, which builds masks we do not need."""
        self._current.step = cast("Any", step)
        angles = self._lm.rotary_emb(x, position_ids=positions)
        for layer in self._lm.layers:
            out = layer(
                x, attention_mask=None, position_ids=positions, position_embeddings=angles, use_cache=False
            )
            x = out if isinstance(out, Tensor) else out[0]  # a tuple in some versions of transformers
        return x

    def _logits(self, hidden: Tensor) -> Tensor:
        return self.model.lm_head(self._lm.norm(hidden)).float()

    def _next_tokens(self, rows: Sequence[_Face[K]]) -> list[int]:
        """One greedy token a row."""
        last = [cast("list[int]", face.written)[-1] for face in rows]
        slots = [cast("int", face.slot) for face in rows]
        lengths = [face.stored for face in rows]
        if self._graphs is not None:
            tokens = self._graphs.next_tokens(last, slots, lengths)
        else:
            step = decode(self.kv, slots, lengths, device=self.device, kernel=self._kernel)
            tokens = self.greedy(torch.tensor(last, device=self.device), step.lengths, step).tolist()
        for face in rows:
            face.stored += 1
        return tokens

    def greedy(self, last: Tensor, lengths: Tensor, step: object) -> Tensor:
        """(B,) last tokens at positions `lengths` -> (B,) likeliest next tokens. Free of synchronisation."""
        embeds = self._embed(last[:, None])  # (B, 1, D)
        return self._logits(self._through_layers(embeds, lengths[:, None], step))[:, -1].argmax(-1)

    # Free conversation

    def converse(
        self, picture: np.ndarray, before: Tokens, after: Tokens, *, max_new_tokens: int
    ) -> Iterator[int]:
        """Greedy tokens that continue [before | picture | after], up to the end token.

        In memory of its own, one token at a time between the steps of `run`. The picture is read again: 10 ms on an
        H200, where keeping what was read of a face costs 300 MB. Raise EngineUnavailable when that memory is missing.
        """
        face = _Face(key=None, pixels=picture)
        if not self._fits(face):
            raise _misfit(picture)
        length = len(before) + self.patches + len(after) + max_new_tokens
        try:
            with self._at_work():
                kv = self._allocate(length, 1)
                words = self._words(before), self._see([picture]), self._words(after)
                embeds = torch.cat(words, dim=1)  # (1, T, D)
                stored = embeds.shape[1]
                step = extend(kv, [0], 0, stored, device=self.device)
                hidden = self._through_layers(embeds, torch.arange(stored, device=self.device)[None], step)
                token = int(self._logits(hidden[:, -1:])[0, -1].argmax())
        except Exception as error:
            if is_out_of_memory(error):
                raise EngineUnavailable("The model's memory does not hold this conversation now.") from error
            raise
        for _ in range(max_new_tokens - 1):
            if token == self.script.end:
                return
            yield token
            with self._at_work():
                single = decode(kv, [0], [stored], device=self.device, kernel=self._kernel)
                last = torch.tensor([token], device=self.device)
                token = int(self.greedy(last, single.lengths, single)[0])
            stored += 1
        if token != self.script.end:
            yield token

    # Setting up

    def _longest(self) -> int:
        return self.patches + self.script.longest() + self.plan.max_new_tokens

    def _allocate(self, length: int, slots: int | None) -> SlotKV:
        config: Any = self._lm.config
        heads = config.num_key_value_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        layers = config.num_hidden_layers
        size = bytes_per_slot(layers=layers, heads=heads, length=length, width=width, dtype=self.dtype)
        return SlotKV(
            layers=layers,
            slots=slots or slots_that_fit(size, self.device, room=self.plan.room),
            heads=heads,
            length=length,
            width=width,
            dtype=self.dtype,
            device=self.device,
        )

    def _read_system(self) -> None:
        """The system text is the same for every face: it is read once, and every slot begins with it."""
        if not self.script.system:
            return
        slot = self.kv.take()
        face = _Face(key=None, pixels=np.empty(0), slot=slot)
        self._forward(self._words(self.script.system), [face])
        self.kv.share_beginning(len(self.script.system))
        self.kv.give_back(slot)

    def _kernel_runs(self) -> bool:
        """One step in the slot that nobody reads; False, with a warning, where the kernel cannot be built."""
        slot = torch.tensor([self.kv.scratch], device=self.device)
        nothing = torch.zeros(1, dtype=torch.long, device=self.device)
        try:
            with torch.inference_mode():
                step = Decode(kv=self.kv, rows=slot, lengths=nothing, runs=None)
                self.greedy(nothing, nothing, step).tolist()  # the kernel has run once its token is here
        except Exception as error:  # noqa: BLE001  compilers fail in many classes, and masked attention does the same
            warnings.warn(f"The engine reads its slots without a kernel, more slowly: {error}", stacklevel=2)
            return False
        return True

    def _accelerated(self) -> Any:
        """Compiled layers and captured decode steps; None, with a warning, where this machine cannot have them."""
        from moderation.dfa.gpt.engine.graphs import DecodeGraphs, compile_layers, restore_layers

        try:
            compile_layers(self._lm)
            return DecodeGraphs(self.greedy, self.kv, self.device)
        except Exception as error:  # noqa: BLE001  compilers fail in many classes, and the layers run without them
            restore_layers(self._lm)
            warnings.warn(
                f"The engine runs without compiled layers and captured steps: {error}", stacklevel=2
            )
            return None


def _waiting(key: K, picture: np.ndarray | VerdictOnly) -> _Face[K]:
    if isinstance(picture, VerdictOnly):
        return _Face(key, picture.pixels, verdict_only=True)
    return _Face(key, picture)


def _misfit(pixels: np.ndarray) -> BonafideError:
    return ImageRejected(
        f"The face crop is {pixels.dtype} {pixels.shape}, which is not what the model takes."
    )


def visual_tokens(model: LlavaForConditionalGeneration, pixels: Tensor) -> Tensor:
    """Normalised pixels (B, 3, S, S) -> projected visual tokens (B, P, D).

    Versions of transformers differ in what they return: an object that holds the tokens, a tensor, or one per image.
    """
    seen: Any = model.get_image_features(pixel_values=cast("Any", pixels))
    seen = getattr(seen, "pooler_output", seen)
    return seen if isinstance(seen, Tensor) else torch.stack(list(seen))


class TowerReader:
    """Heads that look at the hidden states of every forward of a tower, which is computed once for both."""

    def __init__(self, model: LlavaForConditionalGeneration, heads: Heads) -> None:
        self.heads = heads
        self._layers: list[int] = np.atleast_1d(cast("Any", model.config.vision_feature_layer)).tolist()
        self._states: tuple[Tensor, ...] = ()
        self._hook = cast("Any", model.model.vision_tower).register_forward_hook(self._keep)

    def _keep(self, _module: object, _inputs: object, output: Any) -> None:
        self._states = output.hidden_states

    def read(self) -> Seen:
        """What the heads say of the pictures that the tower saw last."""
        return self.heads(torch.stack([self._states[layer] for layer in self._layers], dim=2).float())

    def looks(self) -> list[Look]:
        seen = self.read()
        self._states = ()
        side = round(seen.grid.shape[1] ** 0.5)
        maps = seen.grid.sigmoid().view(-1, side, side).cpu().numpy()
        strange = [None] * len(maps) if seen.strangeness is None else seen.strangeness.tolist()
        views = self.heads.views(seen.features).tolist()
        return [
            Look(opinion, foreign, strangeness, tuple(view))
            for opinion, foreign, strangeness, view in zip(
                seen.verdict.tolist(), maps, strange, views, strict=True
            )
        ]

    def close(self) -> None:
        self._hook.remove()


@dataclass(frozen=True)
class _Tree:
    """The DF-C answers behind each other in one row, each but for its last token."""

    tokens: Tokens
    #: (T, T): an answer sees itself, causally, and no other.
    sees: Tensor
    #: (T,) distance of each token from the place where answers begin.
    offsets: Tensor
    #: The first token of each answer.
    first: list[int]
    #: For every later token of every answer: where its logits are, which it is, and whose.
    places: list[int]
    following: list[int]
    owners: tuple[Technique, ...]


def _option_tree(script: Script, device: torch.device) -> _Tree:
    heads = {name: tokens[:-1] for name, tokens in script.options.items()}
    branch = torch.tensor([index for index, tokens in enumerate(heads.values()) for _ in tokens])
    count = len(branch)
    return _Tree(
        tokens=tuple(token for tokens in heads.values() for token in tokens),
        sees=(branch[:, None] == branch[None]) & torch.ones(count, count, dtype=torch.bool).tril(),
        offsets=torch.tensor(
            [place for tokens in heads.values() for place in range(len(tokens))], device=device
        ),
        first=[tokens[0] for tokens in script.options.values()],
        places=list(range(count)),
        following=[token for tokens in script.options.values() for token in tokens[1:]],
        owners=tuple(name for name, tokens in heads.items() for _ in tokens),
    )


def normalisation(image: ImageSpec, device: torch.device) -> tuple[Tensor, Tensor]:
    """(x/255 − mean)/std as x · scale + shift, each (3, 1, 1)."""
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (image.mean, image.std))
    return 1 / (255 * std), -mean / std
