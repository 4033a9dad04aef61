"""The ends of the stages, or of the blocks, of a user's model: the feature layers by default.

In this order: the modules that a timm model's `feature_info` names; the list of modules of one type
that holds most of the network's weights, if they are stages or transformer blocks; the last
activation before each change of resolution; blocks of one resolution. No package is imported to
recognize a model: only inputs and outputs of modules for a few images are used.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from oodbench.models.activations import activation_of, equal
from oodbench.models.adapted_network import RESERVED
from oodbench.models.structure.forward_pass import ForwardPass
from oodbench.models.structure.resolution import Size, size_of
from oodbench.models.structure.user_network import has_weights

_BLOCKS = 4
"""Feature layers of a network whose blocks all have one resolution."""
_CHANGES = "the last activation before each change of resolution"
_LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def find_stages(seen: ForwardPass, head: str | None) -> tuple[Sequence[str], str]:
    """Names of the modules at the ends of stages or blocks, and how they were chosen.

    Args:
        seen: the pass.
        head: name of the last layer; no stage comes after it. None if it is not known.
    """
    return _Stages(seen, head).choice()


@dataclass(frozen=True, slots=True)
class _Row:
    """Modules of one kind that follow each other.

    Attributes:
        names: names of the modules; for a list that does not run itself, its last module.
        parent: name of the module that contains them.
        weights: number of parameters that they hold.
        whole: whether they are all that is in a list.
    """

    names: tuple[str, ...]
    parent: str
    weights: int
    whole: bool

    @property
    def where(self) -> str:
        """The module that contains them, for a sentence."""
        return self.parent or "the model"


class _Stages:
    """The modules of a forward pass, by their order, their sizes and their lists."""

    def __init__(self, seen: ForwardPass, head: str | None) -> None:
        self.seen, self.module, self.calls, self.images = seen, seen.module, seen.calls, seen.images
        self._modules = seen.modules
        self._order = {name: position for position, name in enumerate(seen.calls)}
        last = self._order.get(head or "", len(seen.calls))
        sizes = {name: size_of(seen, seen.calls[name].output) for name in [*seen.calls][:last]}
        self._sizes = {name: size for name, size in sizes.items() if size is not None}

    def _usable(self, name: str) -> bool:
        """Whether a module can be a feature layer: it ran once, and returned a map or tokens."""
        call = self.calls.get(name)
        return call is not None and call.count == 1 and name in self._sizes

    def choice(self) -> tuple[Sequence[str], str]:
        """Names of the feature layers, and how they were chosen."""
        named = self._feature_info()
        if named:
            return self._spread(named), "those that the model's feature_info names"
        rows = list(self._rows())
        row = max(
            rows,
            key=lambda row: (row.weights, -row.parent.count("."), self._order[row.names[-1]]),
            default=None,
        )
        if row is not None and row.whole and len(self._last_of_each(row.names)) > 1:
            return self._spread(row.names), f"the ends of the stages in {row.where}"
        ends = self._ends()
        maps = [name for name in ends if self._sizes[name].sides is not None]
        if row is not None and len(ends) > 1 and self._are_after(row, maps, ends):
            # Tokens of one resolution after maps: a transformer. If it holds most of the weights,
            # the maps are its stem.
            blocks, which = self._blocks(row)
            if 2 * row.weights > sum(each.numel() for each in self.module.parameters()):
                return blocks, which
            return [*maps, *blocks], f"{_CHANGES}, then {which}"
        if len(ends) > 1:
            return ends, _CHANGES
        if row is not None:
            return self._blocks(row)
        return ends, "the last activation with a spatial or token axis"

    def _last_of_each(self, names: Sequence[str]) -> Sequence[str]:
        """The last module of each resolution."""
        return [
            name
            for name, after in itertools.zip_longest(names, names[1:])
            if after is None or not self._sizes[after].like(self._sizes[name])
        ]

    def _spread(self, names: Sequence[str]) -> Sequence[str]:
        """Up to four modules; of more, the last of each resolution, or else evenly spaced ones."""
        if len(names) <= _BLOCKS:
            return names
        last = self._last_of_each(names)
        if len(last) > 1:
            return last
        return [names[round((index + 1) * len(names) / _BLOCKS) - 1] for index in range(_BLOCKS)]

    def _blocks(self, row: _Row) -> tuple[Sequence[str], str]:
        names = self._spread(row.names)
        share = f"{len(names)} of the {len(row.names)}" if len(names) < len(row.names) else "the"
        return names, f"the ends of {share} blocks in {row.where}"

    # --- timm ----------------------------------------------------------------------------------

    def _feature_info(self) -> list[str]:
        """The modules that `feature_info` of a timm model names; none if it does not fit the model.

        The timm model may be a part of the model.
        """
        for prefix, part in self._modules.items():
            entries = getattr(part, "feature_info", None)
            entries = getattr(entries, "info", entries)
            if not isinstance(entries, list | tuple) or not entries:
                continue
            names: list[str] = []
            after: str | None = None
            for entry in reversed(entries):
                named = entry.get("module") if isinstance(entry, Mapping) else None
                name = f"{prefix}.{named}" if prefix else str(named)
                if named is None or (name in self._modules and self._end(name) is None):
                    return []
                # The name of an early stage or a stem may be that of no module.
                end = self._end(name) or (after and self._stage_before(after))
                if end and end not in names:
                    names.append(end)
                    after = end
                elif not names:
                    return []
            if len(names) > 1 or len(entries) == 1:
                return sorted(names, key=self._order.__getitem__)
        return []

    def _stage_before(self, name: str) -> str | None:
        """The last module of several layers that ended before a module beside it."""
        parent, dot, _ = name.rpartition(".")
        found = (
            f"{parent}{dot}{child}"
            for child, inside in self.module.get_submodule(parent).named_children()
            if next(inside.children(), None) is not None and has_weights(inside)
        )
        before = [
            other
            for other in found
            if self._usable(other) and self._order[other] < self._order[name]
        ]
        return max(before, key=self._order.__getitem__, default=None)

    # --- rows of modules -----------------------------------------------------------------------

    def _end(self, name: str) -> str | None:
        """The module itself; of a list, which does not run, the module in it that ends last."""
        if name in self.calls:
            return name if self._usable(name) and name not in RESERVED else None
        part = self._modules.get(name)
        if part is None:
            return None
        ends = [self._end(f"{name}.{child}") for child, _ in part.named_children()]
        return max((end for end in ends if end), key=self._order.__getitem__, default=None)

    def _rows(self) -> Iterator[_Row]:
        for parent, part in self._modules.items():
            prefix = f"{parent}." if parent else ""
            is_list = isinstance(part, _LISTS)
            kinds: dict[type, list[tuple[str, nn.Module]]] = {}
            for child, inside in part.named_children():
                end = self._end(prefix + child)
                runs = is_list or (end == prefix + child and not isinstance(inside, _LISTS))
                if end and runs and has_weights(inside):
                    kinds.setdefault(type(inside), []).append((end, inside))
            whole = is_list and len(kinds) == 1
            for members in kinds.values():
                row = self._row(parent, members, whole=whole)
                if row is not None:
                    yield row
            if isinstance(part, nn.ModuleList) and len(kinds) > 1:
                row = self._row(
                    parent, [each for kind in kinds.values() for each in kind], whole=True
                )
                if row is not None and len(self._last_of_each(row.names)) > 1:
                    yield row  # stages of several kinds

    def _row(
        self, parent: str, members: Sequence[tuple[str, nn.Module]], *, whole: bool
    ) -> _Row | None:
        names = tuple(sorted((end for end, _ in members), key=self._order.__getitem__))
        composite = all(next(inside.children(), None) is not None for _, inside in members)
        if not composite or len(names) < 2 or not self._in_succession(names, linked=not whole):
            return None
        weights = sum(p.numel() for _, inside in members for p in inside.parameters())
        return _Row(names, parent, weights, whole)

    def _in_succession(self, names: Sequence[str], *, linked: bool) -> bool:
        """Whether modules run one after another, not side by side on the same activation.

        Args:
            names: names of the modules.
            linked: whether the input of each has to be the output of the one before it.
        """
        for before, after in itertools.pairwise(names):
            given = activation_of(self.calls[after].given, self.images)
            if equal(given, self.seen.activation(before)):
                continue  # also for a block that adds nothing because its last weights are zero
            if linked or equal(given, activation_of(self.calls[before].given, self.images)):
                return False
        return True

    def _are_after(self, row: _Row, maps: Sequence[str], ends: Sequence[str]) -> bool:
        """Whether only blocks of tokens come after the last map."""
        tokens = all(self._sizes[name].sides is None for name in row.names)
        first = self._order[row.names[0]]
        return tokens and len(ends) - len(maps) <= 1 and all(self._order[n] < first for n in maps)

    # --- changes of resolution -----------------------------------------------------------------

    def _ends(self) -> list[str]:
        """The last activation of each resolution, of those on the way from images to logits."""
        units = self._units()
        pooled = {id(call.output) for call in self.calls.values() if _pools(call.module)}
        ends: list[str] = []
        # Backwards: a map on a side branch, like those of squeeze-and-excitation, is smaller than
        # one that comes after it.
        smallest: Size | None = None
        for name in reversed(self._sizes):
            call, size = self.calls[name], self._sizes[name]
            inside = [unit for unit in _ancestors(name) if unit in units]
            if any(not self._sizes[unit].like(size) for unit in inside):
                continue  # in the middle of a block, or of a reduction of the map
            if any(self._pools_tokens(other) for other in _ancestors(name)):
                continue
            if call.count > 1 or name in RESERVED or _pools(call.module):
                continue
            if id(call.output) in pooled and (name not in units or size.places == 1):
                continue  # a container that ends in pooling
            if name not in units and self._ends_inside(name):
                continue  # a container of several stages
            if size.places == 1 and (size.sides is None or not has_weights(call.module)):
                continue  # a pooled vector
            if (smallest is None or size.larger(smallest)) and self._computed(name):
                smallest = size
                ends.insert(0, name)
        return ends

    def _pools_tokens(self, name: str) -> bool:
        """Whether a module turns tokens into a vector, by attention."""
        call = self.calls.get(name)
        if call is None or name in self._sizes or self.seen.activation(name) is None:
            return False
        before = size_of(self.seen, call.given)
        return before is not None and before.sides is None

    def _ends_inside(self, name: str) -> bool:
        """Whether the output of a module is the output of a module inside it."""
        inside = (other for other in self._sizes if other.startswith(f"{name}."))
        output = self.seen.activation(name)
        return any(
            self.calls[other].count == 1 and self.seen.activation(other) is output
            for other in inside
        )

    def _units(self) -> set[str]:
        """Modules of one piece: they keep the resolution, or reduce it by one step."""
        found = set()
        for name, after in self._sizes.items():
            call = self.calls[name]
            before = size_of(self.seen, call.given)
            if before is None or call.count > 1 or name in RESERVED:
                continue
            if after.like(before) or after.step_from(before):
                found.add(name)
        return found

    def _computed(self, name: str) -> bool:
        """Whether a layer with weights ran before a module ended."""
        for other, call in self.calls.items():
            if any(parameter.ndim > 1 for parameter in call.module.parameters(recurse=False)):
                return True
            if other == name:
                return False
        return False


def _pools(module: nn.Module) -> bool:
    return "Pool" in type(module).__name__ and not has_weights(module)


def _ancestors(name: str) -> Iterator[str]:
    while "." in name:
        name = name.rpartition(".")[0]
        yield name
