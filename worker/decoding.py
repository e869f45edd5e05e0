"""Decodes pictures in child processes: a parser that crashes, hangs or eats memory harms only one picture.

There is one child per core, each with one picture at a time. A child that dies or takes too long is replaced, and its
picture is refused as `image_corrupt`: nobody can judge a picture that does this to a decoder. When the kernel kills a
child for lack of memory, the picture is not to blame: it is tried again, and then waits.

The same child gathers evidence once the pixels are here. A child that dies at that point costs only the evidence.
"""

import dataclasses
import hashlib
import json
import os
import queue
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import structlog

import moderation
from moderation.analysis import PictureFacts
from moderation.dfa.gpt.pixels import Picture, PixelLimits
from moderation.errors import DecoderKilled, EngineUnavailable, ImageCorrupt, ImageRejected
from moderation.evidence.options import Options
from moderation.evidence.words import Evidence, Fact, FactKind, Status, Strength, evidence_from_json

#: Bytes of memory that a child may map besides its pictures: Python, NumPy and Pillow.
_BASE = 1 << 30
#: Bytes per pixel of the largest picture: decoded, turned, converted and laid on white, some at the same time.
_PER_PIXEL = 28
#: Bytes that a child's file of pixels may keep between two pictures, so that they need not be allocated again.
_KEPT = 16 * 2**20
#: Seconds until a child has loaded its libraries on a busy machine.
_START_SECONDS = 60.0
#: Bytes of an answer without its pixels. A longer one is not ours.
_LONGEST_LINE = 65_536
#: Signals that did not come from the decoder: the picture gets another try in a fresh child, then waits.
_FROM_OUTSIDE = {-signal.SIGKILL, -signal.SIGTERM, -signal.SIGHUP}

log = structlog.get_logger()


class DecoderFault(Exception):
    """A bug of ours, in the child."""


class _Died(Exception):
    """The child ended before it answered. `status` is as in `subprocess`; None: it was too slow and was killed."""

    def __init__(self, status: int | None) -> None:
        super().__init__(status)
        self.status = status


class DecodePool:
    """Children that decode. Safe to share between threads; `close` ends them."""

    def __init__(
        self,
        limits: PixelLimits,
        *,
        children: int,
        seconds: float,
        memory: int | None = None,
        evidence: Options | None = None,
    ) -> None:
        """`memory`: bytes that a child may map. None: what the largest picture needs.

        Without `evidence` none is gathered.
        """
        self._limits = limits
        self._evidence = evidence
        self._seconds = seconds
        self._memory = memory or _BASE + _PER_PIXEL * limits.max_pixels + 4 * limits.max_bytes
        #: Idle children, the last used first because its memory is warm. None: a child that is not started yet.
        self._idle: queue.LifoQueue[_Child | None] = queue.LifoQueue()
        self._lock = threading.Lock()
        self._all: set[_Child] = set()
        for _ in range(children):
            self._idle.put(None)

    def warm(self) -> None:
        """Start all children now, not with the first pictures."""
        for place in [self._idle.get() for _ in range(self._idle.qsize())]:
            self._idle.put(place or self._start())

    def decode(self, data: bytes) -> Picture:
        """As `pixels.decode_picture`: the same pixels and refusals, with evidence beside them.

        Waits while all children are busy.
        """
        child, killed = self._idle.get(), False
        try:
            while True:
                if child is not None and child.ended:
                    self._end(child)
                    child = None
                child = child or self._start()
                try:
                    return child.decode(data, self._seconds)
                except _Died as death:
                    self._end(child)
                    child = None
                    if death.status not in _FROM_OUTSIDE:
                        raise _refusal(death, self._seconds) from death
                    if killed:
                        log.warning("decoder_killed", action="decode", why=str(death.status))
                        raise DecoderKilled(
                            "something else than the picture ended its decoder twice: the machine may lack memory"
                        ) from death
                    killed = True
        except (ImageRejected, DecoderFault):
            raise  # a child that says so goes on
        except BaseException:
            if child is not None:
                self._end(child)
                child = None
            raise
        finally:
            self._idle.put(child)

    def close(self) -> None:
        with self._lock:
            children = list(self._all)
        for child in children:
            self._end(child)

    def _start(self) -> "_Child":
        """Start a child. Raise EngineUnavailable when none can be started now."""
        try:
            child = _Child(self._limits, self._seconds, self._memory, self._evidence)
        except OSError as error:
            raise EngineUnavailable("no decoder could be started", inside=str(error)) from error
        with self._lock:
            self._all.add(child)
        try:
            child.wait_until_ready()
        except (_Died, EOFError) as error:
            self._end(child)
            raise EngineUnavailable("a decoder did not start") from error
        return child

    def _end(self, child: "_Child") -> None:
        with self._lock:
            self._all.discard(child)
        child.end()


def _refusal(death: _Died, seconds: float) -> ImageCorrupt | DecoderFault:
    why = "time" if death.status is None else str(death.status)
    log.warning("decoder_died", action="decode", why=why)
    if death.status is not None and death.status > 0:
        # Python ended it, not the file: for example, it could not open something.
        return DecoderFault(f"a decoder ended by itself with status {death.status}")
    if death.status in (None, -signal.SIGXCPU):
        return ImageCorrupt(f"Decoding the picture took more than {seconds:g} seconds and was stopped.")
    return ImageCorrupt("Decoding the picture ended the decoder: the file is damaged or hostile.")


class _Child:
    """One process and the file of its pixels. Threads may not share it."""

    def __init__(self, limits: PixelLimits, seconds: float, memory: int, evidence: Options | None) -> None:
        self._pixels = _memory_file()
        self._max_pixels = limits.max_pixels
        self._evidence = evidence
        #: Output that nobody has read yet.
        self._unread = b""
        arguments = [self._pixels, memory, seconds, json.dumps(dataclasses.asdict(limits))]
        if evidence is not None:
            arguments.append(evidence.to_json())
        self._process: subprocess.Popen[bytes] = subprocess.Popen(
            [sys.executable, "-m", "worker.decode_child", *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(self._pixels,),
            env=_environment(),
            bufsize=0,
        )
        assert self._process.stdin is not None
        os.set_blocking(self._process.stdin.fileno(), False)

    @property
    def ended(self) -> bool:
        """Whether it ended while idle: no picture is to blame."""
        return self._process.poll() is not None

    def wait_until_ready(self) -> None:
        self._line(time.monotonic() + _START_SECONDS)

    def decode(self, data: bytes, seconds: float) -> Picture:
        deadline = time.monotonic() + seconds
        # Earlier output is no answer to this picture.
        self._unread = b""
        try:
            answer = self._ask(data, deadline)
        except (BrokenPipeError, EOFError):
            raise _Died(self._process.wait()) from None
        match answer:
            case {"facts": dict(facts)}:
                picture = self._picture(facts, data)
                return dataclasses.replace(picture, evidence=self._gathered())
            case {"refused": str(code), "words": str(words)}:
                raise _REFUSALS.get(code, ImageCorrupt)(words)
            case _:
                raise DecoderFault(str(answer))

    def _gathered(self) -> Evidence | None:
        """The evidence that the child found. A child that dies over it is replaced before the next picture."""
        if self._evidence is None:
            return None
        try:
            answer = json.loads(self._line(time.monotonic() + self._evidence.seconds))
            return evidence_from_json(answer["evidence"])
        except _Died as death:
            why = "it took too long" if death.status is None else "its answer cannot be read"
        except EOFError:
            why = "it ended the process that looked"
        except (ValueError, KeyError, TypeError):
            why = "its answer cannot be read"
        # The file may control the child, or the child may still work: the next picture gets another one.
        self._process.kill()
        self._process.wait()
        log.warning("evidence_lost", action="decode", why=why)
        return Evidence((Fact(FactKind.GATHERING, Strength.CONTEXT, {"why": why}, status=Status.UNREADABLE),))

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        os.close(self._pixels)

    def _ask(self, data: bytes, deadline: float) -> Any:
        requests = self._process.stdin
        assert requests is not None
        # A healthy child reads everything first; one that an earlier picture controls may not.
        unsent = memoryview(len(data).to_bytes(8, "big") + data)
        while unsent:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([], [requests], [], left)[1]:
                raise _Died(None)
            unsent = unsent[requests.write(unsent) or 0 :]
        return json.loads(self._line(deadline))

    def _line(self, deadline: float) -> bytes:
        answers = self._process.stdout
        assert answers is not None
        while b"\n" not in self._unread:
            if len(self._unread) > _LONGEST_LINE:
                raise _Died(0)
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([answers], [], [], left)[0]:
                raise _Died(None)
            part = answers.read(65_536)
            if not part:
                raise EOFError
            self._unread += part
        # The evidence may have come with the picture's line; it is read next.
        line, _, self._unread = self._unread.partition(b"\n")
        if len(line) > _LONGEST_LINE:
            raise _Died(0)
        return line

    def _picture(self, facts: dict[str, Any], data: bytes) -> Picture:
        # The child is not trusted: a hostile file may control it. The digest least of all, because analyses are used
        # again by it.
        facts |= {
            "sha256": hashlib.sha256(data).hexdigest(),
            "size": len(data),
            "notes": tuple(facts["notes"]),
        }
        known = PictureFacts(**facts)
        if not 0 < known.width * known.height <= self._max_pixels or min(known.width, known.height) < 1:
            raise _Died(0)
        pixels = np.empty((known.height, known.width, 3), dtype=np.uint8)
        _fill(self._pixels, pixels.data.cast("B"))
        if pixels.nbytes > _KEPT:
            os.ftruncate(self._pixels, 0)
        return Picture(pixels, known)


def _fill(file: int, target: memoryview) -> None:
    """Copy, do not map: a hostile child could cut the file short, which would end a process that maps it."""
    done = 0
    while done < len(target):
        read = os.preadv(file, [target[done:]], done)
        if not read:
            raise DecoderFault("the child sent fewer pixels than it announced")
        done += read


def _memory_file() -> int:
    if sys.platform == "linux":
        return os.memfd_create("bonafide-pixels")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _environment() -> Mapping[str, str]:
    """No key, address or password of ours, only where our code lies."""
    return {
        "PYTHONPATH": str(Path(moderation.__file__).parents[1]),
        # NumPy's threads would reserve address space, which the limit counts.
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }


_REFUSALS: Mapping[str, type[ImageRejected]] = {cls.code: cls for cls in ImageRejected.__subclasses__()}
