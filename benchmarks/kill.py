"""Interrupt training runs anywhere, continue them, and compare every file with those of an undisturbed run.

    uv run benchmarks/kill.py [--trials 20] [--seed 0] [--processes 1,2]

One line a trial: what was sent where, how long its processes took to end, and whether the run is equal or what
differs. The last line counts the equal ones; exit status 1 unless all are. The same seed makes the same plans (a signal
at a random time meets the run wherever it is then). killed.py is the process that trains.
"""

import argparse
import contextlib
import json
import math
import multiprocessing
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
import yaml

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks import killed  # noqa: E402

FORKING = multiprocessing.get_context("forkserver")
FORKING.set_forkserver_preload(["benchmarks.killed"])
UNET = {
    "image_size": 8,
    "in_channels": 1,
    "model_channels": 8,
    "num_res_blocks": 1,
    "channel_mult": [1, 2],
    "attention_resolutions": [],
    "num_head_channels": 8,
    "dropout": 0.2,
}
CALLBACKS = "kinetic.callbacks"
PICTURES = {"media_every": 2, "lowest_highest": 2, "between": 2}
TOLD = (  # what a run may tell besides its end
    "Copying begins",
    "has no checkpoint yet; it starts from the beginning",
    "say(trainer,",
    "warnings.warn(",
)
LOST_WITHIN = 10.0  # seconds in which the partners of a killed process end


def settings(*, onset: bool) -> dict[str, Any]:
    """A run of seconds, that holds all kinds of files; `onset` is one of copying, at the third validation."""
    monitors: list[dict[str, Any]] = [
        {"class_path": f"{CALLBACKS}.KPECallback", "init_args": PICTURES},
        {
            "class_path": f"{CALLBACKS}.MemorizationCallback",
            "init_args": {"threshold": 1 / 3, "null_samples": 6, "gallery": 3, "media_every": 2},
        },
    ]
    when: dict[str, Any] = {"val_check_interval": 5, "check_val_every_n_epoch": None}
    if onset:
        when = {}
        monitors.insert(0, {"class_path": f"{CALLBACKS}.LogSpacedValidation", "init_args": {"steps": [2, 5, 8, 12]}})
        monitors.append({"class_path": f"{CALLBACKS}.ReportCallback"})
    return {
        "seed_everything": 3,
        "run": {"checkpoint_every": 3, "keep_every": 4, "wandb": "disabled"},
        "network": {
            "class_path": "benchmarks.killed.Copying",
            "init_args": {"after": 6 if onset else 1000, **UNET},
        },
        "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-3}},
        "scheduler": {"class_path": "torch.optim.lr_scheduler.CosineAnnealingLR", "init_args": {"T_max": 20}},
        "model": {
            "warmup_steps": 2,
            "ema_decay": 0.5,
            "samples": {"num": 6, "batch_size": 4},
            "sampler": {"method": "euler", "steps": 4},
        },
        "data": {
            "class_path": "kinetic.data.Digits",
            "init_args": {"batch_size": 8, "num_train": 20, "num_val": 6, "steps_per_epoch": 4},
        },
        "trainer": {
            "accelerator": "cpu",
            "max_steps": 14,
            "max_epochs": -1,
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
            "callbacks": monitors,
            **when,
        },
    }


@dataclass
class Ended:
    """How a process group ended.

    Attributes:
        status: of the first process.
        stderr: what all wrote, line by line, without what a run may tell on its way.
        seconds: from the signal until the last of them was gone; None where none was sent.
        files: names of the files that were renamed into place or appended to, in order.
    """

    status: int
    stderr: list[str]
    seconds: float | None
    files: list[str]


@dataclass
class Bench:
    """A folder in which runs are trained: undisturbed ones, and those that are compared with them."""

    folder: Path
    timeout: float = 120
    whole: dict[tuple[int, bool], tuple[Path, Ended, float]] = field(default_factory=dict)

    def start(self, root: Path, args: list[str], processes: int, plan: dict[str, Any]) -> Ended:
        """Run `train` in processes of its own, with a signal on the way, until all of them are gone."""
        root.mkdir(parents=True, exist_ok=True)
        log = root.parent / f"{root.name}-{time.monotonic_ns()}.log"
        log.touch()
        env = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
        env |= {"KILL_PLAN": json.dumps(plan), "KILL_LOG": str(log), "KILL_ROOT": str(root)}
        for name in ("KINETIC_RUN", "LOCAL_RANK"):
            env.pop(name, None)
        more = ["--trainer.devices", str(processes), *(["--trainer.strategy", "ddp"] if processes > 1 else [])]
        command = ["train", *args, *more, "--run.root", root.name, "--trust", "benchmarks"]
        stderr, held = FORKING.Pipe(duplex=False)
        process = FORKING.Process(target=killed.run, args=(command, env, str(root.parent), processes, held))
        process.start()
        held.close()
        sent: list[float] = []
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(_read, stderr.fileno())  # ends with the last process that holds it
            if "seconds" in plan:
                self._send(process, log, plan, processes, sent)
            try:
                text = waiting.result(timeout=self.timeout)
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(_pid(process), signal.SIGKILL)
                text = f"HANGS: not all processes ended within {self.timeout:.0f} s"
        ended = time.time()
        events = _events(log)
        sent += [event["time"] for event in events if event["what"] == "signal"]
        files = [event["file"] for event in events if event["what"] == "write"]
        lines = [line for line in text.splitlines() if line.strip() and not any(known in line for known in TOLD)]
        process.join(self.timeout)
        return Ended(process.exitcode or 0, lines, ended - sent[0] if sent else None, files)

    def _send(self, process: BaseProcess, log: Path, plan: dict[str, Any], count: int, sent: list[float]) -> None:
        """Send a signal some seconds after all processes have started to train or, below 0, before that."""
        while process.is_alive() and not (
            plan["seconds"] < 0
            or (any(event["what"] == "write" for event in _events(log)) and len(_ranks(log)) == count)
        ):
            time.sleep(0.05)
        time.sleep(abs(plan["seconds"]))
        ranks = {0: _pid(process)} | _ranks(log)
        whom = {"main": [0], "other": [1], "all": sorted(ranks, reverse=True)}[plan["whom"]]
        if process.is_alive():
            sent.append(time.time())
            for rank in whom:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(ranks.get(rank, ranks[0]), plan["signal"])

    def undisturbed(self, processes: int, onset: bool) -> tuple[Path, Ended, float]:
        """The run that others are compared with, and how long it trained."""
        key = (processes, onset)
        if key not in self.whole:
            root = self.folder / f"whole-{processes}-{'onset' if onset else 'plain'}" / "runs"
            begun = time.monotonic()
            ended = self.start(root, [*self.config(onset), "--run.name", "run"], processes, {})
            if ended.status or ended.stderr:
                raise SystemExit(f"the undisturbed run ended with {ended.status}: {ended.stderr[-3:]}")
            self.whole[key] = root / "run", ended, time.monotonic() - begun
        return self.whole[key]

    def config(self, onset: bool) -> list[str]:
        """Options that name the configuration."""
        path = self.folder / f"{'onset' if onset else 'plain'}.yaml"
        if not path.is_file():
            path.write_text(yaml.safe_dump(settings(onset=onset)))
        return ["--config", str(path)]


def _pid(process: BaseProcess) -> int:
    assert process.pid is not None
    return process.pid


def _read(descriptor: int) -> str:
    data = b""
    while more := os.read(descriptor, 65536):
        data += more
    return data.decode(errors="replace")


def _events(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")]


def _ranks(log: Path) -> dict[int, int]:
    return {event["rank"]: event["process"] for event in _events(log) if event["what"] == "started"}


NAMES = {signal.SIGKILL: "KILL", signal.SIGTERM: "TERM", signal.SIGINT: "INT"}


def plans(chance: random.Random, processes: int, files: list[str], kills: int) -> list[dict[str, Any]]:
    """Draw what happens to one run: at which file or at which time it gets which signal, and who does.

    The k-th signal comes in the k-th part of what the run writes, `files`. Processes count files from where they begin,
    the last checkpoint before the signal that ended the last one.
    """
    found: list[dict[str, Any]] = []
    begins, timed = 0, False
    for number in range(kills):
        sent = chance.choices(list(NAMES), [4, 1, 1])[0]
        whom = chance.choice(["main", "other", "all"]) if processes > 1 else "main"
        plan: dict[str, Any] = {"signal": int(sent), "whom": whom}
        if chance.random() < 0.75:
            part = range(len(files) * number // kills, len(files) * (number + 1) // kills)
            name = chance.choice([*dict.fromkeys(files[at] for at in part), *["checkpoints/last.ckpt"] * 2])
            here = chance.choice([at for at in part if files[at] == name] or [part[0]])
            count = 1 if timed else max(1, files[begins : here + 1].count(name))
            plan |= {"file": name, "count": count, "when": chance.choice(["before", "half", "half", "after"])}
            if sent != signal.SIGKILL and chance.random() < 0.4:
                plan["times"] = 2
            begins = max([at + 1 for at in range(here) if files[at] == "checkpoints/last.ckpt"] or [0])
        else:
            plan["seconds"], timed = round(chance.uniform(0.0, 3.0), 2), True
        found.append(plan)
    return found


def trial(
    bench: Bench, name: str, processes: int, onset: bool, steps: list[dict[str, Any]]
) -> tuple[str, list[str], float]:
    """Interrupt a run as planned, continue it to its end, and compare.

    Returns a line on what happened, what is wrong, and the longest time that processes took to end.
    """
    root, happened, wrong, longest = bench.folder / name / "runs", [], [], 0.0
    for plan in [*steps, {}]:
        begun = (root / "run" / "config.yaml").is_file()
        args = ["--resume", "run"] if begun else [*bench.config(onset), "--run.name", "run"]
        ended = bench.start(root, args, processes, plan)
        if ended.seconds is None and plan:
            happened.append(f"{described(plan)}: not met")
        elif plan:
            happened.append(f"{described(plan)}: {ended.seconds:.1f} s")
            longest = max(longest, ended.seconds or 0.0)
            wrong += [f"{described(plan)}: {fault}" for fault in faults(plan, processes, ended)]
        if ended.status == 0:
            break
        if not plan or ended.seconds is None:
            wrong.append(f"status {ended.status} without a signal: {' / '.join(ended.stderr[-3:])[:300]}")
            break
    wrong += differences(bench.undisturbed(processes, onset)[0], root / "run")
    wrong += [f"left over: {path.name}" for path in left_over(root)]
    return "; ".join(happened), wrong, longest


def described(plan: dict[str, Any]) -> str:
    """A signal in words."""
    twice = "2x" if plan.get("times", 1) > 1 else ""
    who = "" if plan["whom"] == "main" else f" {plan['whom']}"
    where = f"{plan['when']} {plan['file']}#{plan['count']}" if "file" in plan else f"after {plan['seconds']} s"
    return f"{twice}{NAMES[signal.Signals(plan['signal'])]}{who} {where}"


def faults(plan: dict[str, Any], processes: int, ended: Ended) -> list[str]:
    """What is wrong with how the processes ended after a signal."""
    found = []
    killed = plan["signal"] == signal.SIGKILL
    if killed and (ended.seconds or 0) > LOST_WITHIN:
        found.append(f"the last process ended only after {ended.seconds:.1f} s")
    silent = killed and (processes == 1 or plan["whom"] == "all")
    if plan["signal"] == signal.SIGTERM and plan.get("seconds", 0) < 0:
        return found  # before anything of Kinetic runs
    if killed and ended.status == 0 and plan["whom"] != "all" and processes > 1 and not ended.stderr:
        return found  # it was killed when all was done
    most, least = (0, 0) if silent or ended.status == 0 else (1, 1)
    if not least <= len(ended.stderr) <= most:
        found.append(f"{len(ended.stderr)} lines on stderr: {' / '.join(ended.stderr)[:400]}")
    if ended.stderr and ended.status == 0:
        found.append("exit status 0")
    if not killed and ended.status not in (0, 130, 143):
        found.append(f"exit status {ended.status}")
    return found


def left_over(root: Path) -> list[Path]:
    """What killed processes left behind."""
    return [path for path in root.rglob(".*") if path.name == ".lock" or path.name.endswith(".tmp")]


def differences(whole: Path, part: Path) -> list[str]:
    """Every difference between two run folders."""
    names = [{str(p.relative_to(run)) for p in run.rglob("*") if p.is_file()} for run in (whole, part)]
    hidden = {name for name in names[1] if Path(name).name.startswith(".")}
    found = [f"missing {name}" for name in sorted(names[0] - names[1])]
    found += [f"extra {name}" for name in sorted(names[1] - names[0] - hidden)]
    for name in sorted(names[0] & names[1]):
        found += [f"{name}: {text}" for text in _file_differences(whole / name, part / name)][:3]
    return found


def _file_differences(a: Path, b: Path) -> Iterator[str]:
    if a.read_bytes() == b.read_bytes():
        return
    if a.suffix == ".ckpt":
        yield from unlike(*(torch.load(path, map_location="cpu", weights_only=True) for path in (a, b)))
    elif a.suffix == ".parquet":
        one, other = (pq.read_table(path) for path in (a, b))
        if not one.schema.equals(other.schema, check_metadata=True):
            yield "other columns"
        elif one.num_rows != other.num_rows:
            yield f"{other.num_rows} rows, not {one.num_rows}"
        else:
            yield from unlike(one.to_pydict(), other.to_pydict())
    elif a.name == "config.yaml":
        one, other = (yaml.safe_load(path.read_text()) for path in (a, b))
        for values in (one, other):
            values["run"].pop("name")
        yield from unlike(one, other)
    elif a.name == "report.html":
        if _undated(a.read_text()) != _undated(b.read_text()):
            yield "other text"
    else:
        yield "other bytes"


def _undated(page: str) -> str:
    return re.sub(r"\d{4}-\d\d-\d\d( \d\d:\d\d(:\d\d)?)?", "DATE", page)


def unlike(a: Any, b: Any, at: str = "") -> Iterator[str]:
    """Where two values of plain types and tensors differ."""
    if type(a) is not type(b):
        yield f"{at} is a {type(b).__name__}, not a {type(a).__name__}"
    elif isinstance(a, dict):
        if list(a) != list(b):
            yield f"{at} has other keys: {sorted(map(str, set(a) ^ set(b)))[:6] or 'in another order'}"
        for key in a:
            if key in b:
                yield from unlike(a[key], b[key], f"{at}/{key}")
    elif isinstance(a, list | tuple):
        if len(a) != len(b):
            yield f"{at} has {len(b)} entries, not {len(a)}"
        for number, (one, other) in enumerate(zip(a, b, strict=False)):
            yield from unlike(one, other, f"{at}/{number}")
    elif isinstance(a, torch.Tensor):
        if a.dtype != b.dtype or a.shape != b.shape or not torch.equal(a.nan_to_num(7e7), b.nan_to_num(7e7)):
            yield f"{at} differs"
    elif not (a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b))):
        yield f"{at} is {b!r:.60}, not {a!r:.60}"


def run_trials(trials: int, seed: int, processes: list[int], folder: Path, *, at_once: int = 2) -> bool:
    """Do them all and print a line each; whether all are equal."""
    bench, begun = Bench(folder), time.monotonic()

    def one(number: int) -> tuple[str, float]:
        chance = random.Random(f"{seed}/{number}")
        count, onset = processes[number % len(processes)], number // len(processes) % 2 == 0
        steps = plans(chance, count, bench.undisturbed(count, onset)[1].files, chance.randint(2, 4))
        line, wrong, longest = trial(bench, f"trial-{number}", count, onset, steps)
        outcome = "equal" if not wrong else "NOT EQUAL: " + " | ".join(wrong)
        words = f"{count} process{'es' if count > 1 else ''}, {'onset' if onset else 'no onset'}"
        print(f"{number + 1:3}  {words}; {len(steps)} signals: {line}; {outcome}", flush=True)
        return outcome, longest

    outcomes = []
    for first, count in enumerate(processes):
        for onset in (True, False):
            bench.undisturbed(count, onset)
        with ThreadPoolExecutor(max(1, at_once // count)) as pool:
            outcomes += pool.map(one, range(first, trials, len(processes)))
    equal = sum(outcome == "equal" for outcome, _ in outcomes)
    seconds = time.monotonic() - begun
    print(f"longest until the last process of a signalled run was gone: {max(s for _, s in outcomes):.1f} s")
    print(f"{seconds:.0f} s in all; {equal} of {trials} equal")
    return equal == trials


def main() -> int:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", default="1,2", help="how many processes a run has, in turn")
    parser.add_argument("--at-once", type=int, default=2, help="processes at the same time")
    parser.add_argument("--keep", type=Path, help="folder to keep the runs in")
    options = parser.parse_args()
    processes = [int(count) for count in options.processes.split(",")]
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        good = run_trials(options.trials, options.seed, processes, folder, at_once=options.at_once)
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
