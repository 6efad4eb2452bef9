"""The sampling engine from Python: settings and seeds in, tables out, no command line in between."""

import json
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

import kinetic.samples.copying
import kinetic.samples.drawing
from kinetic.flow.empirical import EmpiricalVelocity
from kinetic.flow.energy import STANDARD
from kinetic.flow.field import Field
from kinetic.flow.sampling import Sampler, draw
from kinetic.flow.shaping import KTS
from kinetic.flow.straightness import Straightness
from kinetic.memorization.detectors import Response
from kinetic.memorization.training_set import TrainingSet
from kinetic.models.opening import Origin
from kinetic.nn import UNet
from kinetic.samples.drawing import PartWriter, Plan
from kinetic.studies.experiment import collect, draw_parts, experiment, predictor
from kinetic.studies.setting import Experiment, Setting
from kinetic.tensors import seeded_noise

IMAGES = seeded_noise(range(900, 912), (1, 4, 4)).clamp(-1, 1)
SETTINGS = {"off": Sampler(steps=5), "soft": Sampler(steps=5, kts=KTS.preset("landing"))}
CPU = {"accelerator": "cpu"}


class Data:
    """Twelve training images, and twenty held out."""

    def reference(self):
        yield IMAGES, torch.arange(12), [f"image {i}" for i in range(12)]

    def held_out(self, limit):
        yield seeded_noise(range(20), (1, 4, 4))[:limit], torch.arange(20)[:limit], []


@pytest.fixture
def origin(tmp_path: Path) -> Origin:
    field = Field.of(EmpiricalVelocity(IMAGES))
    return Origin(field=field, run=None, home=tmp_path, name="twelve images", identity={"images": 12})


def test_tables_are_what_draw_gives(origin: Origin, tmp_path: Path) -> None:
    measures = (*STANDARD, Straightness())
    tables = experiment(
        origin, SETTINGS, seeds=range(7), out=tmp_path / "out", batch_size=3, measures=(*measures, Response()), **CPU
    )
    assert list(tables) == ["off", "soft"]
    for name, table in tables.items():
        drawn = draw(origin.field, range(7), sampler=SETTINGS[name], measures=measures)
        assert table.seeds.tolist() == list(range(7))
        for column, values in drawn.columns.items():
            np.testing.assert_allclose(table.columns[column], values, rtol=1e-5, atol=1e-5, err_msg=column)
        np.testing.assert_allclose(table.power, drawn.power, rtol=1e-4)
    whole = [draw(origin.field, range(7), sampler=sampler).x for sampler in SETTINGS.values()]
    moved = (whole[1] - whole[0]).flatten(1).norm(dim=1)
    np.testing.assert_allclose(tables["soft"].columns["moved"], moved, rtol=1e-4)
    assert tables["off"].columns["moved"].tolist() == [0] * 7
    assert np.isfinite(tables["off"].columns["response"]).all()
    stored = pq.read_table(tmp_path / "out/samples.parquet")
    assert stored.column("setting").to_pylist() == ["off"] * 7 + ["soft"] * 7
    assert stored.column("energy").to_numpy()[7:] == pytest.approx(tables["soft"].columns["energy"])
    assert json.loads(stored.schema.metadata[b"columns"])["drift"] == ["x", -1]


def test_one_sampler_and_a_training_set(origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinetic.samples.copying, "SEARCHED", 5 * 16 * 4)  # five samples at a time
    searched = []
    original = TrainingSet.measure
    monkeypatch.setattr(TrainingSet, "measure", lambda self, x, n: searched.append(len(x)) or original(self, x, n))
    training_set = TrainingSet.of(Data(), threshold=0.5)
    sampler = Sampler(method="heun2", steps=40)
    tables = experiment(
        origin, sampler, seeds=range(9), out=tmp_path / "out", batch_size=2, training_set=training_set, **CPU
    )
    assert searched == [6, 3]
    table = tables["samples"]
    assert table.columns["copied"].tolist() == [1] * 9  # it follows the training images themselves
    x = draw(origin.field, range(9), sampler=sampler).x
    nearest = torch.cdist(x.flatten(1), IMAGES.flatten(1)).argmin(1)
    assert table.columns["neighbor"].tolist() == nearest.tolist()


def test_it_goes_on_where_it_was_interrupted_and_reads_each_part_once(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"seeds": range(6), "batch_size": 2, **CPU}
    whole = experiment(origin, SETTINGS, out=tmp_path / "whole", **options)
    calls, write = [], kinetic.samples.drawing.write_part

    def cut(path: Path, part) -> None:
        calls.append(path)
        if len(calls) == 3:
            raise KeyboardInterrupt
        write(path, part)

    monkeypatch.setattr(kinetic.samples.drawing, "write_part", cut)
    with pytest.raises(Exception, match="the same command goes on"):
        experiment(origin, SETTINGS, out=tmp_path / "cut", **options)
    drawn, read = [], []
    original = kinetic.samples.drawing.draw
    monkeypatch.setattr(kinetic.samples.drawing, "write_part", write)
    monkeypatch.setattr(kinetic.samples.drawing, "draw", lambda *a, **k: drawn.append(a[1]) or original(*a, **k))
    read_part = kinetic.samples.drawing.read_part
    monkeypatch.setattr(kinetic.samples.drawing, "read_part", lambda path: read.append(path) or read_part(path))
    again = experiment(origin, SETTINGS, out=tmp_path / "cut", **options)
    assert len(drawn) == 6 - 2
    assert len(read) == len(set(read)) == 6
    for name, table in whole.items():
        assert {k: v.tolist() for k, v in table.columns.items()} == {
            k: v.tolist() for k, v in again[name].columns.items()
        }
    assert (tmp_path / "whole/samples.parquet").read_bytes() == (tmp_path / "cut/samples.parquet").read_bytes()


def test_memory_is_bounded_by_a_batch(origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many batches there are, no more than two are held while they are gone through."""
    import gc
    import weakref

    seen: list[weakref.ref] = []
    most, parts = [], Plan.parts

    def watched(self: Plan):
        for batch in parts(self):
            gc.collect()
            most.append(sum(part() is not None for part in seen))
            seen.extend(weakref.ref(part) for part in batch.values())
            yield batch
            del batch

    monkeypatch.setattr(Plan, "parts", watched)
    experiment(origin, SETTINGS, seeds=range(20), out=tmp_path / "out", batch_size=2, **CPU)
    assert len(most) == 10
    assert max(most) <= 2 * len(SETTINGS)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"seeds": []}, "nothing to draw"),
        ({"batch_size": 0}, "at least 1, got 0"),
        ({"precision": "8"}, "unknown precision '8'"),
        ({"labels": 3}, "unconditional"),
        ({"devices": 0}, "devices"),
        ({"accelerator": "abacus"}, "abacus"),
    ],
)
def test_bad_values_are_named_and_nothing_is_written(origin: Origin, tmp_path: Path, wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        experiment(origin, SETTINGS, **{"seeds": range(2), "out": tmp_path / "out", **CPU} | wrong)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="needs a network with classes"):
        experiment(origin, Sampler(guidance=2.0), seeds=range(2), out=tmp_path / "out")
    with pytest.raises(ValueError, match="at least one setting"):
        experiment(origin, {}, seeds=range(2), out=tmp_path / "out")


def test_a_batch_is_written_while_the_next_is_drawn(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn, write, original = [], kinetic.samples.drawing.write_part, kinetic.samples.drawing.draw
    second = threading.Event()

    def draws(*args, **options):
        drawn.append(args[1])
        if len(drawn) == 2:
            second.set()
        return original(*args, **options)

    def waits(path: Path, part) -> None:
        assert second.wait(60), "the second batch waits for the first to be written"
        write(path, part)

    monkeypatch.setattr(kinetic.samples.drawing, "draw", draws)
    monkeypatch.setattr(kinetic.samples.drawing, "write_part", waits)
    table = experiment(origin, SETTINGS["off"], seeds=range(6), out=tmp_path / "out", batch_size=2, **CPU)["samples"]
    assert table.seeds.tolist() == list(range(6))


def test_what_goes_wrong_in_writing_is_raised(origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, part) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(kinetic.samples.drawing, "write_part", full)
    with pytest.raises(OSError, match="no space left"):
        experiment(origin, SETTINGS["off"], seeds=range(2), out=tmp_path / "out", **CPU)


def test_compiled_networks_draw_the_same_and_the_record_says_so(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = UNet(
        image_size=4,
        in_channels=1,
        model_channels=32,
        channel_mult=(1,),
        attention_resolutions=(),
        num_head_channels=32,
    )
    compiled, compile_ = [], nn.Module.compile

    def eagerly(self: nn.Module) -> None:  # without the minute that the inductor takes
        compiled.append(self)
        compile_(self, backend="eager")

    monkeypatch.setattr(nn.Module, "compile", eagerly)
    named = replace(origin, field=Field.of(net))
    common = {"origin": named, "settings": {"a": Setting(sampler=Sampler(steps=2))}, "seeds": [0, 1]}
    tables = []
    for compiling in (False, True):
        job = Experiment(folder=tmp_path / str(compiling), compile=compiling, **common)
        tables.append(collect(job, draw_parts(job, predictor(accelerator="cpu", callbacks=[PartWriter()])))["a"])
        assert job.identity().get("compiled", False) is compiling
    assert compiled == [net]
    np.testing.assert_allclose(tables[0].columns["energy"], tables[1].columns["energy"], rtol=1e-5)
