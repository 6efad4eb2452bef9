"""What studies leave behind: tables with intervals and notes, pictures, one page, and the protocol beside it all."""

import csv
import json
import math

import pytest
from matplotlib.figure import Figure

from kinetic.errors import KineticError
from kinetic.metrics.statistics import Estimate
from kinetic.report.findings import Findings, Shown, Table, attempt, write_findings
from kinetic.text import duration

ROWS = [
    {"name": "a|b", "count": 1200, "share": Estimate(0.5, 0.25, 0.75), "value": 2.0},
    {"name": "c", "value": math.nan, "note": "no labels; name some"},
]


def test_tables_show_intervals_shares_and_notes():
    """Kills: an interval that is not scaled with its share, a missing cell shown as 0, a bar that breaks Markdown."""
    table = Table(rows=ROWS, shares=("share",))
    head, body = table.shown()
    assert head == ["name", "count", "share", "value", "note"]
    assert body == [
        ["a|b", "1,200", "50.0 (25.0 to 75.0) %", "2.000", "–"],
        ["c", "–", "–", "–", "no labels; name some"],
    ]
    assert "| a\\|b | 1,200 |" in table.markdown()
    assert table.text().splitlines()[-1] == "c: no labels; name some"
    columns = table.columns()
    assert columns["share_low"] == [0.25, None]
    assert list(columns) == ["name", "count", "share", "share_low", "share_high", "value", "note"]
    assert Table(rows=ROWS, quiet=("value",)).shown()[0] == ["name", "count", "share", "note"]
    assert Table(rows=[{"F_mem": 1, "last_f_mem": 2, "fall_in_F_mem": 3}]).shown()[0] == [
        "F_mem",
        "last F_mem",
        "fall in F_mem",
    ]


def test_a_row_that_fails_says_why_and_the_others_survive():
    def fails():
        raise KineticError("too few\nsamples")

    assert attempt({"x": 1}, fails) == {"x": 1, "note": "too few samples"}
    assert attempt({"x": 1}, lambda: {"y": 2}) == {"x": 1, "y": 2}
    with pytest.raises(ZeroDivisionError):
        attempt({}, lambda: {"y": 1 / 0})


def test_everything_is_written_with_its_protocol(tmp_path):
    """Kills: numbers without their protocol, NaN in JSON, text of a run that becomes HTML."""
    figure = Figure()
    figure.subplots().plot([0, 1])
    found = Findings(
        title="Of <b>this</b>",
        says=["It is so."],
        table=Table(rows=ROWS),
        more={"second": Table(rows=[{"t": 0.5}])},
        protocol={"seeds": "0-9", "sampler": {"steps": 4}},
        pictures={"line": Shown(figure=figure, alt="a line")},
    )
    page = write_findings(tmp_path / "there", found)
    names = {path.name for path in page.parent.iterdir()}
    assert names == {"table.csv", "second.csv", "table.md", "line.png", "study.json", "report.html"}
    with open(page.parent / "second.csv", newline="") as file:
        assert list(csv.DictReader(file)) == [{"t": "0.5", "protocol_seeds": "0-9", "protocol_sampler": '{"steps": 4}'}]
    plain = json.loads((page.parent / "study.json").read_text())
    assert plain["table"]["value"] == [2.0, None]
    assert plain["protocol"]["sampler"]["steps"] == 4
    text = page.read_text()
    assert "&lt;b&gt;" in text
    assert "<svg" in text
    assert "seeds: 0-9" in (page.parent / "table.md").read_text()


@pytest.mark.parametrize(
    ("seconds", "text"), [(2.6, "3 s"), (59.9, "1 min 0 s"), (125, "2 min 5 s"), (4800, "1 h 20 min")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text
