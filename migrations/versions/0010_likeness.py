"""What pictures look like: hashes of cases and of lists, with an index that finds all that are near. Erasing takes them.

`near_hashes` says within which words of a hash the others can be: `moderation.likeness` has the proof.
"""

from importlib import import_module
from itertools import combinations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0010"
down_revision = "0009"

#: Width and reach of each band, in pairs. As `moderation.likeness.BANDS` was then.
SHAPES = [(22, 2)] * 4 + [(17, 1)] * 8 + [(16, 1)] * 2
FIRST = [1 + sum(width for width, _ in SHAPES[:number]) for number in range(len(SHAPES))]


def masks(width: int, reach: int) -> str:
    """Every way in which a word may differ, as an array of Postgres."""
    ways = (bits for n in range(reach + 1) for bits in combinations(range(width), n))
    return "{" + ",".join(str(sum(1 << bit for bit in bits)) for bits in ways) + "}"


def looked_up(number: int) -> str:
    """The ids of hashes with a word of this band within reach, whose pair is within bound."""
    (width, reach), first = SHAPES[number], FIRST[number]
    beside = number ^ 1
    (other_width, other_reach), other_first = SHAPES[beside], FIRST[beside]
    word = f"(substring(wanted, {first}, {width}))::integer"
    other = f"(substring(wanted, {other_first}, {other_width}))::integer"
    return f"""
        SELECT id FROM hashes
        WHERE word_{number} = ANY (ARRAY(SELECT {word} # mask FROM unnest(masks_{width}) AS mask))
          AND bit_count((word_{beside} # {other})::bit(32)) <= {reach + other_reach + 1}"""  # noqa: S608  numbers of ours


DECLARED = "".join(
    f"    masks_{width} CONSTANT integer[] := '{masks(width, reach)}';\n"
    for width, reach in sorted(set(SHAPES))
)
EVERY_BAND = " UNION ALL ".join(looked_up(number) for number in range(len(SHAPES)))
#: The plan is made once for each connection: making it takes longer than looking.
NEAR_HASHES = f"""
CREATE FUNCTION near_hashes(wanted bit(256)) RETURNS TABLE (hash_id integer, distance integer)
LANGUAGE plpgsql STABLE SET plan_cache_mode = force_generic_plan AS $$
DECLARE
{DECLARED}BEGIN
    RETURN QUERY SELECT h.id, bit_count(h.hash # wanted)::integer
    FROM (SELECT DISTINCT met.id FROM ({EVERY_BAND}) AS met OFFSET 0) AS met
    JOIN hashes h ON h.id = met.id
    WHERE bit_count(h.hash # wanted) <= 31;
END $$
"""  # noqa: S608  ours

BEFORE: str = import_module("migrations.versions.0008_evidence").ERASE_CASE
#: A hash goes with the last case and list that has it. Locked first: whoever is about to use it has it locked as well.
ERASE_CASE = BEFORE.replace("AS $$\nBEGIN", "AS $$\nDECLARE\n    left_over integer;\nBEGIN").replace(
    "    UPDATE artifacts SET",
    """    IF coalesce(current_setting('bonafide.keep_hashes', true), '') <> 'on' THEN
        DELETE FROM case_hashes WHERE case_id = wanted RETURNING hash_id INTO left_over;
        UPDATE cases SET campaign = NULL WHERE id = wanted AND campaign IS NOT NULL;
        PERFORM FROM hashes WHERE id = left_over FOR UPDATE;
        DELETE FROM hashes WHERE id = left_over
            AND NOT EXISTS (SELECT FROM case_hashes WHERE hash_id = left_over)
            AND NOT EXISTS (SELECT FROM listed_hashes WHERE hash_id = left_over);
    END IF;
    UPDATE artifacts SET""",
)


def upgrade() -> None:
    op.create_table(
        "hashes",
        sa.Column("id", sa.Integer(), sa.Identity(always=True), nullable=False),
        sa.Column("hash", postgresql.BIT(256), nullable=False, comment="PDQ, of a whole picture"),
        sa.Column(
            "leader",
            sa.Integer(),
            nullable=True,
            comment="The hash whose campaign it belongs to, near to it; null: it leads one, perhaps alone",
        ),
        *(
            sa.Column(
                f"word_{number}",
                sa.Integer(),
                sa.Computed(f"(substring(hash, {FIRST[number]}, {width}))::integer", persisted=True),
                nullable=True,
            )
            for number, (width, _) in enumerate(SHAPES)
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("hash", name="hashes_once"),
        comment="What pictures look like: of cases, and of lists that others made.",
    )
    for number in range(len(SHAPES)):
        op.create_index(
            f"hashes_word_{number}",
            "hashes",
            [f"word_{number}"],
            postgresql_include=[f"word_{number ^ 1}", "id"],
        )
    op.create_table(
        "case_hashes",
        sa.Column("case_id", sa.Uuid(), nullable=False),
        sa.Column("hash_id", sa.Integer(), nullable=False),
        sa.Column(
            "mirrored",
            postgresql.BIT(256),
            nullable=False,
            comment="Of the picture as a mirror shows it",
        ),
        sa.Column(
            "quality",
            sa.SmallInteger(),
            nullable=False,
            comment="0 to 100: how much there is in the picture",
        ),
        sa.Column(
            "faces",
            postgresql.ARRAY(sa.Text()),
            nullable=False,
            comment="PDQ of the faces that were looked at, the largest first, in hexadecimal",
        ),
        sa.ForeignKeyConstraint(["case_id"], ["cases.id"]),
        sa.ForeignKeyConstraint(["hash_id"], ["hashes.id"]),
        sa.PrimaryKeyConstraint("case_id"),
        comment="What the picture of each case looks like. No verdict follows from a likeness.",
    )
    op.create_index("case_hashes_alike", "case_hashes", ["hash_id", "case_id"])
    op.create_table(
        "hash_lists",
        sa.Column("id", sa.Integer(), sa.Identity(always=True), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("note", sa.Text(), nullable=True, comment="What it is a list of, for people"),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name", name="hash_lists_name"),
        comment="Lists of hashes that others made, and what they are lists of.",
    )
    op.create_table(
        "listed_hashes",
        sa.Column("list_id", sa.Integer(), nullable=False),
        sa.Column("hash_id", sa.Integer(), nullable=False),
        sa.Column("reference", sa.Text(), nullable=True, comment="What its list calls it"),
        sa.ForeignKeyConstraint(["list_id"], ["hash_lists.id"]),
        sa.ForeignKeyConstraint(["hash_id"], ["hashes.id"]),
        sa.PrimaryKeyConstraint("list_id", "hash_id"),
        comment="The hashes of each list.",
    )
    op.create_index("listed_hashes_hash", "listed_hashes", ["hash_id"])
    op.add_column(
        "cases",
        sa.Column(
            "campaign",
            sa.Integer(),
            nullable=True,
            comment="The leading hash of the pictures that look like its own; null: not hashed",
        ),
    )
    op.execute(NEAR_HASHES)
    op.execute(_replacing(ERASE_CASE))


def downgrade() -> None:
    op.execute(_replacing(BEFORE))
    op.execute("DROP FUNCTION near_hashes")
    op.drop_column("cases", "campaign")
    for table in ("listed_hashes", "hash_lists", "case_hashes", "hashes"):
        op.drop_table(table)


def _replacing(function: str) -> str:
    return function.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION")
