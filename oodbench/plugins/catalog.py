"""The catalog of content: detectors, benchmarks, data sets.

A *folder of content* has up to three sub-folders: `detectors/`, `benchmarks/` and
`data_manifests/`. The built-in folder and a user's folder have the same layout. The catalog reads
the built-in folder first, then the user's folders (`--plugins`, `OODBENCH_PLUGINS`), then installed
distributions that declare the entry point group `oodbench.plugins`. A detector class that is in no
folder, such as one of a notebook, is passed as a class.

Making a catalog reads files, runs none of them, and does not import torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeGuard

from oodbench.detector import Detector, DetectorInfo
from oodbench.errors import UserError, did_you_mean, see_list, sentence
from oodbench.files import expanded
from oodbench.plugins.content_folders import BUILT_IN, FOLDERS, Kind, Plugin, content_folders
from oodbench.plugins.declarations import BrokenDetectorError, read_detector
from oodbench.plugins.import_trials import import_errors
from oodbench.plugins.importing import instantiate, load_class
from oodbench.specs import BenchmarkSpec, DatasetSpec, SuiteSpec
from oodbench.specs.yaml_file import named_as_file, read_mapping, read_spec, validate


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of content.

    Attributes:
        name: the stem of the file.
        kind: kind of content.
        path: the file; "<class MODULE.NAME>" for a class that was passed.
        source: "built-in", the folder of content, "distribution NAME" or "class".
        cls: the class that was passed; None for a file.
    """

    name: str
    kind: Kind
    path: Path
    source: str
    cls: type[Detector] | None = None

    def same_as(self, other: Entry) -> bool:
        """Whether both are the same file (one may be a link to the other), or the same class."""
        if self.cls is not None or other.cls is not None:
            return self.cls is other.cls
        return self.path.samefile(other.path)

    def load(self) -> type[Detector]:
        """The class of a detector; this runs its file.

        Raises:
            BrokenDetectorError: if the file does not import, or declares no detector of its name.
        """
        return load_class(self.path) if self.cls is None else self.cls


@dataclass(frozen=True, slots=True)
class DetectorStatus:
    """Declaration of a detector, or the error of its file.

    Attributes:
        info: its declaration; None if it is broken.
        error: why it cannot be used; None if it can.
    """

    info: DetectorInfo | None
    error: str | None


class Catalog:
    """All content, by kind and name.

    Args:
        plugins: folders of content besides the built-in one, and detector classes.

    Attributes:
        plugins: the folders.
        classes: the classes.

    Raises:
        UserError: if a folder does not exist or has none of the three sub-folders, two files have
            the same name, or a class is not registered.
    """

    def __init__(self, plugins: Plugin | Iterable[Plugin] = ()) -> None:
        given = [plugins] if isinstance(plugins, str | Path | type) else list(plugins)
        self.classes = tuple(map(_checked_class, (p for p in given if not _is_path(p))))
        self.plugins = tuple(expanded(p).resolve() for p in given if _is_path(p))
        self.entries: dict[Kind, dict[str, Entry]] = {kind: {} for kind in FOLDERS}
        for source, folder in content_folders(self.plugins):
            for kind, (subfolder, suffix) in FOLDERS.items():
                files = (folder / subfolder).glob(f"*{suffix}")
                for path in sorted(files, key=lambda path: path.stem):
                    if not path.name.startswith(("_", ".")):
                        self._add(Entry(path.stem, kind, path, source))
        for cls in self.classes:
            path = Path(f"<class {cls.__module__}.{cls.__qualname__}>")
            self._add(Entry(cls.info.name, "detector", path, "class", cls))

    def _add(self, entry: Entry) -> None:
        other = self.entries[entry.kind].setdefault(entry.name, entry)
        if other is not entry and not entry.same_as(other):
            files = "A file and a class" if entry.cls or other.cls else "Two files"
            raise UserError(
                f"{files} are the {entry.kind} '{entry.name}': {other.path} and {entry.path}.",
                "Rename one of them: names must be unique.",
            )

    def is_plugin(self, detector: str) -> bool:
        """Whether a detector is not built in.

        Args:
            detector: its name.
        """
        entry = self.entries["detector"].get(detector)
        return entry is None or entry.source != BUILT_IN

    def entry(self, kind: Kind, name: str) -> Entry:
        """The entry of a name; for detectors, also of an alias.

        Raises:
            UserError: if the name is unknown; the hint has the nearest names.
        """
        entries = self.entries[kind]
        if name in entries:
            return entries[name]
        others = self.aliases if kind == "detector" else {}
        if name not in others:
            raise UserError(
                f"There is no {kind} '{name}'.",
                did_you_mean(name, [*entries, *others], see_list(f"{kind}s")),
            )
        return entries[others[name]]

    # --- detectors -----------------------------------------------------------------------------

    @cached_property
    def detectors(self) -> dict[str, DetectorStatus]:
        """Declarations of all detectors, in the order of the catalog; no file is run.

        Raises:
            UserError: if an alias is the name or an alias of another detector.
        """
        statuses = {name: _read(entry) for name, entry in self.entries["detector"].items()}
        self._check_aliases(statuses)
        return statuses

    def checked_detectors(self) -> dict[str, DetectorStatus]:
        """As `detectors`, after importing the files that are not built in, in another process."""
        statuses = dict(self.detectors)
        entries = self.entries["detector"]
        files = {
            name: entry.path
            for name, entry in entries.items()
            if entry.source != BUILT_IN and entry.cls is None and statuses[name].error is None
        }
        errors = import_errors(list(files.values()))
        for name, file in files.items():
            if errors[file] is not None:
                statuses[name] = DetectorStatus(None, errors[file])
        return statuses

    def imported_detectors(self) -> dict[str, DetectorStatus]:
        """As `detectors`, after importing every file in this process, which imports torch."""
        statuses = dict(self.detectors)
        for name, status in statuses.items():
            if status.error is None:
                try:
                    info = self.entries["detector"][name].load().info
                    statuses[name] = DetectorStatus(info, None)
                except BrokenDetectorError as error:
                    statuses[name] = DetectorStatus(None, str(error))
        return statuses

    @cached_property
    def aliases(self) -> dict[str, str]:
        """Alias -> name of the detector."""
        return aliases(self.detectors)

    def _check_aliases(self, statuses: Mapping[str, DetectorStatus]) -> None:
        taken = {name: name for name in statuses}
        for name, status in statuses.items():
            for alias in status.info.aliases if status.info is not None else ():
                other = taken.setdefault(alias, name)
                if other != name:
                    raise UserError(
                        f"The alias '{alias}' of detector '{name}' "
                        f"({self.entries['detector'][name].path}) is also a name of detector "
                        f"'{other}' ({self.entries['detector'][other].path}).",
                        "Remove the alias: names must be unique.",
                    )

    def load_detector(self, name: str, parameters: Mapping[str, Any] | None = None) -> Detector:
        """An instance of a detector; this runs its file.

        Raises:
            UserError: if the name is unknown, the file does not import, or the detector does not
                accept a parameter.
        """
        entry = self.entry("detector", name)
        try:
            cls = entry.load()
        except BrokenDetectorError as error:
            raise UserError(
                sentence(f"Detector '{name}' is broken ({entry.path}): {error}")
            ) from error
        return instantiate(cls, parameters or {})

    # --- benchmarks and data sets --------------------------------------------------------------

    def dataset(self, name: str) -> DatasetSpec:
        """The manifest of a data set.

        Raises:
            UserError: if the name is unknown, or the manifest is not valid.
        """
        return read_spec(DatasetSpec, self.entry("dataset", name).path)

    def benchmark(self, name: str) -> BenchmarkSpec:
        """A benchmark by name, or by the path of a YAML file.

        A benchmark with `extends: OTHER` starts from the other one: mappings are merged, a null
        value removes its key, any other value replaces the old one.

        Raises:
            UserError: if the name is unknown, the file is not valid, it extends itself, or it is a
                suite.
        """
        path = self.benchmark_path(name)
        content = self.inherited(path)
        if is_suite(content):
            members = content["members"]
            raise UserError(
                f"'{name}' is a suite of benchmarks, not a benchmark.",
                f"Name one of its benchmarks: {', '.join(map(str, members))}."
                if isinstance(members, dict)
                else "",
            )
        return named_as_file(validate(BenchmarkSpec, content, path), path)

    def is_suite(self, name: str) -> bool:
        """Whether a name or path belongs to a suite rather than to a single benchmark.

        Raises:
            UserError: if the name is unknown, or the file is not readable.
        """
        return is_suite(self.inherited(self.benchmark_path(name)))

    def suite(self, name: str) -> tuple[SuiteSpec, Path]:
        """A suite by name or by the path of a YAML file, and its file; it may extend another one.

        `oodbench.planning.suite_plan.load_suite` also reads the benchmarks of the suite.

        Raises:
            UserError: if the name is unknown, the file is not valid, it extends itself, or it is a
                benchmark.
        """
        path = self.benchmark_path(name)
        content = self.inherited(path)
        if not is_suite(content):
            raise UserError(
                f"'{name}' is not a suite of benchmarks.", "A suite's file has the key 'members'."
            )
        return named_as_file(validate(SuiteSpec, content, path), path), path

    def benchmark_path(self, name: str) -> Path:
        """The file of a benchmark or a suite, by name or by path.

        Raises:
            UserError: if there is no such file.
        """
        given = expanded(name)
        # Text without a folder or a suffix is a name, even if a file of that name exists.
        if given.suffix in (".yaml", ".yml") or len(given.parts) > 1:
            if not given.is_file():
                raise UserError(
                    f"There is no benchmark file {given}.",
                    "Give the path of a YAML file, or a name of `oodbench list benchmarks`.",
                )
            return given
        return self.entry("benchmark", name).path

    def inherited(self, path: Path) -> dict[str, Any]:
        """The content of a benchmark's or suite's file, merged into the file that it extends.

        Raises:
            UserError: if a file does not exist or is not readable, or files extend each other in a
                circle.
        """
        return self._inherited(path, [])

    def beside(self, path: Path, key: str, kind: Kind, name: str) -> Path:
        """The file that a name in another file refers to: beside that file, or in the catalog.

        Args:
            path: the file that refers to another one.
            key: key that has the name, for the message.
            kind: "benchmark" or "publication".
            name: the name.

        Raises:
            UserError: if there is no such file.
        """
        subfolder = Path(FOLDERS[kind][0]).relative_to("benchmarks")
        near = path.parent / subfolder / f"{name}.yaml"
        if near.is_file() and Path(name).name == name:
            return near
        if name not in self.entries[kind]:
            raise UserError(
                f"{path}: {key}: there is no {kind} '{name}'.",
                did_you_mean(name, self.entries[kind], see_list(f"{kind}s")),
            )
        return self.entries[kind][name].path

    def _inherited(self, path: Path, below: Sequence[Path]) -> dict[str, Any]:
        if path.resolve() in below:
            chain = " -> ".join(file.stem for file in [*below, path])
            raise UserError(
                f"{path}: extends: the benchmarks extend each other in a circle: {chain}.",
                "Remove 'extends' from one of them.",
            )
        content = read_mapping(path)
        parent = content.pop("extends", None)
        if parent is None:
            return content
        if not isinstance(parent, str) or Path(parent).name != parent:
            raise UserError(
                f"{path}: extends: expected the name of a benchmark, not {parent!r}.",
                "oodbench searches beside this file, then in `oodbench list benchmarks`.",
            )
        base = self.beside(path, "extends", "benchmark", parent)
        return merged(self._inherited(base, [*below, path.resolve()]), content)


def aliases(statuses: Mapping[str, DetectorStatus]) -> dict[str, str]:
    """Alias -> name of the detector; broken detectors have no aliases."""
    return {
        alias: name
        for name, status in statuses.items()
        if status.info is not None
        for alias in status.info.aliases
    }


def _read(entry: Entry) -> DetectorStatus:
    if entry.cls is not None:
        return DetectorStatus(entry.cls.info, None)
    try:
        return DetectorStatus(read_detector(entry.path), None)
    except BrokenDetectorError as error:
        return DetectorStatus(None, str(error))


def is_suite(content: Mapping[str, Any]) -> bool:
    """Whether the content of a file in `benchmarks/` is a suite: it has the key `members`."""
    return "members" in content


def _is_path(given: Any) -> TypeGuard[str | Path]:
    return isinstance(given, str | Path)


def _checked_class(given: Any) -> type[Detector]:
    """Check that an entry of `plugins` that is not a path is a registered detector class.

    Raises:
        UserError: if it is not.
    """
    if not isinstance(given, type) or not issubclass(given, Detector):
        raise UserError(
            f"plugins: expected folders and detector classes, not {given!r}.",
            "Give the path of a folder, or a class decorated with @oodbench.register.",
        )
    if "info" not in vars(given):
        raise UserError(
            f"plugins: {given.__name__} is not registered.",
            'Decorate the class with @oodbench.register("name", needs=...).',
        )
    return given


def merged(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Merge a mapping into another one, recursively; a null value removes its key."""
    result = dict(base)
    for key, value in change.items():
        if value is None:
            result.pop(key, None)
            continue
        old = result.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        result[key] = merged(old, value) if both else value  # type: ignore[arg-type]
    return result
