"""`bonafide …` in this process: to start Python for each takes two seconds of processor time, most of it imports."""

import io
import logging
import sys
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass

import pytest
import structlog

from moderation.cli.main import main
from moderation.settings import settings


@dataclass(frozen=True)
class Ended:
    returncode: int
    stdout: str
    stderr: str


def run_command(*words: str, env: Mapping[str, str]) -> Ended:
    """Type these words where these variables are set. The process is left as it was."""
    said = io.BytesIO(), io.BytesIO()
    out, err = (io.TextIOWrapper(stream, "utf-8", write_through=True) for stream in said)
    handlers, level = logging.root.handlers[:], logging.root.level
    settings.cache_clear()
    try:
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            for name, value in env.items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", ["bonafide", *words])
            code = _main()
    finally:
        settings.cache_clear()
        structlog.reset_defaults()
        logging.root.handlers[:] = handlers
        logging.root.setLevel(level)
    return Ended(code, *(stream.getvalue().decode() for stream in said))


def _main() -> int:
    try:
        main()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0
