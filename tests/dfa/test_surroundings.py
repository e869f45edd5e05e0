"""The engine's tests again, in surroundings that a process has from its start on: another library, an interpreter."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def _run(*arguments: str, **variables: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        check=False,
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_engine_does_the_same_on_the_oldest_transformers(tmp_path: Path) -> None:
    oldest = str(Path(sys.prefix) / "oldest")  # `make install-dev` puts it there
    version = _run("-c", "import transformers; print(transformers.__version__)", PYTHONPATH=oldest)

    # These two compile for as long as all others take together, and another one compares what is compiled.
    others = ("-k", "not left_to_be_compiled and not many_forms")
    out = _run(
        "-m",
        "pytest",
        "tests/dfa/test_engine.py",
        *others,
        f"--basetemp={tmp_path / 'tests'}",
        PYTHONPATH=oldest,
    )

    assert version.startswith("5.17.")
    assert "[100%]" in out


@pytest.mark.skipif(sys.platform != "linux", reason="triton is for Linux")
def test_the_decode_kernel_is_right_in_tritons_interpreter(tmp_path: Path) -> None:
    kernel = "tests/gpu/test_triton_decode.py"
    out = _run("-m", "pytest", "-rs", kernel, f"--basetemp={tmp_path / 'tests'}", TRITON_INTERPRET="1")

    assert "[100%]" in out
    assert "SKIPPED" not in out
