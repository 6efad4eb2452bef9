"""Arrays to matplotlib figures. Every function returns a `Figure` of its own: no global state, no window, no file."""

from kinetic.plots.balance import BalanceCurves, balance_over_time, balance_over_training
from kinetic.plots.couplings import couplings_figure
from kinetic.plots.deciles import deciles_figure
from kinetic.plots.detection import detection_figure
from kinetic.plots.fields import field_distance, fields_over_time
from kinetic.plots.images import compare_grid, gallery, image_grid
from kinetic.plots.likelihood import energy_likelihood, likelihood_histograms
from kinetic.plots.onset import OnsetCurves, onset_figure
from kinetic.plots.pareto import Point, pareto_figure
from kinetic.plots.plane import endpoints_figure
from kinetic.plots.sampling import energies_figure, settings_figure, toy_scatter, trajectory_figure
from kinetic.plots.shaping import AxisPoint, axes_figure
from kinetic.plots.style import THEME_CSS, save, themed_svg
from kinetic.plots.support import correlations_figure, support_figure
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
    "AxisPoint",
    "BalanceCurves",
    "Curve",
    "OnsetCurves",
    "Point",
    "Profile",
    "axes_figure",
    "balance_over_time",
    "balance_over_training",
    "compare_grid",
    "correlations_figure",
    "couplings_figure",
    "deciles_figure",
    "detection_figure",
    "endpoints_figure",
    "energies_figure",
    "energy_likelihood",
    "energy_ridge",
    "energy_scatter",
    "field_distance",
    "fields_over_time",
    "gallery",
    "image_grid",
    "likelihood_histograms",
    "loss_curves",
    "memorization_curve",
    "onset_figure",
    "pareto_figure",
    "power_profiles",
    "save",
    "settings_figure",
    "support_figure",
    "themed_svg",
    "toy_scatter",
    "trajectory_figure",
]
