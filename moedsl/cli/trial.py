"""`moedsl try`: train what specs describe, for a minute or two, and see."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from moedsl.cli import options

if TYPE_CHECKING:
    from moedsl.trial.contestants import Contestant
    from moedsl.trial.record import TrialRecord
    from moedsl.trial.tasks import Task
    from moedsl.trial.train import Progress, Runner


@click.command("try", short_help="Train specs side by side on real text, and draw what came of it.")
@options.choosing(options.specs, options.settings, options.target, options.root)
@click.option(
    "--seconds", type=click.FloatRange(0, min_open=True), help="How long to train. [default: 120]"
)
@click.option(
    "--steps",
    type=click.IntRange(1),
    help="How many steps to train, instead: repeatable to the bit.",
)
@click.option(
    "--batch", type=click.IntRange(1), default=8, show_default=True, help="Sequences in a step."
)
@click.option(
    "--length",
    type=click.IntRange(8),
    default=128,
    show_default=True,
    help="Bytes in a sequence, where they are trained on text.",
)
@click.option(
    "--rate",
    type=click.FloatRange(0, min_open=True),
    default=3e-3,
    show_default=True,
    help="Learning rate.",
)
@click.option(
    "--equal",
    type=click.Choice(["flops", "steps"]),
    default="flops",
    show_default=True,
    help="What all spend alike; --steps are those of the first.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of weights and batches.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads. [default: all]")
@click.option("--device", default="cpu", show_default=True, help="As torch calls it.")
@click.option(
    "-o",
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("trial"),
    show_default=True,
)
def trial(
    specs: tuple[Path, ...],
    settings: tuple[str, ...],
    target: str,
    root: Path | None,
    seconds: float | None,
    steps: int | None,
    batch: int,
    length: int,
    rate: float,
    equal: str,
    seed: int,
    threads: int | None,
    device: str,
    out: Path,
) -> None:
    """Train each SPEC on English text, byte by byte, all on the same batches in the same order, at equal computation:
    a model whose step costs more takes fewer. An encoder and decoder read the first half of a window and predict the
    second; a model of images says which shape a drawn picture shows.

    A single SPEC is trained beside the dense model of equal active size. OUT gets a page with pictures (index.html)
    and its numbers (results.json).
    """
    if steps is not None and seconds is not None:
        raise click.UsageError("--steps and --seconds both say when to stop: take one of them")
    _need_torch(threads)
    from moedsl.trial.record import TrialRecord
    from moedsl.trial.train import Budget

    record = TrialRecord(
        [path.name for path in specs],
        _command(click.get_current_context(), specs),
        seed=seed,
        rate=rate,
        batch=batch,
        length=length,
        device=device,
        equal=equal,
    )
    rivals, task = _contestants(specs, root, settings, target, length)
    budget = Budget(steps, None if steps is not None else seconds or 120.0)
    _train(rivals, task, record, budget)
    _leave(record, out)


def _command(context: click.Context, specs: tuple[Path, ...]) -> str:
    """The call as it was made, to be made again."""
    import shlex

    words = ["moedsl", "try", *map(str, specs)]
    for option in context.command.params:
        if not isinstance(option, click.Option) or option.name is None:
            continue
        if context.get_parameter_source(option.name) is ParameterSource.COMMANDLINE:
            given = context.params[option.name]
            for value in given if option.multiple else (given,):
                words += [option.opts[-1], str(value)]
    return shlex.join(words)


def _need_torch(threads: int | None) -> None:
    # Read once, when torch is loaded. By default threads spin while they wait for each other, and on cores that
    # something else uses too a step of these small models then takes twenty times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        import torch
    except ImportError:
        click.echo(
            "error: a trial trains models, which needs PyTorch: pip install 'moedsl[torch]'",
            err=True,
        )
        sys.exit(1)
    if threads is not None:
        torch.set_num_threads(threads)


def _contestants(
    specs: tuple[Path, ...],
    root: Path | None,
    settings: tuple[str, ...],
    target: str,
    length: int,
) -> tuple[list[Contestant], Task]:
    """One for each spec, and of a single spec with mixtures its dense counterpart; what all are trained on."""
    from moedsl import pipeline
    from moedsl.cli.reporting import read, require
    from moedsl.trial.contestants import Unfit, contestant, dense_result, same_task
    from moedsl.trial.dense import NoTwin

    found = []
    try:
        for spec in specs:
            result = require(pipeline.compile, spec, root, settings, target)
            found.append(contestant(result, length))
        if len(specs) == 1:
            try:
                twin = dense_result(read(specs[0], root), result, settings)
                found.append(contestant(twin, length))
            except NoTwin as error:
                click.echo(f"note: {error}, so it is trained alone", err=True)
        return found, same_task(found)
    except Unfit as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)


def _train(rivals: list[Contestant], task: Task, record: TrialRecord, budget: object) -> None:
    import torch

    from moedsl.cli.tables import print_contestants
    from moedsl.trial.tasks import Continued, Text
    from moedsl.trial.train import Runner, run
    from moedsl.trial.verdict import verdict

    record.threads = torch.get_num_threads()
    record.unit, record.units, record.about = task.unit, task.units, task.about()
    runners = [Runner(rival, record.seed, record.rate, record.device) for rival in rivals]
    record.contestants = [runner.record for runner in runners]
    print_contestants(record)
    _show(run(runners, task, budget, record), runners, task)  # type: ignore[arg-type]
    if isinstance(task, Text):
        record.prompt = bytes(task.corpus.held_out[:64].tolist()).decode(errors="ignore")
        for runner in runners:
            runner.write(record.prompt, 400, record.seed, reads=isinstance(task, Continued))
    record.verdict, record.noise = verdict(record.contestants, task.unit)


def _show(progress: Iterator[Progress], runners: list[Runner], task: Task) -> None:
    """Follow a run with a bar, and each contestant's loss beside it."""
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    from moedsl.cli.tables import console

    columns = (
        BarColumn(36),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console()) as bar:
        line = bar.add_task("", total=1.0)
        for now in progress:
            bits = "  ".join(
                f"{r.contestant.name} {b:.2f}" for r, b in zip(runners, now.bits, strict=True)
            )
            words = f"step {now.step}  bits per {task.unit}: {bits}  {now.tokens_per_second:,.0f} {task.units}/s"
            bar.update(line, completed=now.done, description=words)


def _leave(record: TrialRecord, out: Path) -> None:
    import json

    from moedsl.cli.tables import print_results
    from moedsl.trial.page import page

    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(record.json(), indent=1) + "\n", encoding="utf-8")
    (out / "index.html").write_text(page(record), encoding="utf-8")
    print_results(record)
    click.echo(
        f"{record.verdict}\n{record.noise}\nPictures: {out / 'index.html'}   numbers: {out / 'results.json'}"
    )
