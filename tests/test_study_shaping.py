"""Studies of shaping: grids beside their controls, and the shaping that is tuned."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml

from kinetic.cli.sample import sample
from kinetic.cli.study import study
from kinetic.cli.tune import tune
from kinetic.errors import KineticError
from kinetic.flow.sampling import Sampler
from kinetic.flow.shaping import KTS
from kinetic.studies.compare import Figure, Row
from kinetic.studies.grids import OFF, Group, groups_of, shaping_name
from kinetic.studies.kts import Shaped, axis_of, fall
from kinetic.studies.tune import Goal, Score, noise_levels, noise_name, noises, shapings, stops
from kinetic.studies.tune_findings import BETTER, SAME, WORSE, Tuned
from kinetic.studies.tuned import tuned_shaping
from tests.conftest import copied, csv_rows, run_once
from tests.test_sample_command import refused

CHANGES = {
    "run": {"keep_every": 2},
    "data": {"init_args": {"num_train": 20, "num_val": 100}},
    "trainer": {"max_steps": 4, "val_check_interval": 4},
    "model": {"samples": {"num": 0}},
}
QUICK = ["--accelerator", "cpu", "--steps", "10"]
BASE = Sampler(steps=10, kts=KTS.preset("balanced"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return run_once(tmp_path_factory, "shaping", CHANGES)


@pytest.fixture
def run(trained, workdir):
    return copied(trained, workdir)


def test_grids_change_one_axis_at_a_time_and_give_every_solver_its_own_unshaped_flow():
    """Kills: combinations where single changes are meant, an `off` of another solver, a base that is missing."""
    axes = {"alpha": [0.0, 0.02], "tau": [0.4], "method": ["heun2"], "steps": [10, 20]}
    first, heun, fine = groups_of(BASE, axes)
    assert list(first.settings) == [OFF, "α=0.01 β=0.01", "α=0 β=0.01", "α=0.02 β=0.01", "α=0.01 β=0.01 τ=0.4"]
    assert [list(group.settings) for group in (heun, fine)] == [[OFF, "α=0.01 β=0.01"]] * 2
    assert heun.settings[OFF].method == "heun2"
    assert fine.settings[OFF] == replace(BASE, steps=20, kts=KTS())
    full = groups_of(BASE, {"alpha": [0.0, 0.02], "beta": [0.0, 0.02]}, full=True)
    assert sorted(full[0].settings) == sorted(
        [OFF, *(shaping_name(KTS(alpha=a, beta=b)) for a, b in [(0.01, 0.01), (0, 0.02), (0.02, 0), (0.02, 0.02)])]
    )
    with pytest.raises(KineticError, match=r"beta=0\.06 would reverse the motion"):
        groups_of(BASE, {"beta": [0.06]})
    with pytest.raises(KineticError, match="no axis 'gamma'"):
        groups_of(BASE, {"gamma": [1]})


def test_study_of_shaping_stands_beside_its_controls(run, capsys):
    """The closed-form field copies everything. Kills: falls that are not paired, noise of another size."""
    args = ["kts", "run", "--empirical", "--num", "24", "--try-beta", "0.02,0.05", "--try-tau", "0.3", *QUICK]
    study(args)
    folder = run / "studies/kts-empirical"
    table = {row["setting"]: row for row in csv_rows(folder / "table.csv")}
    assert list(table) == [OFF, "α=0.01 β=0.01", "α=0.01 β=0.02", "α=0.01 β=0.05", "α=0.01 β=0.01 τ=0.3"]
    assert float(table[OFF]["F_mem"]) == 1
    controls = {row["control"]: row for row in csv_rows(folder / "controls.csv")}
    for name, row in table.items():
        if name != OFF:
            noise = controls[f"off, noise as {name}"]
            assert float(noise["residual"]) == pytest.approx(float(row["residual"]), rel=1e-6)
            assert float(row["fall_in_F_mem"]) == pytest.approx(1 - float(row["F_mem"]))
            assert float(row["fall_by_equal_noise"]) == pytest.approx(1 - float(noise["F_mem"]))
            more = float(row["fall_in_F_mem"]) - float(row["fall_by_equal_noise"])
            assert float(row["more_than_noise"]) == pytest.approx(more, abs=1e-9)
            assert row["protocol_seeds"] == "0-23"
    assert "off to t = 0.98, divided by t" in controls
    said = capsys.readouterr()
    assert "The paper has" in said.out
    assert "evaluations of the network: about" in said.err
    assert {"axes.png", "pareto.png", "report.html", "table.md"} <= {path.name for path in folder.iterdir()}
    study(args)
    assert "already" in capsys.readouterr().err


def test_study_of_shaping_says_what_it_cannot_do(run, capsys):
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("num_train: 20", "num_train: 21"))
    study(["kts", "run", "--num", "8", "--try-alpha", "0.02", *QUICK])
    said = capsys.readouterr().out
    assert "F_mem is left out: the data set is no longer the one" in said
    assert "Copies were not looked for" in said
    for more, why in (
        (["--kts", "off"], "nothing to shape"),
        (["--try-beta", "0.01,x"], "--try-beta takes values separated by commas"),
        (["--try-beta", "0.2"], "would reverse the motion"),
        (["--num", "0"], "--num"),
    ):
        with pytest.raises(KineticError, match=why):
            study(["kts", "run", *more, *QUICK])


def test_axes_hold_everything_else_fixed():
    group = groups_of(BASE, {"alpha": [0.0, 0.02], "tau": [0.4]})[0]
    made = [
        Row(name, 4, 1, 1, 0.5, 0.5, 0.1, 0.9, 0.0)
        for name in (*group.settings, *(f"off, noise as {n}" for n in group.settings))
    ]
    found = Shaped(group=group, rows=made, tables={})
    assert [point.value for point in axis_of(found, "alpha", BASE)] == [0, 0.01, 0.02]
    assert [point.value for point in axis_of(found, "tau", BASE)] == [0.4, 0.6]
    assert [point.value for point in axis_of(found, "beta", BASE)] == [0.01]


def test_candidates_never_reverse_the_motion_and_hold_the_presets():
    """Kills: a β beyond the largest, candidates that depend on chance, stops beyond the end."""
    found = shapings(BASE, 40)
    assert len(found) == 40
    assert found.keys() == shapings(BASE, 40).keys()
    assert {"α=0.01 β=0.01", "α=0.02 β=0", "α=0 β=0.02"} <= found.keys()
    times = torch.linspace(0, 1, 101)
    assert all(float(setting.sampler.kts.gain(times).min()) >= 0 for setting in found.values())
    assert {setting.sampler.kts.landing for setting in found.values()} == {"linear", "constant", "exponential"}
    ends = [setting.sampler.end for setting in stops(BASE, 6).values()]
    assert ends == sorted(ends, reverse=True)
    assert 0.75 <= min(ends) < max(ends) < 1


def test_goals_put_the_bound_first():
    """Kills: the fewest copies at any loss of quality; the best quality at any F_mem."""
    off = Score(0.5, 10.0)
    scores = {"good": Score(0.2, 10.4), "lossy": Score(0.0, 11.0), "worse": Score(0.3, 9.0)}
    order = sorted(scores, key=lambda name: Goal(tolerance=0.05).key(scores[name], off))
    assert order == ["good", "worse", "lossy"]
    assert sorted(scores, key=lambda name: Goal(kind="quality", f_mem=0.25).key(scores[name], off)) == [
        "good",
        "lossy",
        "worse",
    ]


def shaped(f_mem, copied, fd):
    """Rows of `off`, a tuned setting and a control, with F_mem, who is a copy, and Fréchet distances."""
    names = [OFF, "tuned", "control"]
    group = Group(name="", settings={name: BASE for name in names[:2]})
    made = [
        Row(name, 100, 1, 1, 0.5, f, f, f, 0.0, {"fd": Figure(d)}) for name, f, d in zip(names, f_mem, fd, strict=True)
    ]

    class Table:
        def __init__(self, copied):
            self.columns = {"copied": np.asarray(copied, float)}

    tables = {name: Table(flags) for name, flags in zip(names, copied, strict=True)}
    return Shaped(group=group, rows=made, tables=tables)


def test_a_tuned_shaping_wins_only_where_it_is_certain():
    """Kills: a win on chance, a control that breaks the bound and counts, the wrong sign of the difference."""
    many, few, none = [1] * 60 + [0] * 40, [1] * 20 + [0] * 80, [0] * 100
    for theirs, fd, expected in (
        (many, 10.0, BETTER),
        (few, 10.0, SAME),
        (none, 10.0, WORSE),
        (none, 12.0, BETTER),  # loses too much quality
    ):
        found = shaped((0.6, 0.2, np.mean(theirs)), (many, few, theirs), (10.0, 10.2, fd))
        tuned = Tuned(name="tuned", goal=Goal(), found=found)
        assert tuned.against("control") == expected
        assert tuned.against(OFF) == BETTER
        assert tuned.beats_controls == (expected == BETTER)
    assert fall(found.tables, OFF, "tuned").value == pytest.approx(0.4)
    lossy = Tuned(name="tuned", goal=Goal(), found=shaped((0.6, 0.0, 0.6), (many, none, many), (10.0, 11.0, 10.0)))
    assert lossy.against(OFF) == WORSE
    assert not lossy.beats_controls


def test_tuning_is_judged_on_other_seeds_and_kept_for_sampling(run, capsys):
    """Kills: a report on the seeds of the search, a search that outspends its budget, a shaping that is not used."""
    tune(["run", "--num", "40", "--budget", "9000", *QUICK])
    folder = run / "studies/tune"
    record = json.loads((folder / "study.json").read_text())
    drawn = [yaml.safe_load(path.read_text())["seeds"] for path in folder.rglob("sample.yaml")]
    assert sorted(drawn)[0] == "0-39"
    assert all(int(seeds.split("-")[0]) >= 40 for seeds in drawn if seeds != "0-39")
    assert max(record["protocol"]["spent"].values()) < 1.5 * 9000
    kts, about = tuned_shaping(run)
    assert about["step"] == 4
    assert shaping_name(kts) == record["table"]["setting"][0]
    names = record["table"]["setting"]
    assert any(name.startswith("checkpoint of step") for name in names)
    assert any(name.startswith("off, noise of") for name in names)
    said = capsys.readouterr().out
    assert "--kts tuned" in said
    assert ("does not beat the controls" in said) != about["beats_controls"]
    sample(["run", "--kts", "tuned", "--num", "3", "--accelerator", "cpu", "--steps", "5"])
    assert "was tuned for steps 10" in capsys.readouterr().err
    used = yaml.safe_load((run / "sampling/tuned/sample.yaml").read_text())["settings"]["samplers"]["samples"]
    assert Sampler.from_dict(used).kts == kts
    assert "--alpha and --kts tuned do not go together" in refused(
        capsys, "run", "--kts", "tuned", "--alpha", "0.1", *QUICK
    )
    (run / "tuned.json").write_text('{"kts": {"gamma": 1}}')
    assert "tuned.json is damaged" in refused(capsys, "run", "--kts", "tuned", *QUICK)
    (run / "tuned.json").unlink()
    assert "has no tuned.json; tune it with" in refused(capsys, "run", "--kts", "tuned", *QUICK)


def test_tuning_refuses_what_cannot_be(run):
    for more, why in (
        (["--budget", "100"], "--budget 100 is too small: 7,680 evaluations"),
        (["--goal", "speed"], "--goal is copies or quality"),
        (["--f-mem", "2"], "a share in"),
    ):
        with pytest.raises(KineticError, match=why):
            tune(["run", *more, *QUICK])


def test_noise_as_a_control_moves_every_sample_as_far():
    x = torch.zeros(3, 1, 4, 4)
    (name, derive), *_ = noises([0.5]).items()
    moved, distance = derive({OFF: x}, {}, [1, 2, 3])
    assert name == noise_name(0.5)
    torch.testing.assert_close(moved.flatten(1).norm(dim=1), torch.full((3,), 0.5))
    assert distance.tolist() == [0.5] * 3

    class Three:
        def first(self, count):
            return torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]])[:count]

    assert noise_levels(Three())[0] == pytest.approx(0.02 * 10 / 3)
