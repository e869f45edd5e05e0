"""DFA-Instruct on disk: pictures, LLaVA conversations and a manifest with each picture's origin.

Step 1, the labels, is known by construction. Step 2 writes artifact descriptions from the lab's facts. Step 3 puts both
into questions and answers of all four tasks. A build continues where it stopped: every two of pictures depends only on
its number and the seed. In step 2 a remote vision model may describe the lab's forgeries instead, within the regions
that the facts support.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from moderation.analysis import Region, Technique
from moderation.dfa.gpt.grounding.facts import Touch
from moderation.dfa.gpt.grounding.known import description
from moderation.dfa.gpt.prompts import PromptSet
from moderation.dfa.instruct.annotator import DESCRIBED, Annotation, Annotator, Wanted
from moderation.dfa.instruct.examples import Example, Examples
from moderation.dfa.instruct.filters import Sieve, contradicts, leaks
from moderation.dfa.instruct.forgery.photometry import Encoding, encoded_as
from moderation.dfa.instruct.pool import Pool, changed_sources
from moderation.dfa.instruct.talk import dialogue
from moderation.errors import SetupProblem

#: The encoding of stored files, almost lossless: the chain has already compressed the pixels as a platform would.
STORED = Encoding("JPEG", 96, subsampling=0)
#: A pixel of a mask counts as forged from this value on.
HALF = 0.5
#: Once per this many twos the annotator gets a control: an unforged face with its own re-encoding, encoded like this.
CONTROL_EVERY, CONTROL = 20, Encoding("JPEG", 75)
#: The manifest's annotator for descriptions made from the facts.
EXACT = "exact facts"


@dataclass(frozen=True)
class Entry:
    """One line of the manifest: facts about a picture that the model does not see."""

    id: str
    image: str  # relative to the folder
    label: str
    technique: str | None  # None when bona fide or unknown
    origin: str
    group: str
    split: str
    terms: str
    annotator: str
    prompts: int
    #: Region, kind and strength of each change. None when unknown.
    facts: tuple[tuple[str, str, float], ...] | None
    #: The artifact description to teach. None when the facts are unknown.
    description: str | None
    #: The picture is a face crop: do not search it for a face.
    crop: bool = True
    #: Its mask's file (white: forged), relative to the folder. None when unknown, or when all or nothing is forged.
    mask: str | None = None


@dataclass(frozen=True, eq=False)
class _Two:
    """A bona fide and a forged picture, drawn and encoded, but not yet written."""

    number: int
    rng: np.random.Generator
    examples: tuple[Example, Example]
    files: tuple[bytes, bytes]

    def name(self, half: int) -> str:
        return f"{self.number:07d}-{'ab'[half]}"


def build(
    pool: Pool,
    out: Path,
    prompts: PromptSet,
    *,
    split: str,
    twos: int,
    seed: int,
    annotator: Annotator | None = None,
    parallel: int = 4,
    progress: Callable[[int], None] = lambda _: None,
) -> Counter[str]:
    """Write `twos` of bona fide and forged pictures of one split. Return counts of written and left-out things.

    `parallel` calls of an annotator run at once. Pictures that it cannot describe are described from the exact facts.
    Raise SetupProblem when `out` was begun with other settings or another pool, or holds more.
    """
    for kind in ("images", "masks"):
        (out / kind).mkdir(parents=True, exist_ok=True)
    examples, sieve = Examples(pool, split), Sieve()
    settings = {"split": split, "seed": seed, "prompts": prompts.version, "pool": pool.digests()}
    done = _resumed(out, settings, twos)
    terms = {row.group: row.terms for row in pool.rows}
    together = parallel if annotator else 1
    with (
        (out / "manifest.jsonl").open("a", encoding="utf-8") as manifest,
        (out / "conversations.jsonl").open("a", encoding="utf-8") as conversations,
        ThreadPoolExecutor(together) as threads,
    ):
        for start in range(done, twos, together):
            numbers = range(start, min(start + together, twos))
            drawn = [_drawn(number, examples, np.random.default_rng([seed, number])) for number in numbers]
            annotations = _annotations(drawn, annotator, threads)
            for two in drawn:
                for entry, record in _entries(two, annotations, sieve, prompts, terms, out, split):
                    manifest.write(json.dumps(asdict(entry)) + "\n")
                    conversations.write(json.dumps(record, ensure_ascii=False) + "\n")
                # Flushed after each two: after a crash the last line says where to continue.
                conversations.flush()
                manifest.flush()
                progress(two.number + 1)
    sieve.counts["forgery drawn again: nothing to be seen"] += examples.invisible
    sieve.counts["fact left out: outside the mask"] += examples.unsupported
    write_llava(out)
    return sieve.counts + annotator.counts() if annotator else sieve.counts


def _resumed(out: Path, settings: dict[str, Any], twos: int) -> int:
    """The number of twos that earlier runs wrote. Raise SetupProblem when they had other settings, or wrote more.

    What an older release did not keep counts as equal.
    """
    kept = out / "settings.json"
    before = {**settings, **(json.loads(kept.read_text()) if kept.is_file() else {})}
    changed = changed_sources(before["pool"], settings["pool"])
    if changed:
        raise SetupProblem(
            f"{out} was begun with other pictures, labels or tables of {changed}: name another folder."
        )
    other = [f"{name} {before[name]}" for name in settings if before[name] != settings[name]]
    if other:
        raise SetupProblem(
            f"{out} was begun with {' and '.join(other)}: go on with that, or name another folder."
        )
    kept.write_text(json.dumps(settings))
    file = out / "manifest.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    done = int(json.loads(lines[-1])["id"].split("-")[0]) + 1 if lines else 0
    if done > twos:
        raise SetupProblem(
            f"{out} holds {done} pairs already: ask for as many or more, or name another folder."
        )
    return done


def _drawn(number: int, examples: Examples, rng: np.random.Generator) -> _Two:
    bona_fide, forged = examples.two(rng)
    files = encoded_as(bona_fide.pixels, STORED), encoded_as(forged.pixels, STORED)
    return _Two(number, rng, (bona_fide, forged), files)


def _annotations(
    drawn: Sequence[_Two], annotator: Annotator | None, threads: ThreadPoolExecutor
) -> dict[str, Annotation]:
    """The annotations of these pictures, by name. Empty without an annotator."""
    if annotator is None:
        return {}
    wanted = [picture for two in drawn for picture in _wanted(two)]
    return {annotation.name: annotation for annotation in threads.map(annotator.annotate, wanted)}


def _wanted(two: _Two) -> Iterator[Wanted]:
    """The pictures to describe: controls, and forged pictures with known facts.

    Every second lab forgery comes with the face it was made from.
    """
    bona_fide, forged = two.examples
    before, after = two.files
    if two.number % CONTROL_EVERY == 0:
        yield Wanted(
            name=f"{two.name(0)}-control",
            technique=Technique.FE,
            regions=_CONTROLLED,
            picture=encoded_as(bona_fide.pixels, CONTROL),
            before=before,
            control=True,
        )
    if forged.facts and forged.technique is not None:
        # Only the lab's forgeries are aligned with the face they were made from.
        beside = forged.origin.startswith("lab/") and two.number % 2 == 0
        yield Wanted(
            name=two.name(1),
            technique=forged.technique,
            regions=tuple(region for region in Region if region in {fact.region for fact in forged.facts}),
            picture=after,
            before=before if beside else None,
        )


#: The regions that a control claims are changed.
_CONTROLLED = (Region.EYES, Region.NOSE, Region.MOUTH, Region.SKIN)


def _entries(
    two: _Two,
    annotations: dict[str, Annotation],
    sieve: Sieve,
    prompts: PromptSet,
    terms: dict[str, str],
    out: Path,
    split: str,
) -> Iterator[tuple[Entry, dict[str, object]]]:
    if sieve.repeated(two.files):
        sieve.counts["two left out: a picture came before"] += 1
        return
    for half, (example, data) in enumerate(zip(two.examples, two.files, strict=True)):
        name = two.name(half)
        described, annotator = _description(example, annotations.get(name), sieve, prompts)
        record = llava_record(name, example, described, prompts, sieve, two.rng)
        (out / "images" / f"{name}.jpg").write_bytes(data)
        sieve.counts["pictures written"] += 1
        yield (
            Entry(
                id=name,
                image=f"images/{name}.jpg",
                label="deepfake" if example.deepfake else "bona_fide",
                technique=example.technique,
                origin=example.origin,
                group=example.group,
                split=split,
                terms=terms[example.group],
                annotator=annotator,
                prompts=prompts.version,
                facts=None if example.facts is None else tuple(map(_told, example.facts)),
                description=described,
                mask=_write_mask(example, name, out),
            ),
            record,
        )


def _told(fact: Touch) -> tuple[str, str, float]:
    return fact.region.value, fact.kind.value, round(fact.strength, 3)


def _write_mask(example: Example, name: str, out: Path) -> str | None:
    """Write a mask and return its file. None for a wholly synthesised picture: its mask may end before the border."""
    whole = example.technique is Technique.EFS
    if example.mask is None or whole or len(np.unique(example.mask >= HALF)) < 2:
        return None
    file = f"masks/{name}.png"
    Image.fromarray((255 * example.mask).round().astype(np.uint8)).save(out / file, optimize=True)
    return file


def _description(
    example: Example, annotation: Annotation | None, sieve: Sieve, prompts: PromptSet
) -> tuple[str | None, str]:
    """The AD answer and its annotator."""
    if example.facts is None:
        return None, EXACT
    if annotation is not None and annotation.outcome == DESCRIBED:
        fresh = [(region, text) for region, text in annotation.artifacts if not sieve.worn(text)]
        sieve.counts["annotator: sentence left out: said too often"] += len(annotation.artifacts) - len(fresh)
        if fresh:
            words = f"{annotation.model}, annotation prompts {annotation.version}, {annotation.kind}"
            headed = [(prompts.headings[Region(region)][0], text) for region, text in fresh]
            return prompts.artifacts_answer(headed), words
    return description(example.facts, prompts), EXACT


def llava_record(
    name: str,
    example: Example,
    described: str | None,
    prompts: PromptSet,
    sieve: Sieve,
    rng: np.random.Generator,
) -> dict[str, object]:
    """One picture's conversation in LLaVA's format, without turns that a filter refuses.

    `described` answers every question for artifacts.
    """
    technique, facts = example.technique, example.facts
    turns = dialogue(deepfake=example.deepfake, technique=technique, facts=facts, prompts=prompts, rng=rng)
    worded = [
        (question, described if described is not None and question in prompts.description else answer)
        for question, answer in turns
    ]
    kept = [turn for turn in worded if _faithful(turn, example, prompts, sieve)]
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


def write_llava(out: Path) -> Path:
    """Write `conversations.json`, the single list that LLaVA's own tools read."""
    lines = (out / "conversations.jsonl").read_text(encoding="utf-8").splitlines()
    file = out / "conversations.json"
    records = [json.loads(line) for line in lines]
    file.write_text(json.dumps(records, indent=1, ensure_ascii=False), encoding="utf-8")
    return file


def read_llava(file: Path) -> Iterator[tuple[Path, list[tuple[str, str]]]]:
    """Pictures with their turns, from LLaVA's format. The picture's placeholder is removed from the first question."""
    for record in json.loads(file.read_text(encoding="utf-8")):
        texts = [turn["value"] for turn in record["conversations"]]
        questions = [text.replace("<image>\n", "").replace("\n<image>", "") for text in texts[::2]]
        yield file.parent / record["image"], list(zip(questions, texts[1::2], strict=True))


def read_picture(file: Path, size: int) -> np.ndarray:
    """A stored picture at the model's size, (S, S, 3) uint8. A picture that is not square is first padded with grey."""
    image = Image.open(file).convert("RGB")
    side = max(image.size)
    square = Image.new("RGB", (side, side), (127, 127, 127))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return np.array(square if side == size else square.resize((size, size), Image.Resampling.BICUBIC))
