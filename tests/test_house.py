"""What `benchmarks.house` counts, by a house that is small enough to count by hand."""

from benchmarks.house import ROOT, figures
from moderation.database.tables import Table
from moderation.settings import Settings

SETTINGS = '''"""Words."""


class Settings(BaseSettings):
    model_config = SettingsConfigDict(frozen=True)
    _unknown: tuple[str, ...] = ()
    bundle: str = Field("mini")  # which one
'''
COMMANDS = '''def status():
    """Show one.

    In full.
    """
    return 1


for command in (status, cases):
    app.command()(command)
app.command("export")(export_)


@app.command()
def up():
    return 2
'''
ROWS = """class CaseRow(Table):
    __tablename__ = "cases"


held = SqlTable("held", metadata)
"""


def test_a_small_house_is_counted() -> None:
    counted = figures(
        {
            "moderation/__init__.py": "",
            "moderation/settings.py": SETTINGS,
            "moderation/cli/main.py": COMMANDS,
            "moderation/webhooks/rows.py": ROWS,
            "moderation/archive/rows.py": "",
            "tests/test_rows.py": "def test_a():\n    pass\n\n\ndef helper():\n    pass\n",
        }
    )

    assert counted == {
        "files": 5,
        "lines": 28,
        "lines_of_code": 15,
        "functions": 2,
        "function_median": 2,
        "function_p90": 6,
        "modules_root": 4,
        "modules_second_level": 3,
        "modules_third_level": 0,
        "modules_deeper": 0,
        "shared_names": 1,
        "files_with_shared_name": 2,
        "commands": 4,
        "tables": 2,
        "settings": 1,
        "test_files": 1,
        "test_lines": 6,
        "test_functions": 1,
        "tests_over_source": 0.214,
    }


def test_what_is_counted_is_what_runs() -> None:
    named = ("moderation/settings.py", "moderation/database/tables.py")
    counted = figures({name: (ROOT / name).read_text() for name in named})

    assert counted["settings"] == len(Settings.model_fields)
    assert counted["tables"] == len(Table.metadata.tables)
