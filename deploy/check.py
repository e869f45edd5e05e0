"""What can be known of the images without a container engine: run it before `docker build`, and where there is none.

    python deploy/check.py [--stage console] [--stage worker] [--python /usr/bin/python3.13]

For each stage of deploy/Dockerfile: everything that it copies is there, and nothing else is given to its `pip install`,
which is run word for word in a new virtual environment; then the image's own command starts, the console without
torch. The worker's packages are only resolved (its torch has two gigabytes). Both are also resolved for the Python of
the base image, whichever runs this. Takes minutes and a package index; CI checks the rest of the file.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent
STAGES = ("console", "worker")

#: What must work in the console's image, with nothing but what was installed in it.
_IMPORTS = """
import importlib.util, sys
import migrations, moderation.cli.main, worker.sweeper
from moderation.settings import Settings
from moderation.web.app import create_app
app = create_app(Settings(s3_buckets="flagged", s3_access_key_id="a", s3_secret_access_key="b"))
assert app.openapi()["paths"]
assert importlib.util.find_spec("torch") is None, "torch is installed"
assert "site-packages" in migrations.__file__, migrations.__file__
"""
#: The commands of the image and of the manifests.
_COMMANDS = (("serve",), ("sweeper",), ("migrate",), ("bridge", "sqs"), ("archive",), ("doctor",))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stage", action="append", choices=STAGES, help="[default: both]")
    parser.add_argument("--python", default=sys.executable, help="makes the virtual environments")
    asked = parser.parse_args()
    dockerfile = (ROOT / "deploy/Dockerfile").read_text()
    with tempfile.TemporaryDirectory() as name:
        context = Path(name) / "src"
        copy_sources(dockerfile, context)
        for stage in asked.stage or STAGES:
            for command in pip_commands(dockerfile, stage):
                _resolve(command, context, image_python(dockerfile))
            if stage == "console":
                _install(pip_commands(dockerfile, stage), context, Path(name) / "venv", asked.python)
    print("the images can be built, as far as this can tell")


def copy_sources(dockerfile: str, context: Path) -> None:
    """What the build stage copies, and nothing else. Raise FileNotFoundError when something is not there."""
    context.mkdir()
    for line in re.findall(r"^COPY (?!--from)(.+)$", dockerfile, re.MULTILINE):
        *sources, _ = line.split()
        for source in sources:
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, context / source, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / source, context / source)


def pip_commands(dockerfile: str, stage: str) -> list[list[str]]:
    """The words of each `pip install` of the stage, with the defaults of its arguments."""
    (body,) = re.findall(rf"^FROM \S+ AS build-{stage}\n(.*?)(?=^FROM |\Z)", dockerfile, re.M | re.S)
    for name, value in re.findall(r"^ARG (\w+)=(\S+)$", body, re.MULTILINE):
        body = body.replace(f"${{{name}}}", value)
    whole = body.replace("\\\n", " ")
    return [shlex.split(part) for part in re.findall(r"pip install [^&\n]+", whole)]


def image_python(dockerfile: str) -> str:
    """The base's Python: `3.13`."""
    (version,) = re.findall(r"^ARG PYTHON_IMAGE=python:(\d+\.\d+)\.", dockerfile, re.MULTILINE)
    return version


def _resolve(command: list[str], context: Path, python: str) -> None:
    """Find every package of the command, as wheels for the image's Python and Linux."""
    platforms = [f"--platform=manylinux_2_{minor}_x86_64" for minor in (17, 24, 27, 28, 31, 34)]
    wanted = [word for word in command[2:] if not word.startswith(".[")]
    extras = re.search(r"\.\[(.+)\]", " ".join(command))
    # A project that is not built yet has no wheel: what it asks for is resolved in its place.
    wanted += _requirements(context, extras[1].split(",") if extras else None)
    words = ["install", "--dry-run", "--quiet", "--ignore-installed", "--only-binary=:all:"]
    target = ["--target", str(context / "none"), f"--python-version={python}", "--implementation=cp"]
    _run([sys.executable, "-m", "pip", *words, *target, *platforms, *wanted], context)
    print(f"{' '.join(command)}: resolved for Python {python}")


def _requirements(context: Path, extras: list[str] | None) -> list[str]:
    import tomllib

    if extras is None:
        return []
    project = tomllib.loads((context / "pyproject.toml").read_text())["project"]
    return project["dependencies"] + [
        one for extra in extras for one in project["optional-dependencies"][extra]
    ]


def _install(commands: list[list[str]], context: Path, folder: Path, python: str) -> None:
    """Run the stage's commands and what its image runs."""
    if python == sys.executable:
        venv.create(folder, with_pip=True)
    else:
        _run([python, "-m", "venv", str(folder)], context)
    for command in commands:
        _run([str(folder / "bin/python"), "-m", *command], context)
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    _run([str(folder / "bin/python"), "-c", _IMPORTS], elsewhere)
    for words in _COMMANDS:
        _run([str(folder / "bin/bonafide"), *words, "--help"], elsewhere)
    print("console: installed, imported without torch, every command starts")


def _run(command: list[str], folder: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "BONAFIDE"))}
    ended = subprocess.run(command, cwd=folder, env=kept, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        sys.exit(f"{shlex.join(command)}\n{ended.stdout[-2000:]}{ended.stderr[-4000:]}")


if __name__ == "__main__":
    main()
