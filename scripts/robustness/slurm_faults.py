"""Runs as jobs of a Slurm cluster, disturbed in many ways, against a local run; by hand.

    python scripts/robustness/slurm_faults.py [--trials plain,scancel,...] [--seed 0] [--epochs 40]

Needs `sbatch` on PATH, a folder that the nodes share (`--place`, default: the temporary one), and
rights of Slurm's administrator for `node`, which takes the node of a job down. Each trial runs the
benchmark of small images with two seeds, two jobs:

    plain      nothing happens
    killed     the process of a job is killed: another job
    scancel    a job is canceled by hand: its cell fails, and is resumed locally
    requeue    `scontrol requeue`, which a preemption is, too
    limit      the signal that Slurm sends before the time limit
    node       the node of a job goes down
    memory     jobs with too little memory: their cells fail, and are resumed locally
    interrupt  Ctrl-C, at a moment drawn between nothing and the time of an undisturbed run
    submit     Ctrl-C while `sbatch` submits a job
    inside     the run itself is in a job of an array

Prints a line for each trial. The exit code is 1 if one ended with other records or scores than the
local run, or left a job in the queue.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from robustness.small_content import command_line, difference, write_content

RETURN_CODES = (0, 3)


class Trial:
    """One run on Slurm and what is done to it.

    Args:
        content: the benchmark.
        out: its run directory.
        cache: its cache.
        options: options of its jobs.
    """

    def __init__(self, content: Path, out: Path, cache: Path, *options: str) -> None:
        self.out, self.cache = out, cache
        self.environment = os.environ | {"OODBENCH_CACHE": str(cache)}
        self.local = command_line(content, out, "--seeds", "2")
        jobs = ["cpus_per_task=1", "mem_gb=2", f"folder={cache / 'jobs'}", *options]
        given = [word for option in jobs for word in ("--submitit-option", option)]
        self.command = [*self.local, "--executor", "submitit", *given]
        self.process: subprocess.Popen[str] | None = None
        self.said = ""

    def start(self) -> None:
        """Start the run."""
        self.process = subprocess.Popen(
            self.command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment,
            start_new_session=True,
        )

    def end(self) -> str:
        """Wait for the run, and resume it with the local executor; says how it ended."""
        assert self.process is not None
        _, self.said = self.process.communicate()
        code = self.process.returncode
        if code == 0:
            return "exit code 0"
        resumed = subprocess.run(
            [*self.local, "--resume"], env=self.environment, capture_output=True, text=True
        )
        if resumed.returncode:
            self.said += resumed.stderr
        return f"exit code {code}, resumed: exit code {resumed.returncode}"

    def job(self, state: str = "RUNNING", seconds: float = 120.0) -> str:
        """The number of a job of the run in a state, once there is one; "" if the run ends."""
        assert self.process is not None
        deadline = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < deadline:
            for number, found, where in jobs("%i|%T|%o"):
                if found == state and str(self.cache) in where:
                    return number
            time.sleep(0.1)
        return ""

    def trains(self) -> str:
        """The number of a job that runs, once a training has begun; "" if the run ends."""
        number = self.job()
        assert self.process is not None
        while self.process.poll() is None:
            if any((self.cache / "checkpoints").glob("*.lock")):
                return number
            time.sleep(0.1)
        return ""

    def left(self, seconds: float = 40.0) -> list[str]:
        """Jobs of the run in the queue after its end."""
        deadline = time.monotonic() + seconds
        while True:
            found = [number for number, where in jobs("%i|%o") if str(self.cache) in where]
            if not found or time.monotonic() > deadline:
                return found
            time.sleep(0.5)


def jobs(form: str) -> list[list[str]]:
    """Fields of all jobs in the queue."""
    answer = subprocess.run(
        ["squeue", "--noheader", f"--format={form}"], check=True, capture_output=True, text=True
    )
    return [line.split("|") for line in answer.stdout.splitlines()]


def slurm(*words: str) -> None:
    """A command of Slurm's, which has to succeed."""
    subprocess.run(words, check=True, capture_output=True)


def plain(trial: Trial, moment: float) -> str:
    trial.start()
    return trial.end()


def killed(trial: Trial, moment: float) -> str:
    trial.start()
    if number := trial.trains():
        slurm("scancel", "--signal=ABRT", number)  # KILL cancels the job
    return trial.end()


def scancel(trial: Trial, moment: float) -> str:
    trial.start()
    if number := trial.trains():
        slurm("scancel", number)
    return trial.end()


def requeue(trial: Trial, moment: float) -> str:
    trial.start()
    if number := trial.trains():
        slurm("scontrol", "requeue", number)
    return trial.end()


def limit(trial: Trial, moment: float) -> str:
    trial.start()
    if number := trial.trains():
        slurm("scancel", "--signal=USR2", number)
    return trial.end()


def node(trial: Trial, moment: float) -> str:
    trial.start()
    number = trial.trains()
    name = next((where for found, where in jobs("%i|%N") if found == number), "")
    if name:
        slurm("scontrol", "update", f"nodename={name}", "state=down", "reason=test")
    time.sleep(20)
    if name:  # unless it has come back by itself
        subprocess.run(["scontrol", "update", f"nodename={name}", "state=resume"], check=False)
    return trial.end()


def memory(trial: Trial, moment: float) -> str:
    trial.command += ["--submitit-option", "mem_gb=0.1"]
    trial.start()
    return trial.end()


def interrupt(trial: Trial, moment: float) -> str:
    trial.start()
    time.sleep(moment)
    return _interrupted(trial, f"at {moment:.1f} s")


def submit(trial: Trial, moment: float) -> str:
    """With a `sbatch` that takes two seconds, as on a busy cluster."""
    real, slow = shutil.which("sbatch"), trial.cache / "bin" / "sbatch"
    slow.parent.mkdir(parents=True)
    begun = trial.cache / "submitting"
    slow.write_text(f'#!/bin/sh\ntouch {begun}\n{real} "$@"\ncode=$?\nsleep 2\nexit $code\n')
    slow.chmod(0o755)
    trial.environment["PATH"] = f"{slow.parent}:{trial.environment['PATH']}"
    trial.start()
    while not begun.exists():
        time.sleep(0.05)
    time.sleep(moment % 2.5)
    return _interrupted(trial, f"{moment % 2.5:.1f} s after sbatch began")


def _interrupted(trial: Trial, when: str) -> str:
    assert trial.process is not None
    os.killpg(trial.process.pid, signal.SIGINT)  # as a terminal does
    stopping = time.monotonic()
    trial.process.wait()
    took = time.monotonic() - stopping
    return f"{when}, ended {took:.1f} s later, {trial.end()}"


def inside(trial: Trial, moment: float) -> str:
    words = " ".join(f"'{word}'" for word in trial.command)
    trial.command = [
        *("sbatch", "--wait", "--array=7", "--ntasks=1", "--cpus-per-task=1", "--mem-per-cpu=2000"),
        *("--output", str(trial.cache.with_suffix(".log")), "--wrap", words),
    ]
    trial.start()
    return trial.end()


TRIALS: dict[str, Callable[[Trial, float], str]] = {
    trial.__name__: trial
    for trial in (
        *(plain, killed, scancel, requeue, limit, node, memory, interrupt, submit, inside),
    )
}


def main() -> int:
    """Do what the module's docstring says; returns the exit code."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may ignore it
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", default=",".join(TRIALS), help="in this order")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--epochs", type=int, default=40, help="of a training")
    parser.add_argument("--place", type=Path, help="a folder that the nodes share")
    parser.add_argument("--verbose", action="store_true", help="print what the runs said")
    parser.add_argument("--option", action="append", default=[], help="of the jobs")
    options = parser.parse_args()
    if shutil.which("sbatch") is None:
        raise SystemExit("There is no `sbatch` here: these are checks of a Slurm cluster.")
    os.environ["OMP_NUM_THREADS"] = "1"
    generator, held = np.random.default_rng(options.seed), 0
    names = options.trials.split(",")
    with tempfile.TemporaryDirectory(prefix="oodbench-slurm-", dir=options.place) as folder:
        place = Path(folder)
        content, expected = write_content(place / "content", epochs=options.epochs), place / "local"
        subprocess.run(
            command_line(content, expected, "--seeds", "2"),
            env=os.environ | {"OODBENCH_CACHE": str(place / "cache")},
            check=True,
            capture_output=True,
        )
        seconds = 20.0
        for number, name in enumerate(names):
            cache = place / f"cache{number}"
            trial = Trial(content, place / f"run{number}", cache, *options.option)
            started = time.monotonic()
            try:
                said = TRIALS[name](trial, generator.uniform(0, seconds))
            finally:
                if trial.process is not None:
                    trial.process.terminate()
            took = time.monotonic() - started
            seconds = took if name == "plain" else seconds
            left = trial.left()
            wrong = f"LEFT {', '.join(left)}" if left else difference(trial.out, expected)
            held += not wrong
            print(f"{name:10} {took:6.1f} s  {said:<60}  {wrong or 'same'}", flush=True)
            if options.verbose or wrong:
                print(trial.said, flush=True)
            shutil.rmtree(cache, ignore_errors=True)
    print(f"{held} of {len(names)} held")
    return 0 if held == len(names) else 1


if __name__ == "__main__":
    sys.exit(main())
