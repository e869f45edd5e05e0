"""A second index of the wide words, with their last bits in front: a look-up reads 25 of its pages instead of 80.

`moderation.likeness` says why. `near_hashes` finds the same hashes as before.
"""

from importlib import import_module
from itertools import combinations

import sqlalchemy as sa
from alembic import op

from migrations.online import unhurried

revision = "0024"
down_revision = "0023"

_LIKENESS = import_module("migrations.versions.0010_likeness")
BEFORE: str = _LIKENESS.NEAR_HASHES
#: Width and reach of each band, and where it begins.
SHAPES: list[tuple[int, int]] = _LIKENESS.SHAPES
FIRST: list[int] = _LIKENESS.FIRST
WIDE = [number for number, (_, reach) in enumerate(SHAPES) if reach == 2]
#: Bits of a wide word in front, and behind. As `moderation.likeness.FRONT` was then.
FRONT, BEHIND = 12, 10


def turned(word: str) -> str:
    """The word with its last bits in front."""
    return f"((({word} & {(1 << BEHIND) - 1}) << {FRONT}) | ({word} >> {BEHIND}))"


def masks(width: int, reach: int) -> list[int]:
    """Every way in which a word may differ."""
    ways = (bits for n in range(reach + 1) for bits in combinations(range(width), n))
    return [sum(1 << bit for bit in bits) for bits in ways]


def looked_up(number: int, words: str) -> str:
    """The ids of hashes with one of these words, whose pair is within bound."""
    beside = number ^ 1
    bound = SHAPES[number][1] + SHAPES[beside][1] + 1
    return f"""
        SELECT id FROM hashes
        WHERE {words} AND bit_count((word_{beside} # wanted_{beside})::bit(32)) <= {bound}"""  # noqa: S608  numbers of ours


def _among(word: str, wanted: str, masks: str) -> str:
    return f"{word} = ANY (ARRAY(SELECT {wanted} # mask FROM unnest({masks}) AS mask))"  # noqa: S608  as above


def _array(name: str, values: list[int]) -> str:
    return f"    {name} CONSTANT integer[] := '{{{','.join(map(str, values))}}}';\n"


#: Masks of a wide word by the bits in front that they change: two, looked up among the turned words, or fewer.
FEW = [mask for mask in masks(FRONT + BEHIND, 2) if (mask >> BEHIND).bit_count() < 2]
TWO = [1 << one | 1 << other for one, other in combinations(range(FRONT), 2)]
DECLARED = "".join(
    (
        _array("masks_few", FEW),
        _array("masks_two", TWO),
        *(_array(f"masks_{width}", masks(width, 1)) for width in (16, 17)),
        *(
            f"    wanted_{number} CONSTANT integer := substring(wanted, {FIRST[number]}, {width})::integer;\n"
            for number, (width, _) in enumerate(SHAPES)
        ),
        *(f"    turned_{number} CONSTANT integer := {turned(f'wanted_{number}')};\n" for number in WIDE),
    )
)
EVERY_INDEX = " UNION ALL ".join(
    (
        *(
            looked_up(
                number,
                _among(f"word_{number}", f"wanted_{number}", "masks_few" if reach == 2 else f"masks_{width}"),
            )
            for number, (width, reach) in enumerate(SHAPES)
        ),
        *(
            looked_up(number, _among(turned(f"word_{number}"), f"turned_{number}", "masks_two"))
            for number in WIDE
        ),
    )
)
NEAR_HASHES = f"""
CREATE OR REPLACE FUNCTION near_hashes(wanted bit(256)) RETURNS TABLE (hash_id integer, distance integer)
LANGUAGE plpgsql STABLE SET plan_cache_mode = force_generic_plan AS $$
DECLARE
{DECLARED}BEGIN
    RETURN QUERY SELECT h.id, bit_count(h.hash # wanted)::integer
    FROM (SELECT DISTINCT met.id FROM ({EVERY_INDEX}) AS met OFFSET 0) AS met
    JOIN hashes h ON h.id = met.id
    WHERE bit_count(h.hash # wanted) <= 31;
END $$
"""  # noqa: S608  ours


def upgrade() -> None:
    with unhurried():
        for number in WIDE:
            # Where this was cut off before, an index is left that is not valid.
            op.drop_index(f"hashes_turned_{number}", "hashes", if_exists=True, postgresql_concurrently=True)
            op.create_index(
                f"hashes_turned_{number}",
                "hashes",
                [sa.text(turned(f"word_{number}"))],
                postgresql_include=[f"word_{number}", f"word_{number ^ 1}", "id"],
                postgresql_concurrently=True,
            )
    op.execute(NEAR_HASHES)


def downgrade() -> None:
    op.execute(BEFORE.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"))
    with unhurried():
        for number in WIDE:
            op.drop_index(f"hashes_turned_{number}", "hashes", if_exists=True, postgresql_concurrently=True)
