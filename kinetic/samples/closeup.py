"""One sample again, looked at closely."""

import os
from pathlib import Path

import torch

from kinetic.data.pixels import to_uint8
from kinetic.errors import KineticError
from kinetic.flow.field import Field
from kinetic.flow.sampling import Sampler, draw
from kinetic.flow.seeds import Labels, labels_for
from kinetic.models.autoencoder import Decode
from kinetic.plots import save, trajectory_figure
from kinetic.samples.export import png
from kinetic.samples.pictures import as_shown
from kinetic.store.files import replacing
from kinetic.text import aligned
from kinetic.units import energies_of

SNAPSHOTS = 9  # states on the way that are shown


def draw_one(
    field: Field,
    seed: int,
    *,
    labels: Labels,
    sampler: Sampler,
    device: torch.device,
    precision: str,
    folder: Path,
    decode: Decode | None = None,
) -> str:
    """Draw the sample of `seed`, write it and its energy curve to `folder`, and return what to print.

    Latents, and states on the way to them, are shown as `decode` makes pictures of them.
    """
    if seed < 0:
        raise KineticError(f"--index is a seed of at least 0, got {seed}")
    if isinstance(field.net, torch.nn.Module):
        field.net.to(device)
    label = labels_for(torch.tensor([seed]), labels, field.num_classes)
    found = draw(field, [seed], labels=label, sampler=sampler, device=device, precision=precision, keep_path=1)
    assert found.path is not None  # keep_path=1
    assert found.path_times is not None
    quiet = sampler.noise is None  # under noise the curve is that of the field
    word, energy = ("energy", found.energy) if quiet else ("energy of the field", found.field_energy)
    written = [folder / f"energy-{seed}.png"]
    chosen = torch.linspace(0, len(found.path) - 1, SNAPSHOTS).round().long().unique()
    with energies_of(field.space):
        figure = trajectory_figure(
            found.times,
            found.power[:, 0],
            None if field.space == "points" else as_shown(found.path[chosen.to(found.path.device), 0], decode),
            found.path_times[chosen],
            gain=sampler.gains(found.times) if quiet else None,
            tau=sampler.kts.tau,
            title=f"seed {seed}{'' if label is None else f', class {int(label)}'}: {word} {float(energy[0]):.4g}",
        )
    save(figure, written[0])
    if field.space == "pixels" or decode is not None:
        written.insert(0, folder / f"sample-{seed}.png")
        with replacing(written[0]) as beside:
            beside.write_bytes(png(to_uint8(as_shown(found.x, decode))[0].cpu().numpy()))
    lines = [["seed", str(seed)], *([] if label is None else [["class", str(int(label))]])]
    lines += [[name, f"{float(values[0]):.6g}"] for name, values in found.columns.items()]
    lines.append(["evaluations", str(found.nfe)])
    return "\n".join([aligned(lines), *map(os.path.relpath, written)])
