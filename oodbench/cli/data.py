"""The commands `oodbench data ...`: listing, fetching and verifying data sets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from oodbench.cli.display import reporter
from oodbench.cli.help_text import PlainCommand, PlainGroup
from oodbench.cli.parameters import DataRoot, Plugins
from oodbench.errors import ExitCode, UserError, brief, counted, did_you_mean

if TYPE_CHECKING:
    from oodbench.data.missing_files import NeededFiles
    from oodbench.data.store.verification import Finding
    from oodbench.progress import Reporter
    from oodbench.specs import DatasetSpec, SplitName


data_app = typer.Typer(
    cls=PlainGroup,
    help="List, fetch and verify data sets.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Names = Annotated[list[str], typer.Argument(metavar="NAME...", help="Data sets, by name.")]


@data_app.command("list", cls=PlainCommand)
def list_(
    as_json: Annotated[bool, typer.Option("--json", help="A JSON array, for machines.")] = False,
    data_root: DataRoot = None,
    plugins: Plugins = None,
) -> None:
    """List data sets: kind, state on this machine, size, source."""
    from oodbench.data.store.availability import dataset_state
    from oodbench.data.store.locations import root_folder

    rows: list[dict[str, Any]] = []
    for name, spec in _all(plugins).items():
        if isinstance(spec, UserError):
            rows.append({"name": name, "status": "broken", "error": str(spec)})
            continue
        here = dataset_state(spec, root_folder(data_root))
        rows.append(
            {
                "name": name,
                "status": "ok",
                "kind": spec.kind,
                "state": here.state,
                "from": list(here.hosts),
                "size": here.size,
                "images": dict(spec.splits),
                "folder": None if here.folder is None else str(here.folder),
                "license": spec.license,
                "url": spec.url,
            }
        )
    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        _print_table(rows)


@data_app.command(cls=PlainCommand)
def fetch(
    names: Annotated[
        list[str],
        typer.Argument(metavar="NAME...", help="Data sets, benchmarks and suites, by name."),
    ],
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Verify stored files; restore those that are damaged."),
    ] = False,
    data_root: DataRoot = None,
    plugins: Plugins = None,
) -> None:
    """Download, unpack and decode data sets; finished steps are not repeated.

    Of benchmarks and suites, all data sets and published checkpoints are fetched. Files that cannot
    be downloaded are listed together, with the places to put them. Large splits are decoded when
    they are read.
    """
    from oodbench.cli import missing_data
    from oodbench.data.store.download import OfflineError
    from oodbench.data.store.locations import root_folder

    root, say = root_folder(data_root), reporter()
    needed = _needed(names, plugins)
    missing = needed.missing(root)
    if any(file.urls for file in missing):
        print(missing_data.total(missing, root), flush=True)
    jobs = list(_jobs(needed, root, say, repair=repair))
    failures: list[UserError] = []
    unreached = False
    with say.work(len(jobs)):
        for owner, name, work in jobs:
            if unreached and any(owner in file.owners for file in missing):
                continue
            say.stage(name)
            try:
                say.done(f"{name}: {work()}")
            except UserError as error:
                if len(jobs) == 1 and len(missing) < 2:
                    raise
                failures.append(error)
                unreached = unreached or isinstance(error, OfflineError)
    if failures:
        raise missing_data.incomplete(failures, needed, names, root)


@data_app.command(cls=PlainCommand)
def verify(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="Data sets; default: all that are stored."),
    ] = None,
    data_root: DataRoot = None,
    plugins: Plugins = None,
) -> None:
    """Read all stored files of data sets and report those that have changed.

    For data sets given by name, missing files that are needed are reported too.
    """
    from oodbench.data.store import verification
    from oodbench.data.store.locations import root_folder

    root, say = root_folder(data_root), reporter()
    specs = _named(names, plugins) if names else _here(plugins, root)
    failed: list[tuple[DatasetSpec, list[Finding]]] = []
    with say.work(len(specs)):
        for spec in specs:
            say.stage(spec.name)
            if spec.kind == "builtin":
                say.done(f"{spec.name}: built in, nothing is stored")
                continue
            result = verification.verify(spec, root, say, wanted=bool(names))
            if result.findings:
                failed.append((spec, result.findings))
            checked = "; ".join(result.checked) or "nothing is stored"
            say.done(f"{spec.name}: {checked}; {counted(len(result.findings), 'problem')}")
    for spec, findings in failed:
        for finding in findings:
            print(brief(f"{spec.name}: {finding.path} {finding.problem}"))
        print(f"{spec.name}: repair with: {_repair_command(spec.name, data_root, plugins)}")
        if any(finding.layer == "image" for finding in findings):
            print(
                f"{spec.name}: this uses your files as they are now; if they should not have "
                "changed, restore them first."
            )
    if failed:
        raise typer.Exit(ExitCode.FINDING)


@data_app.command(cls=PlainCommand)
def path(names: Names, data_root: DataRoot = None, plugins: Plugins = None) -> None:
    """Print the folders of data sets, which may not exist yet."""
    from oodbench.data.listed_files import images_folder
    from oodbench.data.store.locations import dataset_folder, root_folder

    root = root_folder(data_root)
    for spec in _named(names, plugins):
        if spec.kind == "builtin":
            raise UserError(f"data set '{spec.name}' is built in: it has no folder.")
        print(images_folder(spec, root) if spec.lists else dataset_folder(spec, root))


def _needed(names: list[str], plugins: list[Path] | None) -> NeededFiles:
    """The files of data sets, benchmarks and suites; of both, if they have the same name."""
    from oodbench.data.missing_files import NeededFiles
    from oodbench.plugins.catalog import Catalog

    catalog = Catalog(plugins or ())
    datasets, benchmarks = (catalog.entries[kind] for kind in ("dataset", "benchmark"))
    needed = NeededFiles()
    for name in names:
        if name in datasets:
            needed += NeededFiles((catalog.dataset(name),))
        if name in benchmarks or name.endswith((".yaml", ".yml")):
            from oodbench.planning.needed_files import needed_files  # imports torch

            needed += needed_files(catalog, name)
        elif name not in datasets:
            raise UserError(
                f"There is no data set, benchmark or suite '{name}'.",
                did_you_mean(
                    name,
                    [*datasets, *benchmarks],
                    "`oodbench data list` and `oodbench list benchmarks` list all.",
                ),
            )
    return needed


def _jobs(
    needed: NeededFiles, root: Path, say: Reporter, *, repair: bool
) -> Iterator[tuple[str, str, Callable[[], str | Path]]]:
    """Owner of the files, name for messages, and the work, which returns how it ended."""
    from oodbench.data.missing_files import owner_of
    from oodbench.data.store.checkpoint_files import checkpoint_file, torch_hub_file

    for spec in needed.datasets:
        yield owner_of(spec), spec.name, partial(_fetched, spec, root, say, repair=repair)
    for checkpoint, benchmark in needed.checkpoints:
        find = partial(checkpoint_file, checkpoint, benchmark, root, say)
        yield owner_of(checkpoint), checkpoint.path or checkpoint.file_name, find
    for weights in needed.weights:
        find = partial(torch_hub_file, weights.url, weights.network, root, say)
        yield owner_of(weights), weights.network, find


def _fetched(spec: DatasetSpec, root: Path, say: Reporter, *, repair: bool) -> str:
    """Fetch a data set; returns what it has."""
    from oodbench.data.store import verification
    from oodbench.data.store.stored_dataset import StoredDataset

    if spec.kind == "builtin":
        return "built in, nothing to fetch"
    if repair:
        verification.repair(spec, root, say)
    return _prepared(spec, StoredDataset(spec, root, say).prepare())


def _prepared(spec: DatasetSpec, counts: Mapping[SplitName, int]) -> str:
    """How the images of a data set are there."""
    from oodbench.data.decoding_choice import is_large
    from oodbench.data.store.locations import decoded_root

    later = sum(count for split, count in counts.items() if is_large(spec, split))
    decoded = sum(counts.values()) - later
    parts = [f"{counted(decoded, 'image')}, decoded into {decoded_root()}"] if decoded else []
    parts += [f"{counted(later, 'image')}, decoded when they are read"] if later else []
    return "; ".join(parts)


def _named(names: list[str], plugins: list[Path] | None) -> list[DatasetSpec]:
    from oodbench.plugins.catalog import Catalog

    catalog = Catalog(plugins or ())
    return [catalog.dataset(name) for name in dict.fromkeys(names)]


def _all(plugins: list[Path] | None) -> dict[str, DatasetSpec | UserError]:
    """Every manifest, or the error of reading it."""
    from oodbench.plugins.catalog import Catalog

    catalog = Catalog(plugins or ())
    specs: dict[str, DatasetSpec | UserError] = {}
    for name in catalog.entries["dataset"]:
        try:
            specs[name] = catalog.dataset(name)
        except UserError as error:
            specs[name] = error
    return specs


def _here(plugins: list[Path] | None, root: Path) -> list[DatasetSpec]:
    """The data sets with stored files."""
    from oodbench.data.listed_files import is_present
    from oodbench.data.store.image_cache import folders_named
    from oodbench.data.store.locations import dataset_folder

    def is_here(spec: DatasetSpec) -> bool:
        return is_present(spec, root) if spec.lists else dataset_folder(spec, root).is_dir()

    specs = [spec for spec in _all(plugins).values() if not isinstance(spec, UserError)]
    return [
        spec
        for spec in specs
        if spec.kind != "builtin" and (is_here(spec) or folders_named(spec.name))
    ]


def _repair_command(name: str, data_root: Path | None, plugins: list[Path] | None) -> str:
    import shlex

    words = ["oodbench", "data", "fetch", "--repair", name]
    words += ["--data-root", str(data_root)] if data_root else []
    for folder in plugins or ():
        words += ["--plugins", str(folder)]
    return shlex.join(words)


def _print_table(rows: list[dict[str, Any]]) -> None:
    from oodbench.report.tables.document import Cell, Heading, Section, Table
    from oodbench.report.writers.terminal import print_list

    headings = (
        Heading("name", "name", text=True),
        Heading("kind", "kind", text=True, importance=6),
        Heading("here", "here", text=True, importance=8),
        Heading("size", "size", importance=7),
        Heading("from", "from", text=True, importance=8),
    )
    lines = []
    for row in rows:
        if row["status"] == "ok":
            size = "" if row["size"] is None else f"{row['size'] / 1e6:,.1f} MB"
            source = ", ".join(row["from"]) or row["folder"] or ""
            line = (row["name"], row["kind"], row["state"], size, source)
        else:
            line = (row["name"], "", "BROKEN", "", " ".join(row["error"].split()))
        lines.append(tuple(map(Cell, line)))
    print_list(Table("", headings, (Section("", tuple(lines)),)))
