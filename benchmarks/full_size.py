"""The paper's recipe and the bundle's loader at full size, with random weights: does it learn, and load back the same?

    python -m benchmarks.full_size --layout llava-1.5-7b --json                 # 45 GB of disk, 22 GB of memory
    python -m benchmarks.full_size --layout llava-1.5-tiny                      # the same in seconds

It writes a base bundle of random weights, trains an adapter on conversations about drawn pictures for a few steps,
writes the bundle with the adapter, loads it as a worker does (digests checked, adapter merged) and compares the losses
of both. Random weights show that the code works at this size and how long it takes; they show no quality.
"""

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.show import options, report
from moderation.dfa.gpt.bundle import Bundle, BundleCard, BundleSpec, load_bundle, write_card
from moderation.dfa.gpt.layouts import layout, random_model, train_tokenizer
from moderation.dfa.gpt.prompts import load_prompts
from moderation.dfa.train.lora import loss_of, patches_of, told, train_lora, write_adapter_bundle
from moderation.dfa.train.plan import LoraPlan

#: Pictures of the conversations. There are few, so that a few steps see each of them more than once.
PICTURES = 2
#: Bytes of one file of weights: what is written is held in memory twice.
SHARD = "2GB"


def main() -> None:
    arguments = _arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        figures = measure(arguments, Path(folder))
    rows = [
        (name, f"{value:,.4g}" if isinstance(value, float) else str(value), "")
        for name, value in figures.items()
    ]
    report(f"Full size: {arguments.layout}", rows, {"full_size": figures}, as_json=arguments.json)


def _arguments() -> argparse.Namespace:
    parser = options(__doc__)
    parser.add_argument(
        "--layout", default="llava-1.5-tiny", help="llava-1.5-7b, llava-1.5-tiny, small or tiny"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--folder", default=None, help="where the weights are written meanwhile")
    return parser.parse_args()


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Write, load, train, write, load: the seconds of each, and the losses before, after and after loading again."""
    device, seconds = torch.device(arguments.device), dict[str, float]()
    plan = LoraPlan(
        rank=arguments.rank, alpha=2 * arguments.rank, dropout=0.0, rate=1e-3, projector_rate=1e-4,
        batch=1, epochs=arguments.steps, most_steps=arguments.steps, warmup=0.0, checkpointing=True,
    )  # fmt: skip
    conversations = _conversations(folder / "told", layout(arguments.layout).image.size)
    with _timed(seconds, "write the base"):
        base = _base(folder / "base", arguments.layout)
    with _timed(seconds, "load the base"):
        bundle = load_bundle(base, device=device, dtype=torch.bfloat16)
    weights = sum(weight.numel() for weight in bundle.model.parameters())
    before = _losses(bundle, conversations)
    with _timed(seconds, "train"):
        steps = train_lora(bundle, conversations, folder / "adapted", plan)
    after = _losses(bundle, conversations)
    card = BundleCard(
        "adapted", "0", "Random weights and an adapter.", "Apache-2.0", "drawn pictures", trained=False
    )
    adapted = write_adapter_bundle(base, folder / "adapted", card, base_model="")
    del bundle
    with _timed(seconds, "load the base, merge the adapter"):
        again = load_bundle(adapted, device=device, dtype=torch.bfloat16)
    reloaded = _losses(again, conversations)
    return {
        "device": str(device),
        "threads": torch.get_num_threads(),
        "weights": weights,
        "loss before": float(np.mean(before)),
        "loss at each step": [round(loss, 4) for loss in steps],
        "loss after": float(np.mean(after)),
        "loss of the bundle that was loaded back": float(np.mean(reloaded)),
        "largest difference between the two": float(np.abs(np.array(after) - reloaded).max()),
        **{f"seconds to {name}": value for name, value in seconds.items()},
        "seconds per step": seconds["train"] / arguments.steps,
        "peak memory of the process, GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Generator[None]:
    began = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - began


def _base(folder: Path, name: str) -> BundleSpec:
    """A bundle of random weights in bfloat16: at full size, single precision would need twice the memory."""
    chosen, prompts = layout(name), load_prompts()
    model = random_model(chosen, dtype=torch.bfloat16)
    model.save_pretrained(folder, max_shard_size=SHARD)
    train_tokenizer(prompts.texts(), chosen.vocabulary).save(str(folder / "tokenizer.json"))
    card = BundleCard(name, "0-untrained", "Random weights.", "Apache-2.0", "none", trained=False)
    return write_card(BundleSpec(card=card, folder=folder, image=chosen.image))


def _conversations(folder: Path, side: int) -> Path:
    """Pictures of noise, and what is said about them."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    records: list[dict[str, Any]] = []
    for number in range(PICTURES):
        Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(folder / f"{number}.png")
        answer = "Yes. The mouth is blurred and its border is visible." if number % 2 else "No."
        turns = [
            {"from": "human", "value": "<image>\nHas this face been forged?"},
            {"from": "gpt", "value": answer},
        ]
        records.append({"id": str(number), "image": f"{number}.png", "conversations": turns})
    (folder / "conversations.json").write_text(json.dumps(records), encoding="utf-8")
    return folder / "conversations.json"


def _losses(bundle: Bundle, conversations: Path) -> list[float]:
    """Of each conversation's answers, without learning from it."""
    model = bundle.model.eval()
    entries, _ = told(
        conversations,
        bundle.prompts,
        bundle.codec,
        image_token=model.config.image_token_id,
        patches=patches_of(model, bundle.spec.image),
        longest=2048,
    )
    with torch.inference_mode():
        return [loss_of(model, [entry], bundle).item() for entry in entries]


if __name__ == "__main__":
    main()
