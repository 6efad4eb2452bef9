"""Which noise goes with which image of a batch: at random as drawn, or by minibatch optimal transport.

Optimal transport pairs them so that the sum of squared distances is least, which straightens the flow (Tong et al.,
arXiv 2302.00482; Pooladian et al., arXiv 2304.14772). The plan is an assignment: every image is used exactly once.
"""

from collections.abc import Mapping
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from kinetic.errors import KineticError

COUPLINGS = ("independent", "ot")


def assignment(x0: Tensor, x1: Tensor) -> Tensor:
    """Return the permutation p, int64 [B] on the device of `x1`, that minimises Σᵢ ‖x0ᵢ - x1ₚ₍ᵢ₎‖².

    `x0` and `x1` are [B, ...] of one shape. The costs are float64 on the device (under autocast too), B² of them go to
    the CPU, and the assignment takes O(B³) at worst: milliseconds for a batch of 256. Raises ValueError for
    shapes that differ and for values that are not finite.
    """
    if x0.shape != x1.shape or not x0.ndim:
        raise KineticError(f"x0 and x1 must have one shape [B, ...], got {tuple(x0.shape)} and {tuple(x1.shape)}")
    # Norms and means add the same to every permutation, so what is left to maximise is the sum of inner products.
    gain = (_centred(x0) @ _centred(x1).T).cpu()
    if not gain.isfinite().all():
        raise KineticError(
            f"cannot pair values that are not finite: rows {_bad_rows(x0)} of x0, rows {_bad_rows(x1)} of x1; "
            "mend the images or use the independent coupling"
        )
    _, columns = linear_sum_assignment(gain.numpy(), maximize=True)
    return torch.as_tensor(columns, dtype=torch.int64).to(x1.device)


def permute(batch: Mapping[str, Any], permutation: Tensor) -> dict[str, Any]:
    """Reorder every entry of `batch` alike: tensors [B, ...], lists and tuples of length B; None stays None.

    Raises ValueError for an entry of another length or type, since leaving it behind would label images wrongly.
    """
    order = permutation.tolist()
    return {key: _reorder(key, value, permutation, order) for key, value in batch.items()}


def pair(x0: Tensor, batch: Mapping[str, Any], *, coupling: str = "ot") -> dict[str, Any]:
    """Reorder a training batch {"x" [B, ...], "labels", "ids", ...} so that row i belongs to noise `x0`[i].

    The noise keeps its order, so it stays a function of its seed. "independent" leaves the order as it is, "ot" takes
    `assignment`. Raises ValueError for another coupling, and as `assignment` and `permute` do.
    """
    if coupling not in COUPLINGS:
        raise KineticError(f"unknown coupling {coupling!r}: choose from {', '.join(COUPLINGS)}")
    if coupling == "independent":
        return dict(batch)
    return permute(batch, assignment(x0, batch["x"]))


def _centred(x: Tensor) -> Tensor:
    """Flatten to [B, D] in float64, less the mean row: a shared offset would cost digits and says nothing."""
    rows = x.detach()
    if rows.device.type == "mps":  # has no float64
        rows = rows.cpu()
    rows = rows.to(torch.float64).reshape(x.shape[0], -1 if x.numel() else 0)
    return rows - rows.mean(0, keepdim=True)


def _bad_rows(x: Tensor) -> list[int]:
    """Name the first few rows that hold a value that is not finite."""
    bad: list[int] = (~x.reshape(x.shape[0], -1).isfinite().all(1)).nonzero().flatten()[:8].tolist()
    return bad


def _reorder(key: str, value: Any, permutation: Tensor, order: list[int]) -> Any:
    if value is None:
        return None
    if not isinstance(value, Tensor | list | tuple) or (isinstance(value, Tensor) and not value.ndim):
        raise KineticError(
            f"cannot reorder batch[{key!r}] of type {type(value).__name__}: give a tensor [B, ...] or a list"
        )
    if len(value) != len(order):
        raise KineticError(f"batch[{key!r}] has {len(value)} rows for a batch of {len(order)}: one a row is needed")
    if isinstance(value, Tensor):
        return value[permutation.to(value.device)]
    return type(value)(value[i] for i in order)
