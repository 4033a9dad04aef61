"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def given_path(text: str) -> Path:
    """Parse a path; refuse empty text, which an unset shell variable gives.

    Raises:
        typer.BadParameter: if it is empty.
    """
    if not text.strip():
        raise typer.BadParameter("expected a path, not nothing")
    return Path(text)


Plugins = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugins",
        parser=given_path,
        metavar="DIR",
        help="A folder of your own content; repeatable.",
    ),
]
Methods = Annotated[
    str | None,
    typer.Option(
        "--methods",
        metavar="A,B|all",
        help="Methods (SoftMax+MSP), or detectors (entropy: all methods with it, or called so), or "
        "all. Default: those that the benchmark chooses.",
    ),
]
Seeds = Annotated[
    int | None,
    typer.Option(
        "--seeds",
        metavar="N",
        min=1,
        help="Number of seeds: 0 .. N-1. Default: 3, or the number of checkpoints.",
    ),
]
Device = Annotated[
    str, typer.Option("--device", metavar="DEVICE", help="auto, cpu, cuda or cuda:i.")
]
DataRoot = Annotated[
    Path | None,
    typer.Option(
        "--data-root",
        parser=given_path,
        metavar="DIR",
        help="Folder of data sets that are not built in.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        metavar="N",
        min=1,
        help="Models and seeds to compute at once, each with its share of the cores or GPUs.",
    ),
]
Executor = Annotated[
    str,
    typer.Option(
        "--executor",
        metavar="local|ray|submitit",
        help="Where to compute: here, on a Ray cluster, or as jobs (docs/how-to/slurm.md).",
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="HOST:PORT|auto",
        help="The Ray cluster. Default: RAY_ADDRESS, else one of this machine alone.",
    ),
]
JobOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--submitit-option",
        metavar="NAME=VALUE",
        help="An option of the jobs of --executor submitit, as slurm_partition=gpu; repeatable.",
    ),
]
ShardImages = Annotated[
    int | None,
    typer.Option(
        "--shard-images",
        metavar="N",
        min=1,
        help="Score test sets in parts of N images, on all workers; --resume continues at a part.",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Print the plan and stop: nothing is trained or scored."),
]
Benchmark = Annotated[
    str, typer.Argument(metavar="[BENCHMARK]", help="A name, or a YAML file; also of a suite.")
]
