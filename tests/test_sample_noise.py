"""`sample --noise`: what the user types, what is written, and how it says no."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as parquet
import pytest
import torch
import yaml

from kinetic.cli.sample import sample
from kinetic.cli.train import train
from kinetic.data.opening import open_data
from kinetic.flow.sampling import Sampler, draw
from kinetic.flow.stochastic import Diffusion
from kinetic.models.opening import open_run
from kinetic.samples.balance import spent_by
from kinetic.samples.table import SampleTable
from kinetic.studies.balance import balance_of, check_balance
from kinetic.trust import STRANGER
from tests.conftest import TINY, inside, merged
from tests.test_sample_command import refused
from tests.test_sample_composed import column

QUICK = ["--accelerator", "cpu", "--steps", "8"]
CHANGES = {
    "trainer": {
        "max_steps": 3,
        "val_check_interval": 3,
        "callbacks": [{"class_path": "kinetic.callbacks.KPECallback"}],
    },
    "model": {
        "path": "gvp",
        "samples": {"num": 4},
        "sampler": {"steps": 4, "noise": {"form": "linear", "strength": 0.5}},
    },
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on another path than the linear one, whose validations draw with noise."""
    with inside(tmp_path_factory.mktemp("noise")) as home:
        Path("tiny.yaml").write_text(yaml.safe_dump(merged(TINY, CHANGES)))
        train(["--config", "tiny.yaml", "--run.name", "run"])
    return home


@pytest.fixture
def run(trained, workdir):
    shutil.copytree(trained / "runs", workdir / "runs", symlinks=True)
    return workdir / "runs/run"


def test_samples_and_one_of_them_again(run, capsys):
    options = ["run", "--noise", "churn:0.8:0.2-0.7", "--method", "heun2", "--kts", "balanced", *QUICK]
    sample([*options, "--num", "5", "--batch-size", "2"])
    out = run / "sampling/balanced-noise"
    record = yaml.safe_load((out / "sample.yaml").read_text())["settings"]["samplers"]["samples"]
    assert record["noise"] == {"form": "churn", "strength": 0.8, "low": 0.2, "high": 0.7}
    field = open_run(run).field
    assert field.path.name == "gvp"
    exact = draw(field, range(5), sampler=Sampler.from_dict(record))
    for name in ("energy", "field_energy"):
        assert column(out / "energies.csv", name) == pytest.approx(exact.columns[name].tolist(), rel=1e-4), name
    said = capsys.readouterr().out
    assert "--noise churn:0.8:0.2-0.7 --kts balanced --index 0" in said
    sample([*options, "--index", "3"])
    again = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("energy "))
    assert float(again.split()[-1]) == pytest.approx(float(exact.energy[3]), rel=1e-4)
    assert "(form churn, now linear)" in refused(capsys, *options[:2], "linear:1", *options[3:], "--num", "5")


def test_a_comparison_and_its_controls_have_the_noise(run):
    sample(["run", "--compare", "off,balanced", "--noise", "linear:1", "--num", "4", "--out", "out", *QUICK])
    samplers = yaml.safe_load(Path("out/sample.yaml").read_text())["settings"]["samplers"]
    assert {"off", "balanced", "off to t = 0.98"} <= samplers.keys()
    assert {json.dumps(sampler["noise"]) for sampler in samplers.values()} == {'{"form": "linear", "strength": 1.0}'}


def test_validations_draw_with_noise_on_the_path_of_the_run(run):
    origin = open_run(run)
    sampler = Sampler(steps=4, noise=Diffusion("linear", 0.5))
    exact = draw(origin.field, range(4), sampler=sampler)
    found = parquet.read_table(run / "kpe.parquet").to_pylist()
    assert [row["energy"] for row in found] == pytest.approx(exact.energy.tolist(), rel=1e-4)


def test_the_balance_takes_the_energy_of_the_field(run):
    origin, data = open_run(run), open_data(run, STRANGER)
    sampler = Sampler(steps=8, noise=Diffusion("linear", 1.0))
    found = draw(origin.field, range(6), sampler=sampler)
    spent = spent_by(SampleTable.of(found, torch.arange(6)), (1, 8, 8))
    assert spent.energy.tolist() == pytest.approx(found.field_energy.tolist())
    assert found.energy.sum() > 1.05 * found.field_energy.sum()
    check_balance(origin, data, sampler)
    assert balance_of(origin, data, SampleTable.of(found, torch.arange(6)), images=6, bins=2).power > 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--noise", "white"], "--noise 'white' cannot be read; write constant:G"),
        (["--noise", "linear:1", "--method", "dopri5"], "--noise needs the method euler (Euler-Maruyama) or heun2"),
        (["--noise", "linear:1", "--method", "rk4"], "stochastic Heun), got rk4"),
        (["--noise", "churn:1:0.8-0.2"], "two times that rise"),
        (["--noise", "constant:-1"], "--noise strength must lie in [0, 1000]"),
        (["--noise", "constant:5", "--index", "1"], "noise strength 5 is too much"),
        (["--noise", "constant:5"], "noise strength 5 is too much for a step of 0.125 at t = 0; take at most 1.99"),
    ],
)
def test_faults_are_one_line(run, capsys, options, words):
    before = set(run.rglob("*"))
    assert words in refused(capsys, "run", *(["--num", "3"] if "--index" not in options else []), *options, *QUICK)
    assert set(run.rglob("*")) == before
