"""What a plan of an adapter's training may say, and how it is refused before anything is loaded."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moderation.dfa.train.plan import AdapterPlan, LoraPlan, read_plan
from moderation.errors import PlanRefused

USUAL = "base = 'mini'\ndata = 'conversations.json'\n"
DOCUMENT = Path(__file__).parents[2] / "docs/models.md"


def a_plan_file(folder: Path, text: str) -> Path:
    file = folder / "plan.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_what_a_plan_leaves_out_is_as_the_recipe_has_it(tmp_path: Path) -> None:
    plan = read_plan(a_plan_file(tmp_path, USUAL + "rank = 8\n"))

    assert plan.recipe == LoraPlan(rank=8)
    assert (plan.base, plan.data, plan.name) == ("mini", Path("conversations.json"), "dfa-gpt")


def test_a_setting_of_the_command_line_goes_before_the_plan(tmp_path: Path) -> None:
    file = a_plan_file(tmp_path, USUAL + "rank = 8\nrate = 1e-2\n")

    plan = read_plan(file, ["rate=1e-3", "checkpointing=true", "training_data=a = b, c", "base=mini"])

    assert (plan.rank, plan.rate, plan.checkpointing, plan.training_data) == (8, 1e-3, True, "a = b, c")


def test_no_file_is_needed() -> None:
    assert read_plan(None, ["base=mini", "data=a.json"]) == AdapterPlan(base="mini", data=Path("a.json"))


@pytest.mark.parametrize(
    ("text", "settings", "words"),
    [
        pytest.param("data = 'a.json'", [], ["base is missing"], id="no base"),
        pytest.param(USUAL + "rnak = 8", [], ["rnak is not known", "rank"], id="a slip in a key"),
        pytest.param(USUAL + "rank = 0", [], ["rank is 0", "greater than or equal to 1"], id="out of range"),
        pytest.param(
            USUAL, ["dropout=2", "rate=quick"], ["dropout is '2'", "rate is 'quick'"], id="two at once"
        ),
        pytest.param(USUAL + "rate = inf", [], ["rate is inf"], id="no number"),
        pytest.param(USUAL, ["rate"], ["KEY=VALUE"], id="a setting without a value"),
        pytest.param("rank = = 8", [], ["is not TOML"], id="no TOML"),
    ],
)
def test_a_plan_that_cannot_be_used_is_refused_with_every_fault(
    tmp_path: Path, text: str, settings: list[str], words: list[str]
) -> None:
    with pytest.raises(PlanRefused) as refused:
        read_plan(a_plan_file(tmp_path, text), settings)

    assert refused.value.code == "plan_refused"
    assert all(word in str(refused.value) for word in words), refused.value


def test_a_plan_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanRefused, match="cannot be read"):
        read_plan(tmp_path / "nowhere.toml")


@given(
    st.builds(
        AdapterPlan,
        base=st.text(st.characters(exclude_categories=["C"])),
        data=st.just(Path("données/“all”.json")),
        licence=st.text(st.characters(exclude_categories=["C"])),
        rate=st.floats(1e-9, 1.0),
        most_steps=st.none() | st.integers(1, 10**6),
        checkpointing=st.booleans(),
    )
)
def test_a_plan_that_is_written_reads_as_the_same_plan(
    tmp_path_factory: pytest.TempPathFactory, plan: AdapterPlan
) -> None:
    file = a_plan_file(tmp_path_factory.mktemp("plan"), plan.as_toml())

    assert read_plan(file) == plan


def test_the_plan_of_the_document_can_be_used(tmp_path: Path) -> None:
    blocks = re.findall(r"```toml\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.S)
    (text,) = (block for block in blocks if block.startswith("base ="))

    assert read_plan(a_plan_file(tmp_path, text)).checkpointing
