"""Weights & Biases as a logger that never stops a run, nor holds it up for more than ten seconds at a time."""

import atexit
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from tqdm import tqdm

from kinetic.store.files import write_text
from kinetic.training.aside import Aside
from kinetic.training.wandb_account import LONGEST, MODES, WandbMode, brief, check_project, environment, wandb_mode

Logging = Literal["online", "offline"]

MEMORY = "wandb-run.json"

LIMIT = 10.0  # seconds that W&B may take to start, to take one message, or to finish
INIT = 4.0  # of LIMIT, to start a run online
FINISH = 6.0  # of LIMIT, to upload what is left
ARTIFACTS = 1800.0  # seconds to upload checkpoints and the report, where a person asked for that
TEARDOWN = 2.0  # of LIMIT, to end the service process


class QuietWandb(WandbLogger):
    """WandbLogger whose failures are one line, after which it keeps silent; the CSV has the same numbers.

    A run that cannot start online starts offline, and can be uploaded later. Whatever is asked of W&B is asked in a
    thread of its own, and given up when it takes too long.

    Args:
        folder: the run folder, which gets a folder wandb/ and the run's id.
        project: of Weights & Biases.
        mode: as of wandb_mode.
        log_model: give it the time that checkpoints need to be uploaded in the end.
    """

    broken = False

    def __init__(self, folder: Path, *, project: str, mode: WandbMode = "auto", log_model: bool = False) -> None:
        super().__init__(name=folder.name, save_dir=folder, project=project)
        self.folder, self.mode = folder, mode
        self._finish = ARTIFACTS if log_model else FINISH
        self._aside: Aside | None = None
        self._spare: Aside | None = None  # for what is done when Python exits, and threads can no longer be started
        self._core: subprocess.Popen[bytes] | None = None
        self._started = False

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The run of W&B, started if it is not yet; something that takes any call where there is none."""
        self.start()
        return Silent() if self.broken or self._experiment is None else self._experiment

    @rank_zero_only
    def start(self) -> None:
        """Start the run, online if that works and else offline; never raises, and tells in one line what is amiss."""
        if self._started:
            return
        self._started = True
        os.environ["WANDB_ERROR_REPORTING"] = "false"  # reports to W&B are waited for when Python exits
        deadline = time.monotonic() + LIMIT
        try:
            mode, reason = wandb_mode(self.mode)
            mode, reason = self._begin(mode, reason, deadline)
        except Exception as error:
            self.broken = True
            _tell(f"W&B logs nothing ({brief(error)}); training goes on, and metrics.csv has all numbers")
            return
        self._remember(mode)
        if reason is not None:
            _tell(f"W&B logs offline ({reason}); to upload later: {self._upload()}")

    def _begin(
        self, mode: Literal["online", "offline", "disabled"], reason: str | None, deadline: float
    ) -> tuple[Logging, str | None]:
        """Start a run in `mode`, or in what is left of it; give what it became, and why."""
        if mode == "disabled":
            self.broken = True
            return "offline", None
        _probe(self.folder / "wandb")
        if mode == "online":
            try:
                self._init("online", INIT + 1)
                return "online", reason
            except Exception as error:
                reason = f"online: {brief(error)}"
        try:
            self._init("offline", max(deadline - time.monotonic(), 2.0))
        except TimeoutError:
            raise
        except Exception as error:  # a variable of the environment may be what wandb cannot read
            reason = reason or brief(error)
            with environment(dict.fromkeys(name for name in os.environ if name.startswith("WANDB_"))):
                self._init("offline", max(deadline - time.monotonic(), 2.0))
        return "offline", reason

    def _init(self, mode: Logging, seconds: float) -> None:
        """Start a run in `mode`; one that fails leaves nothing behind."""
        before = set(self.folder.glob("wandb/*run-*"))
        try:
            self._start_run(mode, seconds)
        except Exception:
            self._kill()
            self._teardown(TEARDOWN)
            for left in set(self.folder.glob("wandb/*run-*")) - before:
                shutil.rmtree(left, ignore_errors=True)
            raise

    def _start_run(self, mode: Logging, seconds: float) -> None:
        import wandb

        known = _recall(self.folder)
        resumed = {"id": known[0], "resume": "allow"} if known and known[1] == mode == "online" else {}
        wanted = {
            "silent": True,
            "console": "off",  # what is printed would wait for the service process
            "init_timeout": INIT,
            "finish_timeout": self._finish,
            "finish_timeout_raises": True,
            "x_service_wait": INIT,
            "x_transaction_log_flush_interval": 2.0,  # what is lost when the service process is killed
        }
        settings = wandb.Settings(**{k: v for k, v in wanted.items() if k in wandb.Settings.model_fields})  # type: ignore[arg-type]
        self._aside, self._spare = Aside(), Aside()
        with environment({"WANDB_SILENT": "true", "WANDB_MODE": mode}):
            run = self._aside(
                lambda: wandb.init(
                    project=self._project,
                    name=self.folder.name[:LONGEST],
                    group=self.folder.name[:LONGEST],
                    dir=str(self.folder),
                    mode=mode,
                    settings=settings,
                    **resumed,  # type: ignore[arg-type]
                ),
                seconds,
            )
        self._core = service_process()
        atexit.register(self._close, 1)  # runs before wandb's own, which would wait for ever
        for handler in logging.getLogger("wandb").handlers:
            handler.handleError = lambda record: None  # type: ignore[method-assign]
        run.define_metric("trainer/global_step")
        run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
        self._experiment, self._id, self._offline = run, run.id, mode == "offline"

    def _remember(self, mode: Logging) -> None:
        """Keep the run's id; that of an online run stays, for the next time that there is a network."""
        known = _recall(self.folder)
        if self._experiment is None or (mode == "offline" and known is not None and known[1] == "online"):
            return
        with suppress(OSError):
            write_text(self.folder / MEMORY, json.dumps({"id": self._id, "mode": mode}))

    def _upload(self) -> str:
        """The command that uploads what was written of the run."""
        if self._experiment is None:
            return ""
        place = os.path.relpath(self._experiment.settings.sync_dir)
        return f"wandb sync {place}" if self._offline else f"wandb sync --include-online {place}"

    def _guarded(self, call: Callable[..., Any], *args: Any) -> None:
        self.start()
        if self.broken or self._aside is None:
            return
        try:
            self._aside(partial(call, *args), LIMIT)
        except Exception as error:
            self.broken = True
            if isinstance(error, TimeoutError):
                self._kill()
            what = f"W&B stopped logging ({brief(error)}); training goes on, and metrics.csv has all numbers"
            _tell(f"{what}; to upload what W&B kept: {self._upload()}")

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log numbers; never raises."""
        self._guarded(super().log_metrics, metrics, step)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Log the configuration; never raises."""
        self._guarded(super().log_hyperparams, params)

    @rank_zero_only
    def log_media(self, media: Mapping[str, Any], *, step: int) -> None:
        """Log images, histograms and tables in one call, with the step beside them; never raises."""
        self._guarded(lambda: self.experiment.log({**media, "trainer/global_step": step}))

    @rank_zero_only
    def log_artifact(self, name: str, kind: str, files: Sequence[Path]) -> None:
        """Give files as one artifact, to be uploaded in the end; never raises."""
        self._guarded(lambda: self._give(re.sub(r"[^\w.-]", "-", name)[:LONGEST], kind, files))

    def _give(self, name: str, kind: str, files: Sequence[Path]) -> None:
        import wandb

        artifact = wandb.Artifact(name, type=kind)
        for path in files:
            artifact.add_file(str(path), name=path.name)
        self.experiment.log_artifact(artifact)

    @rank_zero_only
    def alert(self, title: str, text: str) -> None:
        """Send an alert; never raises."""
        self._guarded(lambda: self.experiment.alert(title=title, text=text))

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Finish the run; never raises, and gives up what cannot be uploaded in time."""
        self._close(0 if status == "success" else 1)

    def _close(self, exit_code: int) -> None:
        run = self._experiment
        if run is None or self._aside is None:
            return
        upload, said, self.broken = self._upload(), self.broken, True
        lost = None
        try:
            self._aside(lambda: run.finish(exit_code=exit_code), self._finish + 1)
            lost = what_was_lost(run)
        except TimeoutError:
            lost = f"not all was uploaded in {self._finish:g} s"
        except Exception as error:
            lost = brief(error)
        self._teardown(TEARDOWN)
        if lost and not said:
            _tell(f"W&B did not take everything ({lost}); metrics.csv has it; to upload what W&B kept: {upload}")

    def _teardown(self, seconds: float) -> None:
        """End the service process, and all that waits for it when Python exits."""
        import wandb

        self._experiment = None
        atexit.unregister(self._close)
        core, self._core = self._core or service_process(), None
        with suppress(Exception):
            (self._spare or Aside())(wandb.teardown, seconds)
        if core is not None:
            with suppress(subprocess.TimeoutExpired):
                core.wait(0.2)
            if core.returncode is None:
                core.kill()

    def _kill(self) -> None:
        core = self._core or service_process()
        if core is not None and core.poll() is None:
            core.kill()

    def __getstate__(self) -> dict[str, Any]:
        run = self._experiment
        attach = None if run is None else getattr(run, "_attach_id", None)
        return {
            **self.__dict__,
            "_experiment": None,
            "_aside": None,
            "_spare": None,
            "_core": None,
            "_attach_id": attach,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A process that was spawned goes on with the run that was started where it comes from."""
        import wandb

        self.__dict__.update(state)
        if state["_attach_id"] is not None:
            with suppress(Exception):
                self._aside = Aside()
                self._experiment = self._aside(lambda: getattr(wandb, "_attach")(state["_attach_id"]), LIMIT)  # noqa: B009


class Silent:
    """Takes any call, attribute and item, and does nothing."""

    def __getattr__(self, name: str) -> "Silent":
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> "Silent":
        """Do nothing."""
        return self

    def __getitem__(self, key: Any) -> "Silent":
        return self

    def __setitem__(self, key: Any, value: Any) -> None:
        pass


def wandb_logger(folder: Path, *, project: str, mode: WandbMode, log_model: bool = False) -> QuietWandb | None:
    """Make the W&B logger of a run folder, to be started before anything is logged; None when W&B is disabled.

    The run id is kept in the folder. An online run is resumed under its id; an offline one cannot be, so it goes on as
    a new run of the same group.
    """
    if mode == "disabled" or (mode == "auto" and MODES.get(os.environ.get("WANDB_MODE", "")) == "disabled"):
        return None
    check_project(project)
    return QuietWandb(folder, project=project, mode=mode, log_model=log_model)


def service_process() -> "subprocess.Popen[bytes] | None":
    """The process wandb-core that this one has started."""
    from wandb.sdk import wandb_setup

    connection = getattr(wandb_setup._singleton, "_connection", None)
    return getattr(getattr(connection, "_proc", None), "_process", None)


def what_was_lost(run: Any) -> str | None:
    """Why some of a finished run was neither uploaded nor written, None where nothing is missing."""
    try:
        _probe(Path(run.settings.sync_dir))
        lines = Path(run.settings.log_internal).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        return brief(error)
    errors = [line for line in lines if '"level":"ERROR' in line and any(f'"msg":"{what}' in line for what in LOSSES)]
    if not errors:
        return None
    if any("no space left" in line for line in errors):
        return "no space left on device"
    status = re.search(r"(?:HTTP |error |upload: )([45]\d\d)\b", " ".join(errors))
    return f"the server answered {status[1]}" if status else "the server did not answer"


LOSSES = ("filestream: fatal", "runfiles: ", "file transfer: ", "writer: ")  # in the log of the service process


def _tell(text: str) -> None:
    tqdm.write(text, file=sys.stderr)


def _probe(folder: Path) -> None:
    """Raise OSError where no files can be written."""
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".probe.{os.getpid()}"
    try:
        probe.write_bytes(bytes(65536))
    finally:
        probe.unlink(missing_ok=True)


def _recall(folder: Path) -> tuple[str, str] | None:
    """Id and mode of the run that was logged from `folder` before, if both are what they should be."""
    try:
        known = json.loads((folder / MEMORY).read_text(encoding="utf-8"))
        name, mode = known["id"], known["mode"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    sound = isinstance(name, str) and re.fullmatch(r"[\w-]{1,64}", name) and mode in ("online", "offline")
    return (name, mode) if sound else None
