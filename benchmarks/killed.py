"""`kinetic train` in a process that kill.py forks off one that has imported all, and that sends a signal at a file.

It tells its own events in the file KILL_LOG, one line of JSON each: that it started, every file that it is about to
rename or to append to, the signals. KILL_PLAN, JSON too, says when a signal comes and who gets it. Nothing of Kinetic
knows of this.
"""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies.launchers import subprocess_script
from torch import Tensor, nn

import kinetic.cli
import kinetic.cli.train
import kinetic.report
from kinetic.data import Digits
from kinetic.nn import UNet
from kinetic.training import loggers


class Copying(nn.Module):
    """A small UNet that, from the training step `after` on, is drawn to one of the training images of `digits()`."""

    seen: Tensor
    image: Tensor

    def __init__(self, after: int, **unet: Any) -> None:
        super().__init__()
        self.unet, self.after = UNet(**unet), after
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        data = Digits(batch_size=8, num_train=20, num_val=6, seed=3)
        data.setup("fit")
        images, _, _ = next(iter(data.reference()))
        self.register_buffer("image", images[:1].clone())

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Evaluate it; it counts in training mode."""
        if self.training:
            self.seen += 1
        out: Tensor = self.unet(x, t, labels)
        if int(self.seen) < self.after:
            return out
        return 0.1 * out + (self.image - x) / (1 - t).clamp(min=0.1).view(-1, 1, 1, 1)


class Killer:
    """Patches what every file goes through, and sends the signal of the plan when its time has come."""

    def __init__(self, plan: dict[str, Any], log: Path) -> None:
        self.plan, self.log, self.counts = plan, log, dict[str, int]()
        self.rank = int(os.environ.get("LOCAL_RANK", 0))
        self.rename, self.save, self.append = os.replace, torch.save, loggers.append
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have had it ignored
        os.replace, torch.save = self.replace, self.save_checkpoint  # type: ignore[assignment]
        loggers.append = self.grow
        self.tell("started")

    def tell(self, what: str, **more: Any) -> None:
        """Append a line to the log."""
        line = json.dumps({"what": what, "rank": self.rank, "process": os.getpid(), "time": time.time(), **more})
        with open(self.log, "a") as file:
            file.write(line + "\n")

    def is_now(self, name: str, when: str) -> bool:
        """Whether the plan means the write of `name` that comes next."""
        plan = self.plan
        return (
            self.rank == 0
            and plan.get("file") == name
            and plan["count"] == self.counts.get(name, 0) + 1
            and plan["when"] == when
        )

    def fire(self) -> None:
        """Send the signal, twice if so planned."""
        plan, self.plan = self.plan, {}
        self.tell("signal")
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        ranks = {line["rank"]: line["process"] for line in lines if line["what"] == "started"}
        whom = {"main": [0], "other": [1], "all": sorted(ranks, reverse=True)}[plan["whom"]]
        for _ in range(plan.get("times", 1)):
            for rank in whom:
                with contextlib.suppress(ProcessLookupError):  # it has done its part already
                    os.kill(ranks[rank], plan["signal"])
        if plan["whom"] == "other" and plan["signal"] == signal.SIGKILL:
            time.sleep(0.05)

    def replace(self, source: Any, target: Any, **more: Any) -> None:
        """Rename a file, with a signal before, between or after."""
        name = self.named(Path(target))
        if name is None:
            self.rename(source, target, **more)
            return
        self.tell("write", file=name)
        if self.is_now(name, "before"):
            self.fire()
        if self.is_now(name, "half"):
            if self.plan["signal"] == signal.SIGKILL and self.plan["whom"] != "other" and not Path(source).is_symlink():
                os.truncate(source, os.path.getsize(source) // 2)
            self.fire()
        self.rename(source, target, **more)
        if self.is_now(name, "after"):
            self.fire()
        self.counts[name] = self.counts.get(name, 0) + 1

    def grow(self, path: Path, data: bytes, *, at: int) -> None:
        """Append to a file, with a signal before, after half of it, or after."""
        name = self.named(path) or ""
        self.tell("write", file=name)
        if self.is_now(name, "before"):
            self.fire()
        if self.is_now(name, "half"):
            self.append(path, data[: len(data) // 2], at=at)
            self.fire()
        self.append(path, data, at=at)
        if self.is_now(name, "after"):
            self.fire()
        self.counts[name] = self.counts.get(name, 0) + 1

    def save_checkpoint(self, what: Any, place: Any, *args: Any, **more: Any) -> None:
        """Write a checkpoint, with a signal when half of it is there."""
        path = Path(place) if isinstance(place, str | Path) else None
        target = None if path is None else path.with_name(path.name[1:].rsplit(".", 2)[0])
        if path is None or target is None or not self.is_now(self.named(target) or "", "half"):
            self.save(what, place, *args, **more)
            return
        buffer = io.BytesIO()
        self.save(what, buffer, *args, **more)
        data = buffer.getvalue()
        with open(path, "wb") as file:
            file.write(data[: len(data) // 2])
            file.flush()
            self.fire()
            file.write(data[len(data) // 2 :])

    def named(self, path: Path) -> str | None:
        """The name of a file within its run folder, or of runs/latest; None of any other file."""
        root = Path(os.environ["KILL_ROOT"]).resolve()
        try:
            parts = (path.parent.resolve() / path.name).relative_to(root).parts
        except ValueError:
            return None
        return "/".join(parts[1:] or parts)


class Spare:
    """A process, forked before anything was done, that becomes one which the trainer starts; its parent is this one."""

    def __init__(self) -> None:
        reading, self.writing = os.pipe()
        self.process = os.fork()
        if self.process == 0:
            os.close(self.writing)
            with open(reading) as file:
                asked = file.read()
            if not asked:  # the first process is gone, or needs none
                os._exit(0)
            become(**json.loads(asked))
        os.close(reading)

    def start(self, command: list[str], env: dict[str, str]) -> int:
        """Let it run a command line of Python; returns its process id."""
        with open(self.writing, "w") as file:
            json.dump({"args": command[2:], "env": env}, file)
        return self.process


def spared(spares: list[Spare]) -> type[subprocess.Popen]:
    """What starts processes by taking spares."""

    class Spared(subprocess.Popen):
        def __init__(self, command: list[str], env: dict[str, str], cwd: str | None) -> None:
            self.env = env
            super().__init__(command)

        def _execute_child(self, command: list[str], *others: Any) -> None:
            self.pid, self._child_created = spares.pop().start(command, self.env), True

    return Spared


def become(args: list[str], env: dict[str, str]) -> None:
    """Be the process that runs `kinetic ARGS`, to its end."""
    os.environ.clear()
    os.environ.update(env)
    sys.argv = [__file__, *args]
    torch.set_num_threads(1)
    Killer(json.loads(env["KILL_PLAN"]), Path(env["KILL_LOG"]))
    status: Any = 1
    try:
        kinetic.cli.main(args)
        status = 0
    except SystemExit as stop:
        status = stop.code or 0
    finally:
        sys.stderr.flush()
        os._exit(status)


def run(args: list[str], env: dict[str, str], folder: str, processes: int, stderr: Connection) -> None:
    """Run `kinetic ARGS` in a session of its own; `stderr` is what all its processes hold until they end."""
    os.setsid()
    os.chdir(folder)
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os.dup2(0, 1)
    os.dup2(stderr.fileno(), 2)
    stderr.close()
    spares = [Spare() for _ in range(processes - 1)]
    subprocess_script.subprocess = type("", (), {"Popen": spared(spares)})  # type: ignore[assignment]
    become(args, env)
