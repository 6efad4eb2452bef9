"""Arrays to matplotlib figures. Every function returns a `Figure` of its own: no global state, no window, no file."""

from kinetic.plots.balance import BalanceCurves, balance_over_time, balance_over_training
from kinetic.plots.detection import detection_figure
from kinetic.plots.images import compare_grid, gallery, image_grid
from kinetic.plots.onset import OnsetCurves, onset_figure
from kinetic.plots.pareto import Point, pareto_figure
from kinetic.plots.plane import endpoints_figure
from kinetic.plots.sampling import energies_figure, settings_figure, toy_scatter, trajectory_figure
from kinetic.plots.style import THEME_CSS, save, themed_svg
from kinetic.plots.training import (
    Curve,
    Profile,
    energy_ridge,
    energy_scatter,
    loss_curves,
    memorization_curve,
    power_profiles,
)

__all__ = [
    "THEME_CSS",
    "BalanceCurves",
    "Curve",
    "OnsetCurves",
    "Point",
    "Profile",
    "balance_over_time",
    "balance_over_training",
    "compare_grid",
    "detection_figure",
    "endpoints_figure",
    "energies_figure",
    "energy_ridge",
    "energy_scatter",
    "gallery",
    "image_grid",
    "loss_curves",
    "memorization_curve",
    "onset_figure",
    "pareto_figure",
    "power_profiles",
    "save",
    "settings_figure",
    "themed_svg",
    "toy_scatter",
    "trajectory_figure",
]
