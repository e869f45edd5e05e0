"""How an adapter is trained: a plan, read from a TOML file and from what the command line sets. No torch is known here.

The defaults are those of LLaVA-1.5's task recipe (haotian-liu/LLaVA, scripts/v1_5/finetune_task_lora.sh), because the
paper states none.
"""

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from moderation.errors import PlanRefused

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)

AtLeastOne = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]


@dataclass(frozen=True, config=_STRICT)
class LoraPlan:
    """The recipe. Recorded beside what is trained by it."""

    rank: AtLeastOne = 128
    alpha: AtLeastOne = 256
    dropout: Share = 0.05
    #: Learning rates, of the LoRA matrices and of the projector.
    rate: Positive = 2e-4
    projector_rate: NotNegative = 2e-5
    #: Passes over the data.
    epochs: Positive = 1.0
    #: Conversations of one forward, and forwards of one step.
    batch: AtLeastOne = 16
    accumulate: AtLeastOne = 1
    warmup: Share = 0.03  # of all steps
    longest: AtLeastOne = 2048  # tokens; longer conversations are left out and counted
    #: Recompute activations in the backward pass: less memory for a third more time.
    checkpointing: bool = False
    seed: int = 0
    #: Steps between checkpoints of the adapter and its optimiser.
    save_every: AtLeastOne = 200
    #: Stop after this many steps, whatever `epochs` says. None: run to the end.
    most_steps: AtLeastOne | None = None
    #: Weight of the verdict that the tower's heads teach, beside the mean of all words. Needs a bundle with heads.
    taught: NotNegative = 1.0


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class AdapterPlan(LoraPlan):
    """All that a plan file may say: the recipe, what it is applied to, and what the model card says."""

    #: A bundle's folder, `mini`, or org/name@revision.
    base: str
    #: conversations.json in LLaVA's form.
    data: Path
    name: str = "dfa-gpt"
    #: The licence that base and data impose, and the sources of the data.
    licence: str = "research only"
    training_data: str = "not stated"

    @property
    def recipe(self) -> LoraPlan:
        return LoraPlan(**{field.name: getattr(self, field.name) for field in fields(LoraPlan)})

    def as_toml(self) -> str:
        """What `read_plan` reads as this plan."""
        return "".join(
            f"{key} = {_toml(value)}\n" for key, value in asdict(self).items() if value is not None
        )


def read_plan(file: Path | None, settings: Sequence[str] = ()) -> AdapterPlan:
    """The plan of a file, with settings of the form KEY=VALUE in place of the file's. Raise PlanRefused."""
    values = {} if file is None else _read(file)
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise PlanRefused(f"{setting!r} is no setting: write KEY=VALUE")
        values[key.strip()] = value.strip()
    try:
        return AdapterPlan(**values)
    except ValidationError as error:
        wrong = "; ".join(_what_is_wrong(detail) for detail in error.errors(include_url=False))
        raise PlanRefused(f"the plan cannot be used: {wrong}") from error


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise PlanRefused(f"the plan {file} cannot be read: {error.strerror}") from error
    except ValueError as error:  # no TOML, or no UTF-8
        raise PlanRefused(f"the plan {file} is not TOML: {error}") from error


def _what_is_wrong(detail: Mapping[str, Any]) -> str:
    key = str(detail["loc"][0])
    match detail["type"]:
        case "unexpected_keyword_argument":
            known = ", ".join(field.name for field in fields(AdapterPlan))
            return f"{key} is not known (known are {known})"
        case "missing":
            return f"{key} is missing"
        case _:
            return f"{key} is {detail['input']!r}: {detail['msg'][:1].lower()}{detail['msg'][1:]}"


def _toml(value: str | float | Path) -> str:
    """A JSON string, number or truth value is one of TOML as well."""
    return json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False)
