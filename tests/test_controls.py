"""What a setting has to beat: cleaned copies by brute force, samples divided by t, and honest verdicts."""

import csv
import math

import pytest
import torch

from kinetic.errors import KineticError
from kinetic.flow.empirical import EmpiricalVelocity
from kinetic.flow.field import Field
from kinetic.flow.paths import path
from kinetic.flow.sampling import Sampler, draw
from kinetic.memorization.cleaning import CLEAN, Cleaned, cleaned_set, cleaner
from kinetic.memorization.training_set import TrainingSet
from kinetic.metrics.reference import ReferenceIndex
from kinetic.metrics.statistics import wilson
from kinetic.models.opening import Origin
from kinetic.studies.compare import Figure, Row, rows_of, table_of, write_rows
from kinetic.studies.controls import divided_controls, stop_controls
from kinetic.studies.experiment import collect, draw_parts, experiment, predictor
from kinetic.studies.setting import Experiment, Setting
from kinetic.studies.verdicts import judged
from kinetic.tensors import seed_from, seeded_noise

IMAGES = seeded_noise(range(900, 912), (1, 4, 4)).clamp(-1, 1)
OTHERS = seeded_noise(range(800, 820), (1, 4, 4)).clamp(-1, 1)
X = torch.cat([IMAGES[:3] + 0.15 * seeded_noise(range(3), (1, 4, 4)), seeded_noise(range(5, 9), (1, 4, 4))])
CPU = {"accelerator": "cpu"}


def smooth(x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
    """A field that no two images are one under."""
    return torch.sin(3 * x) - x


def cleaned_by_hand(x: torch.Tensor) -> torch.Tensor:
    """Mean over four noises of x_t + 0.1 v(x_t, 0.9), an image and a noise at a time."""
    out = []
    for one in x:
        found = []
        for k in range(4):
            xt = 0.9 * one + 0.1 * seeded_noise([seed_from(0, k, CLEAN)], (1, 4, 4))[0]
            found.append(xt + 0.1 * smooth(xt, torch.tensor(0.9), None))
        out.append(torch.stack(found).mean(0))
    return torch.stack(out)


def the_set(images: torch.Tensor, *, flip: bool = False, threshold: float = 0.9) -> TrainingSet:
    return TrainingSet(ReferenceIndex.build(images, flip=flip), {}, threshold)


@pytest.mark.parametrize("flip", [False, True])
def test_cleaned_copies_are_those_of_a_search_by_hand(flip: bool) -> None:
    clean = cleaner(Field(smooth, shape=(1, 4, 4)))
    torch.testing.assert_close(clean(X), cleaned_by_hand(X), rtol=1e-4, atol=1e-5)
    twice = torch.cat([IMAGES, IMAGES[:1]])  # an image that occurs twice counts as one
    found = cleaned_set(the_set(twice, flip=flip), clean).measure(clean(X), torch.arange(len(X)))
    views = [IMAGES, IMAGES.flip(-1)] if flip else [IMAGES]
    distances = torch.stack([torch.cdist(cleaned_by_hand(X).flatten(1), cleaned_by_hand(v).flatten(1)) for v in views])
    d1, d2 = distances.amin(0).topk(2, largest=False).values.unbind(1)
    torch.testing.assert_close(found[:, 1], d1.double(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found[:, 2], d2.double(), rtol=1e-3, atol=1e-4)
    assert torch.equal(found[:, 6].bool(), d1 / d2 < 0.9)


def test_noise_hides_copies_but_not_after_cleaning() -> None:
    """A network that knows the images takes the noise off again."""
    noisy = IMAGES + 0.35 * seeded_noise(range(12), (1, 4, 4))
    own, numbers = the_set(IMAGES, threshold=1 / 3), torch.arange(12)
    clean = cleaner(Field.of(EmpiricalVelocity(IMAGES)))
    raw, after = own.measure(noisy, numbers), cleaned_set(own, clean).measure(clean(noisy), numbers)
    assert raw[:, 6].sum() < 6 < after[:, 6].sum()


def test_cleaners_that_cannot_be() -> None:
    net = EmpiricalVelocity(OTHERS)
    for field, words in (
        (Field(net, path=path("gvp")), "linear path, and this one is of gvp"),
        (Field(net, num_classes=3, null_label=False), "without classes"),
    ):
        with pytest.raises(KineticError, match=words):
            cleaner(field)
    with pytest.raises(KineticError, match="at least one noise"):
        cleaner(Field.of(net), noises=0)


@pytest.fixture
def origin(tmp_path) -> Origin:
    field = Field.of(EmpiricalVelocity(IMAGES))
    return Origin(field=field, run=None, home=tmp_path, name="twelve images", identity={"images": 12})


def test_settings_follow_fields_of_their_own_and_controls_are_derived(origin, tmp_path) -> None:
    other = Origin(field=Field.of(EmpiricalVelocity(OTHERS)), run=None, home=tmp_path, name="", identity={"images": 20})
    off = Sampler(steps=10)
    settings = {
        "off": Setting(sampler=off),
        "others": Setting(sampler=off, origin=other),
        **stop_controls(off, far=True),
    }
    job = Experiment(origin=origin, settings=settings, seeds=range(5), folder=tmp_path / "out", exact=True)
    assert job.identity()["fields"] == {"others": {"images": 20}}
    clean = cleaner(Field.of(EmpiricalVelocity(OTHERS)))
    own = the_set(IMAGES)
    found = collect(
        job,
        draw_parts(job, predictor(**CPU)),
        training_set=own,
        cleaned=Cleaned(clean, cleaned_set(own, clean)),
        derived=divided_controls(settings),
    )
    drawn = {name: draw(one.field, range(5), sampler=off) for name, one in (("off", origin), ("others", other))}
    for name, values in drawn.items():
        assert found[name].columns["energy"] == pytest.approx(values.energy.tolist(), rel=1e-4)
    stopped = draw(origin.field, range(5), sampler=settings["off to t = 0.85"].sampler)
    moved = (stopped.x / 0.85 - drawn["off"].x).flatten(1).norm(dim=1)
    assert found["off to t = 0.85, divided by t"].columns["moved"] == pytest.approx(moved.tolist(), rel=1e-4)
    cleaned = cleaned_set(own, clean).measure(clean(drawn["others"].x), torch.arange(5))
    assert found["others"].columns["ratio_cleaned"] == pytest.approx(cleaned[:, 3].tolist(), rel=1e-3)
    with pytest.raises(KineticError, match="others: its samples have shape and classes"):
        wrong = Origin(field=Field(lambda x, t, y: x, shape=(3,)), run=None, home=tmp_path, name="", identity={})
        experiment(
            origin, {"off": off, "others": Setting(sampler=off, origin=wrong)}, seeds=range(2), out=tmp_path / "no"
        )
    with pytest.raises(KineticError, match="images 20, now 21"):
        again = {
            **settings,
            "others": Setting(sampler=off, origin=Origin(**{**vars(other), "identity": {"images": 21}})),
        }
        experiment(origin, again, seeds=range(5), out=tmp_path / "out", **CPU)


def row(setting: str, copies: int, moved: float, *, cleaned: int | None = None, total: int = 800) -> Row:
    low, high = wilson(copies, total)
    more = {}
    if cleaned is not None:
        more["f_mem_cleaned"] = Figure(cleaned / total, *wilson(cleaned, total), share=True)
    return Row(setting, total, 1.0, 1.0, 0.5, copies / total, low, high, moved, more)


def test_verdicts() -> None:
    def said(*rows: Row) -> str:
        return judged([row("off", 480, 0.0), row("mine", 100, 1.0), *rows], ["control", "far"])[1].verdict

    assert said(row("control", 100, 1.0)).startswith("loses to 'control': F_mem 12.5 % (10.4 to 15.0 %) against 12.5 %")
    assert said(row("control", 60, 0.5)).startswith("loses to 'control'")
    assert said(row("control", 115, 1.0)).startswith("not told apart from 'control'")
    assert said(row("control", 200, 1.0)).startswith("fewer copies than the best control that moves samples as little")
    assert "as little, 'off'" in said(row("far", 0, 2.0))  # moves them farther
    rows = judged([row("off", 100, 0.0), row("mine", 100, 1.0), row("control", 0, 0.1)], ["control"])
    assert [bool(one.verdict) for one in rows] == [False, True, False]
    unknown = Row("mine", 8, 1.0, 1.0, 0.5, math.nan, math.nan, math.nan, 1.0)
    assert judged([row("off", 1, 0.0), unknown], [])[1].verdict == ""


def test_cleaned_copies_decide_where_they_are_known() -> None:
    rows = [row("off", 480, 0.0, cleaned=480), row("mine", 20, 1.0, cleaned=400), row("control", 300, 1.0, cleaned=300)]
    assert judged(rows, ["control"])[1].verdict.startswith("loses to 'control': F_mem cleaned 37.5 %")


def test_further_figures_of_a_row_reach_table_and_file(tmp_path) -> None:
    rows = [row("off", 4, 0.0), row("mine", 2, 1.0, cleaned=400)]
    rows[0] = Row(**{**vars(rows[0]), "more": {"FD": Figure(47.0, 45.1, 49.2)}, "verdict": "a, b"})
    write_rows(tmp_path / "compare.csv", rows)
    with open(tmp_path / "compare.csv", newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["FD"], first["FD_low"], first["FD_high"], first["verdict"]) == ("47", "45.1", "49.2", "a, b")
    assert (second["FD"], second["f_mem_cleaned"], second["verdict"]) == ("", "0.5", "")
    lines = table_of(rows).splitlines()
    assert lines[0].split()[-3:] == ["FD", "F_mem", "cleaned"]
    assert "47 (45.1 to 49.2)" in lines[1]
    assert lines[2].endswith("50 (46.54 to 53.46) %")
    assert rows_of({}) == []


def test_verdicts_look_at_quality_where_it_is_known() -> None:
    def one(name: str, f_mem: float, moved: float, fd: float) -> Row:
        return Row(name, 800, 40, 40, 0.4, f_mem, f_mem, f_mem + 0.01, moved, {"fd": Figure(fd)})

    rows = [one("off", 0.6, 0, 47), one("checkpoint", 0.0, 2.5, 51), one("good", 0.0, 3, 44), one("bad", 0.05, 1, 60)]
    good, bad = judged(rows, ["checkpoint"])[2:]
    assert good.verdict.endswith("no control has both no more copies and a smaller fd")
    assert "loses in fd to 'checkpoint'" in bad.verdict
    assert bad.verdict.endswith("51 against 60")
