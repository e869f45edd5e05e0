"""The engine's shortcuts equal the long way round. Each test has a control that fails when the shortcut is wrong.

Tolerance 1e-4 on log-probabilities: float32 sums in another order differ by about 1e-6 here, and the smallest
mistake of the controls is a thousand times the tolerance.
"""

import gc
import itertools
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from moderation.dfa.gpt.bundle import BundleSpec, load_bundle
from moderation.dfa.gpt.detector import fingerprint
from moderation.dfa.gpt.engine import attention, memory
from moderation.dfa.gpt.engine.engine import Answers, Engine, Plan, Route, VerdictOnly, visual_tokens
from moderation.dfa.gpt.engine.kv import SlotKV, side_by_side
from moderation.dfa.gpt.engine.low_rank import LowRank
from moderation.dfa.gpt.heads import Heads
from moderation.dfa.gpt.layouts import random_bundle
from moderation.dfa.gpt.policy import Policy
from moderation.errors import BonafideError, EngineUnavailable, ImageRejected, SetupProblem
from tests.dfa.conftest import a_picture
from tests.dfa.reference import Expected, Reference, loaded

TOLERANCE = 1e-4
#: What a control must be off by at least.
WRONG = 1e-2
TOKENS = 12
FACES = 6


def an_engine(
    spec: BundleSpec,
    *,
    route: Callable[[float, float], Route] = lambda margin, mass: Route.DEEPFAKE,
    **plan: Any,
) -> Engine:
    bundle = loaded(spec)
    defaults: dict[str, Any] = {"max_new_tokens": TOKENS, "slots": 4, "max_batch": 3}
    return Engine(bundle.model, bundle.script, spec.image, route=route, plan=Plan(**(defaults | plan)))


def pictures(spec: BundleSpec, count: int = FACES) -> list[np.ndarray]:
    return [a_picture(spec.image.size, seed) for seed in range(count)]


def feed(faces: Sequence[np.ndarray]) -> Callable[[int, bool], Sequence[tuple[int, np.ndarray]] | None]:
    waiting = list(enumerate(faces))

    def take(room: int, idle: bool) -> Sequence[tuple[int, np.ndarray]] | None:
        taken, waiting[:] = waiting[:room], waiting[room:]
        return taken or None

    return take


def answers_of(engine: Engine, faces: Sequence[np.ndarray]) -> list[Answers]:
    results = dict(engine.run(feed(faces)))
    assert all(isinstance(result, Answers) for result in results.values())
    return [cast("Answers", results[index]) for index in range(len(faces))]


@pytest.fixture(scope="module")
def expectations() -> dict[str, list[Expected]]:
    return {}


@pytest.fixture
def expected(spec: BundleSpec, expectations: dict[str, list[Expected]]) -> list[Expected]:
    """From the long way round, computed once for each layout."""
    key = str(spec.folder)
    if key not in expectations:
        reference = Reference(spec)
        expectations[key] = [reference.expected(picture, max_new_tokens=TOKENS) for picture in pictures(spec)]
    return expectations[key]


def difference(answers: Sequence[Answers], expected: Sequence[Expected]) -> tuple[float, float]:
    """Largest error of a margin and of an option's sum."""
    margin = max(abs(a.margin - e.margin) for a, e in zip(answers, expected, strict=True))
    options = max(
        abs(value - e.options[name])
        for a, e in zip(answers, expected, strict=True)
        for name, value in (a.options or {}).items()
    )
    return margin, options


def test_everything_equals_separate_whole_prompts_and_generate(
    spec: BundleSpec, expected: list[Expected]
) -> None:
    engine = an_engine(spec)

    answers = answers_of(engine, pictures(spec))

    margin, options = difference(answers, expected)
    assert margin < TOLERANCE
    assert options < TOLERANCE
    assert [a.rationale for a in answers] == [e.rationale for e in expected]


def test_the_expectations_tell_faces_apart(expected: list[Expected]) -> None:
    margins = [e.margin for e in expected]

    assert min(abs(a - b) for i, a in enumerate(margins) for b in margins[:i]) > TOLERANCE
    assert len({e.rationale for e in expected}) > 1


def test_control_a_forgotten_system_prefix_is_noticed(spec: BundleSpec, expected: list[Expected]) -> None:
    engine = an_engine(spec)
    with torch.inference_mode():
        for kept in (*engine.kv.k, *engine.kv.v):
            kept[:, :, : len(engine.script.system)] = 0

    margin, _ = difference(answers_of(engine, pictures(spec)), expected)

    assert margin > WRONG


def test_control_another_faces_slot_is_noticed(spec: BundleSpec, expected: list[Expected]) -> None:
    engine = an_engine(spec)
    faces = pictures(spec)

    margin, _ = difference(answers_of(engine, [*faces[1:], faces[0]]), expected)

    assert margin > WRONG


def test_control_options_that_see_each_other_are_noticed(spec: BundleSpec, expected: list[Expected]) -> None:
    engine = an_engine(spec)
    engine._tree = replace(engine._tree, sees=torch.ones_like(engine._tree.sees).tril())

    _, options = difference(answers_of(engine, pictures(spec)), expected)

    assert options > WRONG


def test_control_options_at_the_wrong_positions_are_noticed(
    spec: BundleSpec, expected: list[Expected]
) -> None:
    engine = an_engine(spec)
    engine._tree = replace(engine._tree, offsets=torch.arange(len(engine._tree.offsets)))

    _, options = difference(answers_of(engine, pictures(spec)), expected)

    assert options > WRONG


def test_control_a_decode_step_that_reads_too_much_is_noticed(
    spec: BundleSpec, expected: list[Expected], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = an_engine(spec)
    answers_of(engine, pictures(spec)[::-1])  # leaves keys of other faces behind in every slot
    honest = attention.decode

    def careless(kv: SlotKV, slots: Sequence[int], lengths: Sequence[int], **options: Any) -> Any:
        step = honest(kv, slots, [engine.kv.length - 1] * len(slots), **options)
        return replace(
            step,
            lengths=torch.tensor(lengths),
            runs=tuple(replace(run, mask=torch.ones_like(run.mask)) for run in step.runs or ()),
        )

    monkeypatch.setattr("moderation.dfa.gpt.engine.engine.decode", careless)

    answers = answers_of(engine, pictures(spec))

    assert [a.rationale for a in answers] != [e.rationale for e in expected]


def test_a_face_gets_the_same_answers_alone_and_in_any_batch(
    spec: BundleSpec, expected: list[Expected]
) -> None:
    engine = an_engine(spec, slots=5, max_batch=5)
    faces = pictures(spec)

    alone = [answers_of(engine, [face])[0] for face in faces]
    backwards = answers_of(engine, faces[::-1])[::-1]

    for answers in (alone, backwards):
        assert max(difference(answers, expected)) < TOLERANCE
        assert [a.rationale for a in answers] == [e.rationale for e in expected]


def test_the_same_batch_gives_the_same_bits(spec: BundleSpec) -> None:
    engine = an_engine(spec)

    assert answers_of(engine, pictures(spec)) == answers_of(engine, pictures(spec))


def test_slots_are_refilled_while_others_still_write(tiny: BundleSpec) -> None:
    engine = an_engine(tiny, slots=4, max_batch=2)
    faces = pictures(tiny, 10)
    # An end that some rationales reach early and others do not.
    lengths = [len(a.rationale or ()) for a in answers_of(engine, faces)]
    token = cast("tuple[int, ...]", answers_of(engine, faces)[0].rationale)[3]
    engine.script = replace(engine.script, end=token)
    running: list[int] = []

    def take(room: int, idle: bool) -> Sequence[tuple[int, np.ndarray]] | None:
        running.append(4 - room)
        return source(room, idle)

    source = feed(faces)
    results = dict(engine.run(take))

    reference = Reference(tiny)
    reference.bundle = replace(reference.bundle, script=replace(reference.bundle.script, end=token))
    wanted = [reference.expected(face, max_new_tokens=TOKENS).rationale for face in faces]
    assert [cast("Answers", results[index]).rationale for index in range(10)] == wanted
    assert len(set(map(len, wanted))) > 1
    assert lengths != [len(tokens) for tokens in wanted]
    assert any(0 < count < 4 for count in running[1:])  # somebody was writing when others came


def test_who_leaves_early_costs_nothing_to_those_who_stay(spec: BundleSpec, expected: list[Expected]) -> None:
    middle = sum(sorted(e.margin for e in expected)[FACES // 2 - 1 : FACES // 2 + 1]) / 2
    engine = an_engine(spec, route=lambda margin, mass: Route.DEEPFAKE if margin >= middle else Route.LEAVE)

    answers = answers_of(engine, pictures(spec))

    for answer, wanted in zip(answers, expected, strict=True):
        stays = wanted.margin >= middle
        assert abs(answer.margin - wanted.margin) < TOLERANCE
        assert answer.rationale == (wanted.rationale if stays else None)
        assert (answer.options is not None) == stays
    assert engine.kv.room == engine.kv.slots


def test_a_bona_fide_face_is_asked_with_no_said_for_it(spec: BundleSpec, expected: list[Expected]) -> None:
    engine = an_engine(spec, route=lambda margin, mass: Route.BONA_FIDE)
    reference = Reference(spec)
    face = pictures(spec)[0]

    answer = answers_of(engine, [face])[0]

    ids = reference.prompt(reference.bundle.script.explain_no)
    assert answer.options is None
    assert answer.rationale == reference.generate(ids, face, max_new_tokens=TOKENS)
    assert answer.rationale != expected[0].rationale


def test_a_margin_is_finer_than_the_steps_of_bfloat16(tiny: BundleSpec) -> None:
    bundle = load_bundle(tiny, device=torch.device("cpu"), dtype=torch.bfloat16)
    with torch.no_grad():
        bundle.model.lm_head.weight.mul_(256)  # logits as large as those of trained models
    engine = Engine(
        bundle.model, bundle.script, tiny.image, route=lambda margin, mass: Route.LEAVE, plan=Plan()
    )

    margins = [answer.margin for answer in answers_of(engine, pictures(tiny))]

    assert max(map(abs, margins)) > 1
    assert any(abs(16 * margin - round(16 * margin)) > 0.05 for margin in margins)


@pytest.mark.parametrize(
    ("technique", "rationale"),
    [
        pytest.param(False, False, id="detection alone"),
        pytest.param(True, False, id="no rationale"),
        pytest.param(False, True, id="no technique"),
    ],
)
def test_only_what_the_plan_asks_is_asked(tiny: BundleSpec, technique: bool, rationale: bool) -> None:
    engine = an_engine(tiny, technique=technique, rationale=rationale)
    reference = Reference(tiny)
    face = pictures(tiny)[0]

    answer = answers_of(engine, [face])[0]

    assert abs(answer.margin - reference.margin(face)) < TOLERANCE
    assert (answer.options is not None) == technique
    if rationale:
        ids = reference.prompt(reference.bundle.script.explain_yes)
        assert answer.rationale == reference.generate(ids, face, max_new_tokens=TOKENS)
    else:
        assert answer.rationale is None


def test_the_answer_mass_is_the_share_of_yes_and_no(tiny: BundleSpec) -> None:
    reference = Reference(tiny)
    face = pictures(tiny)[0]
    last = reference.log_p(reference.prompt(), face)[-1].exp()

    answer = answers_of(an_engine(tiny), [face])[0]

    script = reference.bundle.script
    assert answer.mass == pytest.approx(float(last[script.yes] + last[script.no]), rel=1e-4)


def test_a_bad_face_gets_its_own_error_and_the_others_their_answers(tiny: BundleSpec) -> None:
    engine = an_engine(tiny)
    faces = pictures(tiny, 4)
    faces[1] = np.zeros((3, 3, 3), dtype=np.uint8)
    faces[2] = faces[2].astype(np.float32)

    results = dict(engine.run(feed(faces)))

    assert isinstance(results[1], ImageRejected)
    assert isinstance(results[2], ImageRejected)
    assert isinstance(results[0], Answers)
    assert isinstance(results[3], Answers)


def test_only_bad_faces_do_not_make_the_stream_spin(tiny: BundleSpec) -> None:
    engine = an_engine(tiny)

    results = list(engine.run(feed([np.zeros((1, 1, 3), dtype=np.uint8)] * 9)))

    assert len(results) == 9


def test_numbers_that_are_not_finite_are_that_faces_error(tiny: BundleSpec) -> None:
    engine = an_engine(tiny)
    with torch.no_grad():
        engine.model.lm_head.weight.fill_(float("nan"))

    results = dict(engine.run(feed(pictures(tiny, 2))))

    assert all(isinstance(result, EngineUnavailable) for result in results.values())
    assert engine.kv.room == engine.kv.slots


class NarrowTower(torch.nn.Module):
    """A tower in front of an allocator that holds only so many pictures."""

    def __init__(self, tower: torch.nn.Module, most: int, sum_to_refuse: float | None = None) -> None:
        super().__init__()
        self.tower, self.most, self.seen, self.sum_to_refuse = tower, most, [], sum_to_refuse

    def forward(self, pixel_values: torch.Tensor, **options: Any) -> Any:
        self.seen.append(len(pixel_values))
        heavy = self.sum_to_refuse is not None and any(
            abs(float(p.sum()) - self.sum_to_refuse) < 1 for p in pixel_values
        )
        if len(pixel_values) > self.most or heavy:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.tower(pixel_values, **options)


def test_a_group_that_does_not_fit_is_halved(tiny: BundleSpec) -> None:
    engine = an_engine(tiny, slots=8, max_batch=8)
    wanted = answers_of(engine, pictures(tiny, 8))
    narrow = NarrowTower(engine.model.model.vision_tower, most=3)
    engine.model.model.vision_tower = narrow

    answers = answers_of(engine, pictures(tiny, 8))

    assert narrow.seen[:3] == [8, 4, 2]
    assert engine.batch == 2
    assert [a.rationale for a in answers] == [a.rationale for a in wanted]
    assert engine.kv.room == engine.kv.slots


def test_only_the_face_that_does_not_fit_alone_is_refused(tiny: BundleSpec) -> None:
    engine = an_engine(tiny, slots=4, max_batch=4)
    faces = pictures(tiny, 4)
    sums = [
        float((torch.from_numpy(face).permute(2, 0, 1) * engine._scale + engine._shift).sum())
        for face in faces
    ]
    engine.model.model.vision_tower = NarrowTower(
        engine.model.model.vision_tower, most=4, sum_to_refuse=sums[2]
    )

    results = dict(engine.run(feed(faces)))

    assert isinstance(results.pop(2), EngineUnavailable)
    assert all(isinstance(result, Answers) for result in results.values())
    assert engine.kv.room == engine.kv.slots


def test_a_decode_step_that_does_not_fit_is_split(tiny: BundleSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = an_engine(tiny, slots=4, max_batch=4)
    wanted = answers_of(engine, pictures(tiny, 4))
    honest = attention.decode

    def narrow(kv: SlotKV, slots: Sequence[int], lengths: Sequence[int], **options: Any) -> Any:
        if len(slots) > 1:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
        return honest(kv, slots, lengths, **options)

    monkeypatch.setattr("moderation.dfa.gpt.engine.engine.decode", narrow)

    answers = answers_of(engine, pictures(tiny, 4))

    assert [a.rationale for a in answers] == [a.rationale for a in wanted]


def test_a_bug_is_not_taken_for_missing_memory(tiny: BundleSpec) -> None:
    engine = an_engine(tiny)

    def broken(margin: float, mass: float) -> Route:
        raise RuntimeError("a bug")

    engine.route = broken

    with pytest.raises(RuntimeError, match="a bug"):
        answers_of(engine, pictures(tiny, 1))


def test_take_may_wait_only_when_nothing_runs(tiny: BundleSpec) -> None:
    engine = an_engine(tiny, slots=4, max_batch=1)
    faces = pictures(tiny, 3)
    script: Iterator[list[tuple[int, np.ndarray]] | None] = iter(
        [[], [(0, faces[0])], [], [(1, faces[1])], None]
    )
    calls: list[tuple[int, bool]] = []

    def take(room: int, idle: bool) -> list[tuple[int, np.ndarray]] | None:
        calls.append((room, idle))
        return next(script)

    results = dict(engine.run(take))

    assert set(results) == {0, 1}
    assert calls[:2] == [(4, True), (4, True)]
    assert calls[2:] == [(3, False), (3, False), (2, False)]


def test_a_question_is_answered_while_every_slot_is_taken(tiny: BundleSpec) -> None:
    engine = an_engine(tiny, slots=2, max_batch=2)
    script = engine.script
    talk = engine.converse(
        pictures(tiny)[0], script.system, (*script.detect, *script.classify), max_new_tokens=TOKENS - 4
    )
    source = feed(pictures(tiny, 4))
    rooms: list[int] = []
    spoken: list[int] = []

    def take(room: int, idle: bool) -> Sequence[tuple[int, np.ndarray]] | None:
        rooms.append(room)
        spoken.extend(token for _, token in zip(range(1), talk, strict=False))
        return source(room, idle)

    stream = engine.run(take)
    next(stream)

    assert rooms == [2, *[0] * (TOKENS - 2)]
    assert len(spoken) == TOKENS - 4
    assert len(list(stream)) == 3  # what is said when there is no room is not taken for the end


def test_results_come_as_they_finish_and_not_at_the_end(tiny: BundleSpec) -> None:
    route = iter([Route.DEEPFAKE, Route.LEAVE])
    engine = an_engine(tiny, route=lambda margin, mass: next(route))

    order = [key for key, _ in engine.run(feed(pictures(tiny, 2)))]

    assert order == [1, 0]


def test_the_heartbeat_moves_with_every_step_and_rests_when_idle(tiny: BundleSpec) -> None:
    engine = an_engine(tiny)
    before = engine.heartbeat.steps

    answers_of(engine, pictures(tiny, 1))

    assert engine.heartbeat.steps > before + TOKENS // 2
    assert not engine.heartbeat.busy
    assert engine.heartbeat.silent_for(engine.heartbeat.last_step_at + 1000) == 0


def test_a_hanging_step_is_seen_from_another_thread(tiny: BundleSpec) -> None:
    engine = an_engine(tiny)
    entered, leave = threading.Event(), threading.Event()

    def hang(margin: float, mass: float) -> Route:
        entered.set()
        leave.wait(10)
        return Route.LEAVE

    engine.route = hang
    worker = threading.Thread(target=lambda: list(engine.run(feed(pictures(tiny, 1)))))
    worker.start()
    entered.wait(10)

    silent = engine.heartbeat.silent_for(engine.heartbeat.last_step_at + 61)

    leave.set()
    worker.join(10)
    assert silent == 61


def test_conversation_equals_generate(spec: BundleSpec) -> None:
    engine = an_engine(spec)
    reference = Reference(spec)
    face = pictures(spec)[0]
    script = engine.script
    question = (*script.detect, *script.classify)

    tokens = tuple(engine.converse(face, script.system, question, max_new_tokens=TOKENS))

    wanted = reference.generate(reference.prompt(script.classify), face, max_new_tokens=TOKENS)
    assert tokens == wanted


def test_conversation_takes_turns_with_a_running_stream(tiny: BundleSpec) -> None:
    engine = an_engine(tiny)
    faces = pictures(tiny, 2)
    wanted = answers_of(engine, faces)
    talk = engine.converse(faces[0], engine.script.system, engine.script.detect, max_new_tokens=TOKENS)
    said = tuple(engine.converse(faces[0], engine.script.system, engine.script.detect, max_new_tokens=TOKENS))
    source = feed(faces)
    spoken: list[int] = []

    def take(room: int, idle: bool) -> Sequence[tuple[int, np.ndarray]] | None:
        spoken.extend(token for _, token in zip(range(2), talk, strict=False))
        return source(1, idle)

    results: dict[int, Answers | BonafideError] = dict(engine.run(take))

    spoken.extend(talk)
    assert [cast("Answers", results[index]).rationale for index in range(2)] == [a.rationale for a in wanted]
    assert tuple(spoken) == said


@pytest.mark.parametrize("form", ["object", "list", "tensor"])
def test_every_form_of_image_features_is_understood(tiny: BundleSpec, form: str) -> None:
    model = loaded(tiny).model
    pixels = torch.zeros(2, 3, tiny.image.size, tiny.image.size)
    wanted = visual_tokens(model, pixels)

    class Elsewhere:
        """As other versions of transformers answer."""

        def get_image_features(self, pixel_values: torch.Tensor) -> Any:
            seen = list(
                cast("Any", model.get_image_features(pixel_values=cast("Any", pixel_values))).pooler_output
            )
            return {
                "object": type("Seen", (), {"pooler_output": seen}),
                "list": seen,
                "tensor": torch.stack(seen),
            }[form]

    assert torch.equal(visual_tokens(cast("Any", Elsewhere()), pixels), wanted)


def test_layers_that_return_tuples_are_understood(tiny: BundleSpec) -> None:
    engine = an_engine(tiny)
    wanted = answers_of(engine, pictures(tiny, 2))
    for layer in cast("Any", engine.model.model.language_model).layers:
        layer.register_forward_hook(lambda module, args, output: (output,))

    assert answers_of(engine, pictures(tiny, 2)) == wanted


def test_compiled_layers_give_the_same_answers(tiny: BundleSpec) -> None:
    from moderation.dfa.gpt.engine.graphs import compile_layers, restore_layers

    engine = an_engine(tiny, max_new_tokens=3)
    wanted = answers_of(engine, pictures(tiny, 1))
    compile_layers(engine.model.model.language_model, backend="eager")

    answers = answers_of(engine, pictures(tiny, 1))

    restore_layers(engine.model.model.language_model)
    assert [a.rationale for a in answers] == [a.rationale for a in wanted]
    assert [a.margin for a in answers] == pytest.approx([a.margin for a in wanted], abs=TOLERANCE)


def test_a_text_is_read_uncompiled_with_what_is_added(tiny: BundleSpec) -> None:
    from moderation.dfa.gpt.engine.graphs import compile_layers, restore_layers

    engine = an_engine(tiny, max_new_tokens=3)
    layer = engine.model.model.language_model.layers[0].self_attn.q_proj
    term = LowRank(torch.ones(1, layer.in_features), torch.ones(layer.out_features, 1))
    wanted = engine.states((5, 6, 7), depths=(1,), adapter={"0.self_attn.q_proj": term})
    compile_layers(engine.model.model.language_model, backend="eager")
    answers_of(engine, pictures(tiny, 1))  # the layers are compiled without the term

    read = engine.states((5, 6, 7), depths=(1,), adapter={"0.self_attn.q_proj": term})

    restore_layers(engine.model.model.language_model)
    torch.testing.assert_close(read, wanted)


def test_layers_may_have_many_forms_in_whichever_thread_runs_them(tiny: BundleSpec) -> None:
    from moderation.dfa.gpt.engine.graphs import FORMS, compile_layers, restore_layers

    engine = an_engine(tiny, max_new_tokens=3)
    limits: list[int] = []

    def backend(graph: torch.fx.GraphModule, _inputs: Any) -> Callable[..., Any]:
        limits.append(cast("Any", torch)._dynamo.config.recompile_limit)
        return graph.forward

    compile_layers(engine.model.model.language_model, backend=backend)
    other = threading.Thread(target=lambda: answers_of(engine, pictures(tiny, 1)))
    other.start()
    other.join(120)

    restore_layers(engine.model.model.language_model)
    assert set(limits) == {FORMS}


def test_after_warming_nothing_is_left_to_be_compiled(tiny: BundleSpec) -> None:
    from moderation.dfa.gpt.engine.graphs import compile_layers, restore_layers

    roads = itertools.cycle([Route.DEEPFAKE, Route.BONA_FIDE, Route.LEAVE])
    engine = an_engine(tiny, route=lambda margin, mass: next(roads), slots=6, max_batch=4)
    compiled: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _inputs: Any) -> Callable[..., Any]:
        compiled.append(graph)
        return graph.forward

    compile_layers(engine.model.model.language_model, backend=backend)
    engine.warm()
    for_one_row = len(compiled)
    engine.warm((4, 3, 1))
    for_any = len(compiled)

    for count in (1, 2, 3, 4, 9):
        engine.answer(pictures(tiny, count))

    restore_layers(engine.model.model.language_model)
    assert for_one_row < for_any == len(compiled)


def test_a_kernel_that_cannot_be_built_is_not_used(tiny: BundleSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = answers_of(an_engine(tiny), pictures(tiny, 1))
    # As on CUDA where triton is installed and finds no compiler.
    monkeypatch.setattr("moderation.dfa.gpt.engine.engine.has_kernel", lambda device: True)
    monkeypatch.setitem(sys.modules, "moderation.dfa.gpt.engine.triton_decode", None)

    with pytest.warns(UserWarning, match="without a kernel"):
        engine = an_engine(tiny)

    assert answers_of(engine, pictures(tiny, 1)) == wanted
    script = engine.script
    assert tuple(engine.converse(pictures(tiny)[0], script.system, script.detect, max_new_tokens=3))


def test_a_closed_engine_keeps_no_memory_and_leaves_the_model_to_the_next(tiny: BundleSpec) -> None:
    engine = an_engine(tiny)
    wanted = answers_of(engine, pictures(tiny, 2))
    kept = [weakref.ref(one) for one in (*engine.kv.k, *engine.kv.v)]
    gc.disable()  # what the collector finds in its own time is too late for the next engine

    engine.close()

    gc.enable()
    assert all(one() is None for one in kept)
    bundle = loaded(tiny)
    after = Engine(engine.model, bundle.script, tiny.image, route=engine.route, plan=engine.plan)
    assert answers_of(after, pictures(tiny, 2)) == wanted


def test_a_machine_that_cannot_compile_runs_without(
    tiny: BundleSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = an_engine(tiny)
    wanted = answers_of(engine, pictures(tiny, 1))

    with pytest.warns(UserWarning, match="without compiled layers"):  # there is no CUDA to capture on
        graphs = engine._accelerated()

    assert graphs is None
    assert answers_of(engine, pictures(tiny, 1)) == wanted


def test_eight_bits_change_scores_a_little_and_are_never_silent(tiny: BundleSpec) -> None:
    exact = answers_of(an_engine(tiny), pictures(tiny, 2))

    rough = answers_of(an_engine(tiny, float8=True), pictures(tiny, 2))

    changes = [abs(a.margin - b.margin) for a, b in zip(exact, rough, strict=True)]
    assert 0 < max(changes) < 1.0
    assert fingerprint(tiny, Policy(float8=True)) != fingerprint(tiny, Policy())


def test_a_device_without_eight_bits_is_a_setup_problem(
    tiny: BundleSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_old(*_: Any, **__: Any) -> torch.Tensor:
        raise RuntimeError(
            "torch._scaled_mm is only supported on CUDA devices with compute capability >= 8.9"
        )

    monkeypatch.setattr(torch, "_scaled_mm", too_old)

    with pytest.raises(SetupProblem, match="turn float8 off"):
        an_engine(tiny, float8=True)


def test_slots_are_sized_from_free_memory() -> None:
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    per_slot = 400 << 20  # LLaVA-1.5-7B: 512 KiB a token, about 800 tokens

    assert memory.slots_that_fit(per_slot, cuda, free=120 << 30) == 245
    assert memory.slots_that_fit(per_slot, cuda, free=120 << 30, room=0.5) == 122
    assert memory.slots_that_fit(per_slot, cuda, free=1 << 20) == 1
    assert memory.slots_that_fit(1, cpu, free=1 << 30) == memory.CPU_SLOTS


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        pytest.param(torch.OutOfMemoryError("CUDA out of memory"), True, id="cuda"),
        pytest.param(RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), True, id="cpu"),
        pytest.param(RuntimeError("CUDA error: out of memory"), True, id="the driver"),
        pytest.param(
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
            True,
            id="cublas",
        ),
        pytest.param(MemoryError(), True, id="python"),
        pytest.param(RuntimeError("shape mismatch"), False, id="a bug"),
    ],
)
def test_missing_memory_is_told_from_other_errors(error: Exception, verdict: bool) -> None:
    assert memory.is_out_of_memory(error) is verdict


def test_neighbouring_slots_are_read_without_a_copy() -> None:
    assert side_by_side([2, 3, 4]) == slice(2, 5)
    assert side_by_side([2, 4]) is None
    assert side_by_side([3, 2]) is None


def with_heads(spec: BundleSpec, heads: Heads) -> Engine:
    """An engine with these heads that asks for verdicts alone."""
    bundle = loaded(spec)
    script, image = bundle.script, bundle.spec.image
    return Engine(
        bundle.model, script, image, route=lambda _margin, _mass: Route.LEAVE, plan=Plan(), heads=heads.eval()
    )


@pytest.fixture
def of_patches(tmp_path: Path) -> BundleSpec:
    """Random weights with a tower of patches and its class token."""
    return random_bundle(tmp_path, "small-tiny")


def lively_heads(close_up: float = 0.0) -> Heads:
    torch.manual_seed(2)
    heads = Heads(2, 32)
    heads.close_up.fill_(close_up)
    torch.nn.init.normal_(heads.verdict)
    torch.nn.init.normal_(heads.judgement.weight, std=0.2)
    return heads


def test_the_margin_is_the_language_models_and_what_the_patches_add(of_patches: BundleSpec) -> None:
    pictures = [a_picture(224, seed) for seed in range(3)]

    silent, lively = (
        with_heads(of_patches, heads).answer(pictures) for heads in (Heads(2, 32), lively_heads())
    )

    for spoken, both in zip(silent, lively, strict=True):
        assert both.seen is not None
        assert abs(both.seen.local) > 1e-3
        assert both.margin == pytest.approx(spoken.margin + both.seen.local, abs=1e-3)


def test_a_close_up_is_one_more_look_of_the_heads_alone(of_patches: BundleSpec) -> None:
    whole = a_picture(224, 1)
    around = whole.copy()
    around[:32] = 255 - around[:32]  # outside the close-up

    once, twice, elsewhere = (
        with_heads(of_patches, lively_heads(share)).answer([picture])[0]
        for share, picture in ((0.0, whole), (10 / 14, whole), (10 / 14, around))
    )

    assert once.seen is not None
    assert twice.seen is not None
    assert elsewhere.seen is not None
    assert abs(twice.seen.local - once.seen.local) > 1e-2
    assert twice.margin - twice.seen.local == pytest.approx(once.margin - once.seen.local, abs=1e-3)
    assert np.allclose(twice.seen.foreign, once.seen.foreign)
    assert twice.margin != pytest.approx(elsewhere.margin, abs=1e-2)


@pytest.mark.parametrize("close_up", [0.0, 10 / 14])
def test_a_tower_of_patches_does_not_look_at_hidden_ones(of_patches: BundleSpec, close_up: float) -> None:
    whole, mask = a_picture(224, 1), np.zeros((224, 224), dtype=bool)
    mask[32:80, 48:96] = True
    other = np.where(mask[..., None], 255 - whole, whole)
    pictures = [VerdictOnly(pixels, hidden) for hidden in (None, mask) for pixels in (whole, other)]

    answered = with_heads(of_patches, lively_heads(close_up)).answer(pictures)

    opinions = [answers.seen.opinion for answers in answered if answers.seen is not None]
    for shown, changed, hidden, still in (opinions, [answers.margin for answers in answered]):
        assert abs(shown - changed) > 1e-2
        assert hidden == pytest.approx(still, abs=1e-4)
        assert abs(shown - hidden) > 1e-2
