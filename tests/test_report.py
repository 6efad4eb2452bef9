"""Reports: every section from its files, honest about what is missing, safe, and at home in a browser offline."""

import csv
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kinetic.plots import compare_grid, energies_figure, gallery, image_grid, save
from kinetic.report import write_report, write_sampling_report
from kinetic.report.sources import Metrics, Unavailable, read_picture, read_rows
from kinetic.store.settings import SavedConfig

STEPS = (100, 200, 400, 700, 1000, 1500, 2000, 3000)
F_MEM = (0.0, 0.01, 0.03, 0.15, 0.27, 0.38, 0.51, 0.59)
SECTIONS = [
    "summary",
    "loss",
    "memorization",
    "balance",
    "energies",
    "power",
    "scatter",
    "signals",
    "galleries",
    "samples",
    "validations",
    "settings",
]


def _write_tables(folder: Path, steps: tuple[int, ...], count: int) -> None:
    rng = np.random.default_rng(0)
    kpe, near, profiles = [], [], []
    t = np.linspace(0, 0.98, 25)
    for step, f_mem in zip(steps, F_MEM, strict=False):
        energy = rng.normal(40 + 12 * f_mem, 6, count)
        ratio = np.where(rng.random(count) < f_mem, rng.uniform(0.02, 0.33, count), rng.uniform(0.34, 1, count))
        for seed in range(count):
            row = {"step": step, "epoch": step // 8, "seed": seed, "label": -1, "energy": energy[seed]}
            row |= {"field_energy": energy[seed], "early": 0.55 * energy[seed], "late": 0.45 * energy[seed]}
            row |= {"late_fraction": 0.45, "final_power": 60.0, "drift": 0.4, "per_dim_energy": energy[seed] / 64}
            kpe.append(row)
            place = {"step": step, "epoch": step // 8, "seed": seed, "d1": ratio[seed], "d2": 1.0}
            near.append(place | {"ratio": ratio[seed], "copied": bool(ratio[seed] < 1 / 3), "neighbor": 3})
        mean = 35 + 30 * t**3 + 20 * f_mem
        for i, time in enumerate(t):
            values = {"t": time, "mean": mean[i], "q25": 0.9 * mean[i], "q75": 1.1 * mean[i]}
            profiles.append({"step": step, "epoch": step // 8} | values)
    balance = []
    for step, f_mem in zip(steps, F_MEM, strict=False):
        whole = {"step": step, "epoch": step // 8, "label": None, "conditional": 55.0, "gain": None}
        for t in (None, 0.25, 0.75):
            excess = 30 * f_mem * (0.5 if t == 0.25 else 1)
            row = {"t": t, "power": 40 + excess / 2, "held_out": 40 - excess / 2, "train": 40 + excess / 2}
            row |= {"excess": excess, "excess_low": excess - 1, "excess_high": excess + 1}
            balance.append(whole | row | ({} if t is None else {"gain": 1 - f_mem}))
    (folder / "balance.json").write_text(json.dumps({"step": 400, "value": 0.9, "low": -0.1, "high": 1.9}))
    for name, rows in (("kpe", kpe), ("memorization", near), ("profiles", profiles), ("balance", balance)):
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")


def _write_metrics(folder: Path, steps: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    rows = [
        {"step": s, "epoch": s // 8, "train/loss": 0.3 + np.exp(-s / 400) + 0.03 * rng.normal()}
        for s in range(10, steps[-1] + 1, 10)
    ]
    for step, f_mem in zip(steps, F_MEM, strict=False):
        row = {"step": step, "epoch": step // 8, "val/loss": 0.4 + np.exp(-step / 400), "memorization/f_mem": f_mem}
        row |= {"memorization/low": max(0, f_mem - 0.05), "memorization/high": f_mem + 0.06}
        row |= {"memorization/null": 0.0, "memorization/null_high": 0.015, "memorization/rho_energy": -0.1}
        row |= {"memorization/auroc_energy": 0.5, "memorization/auroc_drift": 0.71}
        rows.append(row)
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)


def make_run(folder: Path, *, steps: tuple[int, ...] = STEPS, count: int = 60) -> Path:
    """Write a plausible run folder: a digits run whose onset of copying is at step 700."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_tables(folder, steps, count)
    _write_metrics(folder, steps)
    rng = np.random.default_rng(2)
    for step in steps:
        images = np.tanh(rng.normal(size=(16, 1, 8, 8)) * 2)
        save(image_grid(images, [f"{e:.1f}" for e in range(16)]), folder / "samples" / f"step_{step:07d}.png")
        pairs = gallery(images[:8], images[8:], [f"seed {i}\nenergy {40 + i}" for i in range(8)])
        save(pairs, folder / "galleries" / f"step_{step:07d}.png")
    onset = {"step": 700, "epoch": 87, "f_mem": 0.15, "low": 0.1, "high": 0.21, "null_f_mem": 0.0, "null_high": 0.015}
    onset["checkpoint"] = "checkpoints/before-onset.ckpt"  # type: ignore[assignment]
    (folder / "onset.json").write_text(json.dumps(onset))
    (folder / "config.yaml").write_text("seed: 0\nmodel:\n  sampler:\n    kts: {tau: 0.6}\n  lr: 0.001\n")
    return folder


def make_samples(folder: Path, names: tuple[str, ...] = ()) -> Path:
    """Write a folder of samples, of one setting or, with `names`, of a comparison."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(3)
    lines = [
        ("setting," if names else "") + "seed,label,energy,field_energy,early,late,late_fraction,final_power,drift,nfe"
    ]
    for name in names or ("",):
        for seed in range(40):
            energy = rng.normal(45, 5)
            numbers = (energy, energy * 1.02, energy * 0.6, energy * 0.4, 0.4, 60.0, 0.3)
            lines.append((f"{name}," if names else "") + f"{seed},,{','.join(f'{x:.5f}' for x in numbers)},100")
    (folder / "energies.csv").write_text("\n".join(lines) + "\n")
    images = rng.uniform(-1, 1, (12, 1, 8, 8))
    save(image_grid(images), folder / "grid.png")
    (folder / "sample.yaml").write_text("steps: 100\nkts: balanced\n")
    if names:
        head = "setting,n,energy,field_energy,late_fraction,f_mem,low,high,residual\n"
        rows = "".join(
            f"{name},40,{45 - i},{46 - i},0.4,{0.6 - i / 10},0.45,0.7,{i / 10}\n" for i, name in enumerate(names)
        )
        (folder / "compare.csv").write_text(head + rows)
        save(compare_grid({name: images[:6] for name in names}, seeds=range(6)), folder / "compare.png")
    else:
        t = np.linspace(0, 0.99, 50)
        power = 30 + 20 * t[:, None] ** 3 + rng.normal(0, 2, (50, 40))
        save(energies_figure(rng.normal(45, 5, 40), rng.normal(46, 5, 40), t, power), folder / "energies.png")
    return folder


class Page(HTMLParser):
    """What a browser would load and show: open tags, addresses, ids, headings, missing notes, alt texts."""

    VOID = ("meta", "link", "img", "br", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.roles: list[dict[str, str | None]] = []
        self.feed(text)
        self.close()
        assert self.open == [], f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.addresses += [value or "" for key, value in attrs if key in ("src", "href", "srcset", "data", "action")]
        self.ids += [value or "" for key, value in attrs if key == "id"]
        if tag == "img":
            self.images.append(named)
        if named.get("role") == "img":
            self.roles.append(named)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag


def part(text: str, anchor: str) -> str:
    """The HTML of one section."""
    return re.search(rf'<section id="{anchor}".*?</section>', text, re.DOTALL)[0]  # type: ignore[index]


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = make_run(tmp_path_factory.mktemp("runs") / "digits")
    target = write_report(folder)
    assert target == folder / "report.html"
    assert not list(folder.glob(".report*"))
    return target.read_text()


def test_full_run_shows_every_section_and_misses_none(full: str) -> None:
    assert re.findall(r'<section id="([a-z-]+)"', full) == SECTIONS
    assert "Left out:" not in full
    for name in ("loss", "memorization", "energies", "power", "scatter"):
        assert "<svg" in part(full, name), name
    assert len(full) < 5_000_000


def test_page_is_well_formed_and_loads_nothing(full: str) -> None:
    page = Page(full)
    assert page.addresses
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert "@import" not in full
    assert not re.search(r"url\((?!#)", full)
    assert len(page.ids) == len(set(page.ids))
    targets = {address[1:] for address in page.addresses if address.startswith("#") and len(address) > 1}
    assert targets <= set(page.ids)


def test_every_picture_has_a_text_for_those_who_do_not_see_it(full: str) -> None:
    page = Page(full)
    assert len(page.roles) == 7
    assert all(role["aria-label"] for role in page.roles)
    assert len(page.images) >= 8
    assert all(image["alt"] for image in page.images)


def test_figures_follow_the_theme(full: str) -> None:
    svg = "".join(re.findall(r"<svg.*?</svg>", full, re.DOTALL))
    assert "var(--plot-0)" in svg
    assert not set(re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", svg))
    assert "prefers-color-scheme:dark" in full.replace(" ", "")


def test_summary_explains_the_onset_in_words(full: str) -> None:
    words = part(full, "summary")
    assert "starts to copy its training images at step 700 (epoch 87)" in words
    assert "15.0 %" in words
    assert "10.0 % to 21.0 %" in words
    assert "before-onset.ckpt" in words
    assert "--kts balanced" in words
    assert "By the last validation, step 3,000, F_mem is 59.0 %" in words
    assert re.search(r"mean energy rose from [\d.]+ at step 100 to [\d.]+ at step 3,000", words)


def test_validations_table_holds_the_numbers_and_marks_the_onset(full: str) -> None:
    rows = re.findall(r"<tr[^>]*>.*?</tr>", part(full, "validations"), re.DOTALL)
    assert len(rows) == 1 + len(STEPS)
    cells = [re.sub("<[^>]+>", "|", row) for row in rows]
    assert 'class="mark"' in rows[4]
    assert "700" in cells[4]
    assert "15.0 %" in cells[4]
    assert "10.0 % to 21.0 %" in cells[4]
    assert sum('class="mark"' in row for row in rows) == 1


def test_signals_table_has_a_dash_where_one_is_missing(full: str) -> None:
    rows = re.findall(r'<tr><th scope="row">(.*?)</th><td>(.*?)</td><td>(.*?)</td></tr>', part(full, "signals"))
    assert rows == [("energy", "-0.10", "0.50"), ("drift", "–", "0.71")]


@pytest.mark.parametrize(
    ("gone", "sections"),
    [
        ("metrics.csv", {"loss", "signals"}),
        ("kpe.parquet", {"energies", "scatter", "validations"}),
        ("profiles.parquet", {"power"}),
        ("memorization.parquet", {"scatter"}),
        ("config.yaml", {"settings"}),
        ("galleries", {"galleries"}),
        ("samples", {"samples"}),
    ],
)
def test_a_missing_file_leaves_out_its_sections_and_says_so(tmp_path: Path, gone: str, sections: set[str]) -> None:
    folder = make_run(tmp_path / "run", steps=(100, 200), count=8)
    path = folder / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    text = write_report(folder).read_text()
    Page(text)
    for name in SECTIONS:
        assert ("Left out:" in part(text, name)) == (name in sections), name
    assert all(gone in part(text, name) for name in sections)


def test_an_empty_folder_gives_a_page_of_reasons(tmp_path: Path) -> None:
    text = write_report(tmp_path).read_text()
    Page(text)
    assert text.count("Left out:") == len(SECTIONS)


def test_no_run_folder_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere"):
        write_report(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="nowhere"):
        write_sampling_report(tmp_path / "nowhere")


def test_no_onset_and_no_reference_are_told_apart(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", steps=(100, 200), count=8)
    (folder / "onset.json").write_text('{"step": null}')
    text = write_report(folder).read_text()
    assert "No sign of copying up to step 200" in part(text, "summary")
    assert "onset of copying" not in text
    (folder / "onset.json").unlink()
    text = write_report(folder).read_text()
    assert "onset.json is not in this folder" in part(text, "summary")
    assert "No sign of copying" not in text


def test_names_and_settings_are_escaped(tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)>&\"'"
    folder = make_run(tmp_path / evil.replace("/", ""), steps=(100,), count=6)
    (folder / "config.yaml").write_text(f"a: </pre><script>alert(2)</script>\nb: {evil}\n")
    (folder / "onset.json").write_text(json.dumps({"step": 100, "epoch": 1, "checkpoint": "<b>`x`</b>"}))
    rows = (folder / "metrics.csv").read_text().replace("memorization/rho_energy", "memorization/rho_<script>")
    (folder / "metrics.csv").write_text(rows)
    text = write_report(folder).read_text()
    page = Page(text)
    assert text.count("<script") == 1
    assert "alert(2)" in text
    assert not any(image.get("src") == "x" for image in page.images)
    assert "&lt;img src=x onerror=alert(1)&gt;&amp;&quot;&#x27;" in text
    assert "<b>" not in text


def test_rows_that_are_not_finite_are_counted_and_do_no_harm(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", steps=(100, 200), count=8)
    table = pq.read_table(folder / "kpe.parquet").to_pylist()
    for row in table:
        if row["step"] == 100 or row["seed"] == 0:
            row |= {"energy": float("nan"), "late_fraction": float("nan")}
    pq.write_table(pa.Table.from_pylist(table), folder / "kpe.parquet")
    text = write_report(folder).read_text()
    Page(text)
    rows = re.findall(r"<tr.*?</tr>", part(text, "validations"), re.DOTALL)
    assert re.sub(r"<[^>]+>", " ", rows[1]).split()[:5] == ["100", "12", "8", "8", "–"]
    assert re.sub(r"<[^>]+>", " ", rows[2]).split()[:4] == ["200", "25", "8", "1"]


@pytest.mark.parametrize("name", ["kpe", "memorization", "profiles"])
@pytest.mark.parametrize("fault", ["empty", "cut"])
def test_empty_and_damaged_tables_are_named(tmp_path: Path, name: str, fault: str) -> None:
    folder = make_run(tmp_path / "run", steps=(100,), count=6)
    path = folder / f"{name}.parquet"
    if fault == "empty":
        pq.write_table(pq.read_table(path).slice(0, 0), path)
    else:
        path.write_bytes(path.read_bytes()[:200])
    text = write_report(folder).read_text()
    Page(text)
    said = "has no rows yet" if fault == "empty" else "could not be read"
    assert f"{name}.parquet {said}" in text


def test_one_validation_of_one_sample(tmp_path: Path) -> None:
    text = write_report(make_run(tmp_path / "run", steps=(100,), count=1)).read_text()
    Page(text)
    assert "Left out:" not in text
    assert "the only validation so far" in text


def test_a_last_line_cut_short_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,train/loss,val/loss\n1,0.5,\n2,,0.25\n2,0.4,\n3,0.3")
    metrics = Metrics(read_rows(path, ("step",)))
    assert metrics.series("train/loss") == {1: 0.5, 2: 0.4}
    assert metrics.series("val/loss") == {2: 0.25}
    assert metrics.last("val/loss") == 0.25


def test_of_a_step_logged_twice_the_later_counts() -> None:
    rows = [{"step": "5", "lr": "1"}, {"step": "3", "lr": "2"}, {"step": "5", "lr": "7"}, {"step": "x", "lr": "9"}]
    assert Metrics(rows).series("lr") == {3: 2.0, 5: 7.0}


def test_settings_are_read_at_their_own_place() -> None:
    text = """
    other: {tau: 0.1, threshold: 0.9}
    model: {sampler: {kts: {tau: 0.4}}}
    trainer:
      callbacks:
        - {class_path: mine.Threshold, init_args: {threshold: 0.8}}
        - {class_path: kinetic.callbacks.memorization.MemorizationCallback, init_args: {threshold: 0.5}}
    """
    found = SavedConfig.parse(text)
    assert found.tau == 0.4
    assert found.memorization("threshold") == 0.5
    assert found.memorization("null_samples", 7) == 7
    for damaged in (
        "",
        "[1, 2]",
        "model: 3\ntrainer: {callbacks: {a: 1}}",
        "trainer: {callbacks: [3, {class_path: x}]}",
    ):
        assert SavedConfig.parse(damaged).tau is None
        assert SavedConfig.parse(damaged).memorization("threshold", 1) == 1


def test_large_pictures_are_made_smaller_and_broken_ones_refused(tmp_path: Path) -> None:
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 255, (900, 2000, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "step_0000012.png")
    small = read_picture(tmp_path / "step_0000012.png")
    assert small.uri.startswith("data:image/jpeg;base64,")
    assert (small.width, small.height, small.step) == (1600, 720, 12)
    data = (tmp_path / "step_0000012.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[:5000])
    with pytest.raises(Unavailable, match=r"cut\.png could not be read"):
        read_picture(tmp_path / "cut.png")


def test_sampling_run(tmp_path: Path) -> None:
    folder = make_samples(tmp_path / "samples")
    text = write_sampling_report(folder).read_text()
    page = Page(text)
    assert re.findall(r'<section id="([a-z-]+)"', text) == ["energies", "images", "settings"]
    assert "Left out:" not in text
    assert len(page.images) == 2
    assert "kts: balanced" in text


def test_a_sampling_run_without_its_figure_draws_the_energies_and_names_broken_seeds(tmp_path: Path) -> None:
    folder = make_samples(tmp_path / "samples")
    (folder / "energies.png").unlink()
    lines = (folder / "energies.csv").read_text().splitlines()
    cells = lines[8].split(",")
    cells[2] = "nan"
    lines[8] = ",".join(cells)
    (folder / "energies.csv").write_text("\n".join(lines) + "\n")
    text = write_sampling_report(folder).read_text()
    Page(text)
    assert "<svg" in part(text, "energies")
    assert "1 of 40 (samples) did not stay finite: seeds 7." in text


def test_comparison(tmp_path: Path) -> None:
    folder = make_samples(tmp_path / "compare", ("off", "balanced", "landing"))
    text = write_sampling_report(folder).read_text()
    Page(text)
    assert re.findall(r'<section id="([a-z-]+)"', text) == [
        "comparison",
        "same-seeds",
        "energies",
        "settings",
    ]
    assert "Left out:" not in text
    rows = re.findall(r'<th scope="row">(.*?)</th><td>40</td>', part(text, "comparison"))
    assert rows == ["off", "balanced", "landing"]
    assert "50.0 %" in part(text, "comparison")


def test_comparison_without_f_mem(tmp_path: Path) -> None:
    folder = make_samples(tmp_path / "compare", ("off", "launch"))
    (folder / "compare.csv").write_text("setting,n,energy\noff,40,45\nlaunch,40,46\n")
    text = write_sampling_report(folder).read_text()
    Page(text)
    assert "F_mem not measured" in text
    assert "Left out:" not in text


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--v=0",
    "--virtual-time-budget=2000",
    "--dump-dom",
]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_browser_opens_the_page_without_network_or_script_errors(tmp_path: Path, full: str) -> None:
    path = tmp_path / "report.html"
    path.write_text(full)
    nowhere = "--host-resolver-rules=MAP * ~NOTFOUND"
    command = [str(CHROMIUM), *QUIET, nowhere, f"--user-data-dir={tmp_path / 'profile'}", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "CONSOLE" not in done.stderr, done.stderr[-2000:]
    assert 'data-ready="yes"' in done.stdout
    assert done.stdout.count('type="range"') == 1
    assert len(re.findall(r"<figure[^>]* hidden", done.stdout)) == len(STEPS) - 1
