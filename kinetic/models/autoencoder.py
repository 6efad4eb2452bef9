"""Autoencoders of diffusers (`AutoencoderKL`): from images to latents, and from a network's latents to pictures."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kinetic.data.latents import POSTERIORS, Latents
from kinetic.errors import KineticError, first_line
from kinetic.flow.field import PRECISIONS
from kinetic.models.hub import fetched
from kinetic.store.plain import read_json
from kinetic.tensors import chunks, seeded_noise

REMEDY = "uv sync --extra diffusers, or pip install kinetic-flow[diffusers]"
SHORT = {name: f"stabilityai/{name}" for name in ("sd-vae-ft-ema", "sd-vae-ft-mse")}  # as SiT's own code calls them
CONFIG, KIND = "config.json", "AutoencoderKL"
WEIGHTS = "diffusion_pytorch_model*.safetensors*"
FILES = [f"{place}{name}" for place in ("", "vae/") for name in (CONFIG, WEIGHTS)]
Decode = Callable[[Tensor], Tensor]  # latents [B, c, h, w] -> pictures [B, C, H, W] in [-1, 1]
BATCH = 16  # latents that are decoded at a time


class Autoencoder:
    """An autoencoder, and how latents of it are normalised.

    Attributes:
        net: diffusers' own, frozen, in evaluation mode.
        latents: which one it is, and (z - mean) / std x scale; what `encode` gives and `decode` takes.
    """

    def __init__(self, net: nn.Module, latents: Latents) -> None:
        self.net, self.latents = net.eval().requires_grad_(False), latents

    @property
    def channels(self) -> int:
        """Channels of its latents."""
        return int(self._config("latent_channels"))

    @property
    def image_channels(self) -> int:
        """Channels of its images."""
        return int(self._config("in_channels"))

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.net.parameters()).device

    def encode(self, images: Tensor, ids: Sequence[str]) -> Tensor:
        """Latents float32 [B, c, h, w], on the CPU, of images [B, C, H, W] in [-1, 1]; gray ones have three channels.

        Where the posterior is sampled, the noise of an image is a function of its id alone.
        """
        if images.shape[1] == 1 and self.image_channels == 3:
            images = images.expand(-1, 3, -1, -1)
        if images.shape[1] != self.image_channels:
            raise KineticError(
                f"the autoencoder {self.latents.vae} takes images of {self.image_channels} channels, "
                f"and these have {images.shape[1]}; pass another --vae"
            )
        with torch.no_grad(), self._precision():
            posterior = self.net.encode(images.to(self.device)).latent_dist  # type: ignore[operator]
        z = posterior.mean.float()
        if self.latents.posterior == "sample":
            z = z + posterior.std.float() * seeded_noise([_seed(name) for name in ids], z.shape[1:]).to(z.device)
        return self.latents.normalised(z).cpu()

    def decode(self, x: Tensor) -> Tensor:
        """Pictures float32 [B, C, H, W] in [-1, 1] of a network's latents [B, c, h, w], on their device.

        Latents that are not finite become pictures that are not either.
        """
        self.check(tuple(x.shape[1:]))
        parts = [self._decoded(x[part]) for part in chunks(len(x), BATCH)]
        return torch.cat(parts) if parts else x.new_zeros(0, self.image_channels, *x.shape[2:])

    def _decoded(self, x: Tensor) -> Tensor:
        finite = x.flatten(1).isfinite().all(1)
        z = self.latents.raw(x.to(self.device, torch.float32).nan_to_num(0, 0, 0))
        with torch.no_grad(), self._precision():
            images = self.net.decode(z).sample  # type: ignore[operator]
        images = images.float().clamp(-1, 1).to(x.device)
        images[~finite] = torch.nan
        return images

    def image_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of the pictures that latents of a shape are decoded to, both without the batch axis."""
        factor = 2 ** (len(self._config("block_out_channels")) - 1)
        return int(self._config("out_channels")), *(side * factor for side in shape[1:])

    def check(self, shape: Sequence[int]) -> None:
        """Raise KineticError unless it decodes latents of a shape, without the batch axis."""
        if len(shape) != 3 or shape[0] != self.channels:
            raise KineticError(
                f"the autoencoder {self.latents.vae} has latents of {self.channels} channels, but samples of shape "
                f"{tuple(shape)} have {shape[0] if shape else 'none'}; name the one that they are of with --vae"
            )

    def _precision(self) -> Any:
        dtype = PRECISIONS[self.latents.precision or "32"]
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)

    def _config(self, name: str) -> Any:
        return self.net.config[name]  # type: ignore[index]


def load_autoencoder(
    name: str,
    *,
    latents: Latents | None = None,
    device: torch.device | str = "cpu",
    download: bool = False,
    shape: Sequence[int] | None = None,
) -> Autoencoder:
    """Load an autoencoder: a folder (config.json and safetensors, or a pipeline's), or a repository of the hub.

    Nothing in it is executed. `latents` says how a run's are normalised, and by its hash which autoencoder they are of;
    without it the autoencoder's own configuration does. `shape` is that of a sample that it is to decode. A repository
    is looked for on this machine alone unless it may be `download`ed. Raises KineticError, in one line, for whatever is
    no such autoencoder.
    """
    net = _loaded(name, download)
    if shape is not None:
        Autoencoder(net, latents or Latents(vae=name)).check(shape)
    found = weights_sha256(net)
    if latents is None:
        own = _own(net.config, name)
        return Autoencoder(net.to(device), replace(own, sha256=found))
    if latents.sha256 is not None and latents.sha256 != found:
        raise KineticError(
            f"the autoencoder {name} has other weights ({found[:12]}) than the one whose latents these are "
            f"({latents.sha256[:12]}); name that with --vae"
        )
    return Autoencoder(net.to(device), latents)


def _own(config: Any, name: str) -> Latents:
    """How an autoencoder's own configuration normalises its latents."""

    def listed(key: str) -> list[float] | None:
        found = config.get(key)
        return None if found is None else [float(value) for value in found]

    shift, mean = config.get("shift_factor"), listed("latents_mean")
    if mean is None and shift:
        mean = [float(shift)] * int(config["latent_channels"])
    values = {"vae": name, "scale": config.get("scaling_factor") or 1.0, "mean": mean, "std": listed("latents_std")}
    return Latents.of(values, f"the configuration of the autoencoder {name}")


def _loaded(name: str, download: bool) -> nn.Module:
    try:
        from diffusers import AutoencoderKL
    except ImportError as error:
        reason = first_line(error)
        raise KineticError(f"the autoencoder {name} needs the package diffusers ({reason}): {REMEDY}") from None
    folder = _checked(_fetched(name, download), name)
    try:
        with _silent():
            net: nn.Module = AutoencoderKL.from_pretrained(str(folder), use_safetensors=True, local_files_only=True)
    except Exception as error:  # what damaged files make of diffusers is no fixed list
        raise KineticError(f"the autoencoder {name} cannot be loaded ({first_line(error)})") from None
    broken = next((key for key, value in net.state_dict().items() if not value.isfinite().all()), None)
    if broken is not None:
        raise KineticError(f"the autoencoder {name} is damaged: {broken} is not finite")
    return net


def _checked(folder: Path, name: str) -> Path:
    """The folder of an autoencoder, or that of a pipeline's; KineticError where it is neither."""
    inside = next((one for one in (folder, folder / "vae") if (one / CONFIG).is_file()), None)
    if inside is None:
        raise KineticError(f"the autoencoder {name} is no folder with {CONFIG} and safetensors, as diffusers writes it")
    content = read_json(inside / CONFIG)
    kind = content.get("_class_name") if isinstance(content, dict) else None
    if kind != KIND:
        raise KineticError(f"the autoencoder {name} is a {kind!s:.60}, where {KIND} is read")
    return inside


def _fetched(name: str, download: bool) -> Path:
    """The folder of an autoencoder, here or on the hub."""
    if Path(name).exists():
        return Path(name)
    with _silent():
        short = SHORT.get(name, name)
        return fetched(name, files=FILES, what=f"the autoencoder {name}", repository=short, download=download)


@contextmanager
def _silent() -> Iterator[None]:
    """Without the hints and bars of the libraries, which say what the one line of a fault says again."""
    from diffusers.utils import logging as theirs
    from huggingface_hub.utils import logging as hub

    before = [one.get_verbosity() for one in (theirs, hub)]
    try:
        for one in (theirs, hub):
            one.set_verbosity(one.CRITICAL)
        yield
    finally:
        for one, level in zip((theirs, hub), before, strict=True):
            one.set_verbosity(level)


def weights_sha256(net: nn.Module) -> str:
    """Checksum of a network's weights by name, whatever file they came from."""
    digest = hashlib.sha256()
    for name, value in sorted(net.state_dict().items()):
        digest.update(f"{name} {list(value.shape)} ".encode())
        digest.update(value.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def chosen(latents: Latents, *, posterior: str, precision: str) -> Latents:
    """Say how images are encoded; KineticError for what there is not."""
    if posterior not in POSTERIORS:
        raise KineticError(f"unknown posterior {posterior!r:.40}; choose from {', '.join(POSTERIORS)}")
    if precision not in ("32", "bf16"):
        raise KineticError(f"unknown precision {precision!r:.40}; choose from 32, bf16")
    return replace(latents, posterior=posterior, precision=precision)


def _seed(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "little")
