"""Optimal transport against independent pairs: the same seeds of two networks, by few steps and many."""

import json
import math
from pathlib import Path

import pytest
import torch

from kinetic.cli.study import study
from kinetic.errors import KineticError
from kinetic.flow.integration import integrate
from kinetic.flow.sampling import Sampler, draw
from kinetic.flow.straightness import Straightness, TransportEnergy
from kinetic.models.opening import open_checkpoint
from kinetic.store.settings import SavedConfig
from kinetic.studies.couplings import training_with
from kinetic.studies.trainings import Training
from tests.conftest import TINY, copied, csv_rows, merged, run_once

CHANGES = {
    "run": {"keep_every": 4},
    "data": {"init_args": {"num_train": 20, "num_val": 60}},
    "trainer": {"max_steps": 6, "val_check_interval": 6},
    "model": {"samples": {"num": 0}},
}
QUICK = ["--accelerator", "cpu", "--num", "24"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return run_once(tmp_path_factory, "couplings", CHANGES)


@pytest.fixture
def run(trained, workdir):
    return copied(trained, workdir)


def test_a_straight_way_costs_what_it_has_to():
    """Kills: a straightness that is not 1 on a line, a transport energy of the wrong end or without its half."""
    x0 = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    measures = (Straightness(), TransportEnergy())
    line = integrate(lambda x, t: torch.ones_like(x), x0, steps=4, measures=measures)
    assert line.straightness.tolist() == pytest.approx([1.0] * 5)
    assert line.transport_energy.tolist() == pytest.approx([1.5] * 5)
    bent = integrate(lambda x, t: torch.cos(6 * t)[:, None] * torch.ones_like(x), x0, steps=400, measures=measures)
    assert bent.straightness.max() < 0.5
    assert bent.transport_energy.tolist() == pytest.approx([1.5 * (math.sin(6) / 6) ** 2] * 5, abs=1e-2)


def test_the_recipe_changes_in_its_coupling_and_monitors_alone(tmp_path):
    """Kills: a partner of other data, seed or optimiser; the run's own settings changed in place."""
    config = SavedConfig(merged(TINY, {"model": {"coupling": "independent"}}))
    made = training_with(config, "ot", tmp_path, steps=7)
    assert made.config["model"]["coupling"] == "ot"
    assert made.steps == 7
    same = ("seed_everything", "network", "optimizer", "scheduler", "data")
    assert all(made.config[name] == config.values[name] for name in same)
    assert config.at("model", "coupling") == "independent"


def test_a_training_without_monitors_is_done_by_its_checkpoint(run):
    """Kills: a training that is repeated, or one that is cut short and passes for done."""
    config = {"trainer": {"max_steps": 6}}
    assert Training(folder=run, config=config).done()
    assert not Training(folder=run, config={"trainer": {"max_steps": 7}}).done()
    assert not Training(folder=run.parent / "none", config=config).done()


def test_a_partner_is_trained_once_and_compared_on_the_same_seeds(run, capsys):
    """Kills: the run's last network beside a partner of fewer steps, residuals from the other network's samples."""
    args = ["couplings", "run", "--training-steps", "4", "--few", "2,5", *QUICK]
    study(args)
    folder = run / "studies/couplings"
    table = {(row["coupling"], row["steps"]): row for row in csv_rows(folder / "table.csv")}
    assert list(table) == [(c, s) for s in ("2", "5") for c in ("independent", "ot")]
    said = capsys.readouterr()
    assert "training 1 of 1 networks" in said.err
    assert "straightness differs by" in said.out
    own = open_checkpoint(run / "checkpoints/step=4.ckpt")
    theirs = open_checkpoint(folder / "runs/coupling=ot,steps=4/checkpoints/last.ckpt")
    assert (own.coupling, theirs.coupling) == ("independent", "ot")
    assert theirs.identity["step"] == 4
    for name, origin in (("independent", own), ("ot", theirs)):
        coarse, fine = (draw(origin.field, range(24), sampler=Sampler(steps=steps)) for steps in (2, 5))
        assert float(table[name, "2"]["energy"]) == pytest.approx(float(coarse.energy.mean()), rel=1e-4)
        residual = (coarse.x - fine.x).flatten(1).norm(dim=1).mean()
        assert float(table[name, "2"]["residual"]) == pytest.approx(float(residual), rel=1e-4)
        assert float(table[name, "5"]["residual"]) == 0
        assert float(table[name, "5"]["transport_energy"]) <= float(table[name, "5"]["energy"])
    assert (folder / "couplings.png").is_file()
    study(args)
    assert "training" not in capsys.readouterr().err.replace("training set", "")


def test_two_runs_are_compared_as_they_are_and_the_same_coupling_is_refused(run, capsys):
    """The same weights under either name. Kills: differences that are none, runs that do not differ."""
    other = copied(run.parent.parent, Path("other").resolve())
    with pytest.raises(KineticError, match="pair noise and images alike"):
        study(["couplings", "run", "--other", str(other), *QUICK])
    checkpoint = other / "checkpoints/last.ckpt"
    state = torch.load(checkpoint, weights_only=True)
    state["hyper_parameters"]["coupling"] = "ot"
    torch.save(state, checkpoint)
    study(["couplings", "run", "--other", str(other), "--few", "2,4", "--out", "there", *QUICK])
    found = json.loads(Path("there/study.json").read_text())
    gaps = [gap for gap in found["table"]["fd_from_independent"] if gap is not None]
    assert gaps == pytest.approx([0.0, 0.0], abs=1e-9)
    assert "not certainly other" in capsys.readouterr().out
    subset = other / "subset.txt"
    subset.write_text(subset.read_text().replace("1", "2"))
    study(["couplings", "run", "--other", str(other), "--few", "2,4", "--out", "there", *QUICK])
    assert "F_mem is left out: the runs were trained on different images" in capsys.readouterr().out
    assert "F_mem" not in json.loads(Path("there/study.json").read_text())["table"]
    for more, why in ((["--empirical"], "--empirical has no coupling"), (["--checkpoint", "x"], "goes with --other")):
        with pytest.raises(KineticError, match=why):
            study(["couplings", *more, *QUICK])
    for more, why in ((["--few", "5"], "at least two different numbers"), (["--method", "dopri5"], "a fixed grid")):
        with pytest.raises(KineticError, match=why):
            study(["couplings", "run", *more, *QUICK])
