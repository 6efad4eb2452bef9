"""The closed-form field against a network: closed forms, the command from end to end, and what is refused."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kinetic.cli.study import study
from kinetic.data.opening import open_data
from kinetic.errors import KineticError
from kinetic.flow.empirical import EmpiricalVelocity
from kinetic.flow.field import Field
from kinetic.flow.measures import power
from kinetic.flow.paths import path
from kinetic.flow.sampling import Sampler, draw
from kinetic.models.opening import Origin, open_empirical
from kinetic.studies.empirical import (
    NOISE,
    Comparison,
    States,
    check_closed_form,
    checked_times,
    exponent,
    states_of_samples,
    velocities,
)
from kinetic.tensors import seeded_noise
from kinetic.trust import STRANGER
from tests.conftest import merged
from tests.test_callbacks_balance import TOY, trained

TIMES = (0.2, 0.5, 0.9, 0.95, 0.99)
WARNINGS = pytest.mark.filterwarnings("ignore")


def table(run: Path, name: str = "empirical", file: str = "table") -> list[dict[str, str]]:
    with open(run / "studies" / name / f"{file}.csv", newline="") as rows:
        return list(csv.DictReader(rows))


def test_one_training_point_has_a_straight_field_that_spikes():
    """v* = (x1 - x) / (1-t) anywhere, so off the point its power goes as (1-t)^-2.

    Kills: norms for powers in the fit, a relative distance over the network's norm, a distance that is not squared.
    """
    point = torch.tensor([[1.0, -2.0]])
    x = torch.randn(5, 6, 2, generator=torch.Generator().manual_seed(0))
    x[:] = x[0]
    best = velocities(Field.of(EmpiricalVelocity(point)), States(x, None), TIMES, batch_size=4)
    times = torch.tensor(TIMES)[:, None, None]
    torch.testing.assert_close(best, (point - x) / (1 - times))
    found = Comparison.of(3 * best, best)
    assert exponent(TIMES, found.closed).value == pytest.approx(2, abs=1e-5)
    torch.testing.assert_close(found.relative, torch.full((5,), 4.0, dtype=torch.float64))
    torch.testing.assert_close(found.network, 9 * found.closed, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.cosine, torch.ones(5, 6, dtype=torch.float64))
    assert math.isnan(exponent((0.1, 0.95), found.closed[:2]).value)


def test_states_on_the_way_are_those_of_the_flow_stopped_there():
    """Kills: states of the next or the last step, or of other seeds than the batch's."""
    field = Field.of(EmpiricalVelocity(torch.randn(7, 3, generator=torch.Generator().manual_seed(1))))
    sampler = Sampler(method="rk4", steps=10)
    states = states_of_samples(field, range(5), sampler=sampler, times=(0.0, 0.33, 0.8), batch_size=2)
    for x, t in zip(states.x[1:], (0.33, 0.8), strict=True):
        end = draw(field, range(5), sampler=Sampler(method="rk4", steps=80, end=t)).x
        torch.testing.assert_close(x, end, rtol=0, atol=1e-2)
    assert torch.equal(states.x[0], draw(field, range(5), sampler=sampler, keep_path=5).path[0])
    with pytest.raises(KineticError, match="need a fixed grid"):
        states_of_samples(field, [0], sampler=Sampler(method="dopri5"), times=(0.5,))


def test_paths_couplings_and_times_without_a_closed_form_are_refused():
    """Kills: an optimum of another path or pairing taken for that of the linear one."""
    field = Field.of(EmpiricalVelocity(torch.zeros(1, 2)))
    known = {"run": None, "home": Path(), "name": "x", "identity": {}}
    check_closed_form(Origin(field=field, **known))
    with pytest.raises(KineticError, match="linear path, and x is on vp"):
        check_closed_form(Origin(field=replace(field, path=path("vp")), **known))
    with pytest.raises(KineticError, match="independent noise, and x paired it: ot"):
        check_closed_form(Origin(field=field, coupling="ot", **known))
    for times in ((), (0.5, 0.5), (-0.1, 0.5), (0.5, 1.0)):
        with pytest.raises(KineticError, match=r"^times must rise and lie in 0 to"):
            checked_times(times)


@WARNINGS
def test_command_on_points_over_training(tiny, capsys):
    """Kills: kept checkpoints left out, the closed form of other images, the last network compared at every step."""
    run = trained(tiny(**merged(TOY, {"run": {"keep_every": 4}})))
    study(
        [
            "empirical",
            "made",
            "--num",
            "12",
            "--images",
            "10",
            "--steps",
            "5",
            "--times",
            "0.3,0.9,0.99",
            "--over-training",
        ]
    )
    assert "closed form" in capsys.readouterr().out
    rows = {row["of"]: row for row in table(run)}
    assert set(rows) == {"network's samples", "closed form's samples", "training images", "held-out images"}
    assert float(rows["training images"]["exponent_closed_form"]) < float(
        rows["held-out images"]["exponent_closed_form"]
    )
    steps = table(run, file="over_training")
    assert [int(row["step"]) for row in steps] == [4, 8]
    assert steps[0]["relative_distance_training_images"] != steps[1]["relative_distance_training_images"]
    over_t = [float(row["relative_distance"]) for row in table(run, file="over_t") if row["of"] == "training images"]
    assert float(steps[1]["relative_distance_training_images"]) == pytest.approx(sum(over_t) / 3)
    assert json.loads((run / "studies/empirical/study.json").read_text())["protocol"]["times"] == [0.3, 0.9, 0.99]
    study(["empirical", "made", "--empirical", "--num", "8", "--images", "6", "--steps", "5"])
    for row in table(run, "empirical-empirical", "over_t"):
        assert float(row["distance"]) == 0
        assert float(row["cosine"]) == pytest.approx(1)
    with pytest.raises(KineticError, match="--times takes numbers with commas between, got 'soon'"):
        study(["empirical", "made", "--times", "soon"])


@WARNINGS
def test_classes_ask_the_closed_form_of_their_images(tiny):
    """Kills: the closed form of all images beside a network that is told classes."""
    run = trained(tiny(network={"init_args": {"num_classes": 10}}, data={"init_args": {"num_train": 60}}))
    study(["empirical", "made", "--num", "10", "--images", "6", "--steps", "3", "--times", "0.05,0.99"])
    rows = table(run)
    assert len(rows) == 4
    assert not any(row.get("note") for row in rows)
    field = open_empirical("made", conditional=True).field
    ((x, numbers, labels),) = open_data(run, STRANGER).labelled(held_out=True, limit=6)
    start = torch.lerp(seeded_noise(numbers + NOISE, x.shape[1:]), x, 0.05)
    own = power(field(start, torch.full((6,), 0.05), labels)).mean()
    over_t = [row for row in table(run, file="over_t") if row["of"] == "held-out images"]
    assert float(over_t[0]["power_closed_form"]) == pytest.approx(float(own), rel=1e-4)
