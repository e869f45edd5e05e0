"""The paper's parts: forge, build instruction data, train, calibrate, score. Each command reads and writes files.

The commands import torch themselves, so that `bonafide --help` answers at once.
"""

import datetime
import json
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from moderation.analysis import Technique
from moderation.cli.model import Bundle, Device
from moderation.cli.printing import OneObject, print_json, print_object
from moderation.errors import SetupProblem
from moderation.settings import settings

app = typer.Typer(help="Forge, build, train, calibrate, score: the paper's parts.", no_args_is_help=True)
train = typer.Typer(help="Train a bundle.", no_args_is_help=True)
app.add_typer(train, name="train")

Seed = Annotated[int, typer.Option(help="The same seed gives the same result.")]
Data = Annotated[
    Path,
    typer.Option(help="A folder of folders of labelled pictures, each with a labels.csv (docs/models.md)."),
]
Sources = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Terms and kinds of two of own folders, read beside the shipped ones (docs/models.md).",
    ),
]

_console = Console(stderr=True, highlight=False)


def _show(data: dict[str, object], *, as_json: bool) -> None:
    print_object(data, "\n".join(f"{name}: {value}" for name, value in data.items()), as_json=as_json)


#: Without a terminal, a part that takes longer is told of again after so many seconds.
_AGAIN = 30


@contextmanager
def _progress() -> Generator[Callable[[str], None]]:
    """A function that tells what is done now, as "part: how far". Where there is no terminal, it prints plain lines."""
    if _console.is_terminal:
        with _console.status("Starting …") as status:
            yield lambda words: status.update(f"{words[:1].upper()}{words[1:]} …")
        return
    part, told = "", 0.0

    def say(words: str) -> None:
        nonlocal part, told
        now = time.monotonic()
        if words.partition(":")[0] != part or now - told >= _AGAIN:
            part, told = words.partition(":")[0], now
            typer.echo(words, err=True)

    yield say


@app.command()
def forge(
    pictures: Annotated[
        list[Path], typer.Argument(help="Bona fide pictures; at least one must show a face.")
    ],
    out: Annotated[Path, typer.Option(help="Where forgeries, masks and facts are written.")],
    technique: Annotated[
        list[Technique] | None, typer.Option(help="FS, FR, FE or EFS; may be repeated. Default: all four.")
    ] = None,
    mark: Annotated[bool, typer.Option(help="Write FORGED across each forgery.")] = True,
    seed: Seed = 0,
    as_json: OneObject = False,
) -> None:
    """Make forgeries with exact masks and facts from bona fide faces."""
    from moderation.dfa.instruct.workshop import forge_files

    forged = forge_files(pictures, out, technique or list(Technique), mark=mark, seed=seed)
    _show(
        {
            "written": forged.written,
            "without_face": [str(file) for file in forged.without_face],
            "unreadable": {str(file): reason for file, reason in forged.unreadable.items()},
            "out": str(out),
        },
        as_json=as_json,
    )


@app.command()
def gather(
    checkout: Annotated[
        Path, typer.Argument(help="A checkout of i-Shreyansh/DeepFake-Detection, with faces_224/.")
    ],
    out: Annotated[Path, typer.Option(help="The folder dfdc_faces224 to make, of links into the checkout.")],
    bona_fide: Annotated[int, typer.Option(help="At most this many bona fide crops.")] = 12_000,
    forged_each: Annotated[int, typer.Option(help="At most this many forgeries of each.")] = 1,
    seed: Seed = 0,
    as_json: OneObject = False,
) -> None:
    """List DFDC crops for training, from the public repository with 95,634 of them."""
    from moderation.dfa.instruct.dfdc import gather_dfdc

    counts = gather_dfdc(checkout, out, bona_fide=bona_fide, forged_each=forged_each, seed=seed)
    _show({**counts, "out": str(out)}, as_json=as_json)


@app.command()
def instruct(
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder for pictures, conversations and the manifest.")],
    pool: Annotated[
        Path | None, typer.Option(help="Where normalised pictures are kept. Default: OUT/pool.")
    ] = None,
    pairs: Annotated[int, typer.Option(help="Number of pairs of a bona fide and a forged picture.")] = 2000,
    split: Annotated[
        str,
        typer.Option(help="train, calibration or test. A picture and its forgeries are in the same split."),
    ] = "train",
    processes: Annotated[int, typer.Option(help="Processes that normalise pictures.")] = 2,
    annotator: Annotated[
        str | None,
        typer.Option(
            help="An OpenAI-compatible endpoint (…/v1) that describes the artifacts. Default: the exact facts do."
        ),
    ] = None,
    annotator_model: Annotated[str | None, typer.Option(help="The vision model of that endpoint.")] = None,
    annotator_key: Annotated[
        str | None,
        typer.Option(envvar="BONAFIDE_ANNOTATOR_KEY", help="Its key; better set in the environment."),
    ] = None,
    annotator_parallel: Annotated[int, typer.Option(min=1, help="Calls at once.")] = 4,
    prompts: Annotated[int, typer.Option(help="The prompt set: 1 for LLaVA-1.5, 2 for `small`.")] = 2,
    sources: Sources = None,
    seed: Seed = 0,
    as_json: OneObject = False,
) -> None:
    """Build DFA-Instruct: LLaVA conversations of all four tasks, from exact facts. Resumes where it stopped."""
    from moderation.dfa.gpt.prompts import load_prompts
    from moderation.dfa.instruct.annotator import Annotator, Endpoint
    from moderation.dfa.instruct.builder import build
    from moderation.dfa.instruct.pool import pool_of
    from moderation.dfa.instruct.sources import read_table

    if annotator is not None and annotator_model is None:
        raise SetupProblem("--annotator needs the name of a model too: --annotator-model.")
    table = read_table(sources)
    with _console.status("Reading the pool …") as status:
        building = partial(status.update, "Bringing every picture to the pool's normal form …")
        opened = pool_of(data, pool or out / "pool", table, processes=processes, say=building)
    out.mkdir(parents=True, exist_ok=True)
    words = None
    if annotator is not None and annotator_model is not None:
        words = Annotator(Endpoint(annotator, annotator_model, annotator_key), out / "annotations.jsonl")
    with _console.status("Building …") as status:
        counts = build(
            opened,
            out,
            load_prompts(prompts),
            split=split,
            twos=pairs,
            seed=seed,
            annotator=words,
            parallel=annotator_parallel,
            progress=lambda done: status.update(f"Building: {done:,} of {pairs:,} pairs"),
        )
    _show({**counts, "conversations": str(out / "conversations.json")}, as_json=as_json)


@app.command()
def collect(
    feedback: Annotated[Path, typer.Argument(help="JSON lines of `bonafide export feedback`.")],
    out: Annotated[Path, typer.Option(help="Where faces, conversations and tables are written.")],
    size: Annotated[
        int,
        typer.Option(min=32, help="Side of the faces in pixels: 224 for small and mini, 336 for LLaVA-1.5."),
    ] = 224,
    parallel: Annotated[int, typer.Option(min=1, help="Pictures at once.")] = 8,
    as_json: OneObject = False,
) -> None:
    """Cut out the faces that reviewers decided on, to train, calibrate and test. Resumes where it stopped."""
    from moderation.dfa.gpt.pixels import decode_picture
    from moderation.dfa.instruct.collect import collect as collect_faces
    from moderation.serving import limits_of
    from moderation.storage import Storage

    storage = Storage(settings(), connections=parallel)
    with _console.status("Collecting …") as status:
        collected = collect_faces(
            feedback,
            out,
            lambda image: storage.fetch_image(image).data,
            size=size,
            decode=partial(decode_picture, limits=limits_of(settings())),
            parallel=parallel,
            progress=lambda done: status.update(f"Collecting: {done:,} faces"),
        )
    _show({**asdict(collected), "out": str(out)}, as_json=as_json)


@train.command()
def small(
    data: Data,
    out: Annotated[
        Path | None, typer.Option(help="Where the bundle is written. Default: the shipped bundle's place.")
    ] = None,
    work: Annotated[
        Path, typer.Option(help="Where the pool and the checkpoints are kept; a later run resumes from them.")
    ] = Path("runs/small"),
    steps_without: Annotated[int, typer.Option(help="Steps of the tower without some sources.")] = 900,
    steps: Annotated[int, typer.Option(help="Steps of the tower with all sources, after that.")] = 1350,
    twos: Annotated[int, typer.Option(help="Pairs of DFA-Instruct. Everything learns from them.")] = 10860,
    loaders: Annotated[int, typer.Option(help="Processes that read faces.")] = 1,
    version: Annotated[str, typer.Option(help="The bundle's version, shown to people.")] = "1",
    sources: Sources = None,
    seed: Seed = 0,
) -> None:
    """Build the shipped bundle: base, pool, sight, speech, calibration, report and model card."""
    from moderation.dfa.gpt.bundle import SHIPPED
    from moderation.dfa.instruct.sources import read_table
    from moderation.dfa.train.report import as_text
    from moderation.dfa.train.small import SmallPlan, train_small

    usual = SmallPlan()
    plan = replace(
        usual,
        without=replace(usual.without, steps=steps_without, loaders=loaders, seed=seed),
        sight=replace(usual.sight, steps=steps, loaders=loaders, seed=seed + 1),
        twos=twos,
        version=version,
    )
    spec, result = train_small(
        data,
        work,
        out or SHIPPED["small"],
        plan,
        read_table(sources),
        now=datetime.datetime.now(datetime.UTC),
        say=_console.print,
    )
    typer.echo(as_text(result))
    typer.echo(f"bundle: {spec.folder}")


@train.command()
def sight(
    pool: Annotated[
        Path,
        typer.Option(
            help="A pool, which forges anew for every step, or a folder of DFA-Instruct, which is read. "
            "A pool keeps the --sources that it was made with."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Where checkpoints are kept; a later run resumes from them.")],
    after: Annotated[Path | None, typer.Option(help="An earlier run whose tower is trained further.")] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(help="A source, or a technique of the lab as lab/FS, to leave out; may be repeated."),
    ] = None,
    steps: Annotated[int, typer.Option(help="Steps in all.")] = 1000,
    twos: Annotated[int, typer.Option(help="Pairs of one step, over all processes.")] = 8,
    loaders: Annotated[
        int, typer.Option(help="Processes that forge or read, for each process that trains.")
    ] = 1,
    seed: Seed = 0,
) -> None:
    """Tune the tower of the packaged base. On many devices: `accelerate launch -m moderation.cli.main …`."""
    from moderation.dfa.gpt.base import BASE_DIGEST, base_of
    from moderation.dfa.train.sight import READ, SightPlan, train_sight

    plan = SightPlan(
        steps=steps, twos=twos, loaders=loaders, seed=seed, without=tuple(without or ()), layers=READ
    )
    train_sight(base_of(BASE_DIGEST), pool, out, plan, after=after)
    typer.echo(f"sight: {out}")


@train.command()
def redrawers(
    pictures: Annotated[list[Path], typer.Argument(help="Pictures to learn from: best of faces.")],
    out: Annotated[
        Path | None, typer.Option(help="Where the weights are written. Default: the shipped weights' place.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Steps of each of the four.")] = 1000,
    seed: Seed = 0,
) -> None:
    """Train the autoencoders with which the lab redraws faces."""
    from moderation.dfa.instruct.forgery.redraw import WEIGHTS, save_redrawers
    from moderation.dfa.train.redrawers import train_redrawers

    file = out or WEIGHTS
    save_redrawers(train_redrawers(sorted(pictures), steps=steps, seed=seed, say=_console.print), file)
    typer.echo(f"weights: {file}")


@train.command()
def sources_out(
    pool: Annotated[Path, typer.Option(help="The pool, as `dfa instruct` makes it; it keeps its --sources.")],
    run: Annotated[Path, typer.Option(help="A run of `dfa train sight --without`.")],
    faces: Annotated[int, typer.Option(help="Faces of other sources that the verdict is fitted to.")] = 10000,
    most: Annotated[int, typer.Option(help="At most this many pictures of each origin and label.")] = 300,
    as_json: OneObject = False,
) -> None:
    """Judge a tower on the sources that it was trained without, as on pictures of strangers."""
    from moderation.dfa.gpt.base import BASE_DIGEST, base_of
    from moderation.dfa.gpt.detector import multiplies_bfloat16
    from moderation.dfa.instruct.pool import open_pool
    from moderation.dfa.train import sources_out as judging
    from moderation.dfa.train.probe import fit_probes, held_out, served_features, stored_features
    from moderation.dfa.train.sight import load_sight

    names = json.loads((run / "sight.json").read_text(encoding="utf-8"))["plan"]["without"]
    if not names:
        raise SetupProblem(f"{run} left no source out: it says nothing of strangers.")
    tower = load_sight(base_of(BASE_DIGEST), run)
    tower.look_closer()
    if multiplies_bfloat16():
        tower.lighten()
    opened = open_pool(pool)
    seen = stored_features(tower, pool, faces // 2, without=names)
    without = held_out(seen)
    platt = judging.calibrated(without, seen.deepfake, seen.origin, version="now")
    fit_probes(tower.heads, seen)
    looked = judging.look_at(tower, opened, judging.left_out(opened, names, most=most))
    found, kept = judging.strangers(looked, platt), judging.honesty(looked, platt)
    sources = set(seen.source.tolist())
    served = served_features(tower, opened, judging.left_out(opened, sources, most=most))
    others = judging.each_left_out(seen, without, served)
    if as_json:
        numbers = {name: vars(value) for name, value in kept.items()}
        left_out = {origin: asdict(each) for origin, each in others.items()}
        print_json({"strangers": judging.as_json(found), "honesty": numbers, "left_out": left_out})
        return
    typer.echo(judging.as_table(found))
    typer.echo("Of sources that the tower has seen, by a verdict fitted without each:")
    typer.echo(judging.as_left_out_table(others))
    for name, value in kept.items():
        typer.echo(f"{name}: {value}")


@train.command()
def lora(
    out: Annotated[Path, typer.Option(help="Where the bundle is written.")],
    plan: Annotated[
        Path | None, typer.Option(help="A TOML file: base, data and the recipe (docs/models.md).")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Replaces the plan's value: rate=1e-3. May be repeated."
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
) -> None:
    """Train an adapter by the paper's recipe on any LLaVA-layout base. Resumes from OUT, and writes OUT/plan.toml."""
    from moderation.dfa.train.plan import read_plan

    adapter_plan = read_plan(plan, set_ or ())
    from moderation.dfa.train.lora import lora_bundle  # with torch, which takes seconds

    losses, spec = lora_bundle(adapter_plan, out, device=device)
    if losses:
        typer.echo(f"loss: {losses[0]:.4f} at first, {losses[-1]:.4f} at last, {len(losses)} steps")
    typer.echo(f"bundle: {spec.folder}")


@app.command()
def calibrate(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder. Its calibration is replaced.")],
    labels: Annotated[
        Path,
        typer.Argument(
            help="A CSV with the columns file and label (deepfake, bona_fide), or a manifest. Scores of cases whose "
            "source its column source names are called probabilities."
        ),
    ],
    device: Annotated[
        str | None,
        typer.Option(
            help="auto, cpu, cuda or cuda:N; use the kind that will serve. Default: BONAFIDE_DEVICE."
        ),
    ] = None,
    float8: Annotated[
        bool | None,
        typer.Option(
            "--float8/--no-float8", help="Use eight bits, if it will serve so. Default: BONAFIDE_FLOAT8."
        ),
    ] = None,
    as_json: OneObject = False,
) -> None:
    """Fit a bundle's probabilities to pictures with known labels, with the arithmetic that will serve."""
    from moderation.dfa.bench.manifest import sources_named
    from moderation.dfa.gpt.bundle import read_bundle
    from moderation.dfa.gpt.calibration import named
    from moderation.dfa.train.calibrate import calibrate_bundle, write_calibration

    if not labels.is_file():
        raise SetupProblem(f"{labels} is missing: a CSV with the columns file and label.")
    today = datetime.datetime.now(datetime.UTC).date()
    platt, without_face = calibrate_bundle(
        bundle,
        labels,
        today=today,
        device=device or settings().device,
        float8=settings().float8 if float8 is None else float8,
    )
    platt = named(platt, sources_named(labels))
    write_calibration(read_bundle(bundle), platt)
    _show(
        {
            "a": platt.a,
            "b": platt.b,
            "n": platt.n,
            "version": platt.version,
            "calibrated_on": platt.basis,
            "zone": platt.zone,
            "strangest": platt.strangest,
            "without_face": without_face,
        },
        as_json=as_json,
    )


@app.command()
def bench(
    manifests: Annotated[
        list[Path],
        typer.Argument(
            help="manifest.jsonl of `dfa instruct`, or CSVs with the columns file and label; see docs/models.md."
        ),
    ],
    bundle: Bundle = None,
    out: Annotated[
        Path, typer.Option(help="Where report.json, report.md and report.html are written.")
    ] = Path("runs/bench"),
    against: Annotated[str | None, typer.Option(help="Another bundle to score on the same pictures.")] = None,
    baselines: Annotated[
        bool,
        typer.Option(help="Train a small CNN and a linear probe on the split `train`, and score them too."),
    ] = False,
    quick: Annotated[bool, typer.Option(help="Use fewer pictures and a smaller grid.")] = False,
    split: Annotated[str, typer.Option(help="The split that is scored.")] = "test",
    pictures: Annotated[int | None, typer.Option(help="Score at most this many. Default: all.")] = None,
    grid: Annotated[int, typer.Option(help="Pictures of each robustness cell; 0 leaves the grid out.")] = 200,
    questions: Annotated[int, typer.Option(help="Questions of free conversation; 0 leaves them out.")] = 200,
    faces: Annotated[
        int,
        typer.Option(
            help="Deepfake verdicts whose named regions are hidden, to see what the score depends on: "
            "some sixty verdicts each; 0 leaves it out."
        ),
    ] = 40,
    injections: Annotated[
        int,
        typer.Option(
            help="Pictures with an answer written into them: thirteen verdicts each; 0 leaves it out."
        ),
    ] = 48,
    device: Device = None,
    seed: Seed = 0,
    as_json: OneObject = False,
) -> None:
    """DFA-Bench: score a bundle on labelled pictures, every number with its interval and its control."""
    try:
        from moderation.dfa.bench.baselines import BaselinePlan
        from moderation.dfa.bench.page import write_bench
        from moderation.dfa.bench.report import BenchPlan, run_bench
        from moderation.dfa.bench.report import as_json as told_as_json
    except ModuleNotFoundError as error:
        if error.name not in {"matplotlib", "rouge_score", "sklearn"}:
            raise
        raise SetupProblem(
            f"The bench needs {error.name}: pip install 'bonafide-moderation[bench]'"
        ) from error

    plan = BenchPlan(
        split=split,
        pictures=pictures,
        grid=grid,
        questions=questions,
        faces=faces,
        injections=injections,
        quick=quick,
        baselines=BaselinePlan(seed=seed) if baselines else None,
        seed=seed,
    )
    with _progress() as say:
        result = run_bench(
            manifests,
            bundle or settings().bundle,
            plan,
            now=datetime.datetime.now(datetime.UTC),
            against=against,
            device=device or settings().device,
            progress=say,
        )
    write_bench(result, out)
    words = f"{result.tables[0].as_markdown()}\n{out / 'report.html'}"
    print_object(told_as_json(result), words, as_json=as_json)
