"""The evaluation in a run directory: which one it is, and whether it is the one asked for."""

from __future__ import annotations

import tempfile
from pathlib import Path

from oodbench.errors import UserError
from oodbench.storage.locks import CONTENT
from oodbench.storage.run_directory import RunDirectory
from oodbench.storage.run_places import newest
from oodbench.user_benchmark.benchmark_content import EvaluationContent


def begun_folder(out: Path | None) -> Path:
    """The run directory of an evaluation that can be resumed.

    Args:
        out: the directory; None: that of the newest evaluation.

    Raises:
        UserError: if there is none.
    """
    folder = out or newest("evaluation")
    if folder is None or not (folder / CONTENT).is_dir():
        where = f"{folder} holds" if folder is not None else "runs/ has"
        raise UserError(
            f"{where} no evaluation to resume.",
            "Give its run directory with --out, or begin one with --model, --id and --ood.",
        )
    return folder


def begun_name(folder: Path) -> str:
    """The name of the benchmark of the evaluation in a run directory.

    Raises:
        UserError: if its content is not whole.
    """
    names = [path.stem for path in (folder / CONTENT / "benchmarks").glob("*.yaml")]
    directory = RunDirectory(folder)
    if directory.exists():
        begun = str(directory.read_description().benchmark.get("name"))
        names = [name for name in names if name == begun]
    if len(names) != 1:
        raise UserError(
            f"The content of the evaluation in {folder / CONTENT} is not whole: it should have one "
            "benchmark.",
            f"Begin it again with --model, --id and --ood, and with --resume --out {folder}.",
        )
    return names[0]


def check_same(content: EvaluationContent, folder: Path) -> None:
    """Check that the content in a run directory, as far as it is there, is that of an evaluation.

    Raises:
        UserError: if it is not.
    """
    with tempfile.TemporaryDirectory() as temporary:
        content.write(Path(temporary))
        for path in sorted((folder / CONTENT).rglob("*.yaml")):
            now = Path(temporary) / path.relative_to(folder / CONTENT)
            if not now.is_file() or now.read_bytes() != path.read_bytes():
                raise UserError(
                    f"{folder} holds another evaluation: {path.name} differs.",
                    f"Continue it as it is with `oodbench evaluate --resume --out {folder}`,"
                    " or start a new one in another folder with --out.",
                )
