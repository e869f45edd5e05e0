"""From face crops to answers: one pass per face, many faces at once, slots refilled as soon as they are free.

A face goes through one conversation and is never read twice:

    [system | picture | DF-D]  → P(Yes) from the logits at the answer's position; nothing is generated
    "Yes." [DF-C]              → the four answers scored in one forward, as branches of a tree
    its answer [AD]            → the rationale, decoded greedily; the last token frees the slot for the next face

Where the tower's heads find what is wrong (`heads.findings`), they answer DF-C and AD, and nothing is decoded.

After the first line `Route` decides whether a face goes on. Prompts are templates, so all rows of one forward have
stored equally many tokens and get equally many: there is no padding and no mask for it.

B rows, T new tokens, P patches, D model width, V vocabulary.
"""

import enum
import itertools
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, Self, TypeVar, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  what everybody calls it
from transformers import LlavaForConditionalGeneration

from moderation.analysis import Technique
from moderation.dfa.gpt.bundle import Bundle, ImageSpec, layers_read
from moderation.dfa.gpt.close_up import close_up, hidden_in_close_up
from moderation.dfa.gpt.engine.attention import Decode, attach, decode, extend, has_kernel
from moderation.dfa.gpt.engine.kv import SlotKV, bytes_per_slot
from moderation.dfa.gpt.engine.low_rank import Adapter, adapted
from moderation.dfa.gpt.engine.memory import is_out_of_memory, slots_that_fit
from moderation.dfa.gpt.grounding.facts import Touch
from moderation.dfa.gpt.heads import Heads, Seen, findings
from moderation.dfa.gpt.scoring import technique_shares
from moderation.dfa.gpt.script import Script, Tokens
from moderation.errors import BonafideError, EngineUnavailable, ImageRejected

K = TypeVar("K")

#: Faces of one prefill. 16 pictures of LLaVA-1.5 are 10,000 tokens, more than enough for efficient matrices on CUDA.
CUDA_BATCH, CPU_BATCH = 16, 8
#: A patch is hidden when at least this share of it is.
COVERED = 0.125


class Route(enum.Enum):
    """What happens to a face once its margin is known."""

    #: Nothing more is asked.
    LEAVE = enum.auto()
    #: It continues with "Yes."; its technique and rationale are asked.
    DEEPFAKE = enum.auto()
    #: It continues with "No."; its rationale is asked.
    BONA_FIDE = enum.auto()


@dataclass(frozen=True)
class Answers:
    """The model's answers about one face, before a verdict is made of them."""

    #: logit(Yes) − logit(No) at the answer's position, plus what the heads add to it (`Look.local`).
    margin: float
    #: P(Yes) + P(No) there, in [0, 1].
    mass: float
    route: Route
    #: Sum of log-probabilities of each DF-C answer. None when not asked, as where the heads answer.
    options: Mapping[Technique, float] | None
    #: Tokens of the rationale without the end token. None when not asked.
    rationale: Tokens | None
    #: False when the rationale was cut off at the length limit.
    complete: bool = True
    #: The heads' outputs. None for a bundle without heads.
    seen: "Look | None" = None

    @property
    def names_technique(self) -> bool:
        """Whether DF-C was answered, by the language model or by the heads."""
        return self.route is Route.DEEPFAKE and (self.options is not None or self.seen is not None)


@dataclass(frozen=True, eq=False)
class Look:
    """What the tower sees in one face, independent of the language model's answers."""

    #: The heads' verdict, a logit. The language model was trained towards it, but for `local`.
    opinion: float
    #: The part of it that the patches that look foreign add.
    local: float
    #: (G, G) float32 in [0, 1], rows from the top of the crop: how foreign the pixels of each place look.
    foreign: np.ndarray
    #: Distance from the training faces, in their standard deviations. None when the heads do not measure it.
    strangeness: float | None
    #: Its features along a few fixed random directions, in standard deviations of the training faces. They are rounded
    #: to halves, so that they identify kinds of pictures but not faces.
    view: tuple[float, ...]
    #: The technique head's shares, which sum to 1. They decide DF-C.
    technique: Mapping[Technique, float]
    #: What is wrong, if the face is a deepfake. None when the heads were not fitted for it: then DF-C and AD are asked.
    findings: tuple[Touch, ...] | None = None


@dataclass(frozen=True, eq=False)
class VerdictOnly:
    """A picture that leaves after DF-D, whatever its margin."""

    pixels: np.ndarray
    #: See `FaceCrop.hidden`.
    hidden: np.ndarray | None = None


@dataclass(frozen=True)
class Plan:
    """What is asked, and how many faces at once."""

    technique: bool = True
    rationale: bool = True
    max_new_tokens: int = 120
    #: Faces at once. None: what fits into memory.
    slots: int | None = None
    #: Share of that memory to take. Less than 1 when another model is loaded beside this one.
    room: float = 1.0
    #: Faces of one prefill. None: the device's default.
    max_batch: int | None = None
    #: Compile the decoder layers and capture decode steps. For CUDA; ignored elsewhere.
    accelerate: bool = True
    #: Compute the decoder's products in eight bits: see `float8`.
    float8: bool = False


@dataclass
class Heartbeat:
    """A sign of life. Another thread may read it at any time."""

    #: time.monotonic() when the last step ended or work last arrived.
    last_step_at: float = field(default_factory=time.monotonic)
    steps: int = 0
    #: False while there is nothing to do: waiting is not hanging.
    busy: bool = False

    def beat(self, *, busy: bool) -> None:
        self.steps += 1
        self.busy = busy
        self.last_step_at = time.monotonic()

    def silent_for(self, now: float) -> float:
        """Seconds since the last step. 0 when there is nothing to do."""
        return now - self.last_step_at if self.busy else 0.0


@dataclass(eq=False)
class _Face(Generic[K]):
    """One face on its way through the conversation."""

    key: K
    pixels: np.ndarray  # (S, S, 3) uint8
    verdict_only: bool = False
    hidden: np.ndarray | None = None  # (S, S) bool
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
        return Answers(
            margin=self.margin,
            mass=self.mass,
            route=self.route,
            options=self.options,
            rationale=None if written is None else tuple(token for token in written if token != end),
            complete=written is None or written[-1] == end,
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
        choose: Callable[[Mapping[Technique, float], Look | None], Technique] | None = None,
        heads: Heads | None = None,
    ) -> None:
        """Attach to the model, size the slots and read the system prefix into each of them.

        Args:
            model: loaded, on its device.
            script: the conversation in tokens.
            image: size and standardisation of a picture.
            route: decides from a face's margin and answer mass.
            plan: what is asked, and how many faces at once.
            choose: picks a face's technique from the sums of its answers' log-probabilities and from what the tower
                sees. None: the technique head's, without heads the highest mean per token.
            heads: heads on the tower's features. None for a bundle without.
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
        #: Faces of one prefill. Halved when memory runs out.
        self.batch = plan.max_batch or (CUDA_BATCH if self.device.type == "cuda" else CPU_BATCH)
        self._scale, self._shift = normalisation(image, self.device)
        with self._device_is_current():
            if plan.float8:
                from moderation.dfa.gpt.engine.float8 import use_float8

                use_float8(self._lm)
            with torch.inference_mode():
                blank = np.zeros((image.size, image.size, 3), dtype=np.uint8)
                self.patches = self._see(self._standardised([blank])).shape[1]
                self.kv = self._allocate(self._longest(), plan.slots)
                self._read_system()
            self._decode_limit = self.kv.slots
            #: Whether decode steps use the kernel of `triton_decode`.
            self._kernel = has_kernel(self.device) and self._kernel_runs()
            self._graphs = self._accelerated() if plan.accelerate and self._kernel else None

    @classmethod
    def of(
        cls,
        bundle: Bundle,
        *,
        route: Callable[[float, float], Route],
        plan: Plan,
        choose: Callable[[Mapping[Technique, float], Look | None], Technique] | None = None,
    ) -> Self:
        """The engine of a bundle."""
        model, script, image = bundle.model, bundle.script, bundle.spec.image
        return cls(model, script, image, route=route, plan=plan, choose=choose, heads=bundle.heads)

    def close(self) -> None:
        """Free the slots' memory for another engine or model. This engine cannot be used afterwards.

        Dropping an engine is not enough: it is part of reference cycles, which Python collects at some later time.
        """
        self._graphs = None
        self._current.step = None
        if self.reader is not None:
            self.reader.close()
        self.kv.release()

    def warm(self, sizes: Sequence[int] | None = None) -> None:
        """Send blank faces down both routes, so that nothing is left to compile when the first real face arrives.

        A compiled layer has one form for one row, and one for any number of rows once it has seen two sizes. So groups
        of three `sizes` compile every form. Raise EngineUnavailable when the model cannot answer even these.
        """
        if sizes is None:
            sizes = (self.batch, max(1, self.batch - 1), 1) if self._graphs is not None else (1,)
        side, own_route = self.image.size, self.route
        blank = np.zeros((side, side, 3), dtype=np.uint8)
        try:
            for route, size in itertools.product((Route.DEEPFAKE, Route.BONA_FIDE), sizes):
                self.route = lambda _margin, _mass, route=route: route
                self.answer([blank] * size)
        finally:
            self.route = own_route

    # Running

    @contextmanager
    def _at_work(self, *, on: str | None = None) -> Generator[None]:
        """Hold the model for this thread during one step.

        Raise EngineUnavailable when memory does not hold what it works `on`. None: torch's own errors are raised.
        """
        try:
            with self._lock, torch.inference_mode(), self._device_is_current():
                yield
        except Exception as error:
            if on is None or not is_out_of_memory(error):
                raise
            raise EngineUnavailable(f"The model's memory does not hold {on} now.") from error

    def _device_is_current(self) -> AbstractContextManager[object]:
        """Make this device current: kernels are launched and graphs captured on each thread's current device."""
        return torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()

    def run(
        self, take: Callable[[int, bool], Sequence[tuple[K, np.ndarray | VerdictOnly]] | None]
    ) -> Iterator[tuple[K, Answers | BonafideError]]:
        """Answer faces while `take` brings them. Yield each with its key as soon as it is finished.

        `take(room, idle)` is called before every step and returns at most `room` faces. It may wait only when `idle`:
        then no face is running. `[]` means none now, None means no more. A call with a `room` of 0 only gives the
        caller a turn on this thread; its result is ignored. One face's error is its own result and stops no other face.
        """
        running: list[_Face[K]] = []
        refill = max(1, min(self.batch, self.kv.slots // 4))
        ended = False
        while not ended or running:
            if not ended:
                self.heartbeat.beat(busy=bool(running))
                # One face at a time would be too little work per prefill: wait for a few free slots.
                room = self.kv.room if not running or self.kv.room >= refill else 0
                taken = take(room, not running)
                ended = taken is None and room > 0
                waiting = [_waiting(key, picture) for key, picture in taken or ()]
                yield from ((face.key, _misfit(face.pixels)) for face in waiting if not self._fits(face))
                waiting = [face for face in waiting if self._fits(face)]
                while waiting:
                    # `self.batch` shrinks when memory does not hold a group.
                    group, waiting = waiting[: self.batch], waiting[self.batch :]
                    yield from self._admit_safely(group, running)
            if running:
                yield from self._decode_safely(running)
        self.heartbeat.beat(busy=False)

    def answer(self, pictures: Sequence[np.ndarray | VerdictOnly]) -> list[Answers]:
        """The answers about these face crops, in order. Raise the first error among them."""
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
        """Admit a group. When memory does not hold it, admit its halves; a single face then gets an error."""
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
        # Outside the handler: there the traceback would keep the failed step's tensors alive.
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
        """Decode one token for every running face. Faces that end leave their slots and are yielded."""
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
            # Rows before the failed group have their token. The others get it in the next, smaller step.
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
        """From pixels to the first token of the rationale, for faces that go on so far."""
        for face in group:
            face.slot = self.kv.take()
            face.stored = len(self.script.system)
        self._detect(group)
        asked = [face for face in group if _is_asked_more(face)]
        deepfakes = [face for face in asked if face.route is Route.DEEPFAKE]
        if self.plan.technique and deepfakes:
            self._classify(deepfakes)
        if self.plan.rationale:
            self._begin_rationales(asked)

    def _detect(self, group: Sequence[_Face[K]]) -> None:
        unseen = self._hidden(group)
        pixels = self._standardised([face.pixels for face in group])
        patches = self._see(pixels, unseen)  # (B, P, D)
        looks = [None] * len(group) if self.reader is None else self.reader.looks(pixels, unseen)
        for face, look in zip(group, looks, strict=True):
            face.seen = look
        question = self._words(self.script.detect).expand(len(group), -1, -1)
        hidden = self._read(torch.cat([patches, question], dim=1), group)
        log_p = self._logits(hidden)[:, -1].log_softmax(-1)  # (B, V)
        masses = log_p[:, [self.script.yes, self.script.no]].exp().sum(dim=1).tolist()
        for face, margin, mass in zip(group, self._margins(hidden), masses, strict=True):
            face.margin = margin if face.seen is None else margin + face.seen.local
            face.mass = mass
            goes_on = np.isfinite(face.margin) and not face.verdict_only
            face.route = self.route(face.margin, face.mass) if goes_on else Route.LEAVE

    def _classify(self, group: Sequence[_Face[K]]) -> None:
        """Score every answer by the sum of its tokens' log-probabilities, all answers in one forward.

        A row holds the answers one after another. Each answer sees the conversation and itself, at the positions it
        would have alone. The chosen answer later overwrites their keys and values.
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
        """Append each face's answer and ask AD. Answers differ in length, so faces go in groups of equal length."""
        pieces = {id(face): self._rationale_prompt(face) for face in faces}

        def size(face: _Face[K]) -> tuple[int, int]:
            return face.stored, len(pieces[id(face)])

        for _, rows in itertools.groupby(sorted(faces, key=size), key=size):
            group = sorted(rows, key=lambda face: cast("int", face.slot))
            tokens = torch.tensor([pieces[id(face)] for face in group], device=self.device)
            logits = self._forward(self._embed(tokens), group)[:, -1]
            for face, token in zip(group, logits.argmax(-1).tolist(), strict=True):
                face.written = [token]

    def _rationale_prompt(self, face: _Face[K]) -> Tokens:
        if face.route is Route.BONA_FIDE:
            return self.script.explain_no
        if face.options is None:
            return self.script.explain_yes
        return self.script.explain[self.choose(face.options, face.seen)]

    def _likeliest(self, sums: Mapping[Technique, float], seen: Look | None) -> Technique:
        lengths = {technique: len(tokens) for technique, tokens in self.script.options.items()}
        return technique_shares(sums, lengths, head=seen and seen.technique).technique

    # The model

    @property
    def leaves_out_hidden(self) -> bool:
        """True when the tower has patches of its own: what fills hidden ones does not matter then."""
        return cast("Any", self.model.config.vision_config).model_type == "clip_vision_model"

    def _hidden(self, group: Sequence[_Face[Any]]) -> Tensor | None:
        """(B, P) bool: the patches that are left out. None: none of them."""
        if not self.leaves_out_hidden or all(face.hidden is None for face in group):
            return None
        vision: Any = self.model.config.vision_config
        side = self.image.size
        masks = [np.zeros((side, side), bool) if face.hidden is None else face.hidden for face in group]
        shares = F.avg_pool2d(torch.from_numpy(np.stack(masks)).float()[:, None], vision.patch_size)
        return (shares.flatten(1) >= COVERED).to(self.device)

    def _standardised(self, pictures: Sequence[np.ndarray]) -> Tensor:
        """(S, S, 3) uint8 pictures -> (B, 3, S, S) float32."""
        # Copy bytes, a quarter of float32's size. Standardise in float32: bfloat16 has fewer steps than a byte.
        stacked = torch.from_numpy(np.stack(pictures)).to(self.device)
        return stacked.permute(0, 3, 1, 2).float() * self._scale + self._shift

    def _see(self, pixels: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Standardised pictures -> their visual tokens (B, P, D)."""
        return visual_tokens(self.model, pixels.to(self.dtype), hidden).to(self.dtype)

    def _words(self, tokens: Tokens) -> Tensor:
        return self._embed(torch.tensor([tokens], device=self.device))  # (1, T, D)

    def _margins(self, hidden: Tensor) -> list[float]:
        """logit(Yes) − logit(No) after the last token (B, 1, D), in float32.

        Near 40, bfloat16 logits have steps of 0.25: too coarse to tell pictures apart.
        """
        yes, no = self.model.lm_head.weight[[self.script.yes, self.script.no]].float()
        return (self._lm.norm(hidden.float())[:, -1].float() @ (yes - no)).tolist()

    def _forward(self, embeds: Tensor, group: Sequence[_Face[K]], *, tree: "_Tree | None" = None) -> Tensor:
        """Read (B, T, D) new tokens into the group's slots: logits of the last one, (B, 1, V), or of a whole tree."""
        return self._logits(self._read(embeds, group, tree=tree))

    def _read(self, embeds: Tensor, group: Sequence[_Face[K]], *, tree: "_Tree | None" = None) -> Tensor:
        """As `_forward`, but return hidden states: (B, 1, D), or (B, T, D) of a tree."""
        past, count = group[0].stored, embeds.shape[1]
        assert all(face.stored == past for face in group), (
            "rows of one forward have stored equally many tokens"
        )
        slots = [cast("int", face.slot) for face in group]
        sees, offsets = (
            (None, torch.arange(count, device=self.device)) if tree is None else (tree.sees, tree.offsets)
        )
        step = extend(self.kv, slots, past, count, tree=sees, device=self.device)
        hidden = self._through_layers(embeds, (past + offsets)[None], step)
        if tree is not None:
            return hidden
        for face in group:
            face.stored += count
        return hidden[:, -1:]

    def _through_layers(
        self,
        x: Tensor,
        positions: Tensor,
        step: object,
        *,
        layers: slice = slice(None),
        compiled: bool = True,
    ) -> Tensor:
        """The decoder's layers, or some of them, without transformers' loop, which builds masks we do not need.

        Layers are compiled without what is added to them, and run uncompiled with it.
        """
        self._current.step = cast("Any", step)
        angles = self._lm.rotary_emb(x, position_ids=positions)
        for layer in self._lm.layers[layers]:
            forward = layer if compiled else partial(type(layer).forward, layer)
            out = forward(
                x, attention_mask=None, position_ids=positions, position_embeddings=angles, use_cache=False
            )
            x = out if isinstance(out, Tensor) else out[0]  # a tuple in some versions of transformers
        return x

    def _logits(self, hidden: Tensor) -> Tensor:
        return self.model.lm_head(self._lm.norm(hidden)).float()

    def _next_tokens(self, rows: Sequence[_Face[K]]) -> list[int]:
        """One greedy token per row."""
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
        """(B,) last tokens at positions `lengths` -> (B,) most likely next tokens. Does not synchronise."""
        embeds = self._embed(last[:, None])  # (B, 1, D)
        return self._logits(self._through_layers(embeds, lengths[:, None], step))[:, -1].argmax(-1)

    # Free conversation

    def converse(
        self, picture: np.ndarray, before: Tokens, after: Tokens, *, max_new_tokens: int
    ) -> Iterator[int]:
        """Greedy tokens that continue [before | picture | after], up to the end token.

        It uses its own memory, one token at a time between the steps of `run`. The picture is read again: that takes
        10 ms on an H200, but keeping a face's keys and values would cost 300 MB. Raise EngineUnavailable when memory
        is short.
        """
        face = _Face(key=None, pixels=picture)
        if not self._fits(face):
            raise _misfit(picture)
        length = len(before) + self.patches + len(after) + max_new_tokens
        with self._at_work(on="this conversation"):
            kv = self._allocate(length, 1)
            words = self._words(before), self._see(self._standardised([picture])), self._words(after)
            embeds = torch.cat(words, dim=1)  # (1, T, D)
            stored = embeds.shape[1]
            step = extend(kv, [0], 0, stored, device=self.device)
            hidden = self._through_layers(embeds, torch.arange(stored, device=self.device)[None], step)
            token = int(self._logits(hidden[:, -1:])[0, -1].argmax())
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

    def states(self, tokens: Tokens, *, depths: Sequence[int], adapter: Adapter) -> Tensor:
        """(K, T, D): the hidden states of a text without a picture, after so many layers, ascending.

        It is read with this adapter. Raise EngineUnavailable when memory is short.
        """
        with self._at_work(on="this question"), adapted(self._lm.layers, adapter):
            kv = self._allocate(len(tokens), 1)
            step = extend(kv, [0], 0, len(tokens), device=self.device)
            places = torch.arange(len(tokens), device=self.device)[None]
            x, kept = self._words(tokens), list[Tensor]()
            for layers in map(slice, (0, *depths), depths):
                x = self._through_layers(x, places, step, layers=layers, compiled=False)
                kept.append(x[0].float().cpu())
            return torch.stack(kept)

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
        """Read the system text once and copy it into every slot: it is the same for every face."""
        if not self.script.system:
            return
        slot = self.kv.take()
        face = _Face(key=None, pixels=np.empty(0), slot=slot)
        self._forward(self._words(self.script.system), [face])
        self.kv.share_beginning(len(self.script.system))
        self.kv.give_back(slot)

    def _kernel_runs(self) -> bool:
        """Try one step in the scratch slot. False, with a warning, when the kernel cannot be built."""
        slot = torch.tensor([self.kv.scratch], device=self.device)
        nothing = torch.zeros(1, dtype=torch.long, device=self.device)
        try:
            with torch.inference_mode():
                step = Decode(kv=self.kv, rows=slot, lengths=nothing, runs=None)
                self.greedy(nothing, nothing, step).tolist()  # the kernel has run once its token is here
        except Exception as error:  # noqa: BLE001  compilers raise many classes; masked attention does the same work
            warnings.warn(f"The engine reads its slots without a kernel, more slowly: {error}", stacklevel=2)
            return False
        return True

    def _accelerated(self) -> Any:
        """Compile the layers and capture decode steps. None, with a warning, when this machine cannot."""
        from moderation.dfa.gpt.engine.graphs import DecodeGraphs, compile_layers, restore_layers

        try:
            compile_layers(self._lm)
            return DecodeGraphs(self.greedy, self.kv, self.device)
        except Exception as error:  # noqa: BLE001  compilers raise many classes; the layers run uncompiled too
            restore_layers(self._lm)
            warnings.warn(
                f"The engine runs without compiled layers and captured steps: {error}", stacklevel=2
            )
            return None


def _is_asked_more(face: _Face[Any]) -> bool:
    found = face.seen is not None and face.seen.findings is not None
    return face.route is not Route.LEAVE and not found


def _waiting(key: K, picture: np.ndarray | VerdictOnly) -> _Face[K]:
    if isinstance(picture, VerdictOnly):
        return _Face(key, picture.pixels, verdict_only=True, hidden=picture.hidden)
    return _Face(key, picture)


def _misfit(pixels: np.ndarray) -> BonafideError:
    return ImageRejected(f"The model does not take a face crop of {pixels.dtype} {pixels.shape}.")


def visual_tokens(
    model: LlavaForConditionalGeneration, pixels: Tensor, hidden: Tensor | None = None
) -> Tensor:
    """Standardised pixels (B, 3, S, S) -> projected visual tokens (B, P, D).

    What fills the `hidden` patches (B, P) is no evidence ("Missingness bias in model debugging", Jain et al., ICLR
    2022). So no token of the tower attends to them, and the projector gets the mean of the shown ones in their place.
    Versions of transformers return an object that holds the tokens, a tensor, or one tensor per image.
    """
    more: dict[str, Any] = {}
    with ExitStack() as until_seen:
        if hidden is not None:
            more["attention_mask"] = _seen_alone(hidden, pixels.dtype)
            tower: Any = model.model.vision_tower
            until_seen.callback(tower.register_forward_hook(partial(_without, hidden)).remove)
        seen: Any = model.get_image_features(pixel_values=cast("Any", pixels), **more)
    seen = getattr(seen, "pooler_output", seen)
    return seen if isinstance(seen, Tensor) else torch.stack(list(seen))


def _seen_alone(hidden: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, 1, 1, 1+P): an attention mask that leaves out the `hidden` patches (B, P), and never the class token."""
    shown = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill(hidden, -torch.inf)
    return F.pad(shown, (1, 0))[:, None, None]


def _without(hidden: Tensor, _tower: object, _inputs: object, output: Any) -> Any:
    """The tower's output with the mean of the shown patches in place of the `hidden` ones (B, P)."""
    places = F.pad(hidden, (1, 0))[..., None]  # (B, 1+P, 1)
    weights = 1.0 - F.pad(hidden, (1, 0), value=True)[..., None].float()
    weights = weights / weights.sum(dim=1, keepdim=True).clamp(min=1)
    output.hidden_states = tuple(
        states  # None: a layer that nobody reads
        if states is None
        else torch.where(places, (weights * states).sum(dim=1, keepdim=True).to(states), states)
        for states in output.hidden_states
    )
    return output


class TowerReader:
    """Feeds the tower's hidden states to the heads.

    The tower runs once for them and the language model, and once more when the heads read a close-up.
    """

    def __init__(self, model: LlavaForConditionalGeneration, heads: Heads) -> None:
        self.heads = heads
        self._share = float(heads.close_up)
        self._tower: Any = model.model.vision_tower
        self._layers = layers_read(model)
        self._states: tuple[Tensor, ...] = ()
        self._hook = self._tower.register_forward_hook(self._keep)

    def _keep(self, _module: object, _inputs: object, output: Any) -> None:
        self._states = output.hidden_states

    def read(self) -> Seen:
        """The heads' outputs for the tower's last batch, from the whole crops alone."""
        return self.heads(self._last())

    def _last(self) -> Tensor:
        """The hidden states of the tower's last batch that the heads read, (B, 1+P, L, D) float32."""
        return torch.stack([self._states[layer] for layer in self._layers], dim=2).float()

    def _closer(self, pixels: Tensor, hidden: Tensor | None) -> Tensor:
        """The hidden states of close-ups."""
        more = {} if hidden is None else {"attention_mask": _seen_alone(hidden, self._tower.dtype)}
        enlarged = close_up(pixels, self._share).to(self._tower.dtype)
        self._tower(pixel_values=enlarged, output_hidden_states=True, **more)
        return self._last()

    def looks(self, pixels: Tensor, hidden: Tensor | None = None) -> list[Look]:
        """What the heads say of the tower's last batch, standardised `pixels` of which some patches may be `hidden`."""
        whole, closer = self._last(), None
        closer_hidden = None
        if self._share:
            if hidden is not None:
                closer_hidden = hidden_in_close_up(hidden, self._share, size=pixels.shape[-1])
            closer = self._closer(pixels, closer_hidden)
        seen = self.heads(whole, hidden, closer, closer_hidden)
        self._states = ()
        side = round(seen.grid.shape[1] ** 0.5)
        maps = seen.grid.sigmoid().view(-1, side, side).cpu().numpy()
        strange = [None] * len(maps) if seen.strangeness is None else seen.strangeness.tolist()
        views = self.heads.views(seen.features).tolist()
        shares = [dict(zip(Technique, each, strict=True)) for each in seen.technique.softmax(dim=-1).tolist()]
        found = findings(seen, seen.technique.argmax(dim=-1)) if self.heads.finds else [None] * len(maps)
        verdicts, locally = seen.verdict.tolist(), seen.local.tolist()
        return [
            Look(verdict + local, local, foreign, strangeness, tuple(view), named, touches)
            for verdict, local, foreign, strangeness, view, named, touches in zip(
                verdicts, locally, maps, strange, views, shares, found, strict=True
            )
        ]

    def close(self) -> None:
        self._hook.remove()


@dataclass(frozen=True)
class _Tree:
    """The DF-C answers one after another in one row, each without its last token."""

    tokens: Tokens
    #: (T, T): an answer sees itself, causally, and no other.
    sees: Tensor
    #: (T,) distance of each token from the start of its answer.
    offsets: Tensor
    #: The first token of each answer.
    first: list[int]
    #: For every later token of every answer: the place of its logits, the token, and its technique.
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
