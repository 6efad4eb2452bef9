"""Figures: the numbers that go in are the numbers on the axes, labels are there, and awkward data do no harm."""

import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from kinetic import plots
from kinetic.plots.images import to_rgba
from kinetic.plots.style import RAMP, as_array, finite, log_spaced, ramp, thin
from kinetic.plots.training import density, smooth

NAN = float("nan")
STEPS = [100, 200, 400, 800, 1600]


@pytest.fixture(autouse=True)
def _warnings_are_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def line(axes: Axes, label: str) -> Any:
    """The one line of that label."""
    (found,) = [one for one in axes.lines if one.get_label() == label]
    return found


def words(figure: Figure) -> str:
    """All text that the figure shows."""
    figure.draw_without_rendering()
    return " | ".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


def test_importing_kinetic_does_not_import_matplotlib_and_plots_do_not_import_pyplot() -> None:
    code = "import sys, kinetic; a = 'matplotlib' in sys.modules; import kinetic.plots, kinetic.report; "
    code += "print(a, 'matplotlib.pyplot' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == ["False", "False"]


def test_drawing_leaves_the_settings_of_matplotlib_alone() -> None:
    before = dict(matplotlib.rcParams)
    plots.themed_svg(plots.loss_curves({"train/loss": ([1, 2], [3, 4])}), "a")
    assert dict(matplotlib.rcParams) == before


def test_short_loss_curve_is_drawn_as_it_is() -> None:
    (axes,) = plots.loss_curves({"val/loss": (STEPS, [5, 4, NAN, 2, 1])}).axes
    drawn = line(axes, "val/loss")
    np.testing.assert_array_equal(drawn.get_xdata(), STEPS)
    np.testing.assert_array_equal(drawn.get_ydata(), [5, 4, NAN, 2, 1])
    assert axes.get_xlabel() == "training step"


def test_long_loss_curve_keeps_its_points_under_a_moving_average() -> None:
    losses = np.random.default_rng(0).random(300)
    (axes,) = plots.loss_curves({"train/loss": (np.arange(300), losses)}).axes
    np.testing.assert_array_equal(line(axes, "_train/loss").get_ydata(), losses)
    averaged = line(axes, "train/loss, moving average").get_ydata()
    np.testing.assert_allclose(averaged[100], losses[95:105].mean())


def test_moving_average_passes_over_gaps_and_keeps_constants() -> None:
    np.testing.assert_allclose(smooth(np.array([2.0, 2, NAN, 2, 2, 2]), 3), 2.0)
    np.testing.assert_allclose(smooth(np.array([1.0, 2, 3, 4]), 3), [1.5, 2, 3, 3.5])


def test_density_integrates_to_one_and_is_centred() -> None:
    values = np.random.default_rng(0).normal(5, 2, 400)
    grid = np.linspace(-10, 20, 3001)
    heights = density(values, grid)
    assert np.trapezoid(heights, grid) == pytest.approx(1, abs=1e-6)
    assert np.trapezoid(grid * heights, grid) == pytest.approx(values.mean(), abs=1e-6)
    assert not density(np.full(5, 3.0), grid).any()
    assert not density(np.array([1.0]), grid).any()


def test_ridge_has_one_row_a_step_first_on_top_with_its_mean() -> None:
    groups = {step: np.array([1.0, 2, 6]) * step for step in STEPS}
    groups[STEPS[1]][0] = np.inf
    (axes,) = plots.energy_ridge(groups).axes
    mean = line(axes, "mean")
    expected = [3 * step for step in STEPS]
    expected[1] = 4 * STEPS[1]
    np.testing.assert_allclose(mean.get_xdata(), expected)
    np.testing.assert_array_equal(mean.get_ydata(), [0, -1, -2, -3, -4])
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["100", "200", "400", "800", "1,600"]
    assert "½∫‖v‖²dt" in axes.get_xlabel()
    assert "pixel" in axes.get_xlabel()


def test_ridge_of_many_validations_keeps_first_and_last() -> None:
    (axes,) = plots.energy_ridge({step: [1.0, 2.0] for step in range(50)}, most=5).axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["0", "12", "24", "37", "49"]


def test_ridge_joins_the_means_of_steps_but_not_of_settings() -> None:
    (steps,) = plots.energy_ridge({1: [1.0, 2], 2: [2.0, 3]}).axes
    (names,) = plots.energy_ridge({"off": [1.0, 2], "balanced": [2.0, 3]}).axes
    assert line(steps, "mean").get_linestyle() == "-"
    assert line(names, "mean").get_linestyle() == "None"


def test_power_profiles_draw_means_and_the_last_quartiles_with_tau() -> None:
    t = np.linspace(0, 0.9, 10)
    profiles = {step: plots.Profile(t, t + step, t + step - 1, t + step + 2) for step in (10, 20)}
    figure = plots.power_profiles(profiles, tau=0.4)
    (axes,) = figure.axes
    np.testing.assert_allclose(line(axes, "step 10").get_ydata(), t + 10)
    np.testing.assert_allclose(line(axes, "step 20").get_ydata(), t + 20)
    np.testing.assert_array_equal(line(axes, "_tau").get_xdata(), [0.4, 0.4])
    (band,) = [one for one in axes.collections if one.get_label() == "_band"]
    extent = band.get_paths()[0].get_extents()
    assert (extent.y0, extent.y1) == (pytest.approx(19.0), pytest.approx(22.9))
    text = words(figure)
    for word in ("τ = 0.4", "launch", "landing", "½‖v‖²"):
        assert word in text


def test_memorization_and_energy_share_their_axis_and_the_onset_mark() -> None:
    f_mem = plots.Curve(STEPS, [0, 0.1, 0.3, 0.5, 0.6], [0, 0.05, 0.2, 0.4, 0.5], [0.1, 0.2, 0.4, 0.6, 0.7])
    energy = plots.Curve(STEPS, [40, 41, 42, 43, 44], [38] * 5, [46] * 5)
    figure = plots.memorization_curve(f_mem, energy, null=(0.0, 0.015), onset=400)
    top, bottom = figure.axes
    np.testing.assert_array_equal(line(top, "F_mem").get_ydata(), f_mem.value)
    np.testing.assert_array_equal(line(bottom, "mean").get_ydata(), energy.value)
    for axes in (top, bottom):
        np.testing.assert_array_equal(line(axes, "_onset").get_xdata(), [400, 400])
    assert top.get_xscale() == bottom.get_xscale() == "log"
    assert top.get_xlim() == bottom.get_xlim()
    (interval,) = [one for one in top.collections if one.get_label() == "95 % interval"]
    extent = interval.get_paths()[0].get_extents()
    assert (extent.y0, extent.y1) == (0.0, pytest.approx(0.7))
    (null,) = [patch for patch in top.patches if "held-out" in str(patch.get_label())]
    assert null.get_extents().transformed(top.transData.inverted()).y1 == pytest.approx(0.015)
    text = words(figure)
    assert "onset of copying: step 400" in text
    assert "60%" in text


def test_both_onsets_are_marked_and_their_words_do_not_meet() -> None:
    """Kills: one mark for both, the two exchanged, words on the same side."""
    f_mem = plots.Curve(STEPS, [0.1] * 5, [0.0] * 5, [0.2] * 5)
    energy = plots.Curve(STEPS, [40] * 5, [38] * 5, [46] * 5)
    for copying, by_energy in ((400, 200), (200, 400), (200, 200)):
        figure = plots.memorization_curve(f_mem, energy, onset=copying, energy_onset=by_energy)
        sides = {}
        for text in figure.axes[0].texts:
            sides[text.get_ha()] = (text.get_position()[0], text.get_text())
        found = {f"onset of copying: step {copying}", f"onset by energy: step {by_energy}"}
        assert {text for _, text in sides.values()} == found
        assert sides["right"][0] <= sides["left"][0]
        for axes in figure.axes:
            marks = [one.get_xdata()[0] for one in axes.lines if one.get_label() == "_onset"]
            assert sorted(marks) == sorted([copying, by_energy])


def test_evenly_spaced_validations_get_a_linear_axis() -> None:
    steps = [100, 200, 300, 400, 500]
    figure = plots.memorization_curve(plots.Curve(steps, [0.1] * 5, [0.0] * 5, [0.2] * 5))
    assert figure.axes[0].get_xscale() == "linear"
    assert log_spaced([1, 2, 4, 8])
    assert not log_spaced([0, 1, 10, 100])
    assert not log_spaced([1, 10])


def test_scatter_separates_copies_and_drops_what_is_not_finite() -> None:
    energy, ratio = [1.0, 2, 3, NAN, 5], [0.1, 0.5, 0.32, 0.1, NAN]
    (axes,) = plots.energy_scatter(energy, ratio).axes
    rest, copies = axes.collections
    np.testing.assert_allclose(rest.get_offsets(), [[0.5, 2]])
    np.testing.assert_allclose(copies.get_offsets(), [[0.1, 1], [0.32, 3]])
    assert copies.get_label() == "copies: 2"
    np.testing.assert_allclose(line(axes, "_threshold").get_xdata(), [1 / 3, 1 / 3])
    (own,) = plots.energy_scatter(energy, ratio, copied=[False, True, False, False, False]).axes
    np.testing.assert_allclose(own.collections[1].get_offsets(), [[0.5, 2]])


def test_energies_figure_has_both_energies_and_the_profile() -> None:
    times = np.array([0.0, 0.25, 0.5, 0.75])
    power = np.array([[1.0, 3], [2, 4], [3, 5], [4, 8]])
    figure = plots.energies_figure([1.0, 3], [2.0, 4], times, power, tau=0.5, gain=[1, 1, 0.5, 0.5])
    left, right = figure.axes
    np.testing.assert_allclose([one.get_xdata()[0] for one in left.lines], [2.0, 3.0])
    assert "executed motion, mean 2" in words(figure)
    np.testing.assert_allclose(line(right, "mean power of the field").get_ydata(), [2, 3, 4, 6])
    np.testing.assert_allclose(line(right, "executed, η² times that").get_ydata(), [2, 3, 1, 1.5])
    np.testing.assert_array_equal(line(right, "_tau").get_xdata(), [0.5, 0.5])


def test_one_energy_is_drawn_once() -> None:
    left, _ = plots.energies_figure([1.0, 3], [1.0, 3], [0.0, 0.5], np.ones((2, 2))).axes
    assert len(left.lines) == 1


def test_a_sample_that_is_not_finite_leaves_the_profile_of_the_others() -> None:
    power = np.array([[1.0, NAN], [3.0, NAN]])
    _, right = plots.energies_figure([1.0, NAN], [1.0, NAN], [0.0, 0.5], power, gain=[2.0, 2.0]).axes
    np.testing.assert_allclose(line(right, "mean power of the field").get_ydata(), [1, 3])
    np.testing.assert_allclose(line(right, "executed, η² times that").get_ydata(), [4, 12])


def test_trajectory_sums_the_executed_power_to_the_end() -> None:
    figure = plots.trajectory_figure(
        [0.0, 0.25, 0.5], [4.0, 8, 2], np.zeros((3, 1, 4, 4)), [0, 0.5, 1], gain=[1, 0.5, 2]
    )
    _, right, strip = figure.axes
    np.testing.assert_allclose(line(right, "energy so far").get_ydata(), [0, 1, 1.5, 5.5])
    np.testing.assert_allclose(line(right, "energy so far").get_xdata(), [0, 0.25, 0.5, 1])
    assert len(strip.images) == 3
    assert "energy 5.5" in words(figure)


def test_trajectory_of_a_point_draws_its_path() -> None:
    path = np.array([[0.0, 1], [2, 3], [4, 5]])
    strip = plots.trajectory_figure([0.0, 0.5], [1.0, 1.0], path, [0, 0.5, 1]).axes[2]
    np.testing.assert_array_equal(strip.lines[0].get_xydata(), path)


def test_settings_figure_lists_settings_from_the_top() -> None:
    left, right = plots.settings_figure(["off", "landing"], [48.0, 46], [0.6, 0.5], [0.5, 0.4], [0.7, 0.6]).axes
    np.testing.assert_array_equal(line(left, "F_mem").get_xydata(), [[0.6, 0], [0.5, -1]])
    np.testing.assert_array_equal(line(right, "mean energy").get_xydata(), [[48, 0], [46, -1]])
    np.testing.assert_allclose([s[:, 0] for s in left.collections[0].get_segments()], [[0.5, 0.7], [0.4, 0.6]])
    assert [tick.get_text() for tick in left.get_yticklabels()] == ["off", "landing"]


def test_toy_scatter_draws_points_over_data() -> None:
    data, samples = plots.toy_scatter([[1.0, 2], [NAN, 0]], [[3.0, 4]]).axes[0].collections
    np.testing.assert_allclose(samples.get_offsets(), [[1, 2]])
    np.testing.assert_allclose(data.get_offsets(), [[3, 4]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plots.toy_scatter(np.zeros((2, 1, 8, 8))), "image_grid"),
        (lambda: plots.image_grid(np.zeros((4, 2))), "toy_scatter"),
        (lambda: plots.image_grid(np.zeros((4, 1, 8, 8)), columns=0), "columns must be at least 1, got 0"),
        (lambda: plots.gallery(np.zeros((4, 1, 8, 8)), np.zeros((3, 1, 8, 8))), "same shape"),
        (lambda: plots.compare_grid({"a": np.zeros((4, 1, 8, 8)), "b": np.zeros((3, 1, 8, 8))}), "same images"),
    ],
)
def test_wrong_shapes_are_named(call: Callable[[], Figure], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_pixels_are_grey_rgb_or_a_mean_and_broken_ones_stand_out() -> None:
    np.testing.assert_allclose(to_rgba(torch.full((1, 1, 2, 2), -1.0))[0, 0, 0], [0, 0, 0, 1])
    np.testing.assert_allclose(to_rgba([[[[1.0]], [[0.0]], [[-3.0]]]])[0, 0, 0], [1, 0.5, 0, 1])
    np.testing.assert_allclose(to_rgba(np.array([1.0, 1, -1, -1]).reshape(1, 4, 1, 1))[0, 0, 0], [0.5, 0.5, 0.5, 1])
    np.testing.assert_allclose(to_rgba([[[[NAN]]]])[0, 0, 0, :3], [0xD5 / 255, 0x5E / 255, 0])


def test_grid_pixels_reach_the_file_whole_and_in_order(tmp_path: Path) -> None:
    images = np.array([-1.0, 1.0, 0.0]).reshape(3, 1, 1, 1) * np.ones((3, 1, 8, 8))
    path = plots.save(plots.image_grid(images, columns=2), tmp_path / "new" / "grid.png")
    pixels = np.asarray(Image.open(path).convert("RGBA")).astype(int)
    assert [pixels[y, x, 0] for y, x in ((40, 40), (40, 112), (112, 40))] in ([0, 255, 127], [0, 255, 128])
    assert pixels[112, 112, 3] == 0
    assert int((pixels[..., 3] == 255).sum()) == 3 * 64 * 64
    assert [one.name for one in path.parent.iterdir()] == ["grid.png"]


def test_captions_and_frames_belong_to_their_images() -> None:
    (axes,) = plots.image_grid(np.zeros((3, 1, 8, 8)), ["a", "b", "c"], columns=2, marked=[False, True, False]).axes
    places = {text.get_text(): text.get_position() for text in axes.texts}
    assert places["a"][1] == places["b"][1] < places["c"][1]
    assert places["a"][0] == places["c"][0] < places["b"][0]
    (frame,) = axes.patches
    assert frame.get_x() < places["b"][0] < frame.get_x() + frame.get_width()


def test_gallery_puts_the_training_image_on_the_right() -> None:
    (axes,) = plots.gallery(np.full((1, 1, 8, 8), -1.0), np.ones((1, 1, 8, 8)), ["E 41"]).axes
    row = axes.images[0].get_array()[60]
    opaque = row[row[:, 3] == 1, 0]
    np.testing.assert_array_equal(opaque, [0.0] * 96 + [1.0] * 96)
    assert "E 41" in [text.get_text() for text in axes.texts]


def test_compare_grid_has_a_row_a_setting() -> None:
    figure = plots.compare_grid({"off": np.full((2, 1, 8, 8), -1.0), "balanced": np.ones((2, 1, 8, 8))}, seeds=[7, 9])
    pixels = figure.axes[0].images[0].get_array()
    column = pixels[:, 100]
    np.testing.assert_array_equal(column[column[:, 3] == 1, 0], [0.0] * 64 + [1.0] * 64)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ["off", "balanced", "seed 7", "9"]


EMPTY = np.zeros((0, 1, 8, 8))
AWKWARD: dict[str, Callable[[], Figure]] = {
    "no losses": lambda: plots.loss_curves({}),
    "nan losses": lambda: plots.loss_curves({"a": ([1, 2], [NAN, NAN])}),
    "one loss": lambda: plots.loss_curves({"a": ([1], [2.0])}),
    "no groups": lambda: plots.energy_ridge({}),
    "nan groups": lambda: plots.energy_ridge({1: [NAN], 2: []}),
    "one energy": lambda: plots.energy_ridge({1: [3.0], 2: [NAN]}),
    "equal energies": lambda: plots.energy_ridge({1: [0.0, 0.0], 2: [0.0] * 9}),
    "mostly equal energies": lambda: plots.energy_ridge({1: [1.0] * 20 + [2.0]}),
    "no profiles": lambda: plots.power_profiles({}),
    "nan profile": lambda: plots.power_profiles({1: plots.Profile([0.0], [NAN], [NAN], [NAN])}),
    "one time": lambda: plots.power_profiles({1: plots.Profile([0.0], [1.0], [1.0], [1.0])}, tau=0.6),
    "no memorization": lambda: plots.memorization_curve(plots.Curve([], [], [], []), onset=3),
    "one validation": lambda: plots.memorization_curve(plots.Curve([5], [0.0], [NAN], [NAN]), null=(NAN, NAN), onset=5),
    "nan memorization": lambda: plots.memorization_curve(
        plots.Curve(STEPS, [NAN] * 5, [NAN] * 5, [NAN] * 5), plots.Curve(STEPS, [1.0] * 5, [NAN] * 5, [NAN] * 5)
    ),
    "no scatter": lambda: plots.energy_scatter([], []),
    "nan scatter": lambda: plots.energy_scatter([NAN], [0.1]),
    "no samples": lambda: plots.energies_figure([], [], [0.0, 0.5], np.zeros((2, 0))),
    "one profile of a single sample": lambda: plots.energies_figure([1.0], [1.0], [0.0, 0.5], [1.0, 2.0]),
    "no steps": lambda: plots.energies_figure([1.0], [1.0], [], np.zeros((0, 1))),
    "one sample": lambda: plots.energies_figure([1.0], [2.0], [0.0], [[1.0]], gain=[0.5]),
    "nan samples": lambda: plots.energies_figure([NAN], [NAN], [0.0], [[NAN]], gain=[0.5]),
    "trajectory alone": lambda: plots.trajectory_figure([0.0], [1.0], tau=None),
    "nan trajectory": lambda: plots.trajectory_figure([0.0, 0.5], [1.0, NAN], np.full((2, 1, 4, 4), NAN), [0, 1]),
    "no f_mem": lambda: plots.settings_figure(["off"], [1.0], [NAN], [NAN], [NAN]),
    "zero f_mem": lambda: plots.settings_figure(["off"], [NAN], [0.0], [0.0], [0.0]),
    "no settings": lambda: plots.settings_figure([], [], [], [], []),
    "no points": lambda: plots.toy_scatter(np.zeros((0, 2))),
    "no images": lambda: plots.image_grid(EMPTY, title="none"),
    "one image": lambda: plots.image_grid(np.zeros((1, 3, 1, 1)), ["a"]),
    "no pairs": lambda: plots.gallery(EMPTY, EMPTY),
    "no seeds": lambda: plots.compare_grid({"off": EMPTY}),
}


@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_data_are_drawn_without_a_warning(name: str, tmp_path: Path) -> None:
    figure = AWKWARD[name]()
    plots.save(figure, tmp_path / "a.png")
    ElementTree.fromstring(plots.themed_svg(figure, "x"))


def test_half_precision_and_gradients_are_read() -> None:
    values = torch.tensor([1.5, NAN, 2.5], dtype=torch.bfloat16, requires_grad=True)
    np.testing.assert_array_equal(as_array(values), [1.5, NAN, 2.5])
    np.testing.assert_array_equal(finite(values), [1.5, 2.5])


def test_ramp_runs_from_faint_to_strong() -> None:
    assert ramp(0) == []
    assert ramp(1) == [RAMP[-1]]
    assert (ramp(20)[0], ramp(20)[-1]) == (RAMP[0], RAMP[-1])
    assert thin(list(range(10)), 4) == [0, 3, 6, 9]


def contrast(one: str, two: str) -> float:
    """Contrast ratio of two colours, as WCAG 2 defines it."""

    def luminance(colour: str) -> float:
        parts = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    bright, dim = sorted((luminance(one), luminance(two)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def test_text_and_lines_can_be_read_in_both_themes() -> None:
    light, dark = (dict(re.findall(r"--plot-(\d+):(#\w+)", part)) for part in plots.THEME_CSS.split("@media"))
    assert light.keys() == dark.keys()
    for theme in (light, dark):
        paper = theme["3"]
        assert contrast(theme["0"], paper) > 12
        assert contrast(theme["1"], paper) > 4.5
        assert all(contrast(theme[key], paper) > 3 for key in ("4", "5", "6"))


def test_svg_ids_of_two_figures_are_apart_and_colours_are_variables() -> None:
    figures = [plots.energy_scatter([1.0, 2], [0.1, 0.9]) for _ in range(2)]
    first, second = (plots.themed_svg(figure, name) for figure, name in zip(figures, "ab", strict=True))
    ids = [set(re.findall(r'\sid="([^"]+)"', svg)) for svg in (first, second)]
    assert ids[0]
    assert not ids[0] & ids[1]
    used = set(re.findall(r'(?:url\(|href=")#([^")]+)', first))
    assert used
    assert used <= ids[0]
    assert "var(--plot-" in first
    assert "<text" in first
    assert "copies: 1" in first
