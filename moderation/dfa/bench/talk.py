"""FC in numbers: the share of answers that a reviewer can use, by kind of question."""

from collections.abc import Sequence

from moderation.dfa.bench.ask import Talked
from moderation.dfa.bench.conversation import UNKNOWABLE
from moderation.dfa.bench.estimates import mean_estimates
from moderation.dfa.bench.tables import Cell, Table


def conversation_table(talked: Sequence[Talked]) -> Table:
    """All answers, then those that a picture can give, those that no picture can, and each family."""
    families = dict.fromkeys(sorted(answer.asked.family for answer in talked))
    unknowable = [answer for answer in talked if answer.asked.family in UNKNOWABLE]
    knowable = [answer for answer in talked if answer.asked.family not in UNKNOWABLE]
    parts = [
        _row("what a picture can answer", knowable),
        _row("what no picture can answer", unknowable),
        *(
            _row(f"– {family}", [answer for answer in talked if answer.asked.family == family])
            for family in families
        ),
    ]
    return Table(
        name="conversation",
        title="FC: answers that a reviewer can use",
        note=(
            "Questions of `bench/questions.toml`, none worded as in training, after what the model said of the face. "
            "`Good` is a plain sentence on the point, consistent with the verdict and the artifacts that were given, "
            "and honest where nothing can be known. It is judged by words: whether the answer is true is not."
        ),
        columns=("questions", "n", "good", "on the point", "consistent", "honest"),
        rows=[_row("all", talked), *(row for row in parts if row[1])],
    )


def _row(name: str, talked: Sequence[Talked]) -> Sequence[Cell]:
    if not talked:
        return (name, 0, None, None, None, None)
    scored = [each.scored for each in talked]
    marks = [(each.good, each.on_point, each.consistent, each.honest) for each in scored]
    return (name, len(talked), *mean_estimates(marks, [each.item.group for each in talked]))
