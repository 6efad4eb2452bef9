"""Each private thing of Lightning that is used, tried against what it stands for."""

from pathlib import Path

import pytest
from lightning.pytorch.callbacks import Callback

from kinetic.training.lightning import checkpoint_state, is_logged_step, validation_is_next
from tests.scripted import Data, Scripted, trainer


class Watch(Callback):
    """Notes what the functions say, and what then happens."""

    def __init__(self) -> None:
        self.said, self.happened, self.logged, self.states = [], [], [], []

    def on_before_optimizer_step(self, trainer, module, optimizer):
        if is_logged_step(trainer):
            self.logged.append(trainer.global_step + 1)

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if validation_is_next(trainer):
            self.said.append(trainer.global_step)
        self.states.append(checkpoint_state(trainer))

    def on_validation_start(self, trainer, module):
        self.happened.append(trainer.global_step)


@pytest.mark.filterwarnings("ignore")
def test_validation_checkpoint_and_logged_steps_are_foreseen(tmp_path: Path) -> None:
    watch = Watch()
    fit = trainer(tmp_path, watch, steps=7, every=3, log_every_n_steps=2)
    fit.fit(Scripted(), datamodule=Data(samples=2))
    assert watch.said == watch.happened == [3, 6]
    assert watch.logged == [2, 4, 6]
    assert [state["global_step"] for state in watch.states] == list(range(1, 8))
    assert {"state_dict", "optimizer_states", "loops", "callbacks"} <= set(watch.states[-1])
