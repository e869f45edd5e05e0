"""A process that decodes pictures for a worker, and can do nothing else. `worker.decoding` starts and ends it.

    python -m worker.decode_child PIXELS_FD MEMORY SECONDS LIMITS [EVIDENCE]

A request on standard input is eight bytes of length and a file. An answer on standard output is one line of JSON; the
first line says `ready`. Pixels go into the file behind PIXELS_FD, which the worker reads. With EVIDENCE a second line
follows for every picture that decodes: the facts about it. The process ends when standard input ends.

A parser that a hostile file controls finds no secret, connection or file here: the environment is empty, the process
may open no more files and start no process, and the kernel limits its memory and its seconds per picture.
"""

import contextlib
import dataclasses
import importlib
import json
import math
import os
import resource
import signal
import sys
from typing import Any, BinaryIO

import numpy as np

from moderation.dfa.gpt.pixels import Picture, PixelLimits, decode_picture
from moderation.errors import ImageRejected, TooManyPixels
from moderation.evidence.gather import Gatherer
from moderation.evidence.options import Options
from moderation.evidence.words import evidence_json


def main() -> None:
    pixels, memory, seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    limits = PixelLimits(**json.loads(sys.argv[4]))
    # Ctrl-C and a service manager's SIGTERM reach the whole group; the worker decides when this process ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    options = Options.from_json(sys.argv[5]) if len(sys.argv) > 5 else None
    gatherer = None if options is None else Gatherer(options)
    _warm(heic=limits.heic)
    _confine(memory, threads=limits.heic)
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    answers.write(b"ready\n")
    answers.flush()
    while (data := _request(requests)) is not None:
        _allow_seconds(seconds)
        answer, picture = _answer(data, limits, pixels)
        _say(answers, answer)
        if picture is not None and gatherer is not None and options is not None:
            _allow_seconds(options.seconds)
            _say(answers, _evidence(gatherer, data, picture))
        del picture  # it would take memory beside the next one, which may be as large


def _say(answers: BinaryIO, answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer).encode() + b"\n")
    answers.flush()


def _warm(*, heic: bool) -> None:
    """Load all decoders now, while files may still be opened."""
    from PIL import AvifImagePlugin, Image

    # dav1d would start a thread per core, which `_confine` forbids: every AVIF would look damaged.
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    if heic:
        with contextlib.suppress(ImportError):  # then each HEIC is refused, with this reason
            importlib.import_module("pillow_heif")
    Image.init()
    # Pillow imports these late: for colours by name, LAB, tags of a TIFF, several views.
    for name in ("ImageCms", "ImageColor", "ImageOps", "ImagePalette", "MpoImagePlugin", "TiffImagePlugin"):
        importlib.import_module(f"PIL.{name}")


def _confine(memory: int, *, threads: bool = False) -> None:
    """`threads`: allow threads. libde265, which decodes HEIC, needs one of its own."""
    if sys.platform == "linux":  # macOS accepts the limit and ignores it
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Open files stay; no file or connection can be opened any more. The worker's environment is a file in /proc.
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
    if not threads:
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))


def _allow_seconds(seconds: float) -> None:
    """Allow so many more seconds of CPU. Then the kernel ends the process, even when its worker is gone."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = math.ceil(used.ru_utime + used.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))


def _request(requests: BinaryIO) -> bytes | None:
    head = requests.read(8)
    if len(head) < 8:
        return None
    size = int.from_bytes(head, "big")
    data = requests.read(size)
    return data if len(data) == size else None


def _answer(data: bytes, limits: PixelLimits, pixels: int) -> tuple[dict[str, Any], Picture | None]:
    try:
        picture = decode_picture(data, limits)
    except ImageRejected as error:
        return {"refused": error.code, "words": str(error)}, None
    except MemoryError:
        return {"refused": TooManyPixels.code, "words": "Decoding the picture takes too much memory."}, None
    except Exception as error:  # noqa: BLE001  the worker raises it again, for its log
        return {"fault": f"{type(error).__name__}: {error}"[:500]}, None
    _put(pixels, np.ascontiguousarray(picture.pixels).data.cast("B"))
    return {"facts": dataclasses.asdict(picture.facts)}, picture


def _evidence(gatherer: Gatherer, data: bytes, picture: Picture) -> dict[str, Any]:
    try:
        return {"evidence": evidence_json(gatherer.gather(data, picture))}
    except MemoryError:
        return {"fault": "MemoryError"}


def _put(file: int, data: memoryview) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(file, data[done:], done)


if __name__ == "__main__":
    main()
