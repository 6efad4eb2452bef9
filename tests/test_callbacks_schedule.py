"""Validations come at the steps that were asked for, over epochs, accumulation and resumes."""

import pytest
from lightning.pytorch.callbacks import Callback

from kinetic.callbacks import LogSpacedValidation
from tests.scripted import Data, Scripted, trainer


class Noted(Callback):
    def __init__(self):
        self.steps = []

    def on_validation_end(self, trainer, pl_module):
        self.steps.append(trainer.global_step)


def validated(folder, callback, **options) -> list[int]:
    noted = Noted()
    trainer(folder, callback, noted, **options).fit(Scripted(), datamodule=Data(samples=2))
    return noted.steps


def test_steps_grow_by_equal_ratios_up_to_the_last():
    schedule = LogSpacedValidation(first=100, per_decade=4)
    assert [s for s in range(1, 3500) if schedule.is_due(s)] == [100, 178, 316, 562, 1000, 1778, 3162]
    assert [s for s in range(1, 12) if LogSpacedValidation(first=1, per_decade=10).is_due(s)] == [*range(1, 7), 8, 10]


def test_explicit_steps_and_the_last_one(tmp_path):
    assert validated(tmp_path, LogSpacedValidation(steps=[1, 6, 30]), steps=9) == [1, 6, 9]


def test_epochs_that_end_are_no_reason_to_validate(tmp_path):
    """Four batches make an epoch; Lightning's own interval of an epoch is overruled."""
    options = {"check_val_every_n_epoch": 1, "every": 1.0}
    assert validated(tmp_path, LogSpacedValidation(first=2, per_decade=3), steps=11, **options) == [2, 4, 9, 11]


def test_last_step_is_known_where_epochs_end_the_run(tmp_path):
    assert validated(tmp_path, LogSpacedValidation(steps=[3]), steps=-1, max_epochs=2) == [3, 8]


def test_steps_are_optimiser_steps_under_accumulation(tmp_path):
    found = validated(tmp_path, LogSpacedValidation(steps=[1, 3]), steps=5, accumulate_grad_batches=2)
    assert found == [1, 3, 5]
    # Three batches do not divide an epoch of four: the last batch of an epoch steps as well.
    found = validated(tmp_path, LogSpacedValidation(steps=[2, 3]), steps=5, accumulate_grad_batches=3)
    assert found == [2, 3, 5]


@pytest.mark.parametrize("at", [3, 4])
def test_resuming_neither_repeats_nor_skips(tmp_path, at):
    schedule = [2, 4, 5]
    first = trainer(tmp_path, LogSpacedValidation(steps=[*schedule, at]), steps=at)
    first.fit(Scripted(), datamodule=Data(samples=2))
    first.save_checkpoint(tmp_path / "at.ckpt")
    noted = Noted()
    second = trainer(tmp_path, LogSpacedValidation(steps=schedule), noted, steps=7)
    second.fit(Scripted(), datamodule=Data(samples=2), ckpt_path=tmp_path / "at.ckpt")
    assert noted.steps == [s for s in (4, 5, 7) if s > at]


def test_settings_are_checked():
    with pytest.raises(ValueError, match="first must be at least 1, got 0"):
        LogSpacedValidation(first=0)
    with pytest.raises(ValueError, match="per_decade must be greater than 0, got -1"):
        LogSpacedValidation(per_decade=-1)
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        LogSpacedValidation(steps=[0, 3])
