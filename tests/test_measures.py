"""A number for each sample that nobody knew of: one class, and it is a column wherever samples are rows."""

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from torch import Tensor

from kinetic.cli.sample import sample
from kinetic.cli.train import train
from kinetic.flow.integration import integrate
from kinetic.flow.measures import Arrival, Evaluation, Measure
from kinetic.flow.straightness import Straightness
from tests.conftest import TINY, merged

NAME = "tests.test_measures.Turning"
WATCHING = {
    "model": {"samples": {"num": 12, "measures": [NAME]}},
    "trainer": {
        "max_steps": 4,
        "val_check_interval": 4,
        "callbacks": [
            {"class_path": "kinetic.callbacks.KPECallback"},
            {"class_path": "kinetic.callbacks.MemorizationCallback", "init_args": {"threshold": 0.999}},
            {"class_path": "kinetic.callbacks.ReportCallback"},
        ],
    },
}


class Turning(Measure):
    """How far the direction at the last step is from that at the first, 1 - cosine, in [0, 2]; small means a copy."""

    name, unit, sign = "turning", "1", -1

    def step(self, state: Any, now: Evaluation, dt: float) -> tuple[Tensor, Tensor]:
        v = now.v.flatten(1)
        return (v if state is None else state[0], v)

    def result(self, state: Any, end: Arrival) -> Tensor:
        return 1 - torch.cosine_similarity(*state)


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_it_appears_by_itself_in_validation_and_sampling(workdir: Path, capsys: pytest.CaptureFixture) -> None:
    (workdir / "tiny.yaml").write_text(yaml.safe_dump(merged(TINY, WATCHING)))
    train(["--config", "tiny.yaml", "--run.name", "run", "--trust", "tests"])
    run = workdir / "runs/run"
    table = pq.read_table(run / "kpe.parquet")
    assert 0 <= min(table.column("turning").to_pylist()) <= max(table.column("turning").to_pylist()) <= 2
    assert json.loads(pq.read_schema(run / "kpe.parquet").metadata[b"columns"])["turning"] == ["1", -1]
    (row,) = [row for row in rows(run / "metrics.csv") if row["kpe/mean"]]
    assert float(row["kpe/turning"]) == pytest.approx(sum(table.column("turning").to_pylist()) / 12, rel=1e-5)
    assert -1 <= float(row["memorization/rho_turning"]) <= 1
    assert '<th scope="row">turning</th>' in (run / "report.html").read_text()
    # A sampling of the run measures what the run measures, and what is asked for besides.
    capsys.readouterr()
    more = ["--measure", "kinetic.flow.straightness.Straightness", "--copy-score", "--trust", "tests"]
    sample(["--num", "12", "--accelerator", "cpu", "--steps", "4", "--out", "out", *more])
    drawn = rows(Path("out/energies.csv"))
    assert [float(r["turning"]) for r in drawn] == pytest.approx(table.column("turning").to_pylist(), abs=1e-5)
    assert all(0 < float(r["straightness"]) <= 1.000001 for r in drawn)
    assert all(float(r["spread"]) > 0 for r in drawn)
    signals = {r["signal"]: r for r in rows(Path("out/signals.csv"))}
    assert {"turning", "straightness", "spread", "energy"} <= set(signals)
    assert "per_dim_energy" not in signals  # it ranks samples as energy does
    assert (signals["turning"]["sign"], signals["spread"]["sign"], signals["energy"]["sign"]) == ("-1", "-1", "0")
    page = Path("out/report.html").read_text()
    assert "turning (small)" in page
    assert "straightness" in page


def test_the_runs_own_rule_for_copies_holds_in_sampling_and_its_null_is_told(
    workdir: Path, capsys: pytest.CaptureFixture
) -> None:
    (workdir / "tiny.yaml").write_text(yaml.safe_dump(merged(TINY, WATCHING)))
    train(["--config", "tiny.yaml", "--run.name", "run", "--trust", "tests"])
    validated = pq.read_table("runs/run/memorization.parquet")
    capsys.readouterr()
    sample(["--num", "12", "--accelerator", "cpu", "--steps", "4", "--out", "out", "--trust", "tests"])
    said = capsys.readouterr().out
    record = json.loads(Path("out/memorization.json").read_text())
    assert record["threshold"] == 0.999
    assert "d₁/d₂ < 0.999; of 500 held-out images" in said
    found = record["settings"]["samples"]
    copied = sum(validated.column("copied").to_pylist())
    assert copied > 3  # at so high a threshold
    assert (found["copied"], found["total"]) == (copied, 12)
    last = rows(Path("runs/run/metrics.csv"))[-1]
    assert record["null"]["f_mem"] == pytest.approx(float(last["memorization/null"]))
    assert "d₁/d₂ &lt; 0.999" in Path("out/report.html").read_text()
    assert "copy if d₁/d₂ &lt; 0.999" in Path("runs/run/report.html").read_text()


def test_a_measure_from_elsewhere_needs_trust(workdir: Path) -> None:
    config = merged(TINY, {"trainer": {"max_steps": 2}, "model": {"samples": {"num": 0}}})
    (workdir / "tiny.yaml").write_text(yaml.safe_dump(config))
    train(["--config", "tiny.yaml", "--run.name", "run", "--trust", "tests"])
    with pytest.raises(ValueError, match="--trust tests"):
        sample(["--num", "2", "--accelerator", "cpu", "--measure", NAME])
    with pytest.raises(ValueError, match="is not a Measure"):
        sample(["--num", "2", "--accelerator", "cpu", "--measure", "kinetic.nn.UNet"])


def test_straightness() -> None:
    x0 = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    line = integrate(lambda x, t: torch.ones_like(x), x0, steps=7, measures=[Straightness()])
    torch.testing.assert_close(line.straightness, torch.ones(2))
    half = torch.tensor([[0.0, torch.pi], [-torch.pi, 0.0]])
    arc = integrate(lambda x, t: x @ half, x0, method="rk4", steps=50, measures=[Straightness()])
    torch.testing.assert_close(arc.straightness, torch.full((2,), 2 / torch.pi), rtol=1e-5, atol=0)
