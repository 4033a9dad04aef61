"""The commands `oodbench new ...`: files that a detector, a benchmark or a package begins with."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from oodbench.cli.help_text import PlainCommand, PlainGroup
from oodbench.cli.parameters import given_path
from oodbench.errors import UserError

if TYPE_CHECKING:
    from oodbench.plugins.catalog import Catalog
    from oodbench.plugins.starter_files import Files

new_app = typer.Typer(
    cls=PlainGroup,
    help="Write a new detector, benchmark or plug-in package to start from.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="A name that is not taken yet.")]
PluginFolder = Annotated[
    Path | None,
    typer.Option(
        "--out", parser=given_path, metavar="DIR", help="Plug-in folder. Default: this folder."
    ),
]


@new_app.command(cls=PlainCommand)
def detector(
    name: Name,
    fitted: Annotated[
        bool, typer.Option("--fitted", help="It is fitted on the training images.")
    ] = False,
    gradient: Annotated[
        bool, typer.Option("--gradient", help="It uses gradients with respect to the image.")
    ] = False,
    out: PluginFolder = None,
) -> None:
    """Write DIR/detectors/NAME.py: a detector that works, to be edited."""
    from oodbench.plugins.starter_files import detector_files, label_of

    folder = out or Path()
    files = detector_files(name, _catalog(folder), fitted=fitted, gradient=gradient)
    (path,) = _write(folder, files)
    methods = f"SoftMax+{label_of(name)},SoftMax+MSP"
    _print_next(
        "write your formula, then",
        ["oodbench", "check", str(path)],
        ["oodbench", "run", "digits", *_plugins(folder), "--methods", methods, "--seeds", "1"],
    )


@new_app.command(cls=PlainCommand)
def benchmark(
    name: Name,
    folders: Annotated[
        bool,
        typer.Option("--folders", help="Of folders of images; default: of the built-in digits."),
    ] = False,
    out: PluginFolder = None,
) -> None:
    """Write DIR/benchmarks/NAME.yaml: a benchmark that runs, to be edited."""
    from oodbench.plugins.starter_files import benchmark_files

    folder = out or Path()
    _write(folder, benchmark_files(name, _catalog(folder), folders=folders))
    run = ["oodbench", "run", name, *_plugins(folder)]
    if folders:
        print("The files say where the images lie. Fill in shape, classes and numbers of images.")
    _print_next(
        "edit the file, then",
        [*run, "--dry-run"],
        [*run, "--data-root", "DIR"] if folders else [*run, "--seeds", "1"],
    )


@new_app.command(cls=PlainCommand)
def plugin(
    name: Name,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", parser=given_path, metavar="DIR", help="Its folder. Default: a new one, NAME."
        ),
    ] = None,
) -> None:
    """Write a package with a detector, a benchmark, tests and a CI workflow; pip installs it."""
    from oodbench.plugins.starter_files import label_of, plugin_files

    files = plugin_files(name, _catalog())
    folder = out or Path(name)
    paths = _write(folder, files)
    detector = next(path for path in paths if path.parent.name == "detectors")
    content = detector.parent.parent
    methods = f"SoftMax+{label_of(detector.stem)},SoftMax+MSP"
    print("It has no license yet: README.md and pyproject.toml say where yours goes.")
    _print_next(
        f"write your formula into {detector}, then",
        ["oodbench", "check", str(detector)],
        ["oodbench", "run", "digits", *_plugins(content), "--methods", methods, "--seeds", "1"],
        ["pip", "install", "-e", f"{folder}[test]"],
        ["pytest", str(folder)],
    )


def _catalog(folder: Path | None = None) -> Catalog:
    """The content whose names are taken: with that of a plug-in folder, if it is one already."""
    from oodbench.plugins.catalog import Catalog
    from oodbench.plugins.content_folders import FOLDERS

    if folder is not None and any((folder / sub).is_dir() for sub, _ in FOLDERS.values()):
        return Catalog([folder])
    return Catalog()


def _write(folder: Path, files: Files) -> list[Path]:
    """Write the files into a folder, and print their paths.

    Raises:
        UserError: if one of them exists, before any is written; or a place cannot be written.
    """
    from oodbench.files import expanded, explained, make_folder

    paths = {expanded(folder) / path: text for path, text in files.items()}
    for path in paths:
        if os.path.lexists(path):
            raise UserError(
                f"{path} exists already; nothing was written.",
                "Remove it, or choose another name or another folder with --out.",
            )
    for path, text in paths.items():
        make_folder(path.parent)
        with explained(path), path.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
        print(f"Wrote {path}")
    return list(paths)


def _plugins(folder: Path) -> list[str]:
    return ["--plugins", str(folder)]


def _print_next(first: str, *commands: list[str]) -> None:
    """The commands that come next, as they can be copied."""
    print(f"Next: {first}")
    for words in commands:
        print(f"  {shlex.join(words)}")
