"""Copies are found when they come, the onset is told, marked and remembered, and nothing bad stops a training."""

import json
import warnings

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from kinetic.callbacks import KPECallback, MemorizationCallback
from kinetic.data import Digits
from kinetic.memorization.copies import wilson
from kinetic.memorization.onset import BEFORE
from tests.fake_loggers import Listening
from tests.scripted import Data, Scripted, images, trainer, trajectory
from tests.test_callbacks_kpe import fit, metrics


def onset(folder) -> dict:
    return json.loads((folder / "onset.json").read_text())


def told(caught) -> list[str]:
    texts = [str(w.message) for w in caught]
    return [text for text in texts if "emorization" in text or "Copying" in text]


def test_onset_is_found_where_copying_begins(tmp_path):
    listening = Listening()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        done = fit(tmp_path, MemorizationCallback(), module=Scripted(copy_at=5), steps=8, logger=listening)
    assert done.global_step == 8  # stopping is an option
    assert len(told(caught)) == 1
    assert "at step 6, 50.0% of the samples are copies" in told(caught)[0]
    assert "step 4, the last one before it, is kept in checkpoints/before-onset.ckpt" in told(caught)[0]
    assert listening.alerts == [("Copying begins", told(caught)[0])]
    low, high = wilson(12, 24)
    found = onset(tmp_path)
    null_high = wilson(0, 30)[1]
    expected = {"step": 6, "epoch": 1, "f_mem": 0.5, "low": low, "high": high, "null_f_mem": 0.0}
    assert found == expected | {"null_high": null_high, "checkpoint": BEFORE}
    assert torch.load(tmp_path / BEFORE, weights_only=True)["global_step"] == 4
    assert [step for step, media in listening.media if "memorization/gallery" in media] == [2, 4, 6, 8]
    assert len(list((tmp_path / "galleries").iterdir())) == 4


def test_rows_and_figures_of_a_validation(tmp_path):
    fit(tmp_path, MemorizationCallback(), module=Scripted(copy_at=2, broken=(1,)), steps=2)
    rows = pq.read_table(tmp_path / "memorization.parquet").to_pydict()
    assert list(rows) == ["step", "epoch", "seed", "d1", "d2", "ratio", "copied", "neighbor", "neighbor_id"]
    assert rows["seed"] == list(range(24))
    assert rows["copied"] == [seed % 2 == 0 for seed in range(24)]
    assert [rows["neighbor"][seed] for seed in range(0, 24, 2)] == [seed % 20 for seed in range(0, 24, 2)]
    assert rows["neighbor_id"][22] == "train/2"
    every = images(0, 20)
    distances = ((every[4] * 0.999 - every).flatten(1).norm(dim=1)).sort().values
    assert [rows["d1"][4], rows["d2"][4]] == pytest.approx(distances[:2].tolist(), rel=1e-5)
    row = metrics(tmp_path)[2]
    assert float(row["memorization/f_mem"]) == 0.5
    assert float(row["memorization/low"]) == pytest.approx(wilson(12, 24)[0])
    assert float(row["memorization/null_high"]) == pytest.approx(wilson(0, 30)[1])
    assert float(row["memorization/mean_d1"]) == pytest.approx(np.mean(rows["d1"]), rel=1e-6)


def test_signals_have_their_sign_and_undefined_ones_are_no_numbers(tmp_path):
    """Copies here have low energy, so low drift too: small drift is a sign of copying, high energy is not."""
    module = Scripted(copy_at=4)
    original = module.validation_step

    def step(batch, batch_idx):
        drawn = original(batch, batch_idx)
        energy = torch.where(batch["seeds"] % 2 == 0, 1.0, 2.0) + batch["seeds"] / 100
        return trajectory(drawn.x, energy, early=torch.ones_like(energy), response=energy)

    module.validation_step = step
    fit(tmp_path, MemorizationCallback(), module=module, steps=4)
    before, after = metrics(tmp_path)[2], metrics(tmp_path)[4]
    assert before["memorization/auroc_energy"] == ""  # no copies, nothing to pick out
    assert float(after["memorization/auroc_energy"]) == 0
    assert float(after["memorization/auroc_drift"]) == 1
    assert float(after["memorization/auroc_renoise"]) == 1
    assert float(after["memorization/rho_drift"]) > 0.5
    assert float(after["memorization/auroc_early"]) == 0.5
    assert "memorization/rho_early" not in after  # constant
    fit(tmp_path / "without", MemorizationCallback(), module=Scripted(copy_at=2), steps=2)
    assert "memorization/auroc_renoise" not in metrics(tmp_path / "without")[2]


def test_no_onset_is_written_with_the_figures_of_the_null(tmp_path):
    fit(tmp_path, MemorizationCallback(), steps=4)
    found = onset(tmp_path)
    assert found["step"] is None
    assert found["checkpoint"] is None
    assert found["null_f_mem"] == 0
    assert found["null_high"] == wilson(0, 30)[1]
    assert torch.load(tmp_path / BEFORE, weights_only=True)["global_step"] == 4


def test_onset_at_the_first_validation_keeps_nothing(tmp_path):
    with pytest.warns(UserWarning, match="no validation came before it"):
        fit(tmp_path, MemorizationCallback(), module=Scripted(copy_at=0), steps=4)
    assert onset(tmp_path)["step"] == 2
    assert onset(tmp_path)["checkpoint"] is None
    assert not (tmp_path / BEFORE).exists()


def test_stopping_at_the_onset(tmp_path):
    with pytest.warns(UserWarning, match="Copying begins"):
        done = fit(tmp_path, MemorizationCallback(stop_at_onset=True), module=Scripted(copy_at=4), steps=8)
    assert done.global_step == 4
    assert pq.read_table(tmp_path / "memorization.parquet").column("step").unique().to_pylist() == [2, 4]


@pytest.mark.filterwarnings("ignore")
def test_onset_survives_a_resume(tmp_path):
    def callbacks():
        return [KPECallback(), MemorizationCallback()]

    def run(folder, steps, ckpt=None):
        made = trainer(folder, *callbacks(), steps=steps)
        made.fit(Scripted(copy_at=4), datamodule=Data(), ckpt_path=ckpt)
        made.save_checkpoint(folder / f"at{steps}.ckpt")

    run(tmp_path / "whole", 8)
    part = tmp_path / "part"
    run(part, 4)
    run(part, 8, part / "at4.ckpt")
    assert onset(part) == onset(tmp_path / "whole")
    assert onset(part)["step"] == 4
    assert torch.load(part / BEFORE, weights_only=True)["global_step"] == 2
    for name in ("kpe", "profiles", "memorization"):
        whole, resumed = (pq.read_table(at / f"{name}.parquet").to_pydict() for at in (tmp_path / "whole", part))
        assert repr({**whole, "epoch": 0}) == repr({**resumed, "epoch": 0}), name  # this loader cannot resume epochs
    run(part, 3, None)  # a new run in the folder starts anew
    assert onset(part)["step"] is None
    assert pq.read_table(part / "kpe.parquet").column("step").unique().to_pylist() == [2]


def without(data: Data, name: str) -> Data:
    setattr(data, name, None)
    return data


def yielding(change) -> Data:
    data = Data()
    original = data.reference
    data.reference = lambda: ((change(x), ids, names) for x, ids, names in original())
    return data


@pytest.mark.filterwarnings("ignore:The number of training:UserWarning")
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (lambda: without(Data(), "reference"), "no datamodule with a reference"),
        (lambda: Data(train=0), "holds no images"),
        (lambda: Data(train=1), "at least two distinct training images, got 1"),
        (lambda: yielding(lambda x: x[..., :2]), "do not match the reference images of shape"),
        (lambda: yielding(lambda x: (x + 1) * 127.5), "but the images trained on lie in"),
        (lambda: yielding(lambda x: x * 255), "but the images trained on lie in"),
        (lambda: yielding(lambda x: x * torch.nan), "is not finite"),
    ],
)
def test_reference_that_will_not_do_is_one_line_and_energies_go_on(tmp_path, data, reason):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        done = fit(tmp_path, MemorizationCallback(), KPECallback(), data=data(), steps=6)
    assert done.global_step == 6
    lines = told(caught)
    assert len(lines) == 1
    assert reason in lines[0]
    assert "\n" not in lines[0]
    assert "training and energies go on" in lines[0]
    assert {"2", "4", "6"} == {str(s) for s, row in metrics(tmp_path).items() if row["kpe/mean"]}
    assert not any(name.startswith("memorization") for name in metrics(tmp_path)[2])
    assert not (tmp_path / BEFORE).exists()


def test_without_held_out_images_f_mem_is_measured_but_no_onset(tmp_path):
    with pytest.warns(UserWarning, match="no held-out images to judge F_mem by"):
        fit(tmp_path, MemorizationCallback(), module=Scripted(copy_at=2), data=Data(held=0), steps=2)
    assert float(metrics(tmp_path)[2]["memorization/f_mem"]) == 0.5
    assert "memorization/null" not in metrics(tmp_path)[2]
    assert onset(tmp_path)["step"] is None
    assert onset(tmp_path)["null_high"] is None


def test_streamed_reference_gives_what_a_cached_one_gives(tmp_path):
    for name, cache in (("streamed", 0), ("cached", 2**20)):
        callback = MemorizationCallback(cache_bytes=cache)
        with pytest.warns(UserWarning, match="Copying"):
            fit(tmp_path / name, callback, module=Scripted(copy_at=2), steps=2)
        assert callback._training.index.source.resident == (cache > 0)
    a, b = (pq.read_table(tmp_path / name / "memorization.parquet") for name in ("streamed", "cached"))
    assert a.equals(b)


def test_flipped_copies_are_found_where_training_flips():
    """The reference of a flipping data module holds the mirror images without storing them."""
    from kinetic.memorization.training_set import TrainingSet

    data = Digits(num_train=12, num_val=4)
    data.setup()
    data.flip = True
    training = TrainingSet.of(data, device=torch.device("cpu"), cache_bytes=2**20)
    assert training.index.flip
    assert len(training.index.ids) == 12
    image = training.index.images(torch.tensor([3]))
    mirrored = image.flip(-1) + 0.001
    torch.testing.assert_close(training.beside(mirrored, torch.tensor([3])), image.flip(-1))
    assert training.name(3) == data.subset_ids[3]


def test_settings_are_checked_and_distinguish_states():
    with pytest.raises(ValueError, match=r"threshold must lie in \(0, 1\], got 2"):
        MemorizationCallback(threshold=2)
    with pytest.raises(ValueError, match="gallery must not be negative, got -1"):
        MemorizationCallback(gallery=-1)
    assert MemorizationCallback().state_key != MemorizationCallback(threshold=0.5).state_key


@pytest.mark.filterwarnings("ignore")
def test_callbacks_used_again_know_nothing_of_the_run_before(tmp_path):
    memory = MemorizationCallback()
    fit(tmp_path / "copying", memory, module=Scripted(copy_at=0), steps=6)
    fit(tmp_path / "clean", memory, steps=2)
    assert onset(tmp_path / "clean")["step"] is None
    assert list(memory.history.validations) == [2]


@pytest.mark.filterwarnings("ignore")
def test_validation_interrupted_half_way_leaves_nothing_to_the_next(tmp_path):
    energies, memory, module = KPECallback(), MemorizationCallback(), Scripted()
    original = module.validation_step

    def stops(batch, batch_idx):
        if batch_idx == 3:
            raise InterruptedError
        return original(batch, batch_idx)

    module.validation_step = stops
    with pytest.raises(InterruptedError):
        fit(tmp_path / "a", energies, memory, module=module, steps=2)
    fit(tmp_path / "b", energies, memory, data=Data(samples=4), steps=2)
    assert energies.table.seeds.tolist() == [0, 1, 2, 3]
    assert memory.result.total == 4
