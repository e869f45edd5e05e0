"""How fast the engine is, compared with plain Hugging Face in the same run and with what the device could do.

    python -m benchmarks.engine [--bundle mini | --layout small] [--device auto] [--json]
    python -m benchmarks.engine --layout llava-1.5-7b --device cuda --json      # random weights of the true size

Images per second for detection alone, with classification, with a description of --tokens tokens at several numbers
of slots, and with every second face leaving after detection. Beside them (a) `generate` per image and task, batch 1;
(b) `generate` per task at the best batch size; and the roofline from this device's measured rate of matrix products
and of copying. Faces are noise: the work does not depend on what they show. Every description has exactly --tokens
tokens, as both sides have no end token. It ends within ten minutes on a CPU with the small layout.
"""

import argparse
import platform
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlavaForConditionalGeneration

from benchmarks.show import options, report
from moderation.dfa.gpt.bundle import Bundle, load_bundle, resolve_bundle
from moderation.dfa.gpt.calibration import sigmoid
from moderation.dfa.gpt.detector import precision
from moderation.dfa.gpt.engine.engine import Engine, Plan, Route, visual_tokens
from moderation.dfa.gpt.layouts import layout, random_bundle, random_model, train_tokenizer
from moderation.dfa.gpt.prompts import load_prompts
from moderation.dfa.gpt.scoring import Normalisation, technique_shares
from moderation.dfa.gpt.script import Codec, Script, write_script

#: Slots of the description rows; Hugging Face is tried at these batch sizes too.
CUDA_SLOTS, CPU_SLOTS = (64, 128, 256), (8, 32)
CUDA_BATCHES, CPU_BATCHES = (8, 32, 64, 128), (4, 16)


@dataclass(frozen=True)
class Subject:
    """What is measured."""

    name: str
    model: LlavaForConditionalGeneration
    script: Script
    image: Any
    device: torch.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.lm_head.weight.dtype

    @contextmanager
    def engine(self, *, slots: int, every_second: bool = False, **plan: Any) -> Generator[Engine]:
        """One at a time: on a GPU its slots may take most of the memory."""
        turn = iter(range(1 << 60))

        def route(_margin: float, _mass: float) -> Route:
            return Route.LEAVE if every_second and next(turn) % 2 else Route.DEEPFAKE

        engine = Engine(self.model, self.script, self.image, route=route, plan=Plan(slots=slots, **plan))
        try:
            yield engine
        finally:
            engine.close()


def main() -> None:
    arguments = _arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = torch.device(
        ("cuda" if torch.cuda.is_available() else "cpu") if arguments.device == "auto" else arguments.device
    )
    subject = _subject(arguments, device)
    cuda = device.type == "cuda"
    faces = _faces(subject, arguments.images)
    figures: dict[str, Any] = _circumstances(subject, arguments)
    # Hugging Face first: an engine changes how its model attends.
    single, batched = _hugging_face(subject, faces, arguments.tokens, CUDA_BATCHES if cuda else CPU_BATCHES)
    measured = _engine(subject, faces, arguments.tokens, CUDA_SLOTS if cuda else CPU_SLOTS)
    ceilings = _ceilings(subject, arguments.tokens, CUDA_SLOTS if cuda else CPU_SLOTS)
    full = max((name for name in measured if name.startswith("full")), key=measured.__getitem__)
    figures |= {
        "hf_single_images_per_second": single,
        "hf_batched_images_per_second": batched,
        "images_per_second": measured,
        "roofline_images_per_second": ceilings,
        "engine_over_hf_single": measured[full] / single,
        "engine_over_hf_batched": measured[full] / max(batched.values()),
        "engine_over_roofline": measured[full] / ceilings[full],
        "detection_over_roofline": measured["detection"] / ceilings["detection"],
        "classification_over_roofline": measured["classification"] / ceilings["classification"],
        "winners_on_random_weights": _winners(subject, faces),
    }
    if arguments.float8:
        figures["float8"] = _float8(subject, faces)
    rows = [("Hugging Face, batch 1", f"{single:.2f} images/s", "three tasks, separate prompts")]
    rows += [(f"Hugging Face, batch {size}", f"{rate:.2f} images/s", "") for size, rate in batched.items()]
    rows += [
        (f"engine, {name}", f"{rate:.2f} images/s", f"{rate / ceilings[name]:.0%} of {ceilings[name]:.1f}")
        for name, rate in measured.items()
    ]
    winners = str(figures["winners_on_random_weights"])
    rows += [
        (
            "engine ÷ Hugging Face, batch 1",
            f"{figures['engine_over_hf_single']:.1f}",
            f"full analysis, {full}",
        ),
        ("engine ÷ Hugging Face, best batch", f"{figures['engine_over_hf_batched']:.2f}", ""),
        ("engine ÷ roofline", f"{figures['engine_over_roofline']:.2f}", ""),
        ("which option wins on random weights", winners, "by normalisation"),
    ]
    title = f"Engine: {subject.name} on {figures['device']}"
    report(title, rows, {"engine": figures}, as_json=arguments.json)


def _arguments() -> argparse.Namespace:
    parser = options(__doc__)
    parser.add_argument("--bundle", help="a bundle's folder, or `mini`")
    parser.add_argument(
        "--layout", default="small", help="tiny, small, llava-1.5-tiny or llava-1.5-7b; random weights"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--images", type=int, default=None, help="faces a row; more slots take more")
    parser.add_argument("--tokens", type=int, default=120, help="tokens of a description")
    parser.add_argument("--float8", action="store_true", help="also in eight bits, with its effect on P(Yes)")
    parser.add_argument("--threads", type=int, default=None)
    return parser.parse_args()


def _subject(arguments: argparse.Namespace, device: torch.device) -> Subject:
    name = arguments.bundle or arguments.layout
    if arguments.bundle is None and device.type == "cuda":
        return _true_size(name, device)
    with tempfile.TemporaryDirectory() as folder:
        spec = resolve_bundle(arguments.bundle) if arguments.bundle else random_bundle(Path(folder), name)
        bundle: Bundle = load_bundle(spec, device=device, dtype=precision(spec, device))
    return Subject(name, bundle.model, _endless(bundle.script), spec.image, device)


def _true_size(name: str, device: torch.device) -> Subject:
    """The model, made on the device in bfloat16, without a file: 14 GB for the 7B layout."""
    chosen, prompts = layout(name), load_prompts()
    model = random_model(chosen, device=str(device), dtype=torch.bfloat16)
    codec = Codec(train_tokenizer(prompts.texts(), min(chosen.vocabulary, 2048)), start=1)
    script = write_script(prompts, codec, image_token=model.config.image_token_id)
    return Subject(name, model, _endless(script), chosen.image, device)


def _endless(script: Script) -> Script:
    """Without an end token, so that every description has the same length."""
    return replace(script, end=-1)


def _faces(subject: Subject, count: int | None) -> list[np.ndarray]:
    side = subject.image.size
    count = count or (256 if subject.device.type == "cuda" else 32)
    return list(np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8))


def _circumstances(subject: Subject, arguments: argparse.Namespace) -> dict[str, Any]:
    cuda = subject.device.type == "cuda"
    return {
        "model": subject.name,
        "device": torch.cuda.get_device_name(subject.device)
        if cuda
        else f"CPU, {torch.get_num_threads()} threads",
        "dtype": str(subject.dtype).removeprefix("torch."),
        "tokens": arguments.tokens,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


def _seconds(device: torch.device, work: Callable[[], object]) -> float:
    """Wall seconds; on one CPU thread its CPU seconds, so that other work on the machine does not count."""
    clock = time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = clock()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - began


# Hugging Face


def _hugging_face(
    subject: Subject, faces: Sequence[np.ndarray], tokens: int, batches: Sequence[int]
) -> tuple[float, dict[int, float]]:
    """Images per second of plain `generate`, one image at a time and at each batch size that fits."""
    _generate_all(subject, faces[:1], min(tokens, 4))  # warm
    few = min(len(faces), 3)
    single = few / _seconds(
        subject.device, lambda: [_generate_all(subject, [face], tokens) for face in faces[:few]]
    )
    batched: dict[int, float] = {}
    for size in batches:
        group = [faces[index % len(faces)] for index in range(size)]
        try:
            batched[size] = size / _seconds(
                subject.device, lambda group=group: _generate_all(subject, group, tokens)
            )
        except torch.OutOfMemoryError:
            break
    return single, batched


@torch.inference_mode()
def _generate_all(subject: Subject, faces: Sequence[np.ndarray], tokens: int) -> None:
    """The three tasks as three separate prompts, the way a script around `generate` asks them."""
    script = subject.script
    option = max(script.options.values(), key=len)
    longest = max(script.explain.values(), key=len)
    _generate(subject, faces, (), 2)
    _generate(subject, faces, script.classify, len(option))
    _generate(subject, faces, (*script.classify, *longest), tokens)


def _generate(subject: Subject, faces: Sequence[np.ndarray], rest: Sequence[int], tokens: int) -> None:
    config, script = subject.model.config, subject.script
    ids = [*script.system, *[config.image_token_id] * config.image_seq_length, *script.detect, *rest]
    inputs = torch.tensor([ids] * len(faces), device=subject.device)
    cast("Any", subject.model).generate(
        input_ids=inputs,
        attention_mask=torch.ones_like(inputs),
        pixel_values=_pixels(subject, faces),
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        do_sample=False,
        pad_token_id=3,
    )


def _pixels(subject: Subject, faces: Sequence[np.ndarray]) -> torch.Tensor:
    mean, std = (torch.tensor(values)[:, None, None] for values in (subject.image.mean, subject.image.std))
    pixels = (torch.from_numpy(np.stack(faces)).permute(0, 3, 1, 2).float() / 255 - mean) / std
    return pixels.to(subject.device, subject.dtype)


# The engine


def _engine(
    subject: Subject, faces: Sequence[np.ndarray], tokens: int, slots: Sequence[int]
) -> dict[str, float]:
    """Images per second of each kind of work."""
    cuda = subject.device.type == "cuda"
    batch = 16 if cuda else 8
    half = _half_slots(slots)

    def rate(count: int, **plan: Any) -> float:
        """With several rounds if there are many slots, so that filling and emptying them matters little."""
        rounds = 8 if plan.get("every_second") else 4
        shown = max(len(faces), rounds * count) if cuda else len(faces)
        with subject.engine(slots=count, **plan) as engine:
            return _rate(engine, [faces[index % len(faces)] for index in range(shown)])

    return {
        "detection": rate(batch, technique=False, rationale=False, max_new_tokens=1),
        "classification": rate(batch, rationale=False, max_new_tokens=1),
        **{f"full, {count} slots": rate(count, max_new_tokens=tokens) for count in slots},
        f"half leave early, {half} slots": rate(half, max_new_tokens=tokens, every_second=True),
    }


def _half_slots(slots: Sequence[int]) -> int:
    return slots[(len(slots) - 1) // 2]


def _rate(engine: Engine, faces: Sequence[np.ndarray]) -> float:
    engine.warm()
    engine.answer(faces[: engine.batch + 1])
    return len(faces) / _seconds(engine.device, lambda: engine.answer(faces))


def _winners(subject: Subject, faces: Sequence[np.ndarray]) -> dict[str, dict[str, int]]:
    """How often each technique comes first under each normalisation. For an ignorant model all should be equal."""
    with subject.engine(slots=8, rationale=False, max_new_tokens=1) as engine:
        grey = np.full_like(faces[0], 127)
        prior = engine.answer([grey])[0].options
        seen = engine.answer(faces)
    lengths = {name: len(tokens) for name, tokens in subject.script.options.items()}
    counts = {how.value: dict.fromkeys(map(str, lengths), 0) for how in Normalisation}
    for answers in seen:
        for how in Normalisation:
            shares = technique_shares(answers.options or {}, lengths, how=how, prior=prior)
            counts[how.value][str(shares.technique)] += 1
    return counts


def _float8(subject: Subject, faces: Sequence[np.ndarray]) -> dict[str, float]:
    """What eight bits do to P(Yes) and to speed. Call it last: it replaces the model's layers."""
    plan: dict[str, Any] = {"slots": 16, "technique": False, "rationale": False, "max_new_tokens": 1}
    with subject.engine(**plan) as engine:
        before = [sigmoid(answers.margin) for answers in engine.answer(faces)]
    with subject.engine(**plan, float8=True) as engine:
        after = [sigmoid(answers.margin) for answers in engine.answer(faces)]
        rate = _rate(engine, faces)
    changes = [abs(a - b) for a, b in zip(after, before, strict=True)]
    return {
        "mean change of P(Yes)": float(np.mean(changes)),
        "largest change of P(Yes)": max(changes),
        "detection, images/s": rate,
    }


# The roofline


def _ceilings(subject: Subject, tokens: int, slots: Sequence[int]) -> dict[str, float]:
    """Images per second that the measured rates of this device allow.

    It counts the products of the decoder's linears and attention, the picture's own work and the output layer where it
    is read; for decoding, the bytes of weights and of keys and values. Everything else is free.
    """
    work = _Work(subject)
    script = subject.script
    prefix = work.patches + len(script.detect)
    read = len(script.system)
    detection = work.picture + work.tokens(prefix, read) + work.head
    tree = sum(len(option) - 1 for option in script.options.values())
    read += prefix
    asked = len(script.classify)
    classification = (
        detection + work.tokens(asked, read) + work.tokens(tree, read + asked) + work.head * (1 + tree)
    )
    read += asked
    explain = max(map(len, script.explain.values()))
    opened = classification + work.tokens(explain, read) + work.head
    context = read + explain + tokens / 2
    ceilings = {"detection": work.rate / detection, "classification": work.rate / classification}
    for count in slots:
        step = work.decode_seconds(count, context)
        ceilings[f"full, {count} slots"] = 1 / (opened / work.rate + tokens * step / count)
    count = _half_slots(slots)
    late = (opened - detection) / work.rate
    late += tokens * work.decode_seconds(count, context) / count
    ceilings[f"half leave early, {count} slots"] = 1 / (detection / work.rate + late / 2)
    return ceilings


class _Work:
    """Operations and bytes of this model, and the rates of this device."""

    def __init__(self, subject: Subject) -> None:
        config: Any = subject.model.config.get_text_config()
        language: Any = subject.model.model.language_model
        self.layers, self.width = config.num_hidden_layers, config.hidden_size
        linears = [module for module in language.layers.modules() if isinstance(module, torch.nn.Linear)]
        self.linear = 2 * sum(module.weight.numel() for module in linears)  # operations a token
        self.head = 2 * subject.model.lm_head.weight.numel()
        size = subject.dtype.itemsize
        self.weight_bytes = (self.linear + self.head) // 2 * size
        heads = config.num_key_value_heads / config.num_attention_heads
        self.kv_bytes = 2 * self.layers * int(self.width * heads) * size  # bytes a token
        counter = FlopCounterMode(display=False)
        blank = _pixels(subject, [np.zeros((subject.image.size, subject.image.size, 3), dtype=np.uint8)])
        with torch.inference_mode(), counter:
            self.patches = visual_tokens(subject.model, blank).shape[1]
        self.picture = counter.get_total_flops()
        self.rate = _matrix_rate(subject, linears[-1], self.patches)
        self.bandwidth = _copy_rate(subject)

    def tokens(self, count: int, past: int) -> float:
        """Operations of `count` new tokens behind `past`: linears and causal attention."""
        return count * self.linear + 4 * self.width * self.layers * (count * past + count * (count + 1) / 2)

    def decode_seconds(self, rows: int, context: float) -> float:
        """One step: the bytes that must be read, or the products, whichever takes longer."""
        read = (self.weight_bytes + rows * context * self.kv_bytes) / self.bandwidth
        products = rows * (self.linear + self.head + 4 * self.width * self.layers * context) / self.rate
        return max(read, products)


def _matrix_rate(subject: Subject, linear: torch.nn.Linear, patches: int) -> float:
    """Operations per second of the model's own largest product, with the best of a few numbers of rows."""
    rates: list[float] = []
    for batch in (4, 8, 16):
        rows = batch * patches
        x = torch.randn(rows, linear.in_features, device=subject.device, dtype=subject.dtype)
        weight = torch.randn(
            linear.in_features, linear.out_features, device=subject.device, dtype=subject.dtype
        )
        operations = 2 * rows * linear.in_features * linear.out_features
        rates.extend(
            operations / seconds for seconds in _repeats(subject.device, lambda x=x, w=weight: x @ w)
        )
    return max(rates)


def _copy_rate(subject: Subject) -> float:
    """Bytes per second, read and written, of a copy that is larger than every cache."""
    size = 4 << 30 if subject.device.type == "cuda" else 256 << 20
    source = torch.zeros(size, dtype=torch.uint8, device=subject.device)
    target = torch.empty_like(source)
    return max(2 * size / seconds for seconds in _repeats(subject.device, lambda: target.copy_(source)))


def _repeats(device: torch.device, work: Callable[[], object]) -> Iterator[float]:
    work()
    for _ in range(5):
        yield _seconds(device, work)


if __name__ == "__main__":
    main()
