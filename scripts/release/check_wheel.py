"""Build the sdist and the wheel, and use the wheel alone in a clean environment.

    python scripts/release/check_wheel.py [--python 3.13] [--resolution lowest-direct]

Every step that fails ends the check with its output. The steps: build both from the committed
files, `twine check`, compare what they contain with what is committed, install the wheel in an
environment of its own, and run every command group in a folder outside the checkout. Needs git, a
package index, and `build` and `twine` (extra `dev`). Installing torch takes minutes and 5 GB;
`--environment` keeps the environment for the next time.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).parents[2]
SHIPPED = ("detectors", "benchmarks", "data_manifests")  # in the wheel in oodbench/_shipped
LARGEST = {"sdist": 12_000_000, "wheel": 3_000_000}  # bytes; more is a file that nobody meant
METHODS = "SoftMax+MSP,SoftMax+KNN,DisMax+Entropy"
FORMATS = ("table", "md", "csv", "json", "html", "latex")


class CheckFailedError(Exception):
    """A step found something; the message says what."""


def main() -> int:
    """0 if the release can be published, 1 if a step failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--python", default=sys.executable, help="interpreter or version of the environment"
    )
    parser.add_argument(
        "--resolution",
        choices=["highest", "lowest-direct"],
        default="highest",
        help="lowest-direct needs uv",
    )
    parser.add_argument(
        "--environment", type=Path, help="folder of the environment, kept; default: a temporary one"
    )
    parser.add_argument(
        "--dist", type=Path, help="folder for the sdist and the wheel; default: a temporary one"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="oodbench-release-") as temporary:
        place = Path(temporary)
        try:
            sdist, wheel = build((options.dist or place / "dist").resolve())
            check_content(sdist, wheel)
            environment = (options.environment or place / "environment").resolve()
            install(wheel, environment, options.python, options.resolution)
            work = place / "work"
            work.mkdir()
            Wheel(environment, work).check()
        except CheckFailedError as failure:
            print(f"FAILED: {failure}", file=sys.stderr)
            return 1
    print(f"{wheel.name} and {sdist.name} can be published.")
    return 0


# --- the two files -----------------------------------------------------------------------------


def build(folder: Path) -> tuple[Path, Path]:
    """Build the sdist, and the wheel from the sdist; the paths of both."""
    if changed := _output(["git", "status", "--porcelain"], cwd=ROOT):
        raise CheckFailedError(f"the checkout has changes that are not committed:\n{changed}")
    if folder.exists() and any(folder.iterdir()):
        raise CheckFailedError(f"{folder} is not empty")
    _step("build", [sys.executable, "-m", "build", "--outdir", folder, ROOT])
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    _step("twine check", [sys.executable, "-m", "twine", "check", "--strict", sdist, wheel])
    return sdist, wheel


def check_content(sdist: Path, wheel: Path) -> None:
    """Compare the names in both with the committed files: nothing is missing, nothing is extra."""
    committed = set(_output(["git", "ls-files"], cwd=ROOT).splitlines())
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames()}
    _compare("sdist", names - {"PKG-INFO"}, committed)
    expected = {name for name in committed if name.startswith("oodbench/")}
    expected |= {f"oodbench/_shipped/{n}" for n in committed if n.split("/")[0] in SHIPPED}
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        (metadata,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        links = [line for line in archive.read(metadata).decode().splitlines() if "://" in line]
    _compare("wheel", names, expected)
    for line in links:
        if line.startswith("Project-URL:") and not urlsplit(line.split(", ")[-1]).hostname:
            raise CheckFailedError(f"the metadata has no address in: {line}")
    for kind, path in (("sdist", sdist), ("wheel", wheel)):
        size = path.stat().st_size
        if size > LARGEST[kind]:
            raise CheckFailedError(f"{path.name} has {size:,} bytes, more than {LARGEST[kind]:,}")
        print(f"{kind}: {path.name}, {size:,} bytes", flush=True)


def _compare(kind: str, names: set[str], expected: set[str]) -> None:
    missing, extra = sorted(expected - names), sorted(names - expected)
    if missing or extra:
        raise CheckFailedError(f"the {kind} lacks {missing} and has, uncommitted, {extra}")


# --- the wheel alone ---------------------------------------------------------------------------


def install(wheel: Path, environment: Path, python: str, resolution: str) -> None:
    """Make an environment with the wheel and what it requires, and nothing else."""
    uv = shutil.which("uv")
    if uv is None and resolution != "highest":
        raise CheckFailedError("--resolution lowest-direct needs uv")
    if not (environment / "pyvenv.cfg").is_file():
        make = [uv, "venv", "--python", python] if uv else [python, "-m", "venv"]
        _step("environment", [*make, environment])
    inside = _executable(environment, "python")
    if uv:
        installer = [uv, "pip", "install", "--python", inside, "--resolution", resolution]
        installer += ["--reinstall-package", "oodbench"]
        check = [uv, "pip", "check", "--python", inside]
    else:
        installer = [inside, "-m", "pip", "install", "--force-reinstall", "--no-deps", wheel]
        _step("install the wheel", installer)
        installer = [inside, "-m", "pip", "install"]
        check = [inside, "-m", "pip", "check"]
    _step("install", [*installer, wheel])
    _step("requirements are consistent", check)


class Wheel:
    """The installed wheel, used in a folder outside the checkout.

    Attributes:
        environment: where it is installed.
        work: the empty folder that all commands run in.
        settings: variables of the environment, without those of this process that reach oodbench.
    """

    def __init__(self, environment: Path, work: Path) -> None:
        self.environment, self.work = environment, work
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("OODBENCH_", "PYTHON"))}
        self.settings = kept | {"OODBENCH_CACHE": str(work / "cache"), "OODBENCH_OFFLINE": "1"}

    def check(self) -> None:
        """Use every command group, and the API."""
        self.check_identity()
        self.check_content()
        self.check_new_files()
        self.check_run()
        self.check_deployment()
        self.check_plugin_package()

    def check_identity(self) -> None:
        """It is this version, from the environment."""
        version = self.output("--version").split()[-1]
        place = self.python("import oodbench; print(oodbench.__file__)").strip()
        _require(self.environment.resolve() in Path(place).resolve().parents, f"imported: {place}")
        stated = self.python("from importlib.metadata import version; print(version('oodbench'))")
        _require(stated.strip() == version, f"metadata says {stated.strip()}, oodbench {version}")

    def check_content(self) -> None:
        """Every committed detector, benchmark and data manifest is listed and fine."""
        kinds = {"detectors": "detectors/*.py", "benchmarks": "benchmarks/*.yaml"}
        kinds |= {"datasets": "data_manifests/*.yaml"}
        for kind, pattern in kinds.items():
            listed = {each["name"]: each for each in self.data("list", kind, "--json")}
            files = {path.stem for path in ROOT.glob(pattern) if path.name[0] not in "_."}
            _require(set(listed) == files, f"list {kind}: {sorted(set(listed) ^ files)} differ")
            broken = [name for name, each in listed.items() if each["status"] != "ok"]
            _require(not broken, f"list {kind}: broken are {broken}")
        _require(len(self.data("list", "models", "--json")) > 10, "list models: too few")
        self.oodbench("data", "list")
        self.oodbench("check", "energy")
        self.oodbench("check", "knn")

    def check_new_files(self) -> None:
        """`oodbench new` writes a detector and a benchmark that run."""
        self.oodbench("new", "detector", "mine", "--out", "own")
        self.oodbench("new", "benchmark", "my-benchmark", "--out", "own")
        (detector,) = (self.work / "own").rglob("mine.py")
        self.oodbench("check", detector)
        self.oodbench("run", "my-benchmark", "--plugins", "own", "--dry-run")

    def check_run(self) -> None:
        """A run, its verification, every report, a comparison and a site."""
        quick = ("--epochs", "2", "--limit", "200", "--seeds", "1", "--device", "cpu")
        methods = f"{METHODS},SoftMax+mine"
        self.oodbench("run", *quick, "--plugins", "own", "--methods", methods, "--out", "run")
        self.oodbench(
            "run", *quick, "--plugins", "own", "--methods", "all", "--out", "run", "--dry-run"
        )
        self.oodbench("verify", "run")
        for name in FORMATS:
            self.oodbench("report", "run", "--format", name, "--out", f"report.{name}")
            _require((self.work / f"report.{name}").stat().st_size > 500, f"report.{name} is empty")
        self.oodbench("report", "run", "--figures", "figures")
        _require(any((self.work / "figures").iterdir()), "report --figures made no figure")
        self.oodbench("leaderboard", "run")
        for suffix in ("html", "md", "json", "junit.xml"):
            self.oodbench("compare", "run", "run", "--out", f"comparison.{suffix}")
        self.oodbench("site", "run", "--out", "site")
        pages = list((self.work / "site").rglob("*.html"))
        _require(len(pages) > 4, f"the site has only {len(pages)} pages")
        records = "print(len(oodbench.open_run('run').records))"
        lines = (self.work / "run" / "records.jsonl").read_text(encoding="utf-8").count("\n")
        counted = self.python(f"import oodbench; {records}").strip()
        _require(
            counted == str(lines) and lines > 20, f"the API reads {counted} of {lines} records"
        )

    def check_deployment(self) -> None:
        """A fitted detector is saved, loaded and scores images."""
        self.oodbench("fit", "run", "SoftMax+KNN", "--out", "artifact", "--device", "cpu")
        picture = "from PIL import Image; Image.new('L', (8, 8), 9).save('image.png')"
        self.python(picture)
        scored = self.output("score", "artifact", "image.png", "--device", "cpu")
        _require("image.png" in scored, f"score printed: {scored}")

    def check_plugin_package(self) -> None:
        """The package that `oodbench new plugin` writes can be installed, and is found."""
        self.oodbench("new", "plugin", "my-plugin")
        uv, python = shutil.which("uv"), _executable(self.environment, "python")
        inside = (
            [uv, "pip", "install", "--python", python] if uv else [python, "-m", "pip", "install"]
        )
        out = (
            [uv, "pip", "uninstall", "--python", python]
            if uv
            else [python, "-m", "pip", "uninstall", "-y"]
        )
        _step("install the new plug-in", [*inside, "--no-deps", self.work / "my-plugin"])
        try:
            found = self.data("list", "detectors", "--json")
            new = [each["name"] for each in found if each["source"] != "built-in"]
            _require(len(new) == 1, f"detectors of the new plug-in: {new}")
            self.oodbench("check", new[0])
        finally:
            _step("remove it", [*out, "my-plugin"])

    def oodbench(self, *arguments: object) -> None:
        """Run a command that has to succeed."""
        self.output(*arguments)

    def output(self, *arguments: object) -> str:
        """What a command prints."""
        command = [_executable(self.environment, "oodbench"), *arguments]
        return _step(
            " ".join(["oodbench", *map(str, arguments)]), command, self.work, self.settings
        )

    def data(self, *arguments: object) -> list[dict[str, str]]:
        """The list that a command prints as JSON."""
        found: list[dict[str, str]] = json.loads(self.output(*arguments))
        return found

    def python(self, program: str) -> str:
        """What a program prints in the environment."""
        command = [_executable(self.environment, "python"), "-c", program]
        return _step(program, command, self.work, self.settings)


# --- processes ---------------------------------------------------------------------------------


def _executable(environment: Path, name: str) -> Path:
    windows = environment / "Scripts" / f"{name}.exe"
    return windows if windows.is_file() else environment / "bin" / name


def _step(
    title: str, command: list[object], cwd: Path = ROOT, settings: dict[str, str] | None = None
) -> str:
    """Run a command and print how long it took; its standard output."""
    started = time.perf_counter()
    done = subprocess.run(
        [str(each) for each in command], cwd=cwd, env=settings, capture_output=True, text=True
    )
    print(f"{time.perf_counter() - started:6.1f} s  {title}", flush=True)
    if done.returncode:
        raise CheckFailedError(
            f"{title}: exit code {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        )
    return done.stdout


def _output(command: list[str], cwd: Path) -> str:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True).stdout


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise CheckFailedError(otherwise)


if __name__ == "__main__":
    sys.exit(main())
