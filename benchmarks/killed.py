"""`kinetic train`, run by kill.py in a process that sends a signal when a file is half written.

    python benchmarks/killed.py train ...

It tells its own events in the file KILL_LOG, one line of JSON each: that it started, every file that it is about to
rename, the signals. KILL_PLAN, JSON too, says when a signal comes and who gets it. Nothing of Kinetic knows of this.
"""

import io
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kinetic.data import Digits
from kinetic.nn import UNet

RANK = int(os.environ.get("LOCAL_RANK", 0))


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
        self.rename, self.save = os.replace, torch.save
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have had it ignored
        os.replace, torch.save = self.replace, self.save_checkpoint  # type: ignore[assignment]
        self.tell("started")

    def tell(self, what: str, **more: Any) -> None:
        """Append a line to the log."""
        line = json.dumps({"what": what, "rank": RANK, "process": os.getpid(), "time": time.time(), **more})
        with open(self.log, "a") as file:
            file.write(line + "\n")

    def is_now(self, name: str, when: str) -> bool:
        """Whether the plan means the rename of `name` that comes next."""
        plan = self.plan
        return (
            RANK == 0
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
                os.kill(ranks[rank], plan["signal"])
        if plan["whom"] == "other" and plan["signal"] == signal.SIGKILL:
            time.sleep(0.05)

    def replace(self, source: Any, target: Any, **more: Any) -> None:
        """Rename a file, with a signal before, between or after."""
        name = self.named(Path(target))
        if name is None:
            self.rename(source, target, **more)
            return
        self.tell("rename", file=name)
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


if __name__ == "__main__":
    from kinetic.cli import main

    Killer(json.loads(os.environ["KILL_PLAN"]), Path(os.environ["KILL_LOG"]))
    main(sys.argv[1:])
