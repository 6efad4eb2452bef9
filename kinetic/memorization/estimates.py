"""Means that a balance is made of, with errors that what is known beforehand makes small.

Values go with things whose mean is known: the noise, and the times, which are spread evenly. A least-squares fit to
these control variates has the mean as its intercept, and leaves to the error only what they do not explain.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.polynomial import legendre
from numpy.typing import NDArray

from kinetic.memorization.image_terms import Images

Array = NDArray[Any]

DEGREE = 6  # of the polynomial in t that the values of images are compared with


@dataclass(frozen=True)
class Mean:
    """A mean and its standard error."""

    value: float
    error: float


def mean_over_time(images: Images, values: Array) -> Mean:
    """Mean of `values` [n], one an evaluation, over the images and over t in [0, 1].

    The intercept of a least-squares fit to control variates of mean zero: those of the noise, and Legendre
    polynomials in t, which leave to the error only what stratified times leave open. The error is that of the fit,
    robust to a spread that depends on t and to what evaluations of one image have in common (CR1, which is HC1 where no
    image comes twice); it is that of other images, times and noises.
    """
    t = images.column("t")
    degree = min(DEGREE, max(len(t) // 8 - 1, 0))
    over_time = legendre.legvander(2 * t - 1, degree)[:, 1:]
    return intercept(values, np.concatenate([images.controls(), over_time], 1), images.column("image"))


def mean_of_samples(energy: Array, start: Array) -> Mean:
    """Mean energy of samples [n] and its error; `start` [n] is ‖x0‖² - D of each, whose mean is zero."""
    return intercept(energy, start[:, None])


def intercept(values: Array, controls: Array, groups: Array | None = None) -> Mean:
    """Mean of `values` [n] by a fit to `controls` [n, k] of mean zero; the plain one where there are too few.

    Values of one of the `groups` [n] may depend on each other; without, none do.
    """
    n, k = controls.shape
    if n < 4 * (k + 1):
        controls, k = controls[:, :0], 0
    groups = np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1]
    count = int(groups.max()) + 1 if n else 0
    if count < 2:
        return Mean(float(values.mean()) if n else math.nan, math.nan)
    scale = np.sqrt(np.square(controls).mean(0))
    design = np.concatenate([np.ones((n, 1)), controls / np.where(scale > 0, scale, 1)], 1)
    inverse = np.linalg.pinv(design)
    fitted = inverse @ values
    of_groups = np.bincount(groups, inverse[0] * (values - design @ fitted), minlength=count)
    freedom = count / (count - 1) * (n - 1) / (n - k - 1)
    return Mean(float(fitted[0]), math.sqrt(float(np.square(of_groups).sum()) * freedom))


def part_between(images: Images, low: float, high: float) -> Images:
    """The images whose time lies in [low, high)."""
    t = images.column("t")
    return Images(images.rows[(t >= low) & (t < high)], images.independent)


def mean_between(images: Images, values: Array, low: float, high: float) -> Mean:
    """Mean of `values` over the images whose time lies in [low, high)."""
    t = images.column("t")
    inside = (t >= low) & (t < high)
    return intercept(values[inside], images.controls()[inside], images.column("image")[inside])
