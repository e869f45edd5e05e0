"""How large this tree is and how it is divided; with --against, beside another revision.

    python -m benchmarks.house [--against REV] [--json]

A line of source is a line of a Python file of the three packages. A line of code is one that is neither blank nor
comment nor docstring. Nothing is imported or checked out: files are read and parsed.
"""

import ast
import io
import math
import statistics
import subprocess
import tarfile
import tokenize
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from benchmarks.show import options, report

ROOT = Path(__file__).parent.parent
PACKAGES = ("moderation", "worker", "migrations")
TESTS = "tests"

#: The content of a file, by its path from the root.
Tree = Mapping[str, str]


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--against", metavar="REV", help="a revision to read beside this tree")
    asked = parser.parse_args()
    now = figures(read_folder(ROOT))
    before = figures(read_revision(asked.against)) if asked.against else {}
    rows = [
        (name, _shown(value), f"{_shown(before[name])} at {asked.against}" if name in before else "")
        for name, value in now.items()
    ]
    report("The house", rows, {"now": now, "before": before} if before else now, as_json=asked.json)


def read_folder(root: Path) -> Tree:
    return {
        str(path.relative_to(root)): path.read_text()
        for package in (*PACKAGES, TESTS)
        for path in sorted((root / package).rglob("*.py"))
    }


def read_revision(revision: str) -> Tree:
    """The same files as git keeps them."""
    command = ["git", "archive", "--format=tar", revision, "--", *PACKAGES, TESTS]
    packed = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        members = [member for member in archive if member.isfile() and member.name.endswith(".py")]
        return {member.name: _text(archive, member) for member in members}


def _text(archive: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    opened = archive.extractfile(member)
    assert opened is not None  # it is a file
    return opened.read().decode()


def figures(tree: Tree) -> dict[str, float]:
    """Every number by its name, in the order of the table."""
    source = {path: text for path, text in tree.items() if path.split("/")[0] in PACKAGES}
    tests = {path: text for path, text in tree.items() if path.startswith(f"{TESTS}/")}
    parsed = {path: ast.parse(text) for path, text in source.items()}
    lengths = sorted(length for module in parsed.values() for length in _lengths(module))
    names = Counter(Path(path).name for path in source)
    del names["__init__.py"]
    shared = [count for count in names.values() if count > 1]
    lines, test_lines = (sum(map(_lines, files.values())) for files in (source, tests))
    return {
        "files": len(source),
        "lines": lines,
        "lines_of_code": sum(map(_lines_of_code, source.values())),
        "functions": len(lengths),
        "function_median": statistics.median_low(lengths),
        "function_p90": lengths[math.ceil(0.9 * len(lengths)) - 1],
        "modules_root": len(_children(source, "moderation")),
        "modules_second_level": _files_at(source, 3),
        "modules_third_level": _files_at(source, 4),
        "modules_deeper": sum(_files_at(source, depth) for depth in range(5, 10)),
        "shared_names": len(shared),
        "files_with_shared_name": sum(shared),
        "commands": sum(map(_commands, parsed.values())),
        "tables": sum(map(_tables, parsed.values())),
        "settings": _settings(parsed["moderation/settings.py"]),
        "test_files": len(tests),
        "test_lines": test_lines,
        "test_functions": sum(_test_functions(ast.parse(text)) for text in tests.values()),
        "tests_over_source": round(test_lines / lines, 3),
    }


def _lines(text: str) -> int:
    return text.count("\n")


def _lines_of_code(text: str) -> int:
    """Docstrings are statements that are a string and nothing else."""
    prose = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    code = {
        line
        for token in tokens
        if token.type not in (*prose, tokenize.ENDMARKER)
        for line in range(token.start[0], token.end[0] + 1)
    }
    docstrings = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and node.value.value
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
        if isinstance(node.value.value, str)
    }
    return len(code - docstrings)


def _lengths(module: ast.Module) -> list[int]:
    """Lines of every function, from `def` to its last line."""
    return [
        (node.end_lineno or node.lineno) - node.lineno + 1
        for node in ast.walk(module)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def _children(source: Tree, package: str) -> set[str]:
    """The modules and packages right below this one."""
    inside = (path.split("/")[1] for path in source if path.startswith(f"{package}/"))
    return {name for name in inside if name != "__init__.py"}


def _files_at(source: Tree, parts: int) -> int:
    paths = (path.split("/") for path in source if path.startswith("moderation/"))
    return sum(len(path) == parts and path[-1] != "__init__.py" for path in paths)


def _commands(module: ast.Module) -> int:
    """Functions under `@app.command(…)`, and those passed to `app.command(…)`, one by one or in a loop."""
    nodes = [*ast.walk(module)]
    decorators = (call for node in nodes for call in getattr(node, "decorator_list", []))
    handed = (node.func for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Call))
    # The loop's own call is counted among those handed over.
    more = (
        len(node.iter.elts) - 1
        for node in nodes
        if isinstance(node, ast.For)
        and isinstance(node.iter, ast.Tuple)
        and ".command(" in ast.unparse(node.body[0])
    )
    calls = (ast.unparse(call).split("(")[0] for call in (*decorators, *handed))
    return sum(call.endswith(".command") for call in calls) + sum(more)


def _tables(module: ast.Module) -> int:
    """Classes with a `__tablename__`, and tables that are written out."""
    return sum(
        (isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__tablename__")
        or (isinstance(node, ast.Call) and ast.unparse(node.func) == "SqlTable")
        for node in ast.walk(module)
    )


def _settings(module: ast.Module) -> int:
    (settings,) = (node for node in module.body if isinstance(node, ast.ClassDef) and node.name == "Settings")
    fields = (node for node in settings.body if isinstance(node, ast.AnnAssign))
    return sum(not ast.unparse(field.target).startswith("_") for field in fields)


def _test_functions(module: ast.Module) -> int:
    """One that runs over a table of cases counts once."""
    functions = (
        node for node in ast.walk(module) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    return sum(function.name.startswith("test_") for function in functions)


def _shown(value: float) -> str:
    return f"{value:,}"


if __name__ == "__main__":
    main()
