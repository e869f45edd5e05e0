"""The paper's recipe on a small LLaVA of random weights: it learns, resumes, merges, and touches nothing else."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from moderation.cli.dfa import app
from moderation.dfa.gpt.bundle import Bundle, BundleCard, BundleSpec, load_bundle, read_bundle
from moderation.dfa.gpt.heads import Heads
from moderation.dfa.gpt.layouts import random_bundle
from moderation.dfa.train.lora import (
    PROJECTOR,
    adapted,
    lora_bundle,
    loss_of,
    patches_of,
    planned_steps,
    schedule,
    told,
    train_lora,
    write_adapter_bundle,
)
from moderation.dfa.train.plan import AdapterPlan, LoraPlan, read_plan
from moderation.dfa.train.sight import NORMS
from moderation.dfa.train.small import begin_projector, tower_states
from moderation.errors import SetupProblem
from tests.dfa.drawn_faces import a_portrait

#: peft 0.21 asks transformers 5.23 by a name that transformers renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

PLAN = LoraPlan(
    rank=8, alpha=16, dropout=0.0, rate=5e-3, projector_rate=1e-3, batch=4, epochs=3, save_every=2
)


@pytest.fixture(scope="module", params=["llava-1.5-tiny", "tiny"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> BundleSpec:
    return random_bundle(tmp_path_factory.mktemp("base"), request.param)


@pytest.fixture(scope="module")
def conversations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("told")
    records = []
    for number in range(8):
        Image.fromarray(a_portrait(number, size=96).pixels).save(folder / f"{number}.png")
        turns = [
            {"from": "human", "value": "<image>\nHas this face been forged?"},
            {"from": "gpt", "value": "Yes." if number % 2 else "No."},
        ]
        records.append({"id": str(number), "image": f"{number}.png", "conversations": turns})
    (folder / "conversations.json").write_text(json.dumps(records))
    return folder / "conversations.json"


def loaded(spec: BundleSpec) -> Bundle:
    return load_bundle(spec, device=torch.device("cpu"), dtype=torch.float32)


def margins(bundle: Bundle, conversations: Path) -> np.ndarray:
    model = bundle.model.eval()
    data, _ = told(
        conversations,
        bundle.prompts,
        bundle.codec,
        image_token=model.config.image_token_id,
        patches=patches_of(model, bundle.spec.image),
        longest=512,
    )
    with torch.inference_mode():
        return np.array([loss_of(model, [entry], bundle).item() for entry in data])


def test_the_loss_falls_and_the_adapter_reloads_to_the_same_outputs(
    base: BundleSpec, conversations: Path, tmp_path: Path
) -> None:
    bundle = loaded(base)

    losses = train_lora(bundle, conversations, tmp_path, replace(PLAN, epochs=10))
    trained = margins(bundle, conversations)
    card = BundleCard("adapted", "1", "a test", "none", "drawn faces")
    spec = write_adapter_bundle(base, tmp_path, card, base_model="")

    assert np.mean(losses[-3:]) < 0.7 * losses[0]
    np.testing.assert_allclose(margins(loaded(spec), conversations), trained, rtol=2e-2, atol=2e-3)


def test_only_lora_matrices_and_the_projector_learn(base: BundleSpec) -> None:
    model = adapted(loaded(base).model, PLAN)

    learnt = [name for name, weight in model.named_parameters() if weight.requires_grad]

    assert learnt
    assert all("lora_" in name or "multi_modal_projector" in name for name in learnt)
    assert not any("vision_tower" in name for name in learnt)
    assert any("multi_modal_projector" in name for name in learnt)


def test_a_broken_run_goes_on_where_it_was_saved(
    base: BundleSpec, conversations: Path, tmp_path: Path
) -> None:
    plan = replace(PLAN, dropout=0.2)
    whole = train_lora(loaded(base), conversations, tmp_path / "whole", plan)

    # The checkpoint after step 4 of 6 is what a crash would have left.
    halfway = tmp_path / "crashed"
    _train_until(loaded(base), conversations, halfway, plan, steps=4)
    rest = train_lora(loaded(base), conversations, halfway, plan)

    assert len(whole) == 6
    np.testing.assert_allclose(rest, whole[4:], rtol=1e-3)
    with pytest.raises(SetupProblem, match="other settings"):
        train_lora(loaded(base), conversations, halfway, replace(plan, rate=1e-3))


def test_what_learns_is_float32_on_a_bfloat16_base_too(
    base: BundleSpec, conversations: Path, tmp_path: Path
) -> None:
    plan = replace(PLAN, projector_rate=2e-5, most_steps=2)
    bundle = load_bundle(base, device=torch.device("cpu"), dtype=torch.bfloat16)
    before = {name: weight.clone() for name, weight in _projector(bundle).items()}

    train_lora(bundle, conversations, tmp_path, plan)

    # In bfloat16 a rate of the recipe is lost in rounding for most weights: they would stand still.
    after = load_file(tmp_path / "adapter/adapter_model.safetensors")
    moved = [
        (next(new for key, new in after.items() if key.endswith(name)) != old.float()).float().mean().item()
        for name, old in before.items()
    ]
    assert {weight.dtype for weight in after.values()} == {torch.float32}
    assert min(moved) > 0.99


def _projector(bundle: Bundle) -> dict[str, torch.Tensor]:
    return {
        f"{PROJECTOR}.{name}": weight.detach()
        for name, weight in bundle.model.model.multi_modal_projector.named_parameters()
    }


def test_an_adapter_is_not_trained_on_another_or_over_a_finished_one(
    base: BundleSpec, conversations: Path, tmp_path: Path
) -> None:
    plan = AdapterPlan(**vars(replace(PLAN, most_steps=1)), base=str(base.folder), data=conversations)
    lora_bundle(plan, tmp_path / "first", device="cpu")

    with pytest.raises(SetupProblem, match="finished"):
        lora_bundle(plan, tmp_path / "first", device="cpu")
    with pytest.raises(SetupProblem, match="adapter already"):
        lora_bundle(replace(plan, base=str(tmp_path / "first")), tmp_path / "second", device="cpu")
    with pytest.raises(SetupProblem, match="clip-vit-b16-smollm2-135m"):
        lora_bundle(replace(plan, base="small"), tmp_path / "second", device="cpu")


def test_a_plan_with_settings_over_it_is_trained_by_and_written_beside_the_adapter(
    base: BundleSpec, conversations: Path, tmp_path: Path
) -> None:
    file, out = tmp_path / "mine.toml", tmp_path / "mine"
    file.write_text(
        f'base = "{base.folder}"\ndata = "{conversations}"\nname = "mine"\nrank = 4\nrate = 1e-3\n'
    )
    words = ["--plan", file, "--set", "rank=2", "--set", "most_steps=1", "--set", "licence=our own pictures"]

    result = CliRunner().invoke(
        app, ["train", "lora", *map(str, words), "--out", str(out), "--device", "cpu"]
    )

    assert result.exit_code == 0, result.output
    written = read_plan(out / "plan.toml")
    assert (written.rank, written.rate, written.most_steps) == (2, 1e-3, 1)
    assert json.loads((out / "adapter/adapter_config.json").read_text())["r"] == 2
    card = read_bundle(out).card
    assert (card.name, card.licence) == ("mine", "our own pictures")


def _train_until(bundle: Bundle, conversations: Path, out: Path, plan: LoraPlan, *, steps: int) -> None:
    """Stop as a crash would: after the checkpoint at `steps`."""

    class Crash(Exception):
        pass

    from moderation.dfa.train import lora

    save = lora._save

    def save_and_crash(*args, step: int, **rest) -> None:
        save(*args, step=step, **rest)
        if step == steps:
            raise Crash

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lora, "_save", save_and_crash)
        with pytest.raises(Crash):
            train_lora(bundle, conversations, out, plan)


def test_the_rate_warms_up_and_falls_to_nothing() -> None:
    factors = [schedule(step, 100, LoraPlan()) for step in range(100)]

    assert factors[0] < factors[2] == 1.0
    assert factors[-1] < 0.01


@pytest.mark.parametrize(
    ("conversations", "plan", "steps"),
    [
        pytest.param(1000, LoraPlan(), 63, id="one epoch of sixteens"),
        pytest.param(1000, LoraPlan(accumulate=4), 16, id="accumulated"),
        pytest.param(1000, LoraPlan(most_steps=5), 5, id="stopped early"),
        pytest.param(1, LoraPlan(), 1, id="never none"),
    ],
)
def test_steps(conversations: int, plan: LoraPlan, steps: int) -> None:
    assert planned_steps(conversations, plan) == steps


# --- a tower that learnt to see before


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A tiny base whose heads hold an opinion, and whose projector begins with what they look at."""
    folder = random_bundle(tmp_path_factory.mktemp("seeing"), "small-tiny").folder
    torch.manual_seed(1)
    heads = Heads(2, 32)
    torch.nn.init.normal_(heads.verdict, std=0.2)
    bundle = replace(loaded(read_bundle(folder)), heads=heads.eval().requires_grad_(requires_grad=False))
    faces = [a_portrait(number, size=224).pixels for number in range(50)]
    with torch.inference_mode():
        heads.know(heads(tower_states(bundle, faces)).features.clone())
    heads.verdict.copy_(torch.randn(heads.verdict.shape) * 0.2)
    begin_projector(bundle, heads, faces)
    return bundle


def test_the_projector_says_at_the_class_token_what_the_heads_see_and_at_patches_nothing(
    seeing: Bundle,
) -> None:
    # Those that it was begun with: 64 features do not tell a class token from a patch well on others.
    faces = [a_portrait(number, size=224).pixels for number in range(50)]
    states = tower_states(seeing, faces)
    assert seeing.heads is not None
    projector: Any = seeing.model.model.multi_modal_projector
    table: Any = seeing.model.get_input_embeddings().weight
    between = table[seeing.script.yes] - table[seeing.script.no]

    with torch.inference_mode():
        opinions = seeing.heads(states).verdict
        told = projector(states.flatten(2)) @ between / between.square().sum()  # (B, 1+P)

    assert np.corrcoef(opinions.numpy(), told[:, 0].numpy())[0, 1] > 0.5
    assert told[:, 0].std() > 3 * told[:, 1:].std()


def test_the_verdict_is_learnt_from_what_the_tower_sees(
    seeing: Bundle, conversations: Path, tmp_path: Path
) -> None:
    plan = replace(PLAN, epochs=12, batch=8, rate=1e-2, projector_rate=1e-3)

    train_lora(seeing, conversations, tmp_path, plan)

    told = [json.loads(line) for line in (tmp_path / "lora.jsonl").read_text().splitlines()][1:]
    assert told[-1]["taught"] < 0.8 * told[0]["taught"]
    stored = load_file(tmp_path / "adapter/adapter_model.safetensors")
    norms = {name for name in stored if "vision_tower" in name}
    assert {name.rsplit(".", 2)[-2] for name in norms} == set(NORMS)


def test_two_processes_give_the_losses_of_one(conversations: Path, tmp_path: Path) -> None:
    base = random_bundle(tmp_path / "base", "llava-1.5-tiny")
    plan = replace(PLAN, most_steps=3)
    train_lora(loaded(base), conversations, tmp_path / "one", plan)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "tests.dfa.speak_in_two", str(base.folder), str(conversations), str(tmp_path / "two")]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}

    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, env=environment)

    assert done.returncode == 0, done.stderr[-2000:]
    one, two = (
        [json.loads(line)["loss"] for line in (tmp_path / name / "lora.jsonl").read_text().splitlines()[1:]]
        for name in ("one", "two")
    )
    assert two == pytest.approx(one, rel=1e-2)
