"""What `oodbench evaluate` shows before it runs: its plan, and a few images through each model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oodbench.cli.display import console, reporter, say

if TYPE_CHECKING:
    from oodbench.planning.plan import Plan


def show_plan(plan: Plan, notes: tuple[str, ...], *, dry_run: bool) -> None:
    """Print what an evaluation does: a dry run to standard output."""
    from oodbench.cli.plan_display import renderables
    from oodbench.report.writers.terminal import paragraph

    output = console(stderr=not dry_run)
    width = output.width
    for part in [*renderables(plan, width), *(paragraph(note, width) for note in notes)]:
        output.print(part)


def look_at_images(plan: Plan, device: str, *, as_they_are: bool, dry_run: bool) -> None:
    """Classify a few images with each model, and say how long the passes will take.

    A dry run leaves out models whose weights would be downloaded.

    Raises:
        UserError: a model or an image cannot be used, or the classes have another order.
    """
    from oodbench.engine.device import find_device
    from oodbench.planning.workload import forward_passes
    from oodbench.user_benchmark.first_look import look, weights_are_here

    models = plan.benchmark.models
    seen = [each for each in plan.models if not dry_run or weights_are_here(models[each])]
    place, progress, seconds = find_device(device), reporter(), 0.0
    for model in seen:
        with progress.work(1):
            progress.stage(f"{model}: a few images")
            found = look(plan, model, device=place, say=progress, as_they_are=as_they_are)
            for sign in found.signs:
                progress.warn(f"{model}: {sign}")
            progress.result(f"{model}: {found.text} on {place}")
        seconds += forward_passes(plan, model) / found.rate
    if absent := [each for each in plan.models if each not in seen]:
        say(f"Not looked at, because the weights may have to be downloaded: {', '.join(absent)}.")
    if seen:
        of = f" of {', '.join(seen)}" if absent else ""
        say(
            f"The passes{of} over all images take about {_time(seconds)}, beside decoding and "
            "costs."
        )


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
