"""The energy balance of every validation: what its samples spend against what real images bear out."""

import math
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from kinetic.errors import KineticError
from kinetic.flow.field import Field
from kinetic.memorization.balance import NUMBERS, Balance, energy_balance, refusal
from kinetic.memorization.energy_onset import Excess, ExcessHistory, onset_line
from kinetic.ranks import Parcel, gather
from kinetic.samples.balance import spent_by, table_rows
from kinetic.samples.table import SampleTable
from kinetic.store.tables import StepTable
from kinetic.training.balancing import joined, rows_of_images

from .collecting import Monitor, validation_table
from .telling import attempt, fitting, log_numbers, monitoring, open_table, reason, say, say_trouble

COLUMNS = ("epoch", "label", "t", *NUMBERS)  # of balance.parquet, at least
LOGGED = ("conditional", "held_out", "train", "excess", "excess_low", "excess_high")


class BalanceCallback(Monitor):
    """Compares the energy of every validation's samples with the balance of held-out and of training images.

    Works with a module that has `path`, `coupling` and `sampling_network`, as `FlowMatching` does, and a data module
    of `kinetic.data`. It evaluates the network at most 2 `images` times, under times and noise that are the same in
    every validation. Writes balance.parquet and balance.json into the trainer's `default_root_dir`, and
    balance/* to its loggers. Rows of balance.parquet: over bins of t; with t null, over all times; with a label, of
    that class alone. Where the identity does not hold (guidance, shaped sampling), one line says so.

    Args:
        images: of either kind at most; where there are fewer, each is taken several times, under other noises.
        bins: of t in [0, 1].
    """

    def __init__(self, *, images: int = 256, bins: int = 10) -> None:
        if images < 8:
            raise KineticError(f"images must be at least 8, got {images}")
        if not 1 <= bins <= 100:
            raise KineticError(f"bins must lie in 1 to 100, got {bins}")
        self.images, self.bins = images, bins
        self.history = ExcessHistory()
        self.balance: Balance | None = None  # of the last validation
        self._file: StepTable | None = None
        self._off = False

    @property
    def state_key(self) -> str:
        """Different settings, different state."""
        return self._generate_state_key(images=self.images, bins=self.bins)

    def state_dict(self) -> dict[str, Any]:
        """The excess of all validations so far; the onset follows from it."""
        return {"history": self.history.state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the validations so far."""
        self.history.restore(state_dict["history"])

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Try anew."""
        self._off = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the table, without the rows of steps that are trained again, and set balance.json right."""
        if trainer.global_step == 0:
            self.history = ExcessHistory()
        if trainer.is_global_zero:
            attempt(trainer, "reading the energy balance so far", lambda: self._open(trainer))

    def _open(self, trainer: Trainer) -> None:
        folder, known = Path(trainer.default_root_dir), bool(self.history.validations)
        self._file = open_table(trainer, folder / "balance.parquet", columns=COLUMNS, expected=known)
        if (folder / "balance.json").is_file():
            self.history.write(folder)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin anew."""
        super().on_validation_start(trainer, pl_module)
        self.balance = None

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Balance, log and write (all processes call this)."""
        if not monitoring(trainer) or self._off:
            return
        table = validation_table(trainer, pl_module, "energy balance")
        if table is None or not table.finite.any():
            return
        found = self._measure(trainer, pl_module, table)
        if found is None:
            return
        self.balance = found
        log_numbers(trainer, pl_module, figures(found))
        if fitting(trainer):
            self._record(trainer, found)

    def _measure(self, trainer: Trainer, module: LightningModule, table: SampleTable) -> Balance | None:
        """Balance this validation; None, one line and never again where that cannot be."""
        rows, trouble = dict[str, Tensor](), None
        try:
            rows = dict(zip(("held out", "train"), self._rows(trainer, module), strict=True))
        except Exception as error:
            trouble = reason(error)
        gathered = gather(Parcel(trouble, rows))
        troubles = [parcel.note for parcel in gathered if parcel.note]
        try:
            if not troubles:
                return self._balance(module, table, [(p.tensors["held out"], p.tensors["train"]) for p in gathered])
        except KineticError as error:
            troubles = [reason(error)]
        self._off = True
        say(trainer, f"energy balance: not measured, {troubles[0]}; training and energies go on")
        return None

    def _rows(self, trainer: Trainer, module: LightningModule) -> tuple[Tensor, Tensor]:
        """This process's share of the rows of images."""
        data: Any = getattr(trainer, "datamodule", None)
        network, path, sampler = (getattr(module, name, None) for name in ("sampling_network", "path", "sampler"))
        if network is None or path is None or sampler is None or not hasattr(data, "labelled"):
            raise KineticError("the module has no path, sampler and sampling_network, or the data is not Kinetic's")
        why = refusal(sampler)
        if why is not None:
            raise KineticError(why)
        return rows_of_images(
            Field.of(network),
            data,
            images=self.images,
            path=path,
            coupling=_coupling(module),
            device=module.device,
            precision=getattr(getattr(module, "samples", None), "precision", "32"),
            rank=trainer.global_rank,
            world=trainer.world_size,
        )

    def _balance(self, module: LightningModule, table: SampleTable, parts: list[tuple[Tensor, Tensor]]) -> Balance:
        held, train = joined(parts, _coupling(module))
        shape: Any = module.sample_shape
        return energy_balance(spent_by(table, tuple(shape)), held, train, bins=self.bins)

    def _record(self, trainer: Trainer, found: Balance) -> None:
        earlier = self.history.onset
        excess = Excess(trainer.global_step, found.excess, found.excess_low, found.excess_high, found.gap_low)
        self.history.add(excess)
        attempt(trainer, "writing the energy balance", lambda: self._write(trainer, found))
        attempt(trainer, "writing balance.json", lambda: self.history.write(Path(trainer.default_root_dir)))
        onset = self.history.onset
        if onset is not None and earlier is None:
            say(trainer, onset_line(onset))

    def _write(self, trainer: Trainer, found: Balance) -> None:
        if self._file is None:
            self._open(trainer)
        assert self._file is not None
        rows = table_rows(found)
        self._file.write(trainer.global_step, {"epoch": [trainer.current_epoch] * len(rows["t"]), **rows})
        say_trouble(trainer, self._file)


def _coupling(module: LightningModule) -> str:
    return str(getattr(module, "coupling", "independent"))


def figures(found: Balance) -> dict[str, float]:
    """What is logged of a validation."""
    values = {name: getattr(found, name) for name in LOGGED}
    return {f"balance/{name}": math.nan if value is None else value for name, value in values.items()}
