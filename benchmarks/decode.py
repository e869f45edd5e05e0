"""What it costs to decode in a child process: the same files in this process and in a `DecodePool`, alternating.

    python -m benchmarks.decode [--rounds 20] [--json]

Milliseconds of wall clock per picture, medians. Keys: `decode.overhead_ms` (the largest over the kinds up to 12
megapixels), `decode.cpu_over_in_process` and one entry per kind.
"""

import io
import resource
import statistics
import time
from collections.abc import Callable
from importlib.resources import files

from PIL import Image

from benchmarks.pictures import encoded
from benchmarks.show import options, report
from moderation.dfa.gpt.pixels import Picture, PixelLimits, decode_picture
from worker.decoding import DecodePool


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    asked = parser.parse_args()
    pool = DecodePool(PixelLimits(), children=1, seconds=60)
    pool.warm()
    times = {name: _compare(data, pool, asked.rounds) for name, data in _pictures().items()}
    pool.close()
    cpu = _cpu_ratio(_pictures()["2 megapixels, JPEG"], asked.rounds * 5)
    overhead = max(there - here for here, there in times.values())
    found = {
        name: {"in_process_ms": here, "child_ms": there, "overhead_ms": there - here}
        for name, (here, there) in times.items()
    }
    rows = [
        (name, f"{there - here:+.1f} ms", f"{there:.1f} ms in a child, {here:.1f} in process")
        for name, (here, there) in times.items()
    ]
    rows.append(("2 megapixels, JPEG: CPU", f"{cpu:.2f}", "in a child, over in process"))
    figures = {"decode.overhead_ms": overhead, "decode.cpu_over_in_process": cpu, **found}
    report("Decoding in a child process", rows, figures, as_json=asked.json)


def _pictures() -> dict[str, bytes]:
    portrait = files("moderation").joinpath("samples", "portrait-1.jpg").read_bytes()
    with Image.open(io.BytesIO(portrait)) as opened:
        image = opened.convert("RGB")
    large, phone = image.resize((1600, 1200)), image.resize((4000, 3000))
    return {
        "portrait, JPEG": portrait,
        "2 megapixels, JPEG": encoded(large),
        "2 megapixels, PNG": encoded(large, "PNG"),
        "2 megapixels, WebP": encoded(large, "WEBP"),
        "12 megapixels, JPEG": encoded(phone),
    }


def _compare(data: bytes, pool: DecodePool, rounds: int) -> tuple[float, float]:
    """Alternating, so that the machine's other work slows both."""
    here, there = list[float](), list[float]()
    for _ in range(rounds):
        here.append(_milliseconds(lambda: decode_picture(data)))
        there.append(_milliseconds(lambda: pool.decode(data)))
    return statistics.median(here), statistics.median(there)


def _milliseconds(work: Callable[[], Picture]) -> float:
    began = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - began)


def _cpu_ratio(data: bytes, rounds: int) -> float:
    """For both processes together: the cost of `rounds` pictures without the start and end of a child."""
    began = _cpu()
    for _ in range(rounds):
        decode_picture(data)
    here = _cpu() - began
    there = _cpu_of_children(data, rounds) - _cpu_of_children(data, 1)
    return there / here * rounds / (rounds - 1)


def _cpu_of_children(data: bytes, rounds: int) -> float:
    began = _cpu()
    pool = DecodePool(PixelLimits(), children=1, seconds=60)
    for _ in range(rounds):
        pool.decode(data)
    pool.close()
    return _cpu() - began


def _cpu() -> float:
    """Seconds of this process and of the children that have ended."""
    both = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(used.ru_utime + used.ru_stime for used in both)


if __name__ == "__main__":
    main()
