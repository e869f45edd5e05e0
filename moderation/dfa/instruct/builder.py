"""DFA-Instruct on disk: pictures, LLaVA conversations and a manifest that says where each picture comes from.

Step 1, labels, is known by construction. Step 2, artifact descriptions, is worded from the lab's facts. Step 3 puts
both into questions and answers of all four tasks. Building goes on where it stopped: every two of pictures depends
on its number and the seed alone.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from moderation.dfa.gpt.prompts import PromptSet
from moderation.dfa.instruct.examples import Example, Examples
from moderation.dfa.instruct.filters import Sieve, contradicts, leaks
from moderation.dfa.instruct.forgery.photometry import jpeg_bytes
from moderation.dfa.instruct.pool import Pool
from moderation.dfa.instruct.wording import dialogue

#: Quality of the stored files: high, because the chain has already compressed the pixels as a platform would.
STORED_QUALITY = 96


@dataclass(frozen=True)
class Entry:
    """One line of the manifest: everything about a picture that is not for the model."""

    id: str
    image: str  # relative to the folder
    label: str
    technique: str | None  # None when bona fide or not known
    origin: str
    group: str
    split: str
    terms: str
    annotator: str
    prompts: int
    #: Region, kind and strength of what was done. None when not known.
    facts: tuple[tuple[str, str, float], ...] | None


def build(
    pool: Pool,
    out: Path,
    prompts: PromptSet,
    *,
    split: str,
    twos: int,
    seed: int,
    progress: Callable[[int], None] = lambda _: None,
) -> Counter[str]:
    """Write `twos` of bona fide and forged pictures of one split. Returns what was written and left out."""
    (out / "images").mkdir(parents=True, exist_ok=True)
    examples, sieve = Examples(pool, split), Sieve()
    terms = {row.group: row.terms for row in pool.rows}
    done = _done(out)
    with (
        (out / "manifest.jsonl").open("a", encoding="utf-8") as manifest,
        (out / "conversations.jsonl").open("a", encoding="utf-8") as conversations,
    ):
        for number in range(done, twos):
            rng = np.random.default_rng([seed, number])
            for entry, record in _entries(number, examples, sieve, prompts, terms, out, split, rng):
                manifest.write(json.dumps(asdict(entry)) + "\n")
                conversations.write(json.dumps(record, ensure_ascii=False) + "\n")
            # Flushed by twos: after a crash the last line says where to go on.
            conversations.flush()
            manifest.flush()
            progress(number + 1)
    sieve.counts["forgery drawn again: nothing to be seen"] += examples.invisible
    sieve.counts["fact left out: outside the mask"] += examples.unsupported
    write_llava(out)
    return sieve.counts


def _done(out: Path) -> int:
    """Twos that were written before."""
    file = out / "manifest.jsonl"
    if not file.is_file():
        return 0
    lines = file.read_text(encoding="utf-8").splitlines()
    return int(json.loads(lines[-1])["id"].split("-")[0]) + 1 if lines else 0


def _entries(
    number: int,
    examples: Examples,
    sieve: Sieve,
    prompts: PromptSet,
    terms: dict[str, str],
    out: Path,
    split: str,
    rng: np.random.Generator,
) -> Iterator[tuple[Entry, dict[str, object]]]:
    two = examples.two(rng)
    files = [jpeg_bytes(example.pixels, STORED_QUALITY, subsampling=0) for example in two]
    if sieve.repeated(files):
        sieve.counts["two left out: a picture came before"] += 1
        return
    for example, data, half in zip(two, files, ("a", "b"), strict=True):
        name = f"{number:07d}-{half}"
        record = llava_record(name, example, prompts, sieve, rng)
        (out / "images" / f"{name}.jpg").write_bytes(data)
        sieve.counts["pictures written"] += 1
        yield _entry(name, example, prompts, terms[example.group], split), record


def llava_record(
    name: str, example: Example, prompts: PromptSet, sieve: Sieve, rng: np.random.Generator
) -> dict[str, object]:
    """One picture's conversation in LLaVA's form, without the turns that a filter refuses."""
    turns = dialogue(
        deepfake=example.deepfake,
        technique=example.technique,
        facts=example.facts,
        prompts=prompts,
        rng=rng,
    )
    kept = [turn for turn in turns if _faithful(turn, example, prompts, sieve)]
    conversation: list[dict[str, str]] = []
    for question, answer in kept:
        picture = "" if conversation else f"{prompts.image}\n"
        conversation.append({"from": "human", "value": picture + question})
        conversation.append({"from": "gpt", "value": answer})
    return {"id": name, "image": f"images/{name}.jpg", "conversations": conversation}


def _faithful(turn: tuple[str, str], example: Example, prompts: PromptSet, sieve: Sieve) -> bool:
    question, answer = turn
    if leaks(answer):
        sieve.counts["turn left out: tells of another picture"] += 1
        return False
    described = question in prompts.description
    if described and contradicts(deepfake=example.deepfake, description=answer, none=prompts.no_artifacts):
        sieve.counts["turn left out: contradicts the label"] += 1
        return False
    return True


def _entry(name: str, example: Example, prompts: PromptSet, terms: str, split: str) -> Entry:
    facts = example.facts
    return Entry(
        id=name,
        image=f"images/{name}.jpg",
        label="deepfake" if example.deepfake else "bona_fide",
        technique=example.technique,
        origin=example.origin,
        group=example.group,
        split=split,
        terms=terms,
        annotator="exact facts",
        prompts=prompts.version,
        facts=None
        if facts is None
        else tuple((touch.region.value, touch.kind.value, round(touch.strength, 3)) for touch in facts),
    )


def write_llava(out: Path) -> Path:
    """`conversations.json`, the one list that LLaVA's own tools read."""
    lines = (out / "conversations.jsonl").read_text(encoding="utf-8").splitlines()
    file = out / "conversations.json"
    records = [json.loads(line) for line in lines]
    file.write_text(json.dumps(records, indent=1, ensure_ascii=False), encoding="utf-8")
    return file


def read_llava(file: Path) -> Iterator[tuple[Path, list[tuple[str, str]]]]:
    """Pictures with their turns, from LLaVA's form. The picture's mark is taken out of the first question."""
    for record in json.loads(file.read_text(encoding="utf-8")):
        said = [turn["value"] for turn in record["conversations"]]
        questions = [text.replace("<image>\n", "").replace("\n<image>", "") for text in said[::2]]
        yield file.parent / record["image"], list(zip(questions, said[1::2], strict=True))


def read_picture(file: Path, size: int) -> np.ndarray:
    """A stored picture at the model's size, (S, S, 3) uint8; others than squares are padded with grey first."""
    image = Image.open(file).convert("RGB")
    side = max(image.size)
    if image.width != image.height:
        square = Image.new("RGB", (side, side), (127, 127, 127))
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        image = square
    if side != size:
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    return np.array(image)
