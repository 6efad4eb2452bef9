"""The energies that are logged are those of the samples, whatever module drew them and however they came."""

import csv
import warnings

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from lightning.pytorch import LightningModule
from PIL import Image

from kinetic.callbacks import KPECallback
from kinetic.callbacks.collecting import Collector
from kinetic.callbacks.grids import by_energy
from kinetic.flow.integration import integrate
from kinetic.flow.seeds import seed_loader
from kinetic.store.tables import StepTable
from kinetic.tensors import seeded_noise
from tests.fake_loggers import Boards, Broken, Listening
from tests.scripted import Data, Scripted, trainer, trajectory


def metrics(folder) -> dict[int, dict[str, str]]:
    with open(folder / "metrics.csv", newline="") as file:
        return {int(row["step"]): row for row in csv.DictReader(file)}


def fit(folder, *callbacks, module=None, data=None, **options):
    made = trainer(folder, *callbacks, **options)
    made.fit(module or Scripted(), datamodule=data or Data())
    return made


def test_numbers_are_those_of_the_samples_and_stand_at_their_step(tmp_path):
    fit(tmp_path, KPECallback(), steps=4)
    energy = 10 + (np.arange(24) * 7 % 11)
    row = metrics(tmp_path)[4]
    assert {step for step, r in metrics(tmp_path).items() if r["kpe/mean"]} == {2, 4}
    expected = {"mean": energy.mean(), "std": energy.std(), "early": energy.mean() / 4, "late_fraction": 0.75}
    expected |= {"final_power": energy.mean() + 1, "per_dim_energy": energy.mean() / 16, "nonfinite": 0}
    expected |= {f"q{q:02d}": np.percentile(energy, q) for q in (5, 25, 50, 75, 95)}
    for name, value in expected.items():
        assert float(row[f"kpe/{name}"]) == pytest.approx(value, rel=1e-6), name
    assert row["epoch"] == "0"
    table = pq.read_table(tmp_path / "kpe.parquet")
    assert table.column_names[:4] == ["step", "epoch", "seed", "label"]
    assert table.column("step").to_pylist() == [2] * 24 + [4] * 24
    assert table.column("seed").to_pylist() == list(range(24)) * 2
    assert table.column("energy").to_pylist() == list(energy) * 2
    assert table.column("label").null_count == 48
    profile = pq.read_table(tmp_path / "profiles.parquet").to_pydict()
    assert profile["t"] == [0.0, 0.5, 0.75] * 2
    assert profile["mean"][:3] == pytest.approx([energy.mean(), 2 * energy.mean(), 3 * energy.mean()])
    assert profile["q25"][0] == pytest.approx(np.percentile(energy, 25))


def test_samples_that_are_not_finite_are_counted_left_out_and_keep_their_rows(tmp_path):
    fit(tmp_path, KPECallback(), module=Scripted(broken=(3, 8)), steps=2)
    energy = (10 + (np.arange(24) * 7 % 11)).astype(float)
    kept = np.delete(energy, [3, 8])
    row = metrics(tmp_path)[2]
    assert float(row["kpe/nonfinite"]) == 2
    assert float(row["kpe/mean"]) == pytest.approx(kept.mean(), rel=1e-6)
    rows = pq.read_table(tmp_path / "kpe.parquet").to_pydict()
    assert rows["seed"] == list(range(24))
    assert np.isnan(rows["energy"])[[3, 8]].all()
    assert np.isnan(rows["energy"]).sum() == 2
    assert (tmp_path / "samples/step_0000002.png").is_file()


def test_all_samples_broken_still_leaves_rows(tmp_path):
    fit(tmp_path, KPECallback(), module=Scripted(broken=tuple(range(24))), steps=2)
    assert float(metrics(tmp_path)[2]["kpe/nonfinite"]) == 24
    assert pq.read_table(tmp_path / "kpe.parquet").num_rows == 24


def test_grid_shows_the_extremes_and_an_even_choice_between():
    energy = np.array([5.0, 1.0, np.nan, 3.0, 2.0, 4.0, 0.0, 6.0])
    assert by_energy(energy, extremes=2, middle=1).tolist() == [6, 1, 3, 0, 7]
    assert by_energy(energy, extremes=3, middle=5).tolist() == [6, 1, 4, 3, 5, 0, 7]
    assert by_energy(energy[:3], extremes=0, middle=0).tolist() == []


class Own(LightningModule):
    """A module of one's own, in twenty lines: a velocity field on the plane."""

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(3, 2)

    def velocity(self, x, t):
        return self.net(torch.cat([x, t[:, None]], dim=1))

    def training_step(self, batch, batch_idx):
        x0, t = torch.randn_like(batch), torch.rand(len(batch))
        xt = torch.lerp(x0, batch, t[:, None])
        return (self.velocity(xt, t) - (batch - x0)).square().mean()

    def validation_step(self, batch, batch_idx):
        return integrate(self.velocity, seeded_noise(batch["seeds"], (2,)), steps=10)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())


def test_any_module_whose_validation_returns_trajectories_will_do(tmp_path):
    made = trainer(tmp_path, KPECallback(), steps=4)
    module = Own()
    points = torch.utils.data.DataLoader(torch.randn(64, 2), batch_size=16)
    made.fit(module, points, seed_loader(range(9), batch_size=4))
    drawn = integrate(module.velocity, seeded_noise(range(9), (2,)), steps=10)
    rows = pq.read_table(tmp_path / "kpe.parquet").to_pydict()
    torch.testing.assert_close(torch.tensor(rows["energy"][-9:]), drawn.energy)
    assert (tmp_path / "samples/step_0000004.png").is_file()  # points in the plane


def test_validate_has_the_energies_of_fit_and_leaves_its_files_alone(tmp_path):
    callback, module = KPECallback(), Own()
    made = trainer(tmp_path, callback, steps=4)
    points, seeds = torch.utils.data.DataLoader(torch.randn(64, 2), batch_size=16), seed_loader(range(9), batch_size=4)
    made.fit(module, points, seeds)
    fitted = callback.table.columns["energy"]
    before = (tmp_path / "kpe.parquet").read_bytes()
    again = trainer(tmp_path / "again", callback)
    (logged,) = again.validate(module, seed_loader(range(9), batch_size=9), verbose=False)
    np.testing.assert_allclose(callback.table.columns["energy"], fitted, rtol=1e-6)
    assert logged["kpe/mean"] == pytest.approx(fitted.mean(), rel=1e-6)
    assert (tmp_path / "kpe.parquet").read_bytes() == before
    assert not (tmp_path / "again/kpe.parquet").exists()


@pytest.mark.parametrize("trouble", ["none", "no seeds", "zero"])
def test_validation_without_trajectories_is_one_line_and_training_goes_on(tmp_path, trouble):
    module, data = Scripted(), Data()
    if trouble == "none":
        module.validation_step = lambda batch, batch_idx: None
    elif trouble == "no seeds":
        module.validation_step = lambda batch, batch_idx: trajectory(torch.zeros(2, 1, 4, 4), torch.ones(2))
        data.val_dataloader = lambda: torch.utils.data.DataLoader(torch.zeros(2, 1))
    else:
        module.samples = type("Samples", (), {"num": 0})()
        data.val_dataloader = lambda: torch.utils.data.DataLoader(torch.zeros(2, 1))
        module.validation_step = lambda batch, batch_idx: None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert fit(tmp_path, KPECallback(), module=module, data=data, steps=6).global_step == 6
    lines = [str(w.message) for w in caught if "kinetic energies" in str(w.message)]
    assert len(lines) == 1
    assert "training goes on" in lines[0]
    assert "\n" not in lines[0]


def test_validation_cut_short_is_told_and_measured_as_far_as_it_went(tmp_path):
    module = Scripted()
    module.samples = type("Samples", (), {"num": 24})()
    with pytest.warns(UserWarning, match="drew 6 of 24 samples"):
        fit(tmp_path, KPECallback(), module=module, steps=2, limit_val_batches=2)
    assert pq.read_table(tmp_path / "kpe.parquet").num_rows == 6


def test_logger_that_fails_is_one_line_and_the_next_one_is_served(tmp_path):
    broken, boards = Broken(), Boards()
    with pytest.warns(UserWarning, match=r"Broken failed \(the disk is full\); training goes on$"):
        done = fit(tmp_path, KPECallback(bins=8), steps=2, logger=[broken, boards])
    assert done.global_step == 2
    assert broken.calls == 1
    assert boards.histograms == [("kpe/histogram", 24, 2, 9)]
    assert boards.images == [("kpe/samples", 4, 2, "HWC")]


def test_wandb_gets_one_call_a_validation_with_finite_bins(tmp_path):
    listening = Listening()
    fit(tmp_path, KPECallback(media_every=2), module=Scripted(broken=(3,)), steps=6, logger=listening)
    assert [step for step, _ in listening.media] == [2, 6]  # rate-limited: every second validation
    media = listening.media[0][1]
    assert set(media) == {"kpe/samples", "kpe/histogram"}
    assert sum(media["kpe/histogram"].histogram) == 23
    assert len(media["kpe/histogram"].bins) == 65


def test_unwritable_folder_is_told_and_training_goes_on(tmp_path):
    (tmp_path / "samples").write_text("in the way")
    with pytest.warns(UserWarning, match="drawing the samples failed"):
        assert fit(tmp_path, KPECallback(), steps=2).global_step == 2
    assert pq.read_table(tmp_path / "kpe.parquet").num_rows == 24


def test_sanity_check_leaves_nothing(tmp_path):
    callback = KPECallback()
    fit(tmp_path, callback, steps=2, num_sanity_val_steps=2)
    assert pq.read_table(tmp_path / "kpe.parquet").column("step").unique().to_pylist() == [2]
    assert callback.validations == 1


def test_pictures_are_sharp_files_of_every_sample(tmp_path):
    fit(tmp_path, KPECallback(lowest_highest=2, between=6), steps=2)
    with Image.open(tmp_path / "samples/step_0000002.png") as image:
        assert image.width > 10 * 80
        assert len(np.unique(np.asarray(image)[..., 0])) > 16


def test_settings_are_checked_and_distinguish_states():
    with pytest.raises(ValueError, match="bins must lie in 1 to 512"):
        KPECallback(bins=600)
    with pytest.raises(ValueError, match="between must not be negative, got -1"):
        KPECallback(between=-1)
    assert KPECallback(bins=8).state_key != KPECallback(bins=9).state_key


def test_rows_repeat_by_a_padding_sampler_count_once_and_batches_do_not_matter():
    energy = torch.arange(6.0)
    x = torch.randn(6, 1, 2, 2)
    whole, parts = Collector(), Collector()
    whole.add(trajectory(x, energy), {"seeds": torch.arange(6), "labels": torch.arange(6) % 3})
    for rows in ([4, 1], [5, 0, 2], [3, 0]):
        parts.add(trajectory(x[rows], energy[rows]), {"seeds": torch.tensor(rows), "labels": torch.tensor(rows) % 3})
    a, b = whole.table(), parts.table()
    assert b.seeds.tolist() == list(range(6))
    assert b.labels.tolist() == [0, 1, 2, 0, 1, 2]
    for name, values in a.columns.items():
        np.testing.assert_array_equal(values, b.columns[name], name)
    np.testing.assert_array_equal(a.power, b.power)


def test_profiles_of_unequal_steps_are_brought_to_one_grid():
    collector = Collector()
    flat = {"power": torch.full((2, 1), 3.0), "times": torch.tensor([0.0, 0.9])}
    rising = {"power": torch.tensor([[0.0], [1.0]]), "times": torch.tensor([0.0, 1.0])}
    for seed, changes in enumerate((flat, rising)):
        drawn = trajectory(torch.zeros(1, 1, 2, 2), torch.ones(1), **changes)
        collector.add(drawn, {"seeds": torch.tensor([seed])})
    table = collector.table()
    np.testing.assert_allclose(table.power[:, 0], 3.0)
    np.testing.assert_allclose(table.power[:, 1], table.times, atol=1e-6)


def test_table_drops_what_is_trained_again_and_replaces_a_repeated_step(tmp_path):
    table = StepTable(tmp_path / "t.parquet")
    for step in (10, 20, 30):
        table.write(step, {"value": [step, step + 1]})
    again = StepTable(tmp_path / "t.parquet", resume_step=20)
    again.write(20, {"value": [7]})
    assert pq.read_table(tmp_path / "t.parquet").to_pydict() == {"step": [10, 10, 20], "value": [10, 11, 7]}
    StepTable(tmp_path / "t.parquet").write(5, {"value": [1]})
    assert pq.read_table(tmp_path / "t.parquet").column("step").to_pylist() == [5]
