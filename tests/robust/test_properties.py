"""Checkpoints, YAML, JSON and tables changed at random: every reader returns or refuses in a line, soon and cheaply."""

import copy
import csv
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kinetic.cli.train_options import check_config
from kinetic.data.opening import training_size
from kinetic.errors import KineticError
from kinetic.flow.sampling import draw
from kinetic.memorization.training_set import open_training_set
from kinetic.models.checkpoint import read_checkpoint, write_checkpoint
from kinetic.models.opening import open_checkpoint, open_empirical
from kinetic.models.schema import check_resumable
from kinetic.nn import MLP
from kinetic.report import write_report, write_sampling_report
from kinetic.samples.folder import read_record
from kinetic.samples.parts import Part, holds, read_part, write_part
from kinetic.samples.table import Column, SampleTable
from kinetic.store.plain import read_json, read_yaml
from kinetic.store.runs import find_run
from kinetic.store.settings import SavedConfig
from kinetic.store.tables import StepTable
from kinetic.training.loggers import MetricsCSV
from tests.conftest import TINY
from tests.robust.commands import within
from tests.robust.makers import limited
from tests.robust.test_data_properties import STEPS, damaged

EXAMPLES = int(os.environ.get("KINETIC_EXAMPLES", "60"))


def quick(share: float = 1) -> settings:
    return settings(
        max_examples=max(int(EXAMPLES * share), 1),
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


pytestmark = pytest.mark.filterwarnings("ignore")
CANARY = "EXECUTED"
MLP_ARGS = {"dim": 2, "width": 8, "depth": 1}


def outcome(read: Callable[[], Any]) -> Any:
    """What a reader gives, None where it refuses in one line; anything else that it raises fails the test."""
    try:
        return read()
    except (KineticError, OSError) as error:
        line = str(error)
    assert len(line.splitlines()) == 1
    assert len(line) < 2000
    return None


@pytest.fixture(autouse=True)
def nothing_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail where a file appears that only a command in the input would make."""
    monkeypatch.chdir(tmp_path)
    yield
    assert not list(tmp_path.rglob(f"{CANARY}*"))


# Values that stand in for any other: odd numbers, hostile names, deep and wide collections.
NUMBERS = [None, True, -1, 0, 10**30, 2**40, 1e308, float("nan"), float("inf")]
NAMES = ["", "x", "os.system", "kinetic.nn.UNet", "kinetic.data.Toy", f"pipe:touch {CANARY}", "a\nb", "\x00", "9" * 400]
CALL = {"class_path": "os.system", "init_args": {"command": f"touch {CANARY}"}}
ODD = st.sampled_from([*NUMBERS, *NAMES, [], [1], [[[[]]]], {}, CALL, {"a": {"b": 1}}])


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of everything within dictionaries and lists."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, one in inner for found in ((*at, key), *places(one, (*at, key)))]


def changed(value: Any, changes: list[tuple[float, str, Any]]) -> Any:
    """Replace, remove, or double entries at places somewhere in a nested value."""
    value = copy.deepcopy(value)
    for where, what, shared in changes:
        new = copy.deepcopy(shared)
        known = places(value)
        if not known:
            break
        *path, last = known[int(where * len(known))]
        place = value
        for key in path:
            place = place[key]
        if what == "remove":
            del place[last]
        elif what == "wrap":
            place[last] = [place[last]] if new else {"x": place[last]}
        elif what == "add" and isinstance(place, dict):
            place["x" if isinstance(new, dict | list) else new] = new
        else:
            place[last] = new
    return value


CHANGES = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.sampled_from(["replace", "remove", "wrap", "add"]), ODD),
    min_size=1,
    max_size=3,
)


def good_checkpoint() -> dict[str, Any]:
    net = MLP(**MLP_ARGS)
    step = {"total": {"ready": 3, "completed": 3}, "current": {"ready": 3, "completed": 3}}
    return {
        "state_dict": {f"{kind}{name}": v for kind in ("net.", "ema.network.") for name, v in net.state_dict().items()},
        "hyper_parameters": {
            "network": {"class_path": "kinetic.nn.MLP", "init_args": dict(MLP_ARGS)},
            "samples": {"num": 4, "measures": []},
            "path": "linear",
        },
        "global_step": 3,
        "epoch": 0,
        "kinetic": {"format": 1, "sample_shape": [2], "class_names": None},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}],
        "lr_schedulers": [{"last_epoch": 3}],
        "callbacks": {"Checkpoints": {"best": None}},
        "loops": {
            "fit_loop": {
                "epoch_progress": step,
                "epoch_loop.batch_progress": step,
                "epoch_loop.automatic_optimization.optim_progress": {"optimizer": {"step": step}},
            }
        },
    }


CHECKPOINT = good_checkpoint()


def follow(path: Path) -> None:
    """Open a checkpoint as `sample` does, and draw from it."""
    origin = open_checkpoint(path)
    draw(origin.field, [0], labels=0 if origin.field.num_classes else None)


def test_the_checkpoint_that_is_changed_is_a_good_one(tmp_path: Path) -> None:
    write_checkpoint(CHECKPOINT, tmp_path / "a.ckpt")
    follow(tmp_path / "a.ckpt")
    check_resumable(read_checkpoint(tmp_path / "a.ckpt"), "it")


@quick(2)
@given(changes=CHANGES)
def test_changed_checkpoints_are_followed_or_refused(changes: Any) -> None:
    with tempfile.TemporaryDirectory() as folder, limited():
        path = Path(folder) / "a.ckpt"
        write_checkpoint(changed(CHECKPOINT, changes), path)
        outcome(lambda: follow(path))
        outcome(lambda: check_resumable(read_checkpoint(path), "it"))


@quick(1)
@given(steps=STEPS)
def test_damaged_checkpoints_are_followed_or_refused(steps: Any) -> None:
    buffer = io.BytesIO()
    torch.save(CHECKPOINT, buffer)
    with tempfile.TemporaryDirectory() as folder, limited():
        path = Path(folder) / "a.ckpt"
        path.write_bytes(damaged(buffer.getvalue(), steps))
        outcome(lambda: follow(path))


CONFIG = yaml.safe_dump(
    TINY | {"data": {"class_path": "kinetic.data.Toy", "init_args": {"num_train": 20, "points": 50}}}
)
TEXTS = st.sampled_from(["&a [*a]", "*a", "&a", "!!python/object/apply:os.system", "? ", "<<: *a", "- " * 99, "{" * 99])


@st.composite
def yaml_texts(draw: st.DrawFn, good: str) -> bytes:
    """A good text with changed values, or with pieces of YAML put in, or damaged bytes."""
    text = good
    if draw(st.booleans()):
        text = yaml.safe_dump(changed(yaml.safe_load(good), draw(CHANGES)))
    if draw(st.booleans()):
        place = int(draw(st.floats(0, 1)) * len(text))
        text = text[:place] + draw(TEXTS) + text[place:]
    data = text.encode("utf-8", "surrogatepass")
    return damaged(data, draw(STEPS)) if draw(st.booleans()) else data


@quick(2)
@given(data=yaml_texts(CONFIG))
def test_changed_configurations_are_read_or_refused(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder, limited():
        run = Path(folder) / "run"
        run.mkdir()
        (run / "config.yaml").write_bytes(data)
        outcome(lambda: read_yaml(run / "config.yaml"))
        outcome(lambda: check_config(run / "config.yaml"))
        outcome(lambda: find_run(Path(folder), "run"))
        found = outcome(lambda: SavedConfig.read(run))
        if found is not None:
            assert found.memorization("threshold", 1) is not NotImplemented
            found.tau  # noqa: B018
        outcome(lambda: open_empirical(run))
        outcome(lambda: open_training_set(run))


RECORD = yaml.safe_dump(
    {"settings": {"checkpoint": "a", "samplers": {"samples": {"steps": 2}}}, "seeds": "0-3,9", "batch_size": 2}
)


@quick(2)
@given(data=yaml_texts(RECORD))
def test_changed_records_of_samples_are_read_or_refused(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder, limited():
        (Path(folder) / "sample.yaml").write_bytes(data)
        found = outcome(lambda: read_record(Path(folder)))
        assert found is None or (found["batch"] >= 1 and all(isinstance(seed, int) for seed in found["seeds"]))


@quick(1)
@given(changes=CHANGES, steps=st.none() | STEPS)
def test_changed_json_is_read_or_refused(changes: Any, steps: Any) -> None:
    good = {
        "step": 3,
        "epoch": 1,
        "f_mem": 0.1,
        "settings": {"samples": {"copied": 1, "total": 4}},
        "null": {"count": 3},
    }
    data = json.dumps(changed(good, changes)).encode()
    with tempfile.TemporaryDirectory() as folder, limited():
        path = Path(folder) / "onset.json"
        path.write_bytes(damaged(data, steps) if steps else data)
        outcome(lambda: read_json(path))


# Tables


def parquet(columns: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def rows(columns: dict[str, list[Any]]) -> bytes:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return buffer.getvalue().encode()


KPE = parquet({"step": [1, 1, 2, 2], "seed": [0, 1, 0, 1], "energy": [1.0, 2.0, 3.0, 4.0], "epoch": [0, 0, 1, 1]})
RATIOS = parquet({"step": [2, 2], "seed": [0, 1], "ratio": [0.1, 0.9], "copied": [1.0, 0.0]})
METRICS = rows(
    {"step": [1, 2], "train/loss": [0.5, 0.4], "memorization/f_mem": [0, 0.5], "memorization/rho_energy": [1, 0]}
)


@quick(1)
@given(steps=STEPS)
def test_damaged_tables_of_a_run_are_gone_on_with(steps: Any) -> None:
    with tempfile.TemporaryDirectory() as folder, limited():
        path = Path(folder) / "kpe.parquet"
        path.write_bytes(damaged(KPE, steps))
        table = StepTable(path, resume_step=1, columns=("seed", "energy"))
        table.write(5, {"seed": [0], "energy": [1.0], "epoch": [2]})
        assert 5 in pq.read_table(path).column("step").to_pylist()
        (Path(folder) / "metrics.csv").write_bytes(damaged(METRICS, steps))
        logger = MetricsCSV(Path(folder), resume_step=1)
        logger.log_metrics({"train/loss": 1.0}, step=5)
        logger.flush()
        (Path(folder) / "subset.txt").write_bytes(damaged(METRICS, steps))
        outcome(lambda: training_size(Path(folder)))


@quick(0.2)
@given(which=st.sampled_from(["kpe.parquet", "memorization.parquet", "metrics.csv", "config.yaml"]), steps=STEPS)
def test_a_report_is_made_of_damaged_files(which: str, steps: Any) -> None:
    files = {"kpe.parquet": KPE, "memorization.parquet": RATIOS, "metrics.csv": METRICS, "config.yaml": CONFIG.encode()}
    files[which] = damaged(files[which], steps)
    with tempfile.TemporaryDirectory() as folder, within():
        for name, data in files.items():
            (Path(folder) / name).write_bytes(data)
        assert write_report(folder).read_text().rstrip().endswith("</html>")


@quick(0.3)
@given(which=st.sampled_from(["energies.csv", "compare.csv", "signals.csv"]), steps=STEPS)
def test_a_report_of_samples_is_made_of_damaged_files(which: str, steps: Any) -> None:
    files = {
        "energies.csv": rows({"setting": ["off", "landing"], "seed": [0, 0], "energy": [1.0, 2.0]}),
        "compare.csv": rows({"setting": ["off", "landing"], "n": [1, 1], "energy": [1, 2], "f_mem": [0, 1]}),
        "signals.csv": rows({"setting": ["off"], "signal": ["energy"], "auroc": [0.5]}),
    }
    files[which] = damaged(files[which], steps)
    with tempfile.TemporaryDirectory() as folder, within():
        for name, data in files.items():
            (Path(folder) / name).write_bytes(data)
        (Path(folder) / "sample.yaml").write_text(RECORD)
        assert write_sampling_report(folder).read_text().rstrip().endswith("</html>")


@quick(2)
@given(steps=STEPS)
def test_damaged_parts_are_whole_or_refused(steps: Any) -> None:
    count = 3
    table = SampleTable(
        seeds=np.arange(count),
        labels=np.arange(count),
        finite=np.ones(count, bool),
        nfe=np.full(count, 2),
        columns={"energy": np.ones(count)},
        kinds={"energy": Column("x", 1)},
        power=np.ones((2, count), np.float32),
        times=np.array([0.0, 0.5]),
    )
    with tempfile.TemporaryDirectory() as folder, limited():
        path = Path(folder) / "a.npz"
        write_part(path, Part(table, np.zeros((count, 4, 4, 1), np.uint8), True))
        path.write_bytes(damaged(path.read_bytes(), steps))
        found = outcome(lambda: read_part(path))
        assert holds(path, range(count)) == (found is not None and found.table.seeds.tolist() == [0, 1, 2])
        if found is not None:
            assert len(found) == len(found.table.seeds) == len(found.table.columns["energy"])
