"""A few hundred of what `make fuzz` does by the ten thousand, and the readers that need no child."""

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import moderation.dfa
from moderation.dfa.gpt.bundle import load_bundle, resolve_bundle
from moderation.dfa.gpt.faces import find_faces
from moderation.dfa.gpt.replies import read_reply
from moderation.errors import BundleMismatch, ImageRejected
from tests.fuzz.campaign import fuzz, open_pool
from tests.fuzz.corpus import FORMATS, known_bad, mutated
from worker.decoding import DecodePool

MINI = Path(moderation.dfa.__file__).parent / "bundles" / "mini"


@pytest.fixture(scope="module")
def pool() -> Iterator[DecodePool]:
    opened = open_pool(seconds=60)
    yield opened
    opened.close()


@pytest.mark.parametrize("kind", FORMATS)
def test_a_mutated_file_decodes_or_is_refused_and_no_decoder_dies(pool: DecodePool, kind: str) -> None:
    tally = fuzz(kind, 300, seed=20261123, pool=pool, threads=2, keep=2)

    assert tally.bad == []
    assert tally.decoded > 0
    assert tally.refused.total() > 0
    for picture in tally.pictures:
        find_faces(picture)


def test_files_known_to_be_bad_are_refused_or_decoded_quickly_and_no_decoder_dies(pool: DecodePool) -> None:
    died: list[str] = []
    for name, data in known_bad():
        try:
            pool.decode(data)
        except ImageRejected as error:
            if "ended the decoder" in str(error) or "and was stopped" in str(error):
                died.append(f"{name}: {error}")

    assert died == []


def test_no_reply_of_a_model_can_break_its_reader() -> None:
    chance = random.Random(7)
    whole = b"1. **Mouth and Lips**: The edge is blurred.\n2. **Eyes**: The reflections differ.\n"
    others = [
        whole,
        b"<script>alert(1)</script>",
        "\u202e\u0000\ufeff１．".encode(),
        b"**" * 500,
        b"1. " * 500,
        b"9" * 5000 + b". **x**: y",
    ]

    for _ in range(3000):
        text = mutated(whole, others, chance).decode("utf-8", "replace")
        reply = read_reply(text, complete=chance.random() < 0.5)
        assert reply is None or all(artifact.text for artifact in reply.artifacts)


def test_a_mutated_bundle_file_is_refused_by_its_name_and_by_nothing_else(tmp_path: Path) -> None:
    chance = random.Random(3)
    folder = tmp_path / "bundle"
    shutil.copytree(MINI, folder)
    whole = (MINI / "bundle.toml").read_bytes()
    others = [whole, b"[[[[", b"base = {", b"x = 1e999\n", b"\xff\xfe", b"source = '../../etc'\n"]

    refused = 0
    for _ in range(300):
        (folder / "bundle.toml").write_bytes(mutated(whole, others, chance))
        try:
            resolve_bundle(folder)
        except BundleMismatch:
            refused += 1

    assert refused > 100


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "calibration.json", "model.safetensors"])
def test_a_bundle_whose_files_were_changed_is_not_loaded(tmp_path: Path, name: str) -> None:
    chance = random.Random(5)
    folder = tmp_path / "bundle"
    shutil.copytree(MINI, folder)
    whole = (MINI / name).read_bytes()

    for _ in range(5):
        changed = mutated(whole, [whole[:4000], json.dumps({"auto_map": {"x": "y"}}).encode()], chance)
        (folder / name).write_bytes(changed if changed != whole else whole + b" ")
        with pytest.raises(BundleMismatch):
            load_bundle(resolve_bundle(folder), device=torch.device("cpu"), dtype=torch.float32)
