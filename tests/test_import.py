"""Public checkpoints: their networks compute what the projects' own code does, and their conventions are kept."""

import argparse
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from kinetic.errors import KineticError
from kinetic.flow.guidance import guided
from kinetic.flow.integration import integrate
from kinetic.flow.sampling import Sampler, draw
from kinetic.models.checkpoint import read_checkpoint, write_checkpoint
from kinetic.models.importing import imported
from kinetic.models.latents import read_statistics
from kinetic.models.opening import open_checkpoint
from kinetic.models.transformers import read_transformer, renamed
from kinetic.models.unets import read_unet
from kinetic.nn import DiT, UNet
from tests.public import NAMES, SIZES, difference, opened, parity, published, wrapped

EXACT = 1e-5  # the largest error, of the largest value


def kind(name: str) -> str:
    return "flow_matching" if name.startswith("flow") else name.removesuffix("_qknorm")


@pytest.mark.parametrize("name", NAMES)
def test_output_is_that_of_their_code(tmp_path: Path, name: str) -> None:
    origin = opened(tmp_path, published(name), **SIZES[name])
    _, data = parity(name)
    x, t, out = data["x"], data["t"], data["out"]
    if name.startswith("repa"):
        t, out = 1 - t, -out
    assert difference(origin.field(x, t, data.get("y")), out) < EXACT
    assert f"(imported from {kind(name)}, averaged weights)" in origin.name
    assert ("at step 50,000" in origin.name) == name.startswith("repa")  # torchcfm's step counts something else
    raw = open_checkpoint(tmp_path / "ours.ckpt", weights="raw")
    assert not raw.field(x, t, data.get("y")).any()


@pytest.mark.parametrize("name", ["sit", "lightningdit", "lightningdit_qknorm"])
def test_guidance_acts_on_three_channels_as_there(tmp_path: Path, name: str) -> None:
    _, data = parity(name)
    half = len(data["cfg/x"]) // 2
    x, t, y, out = (data[f"cfg/{part}"][:half] for part in ("x", "t", "y", "out"))
    origin = opened(tmp_path, published(name), **SIZES[name])
    assert difference(guided(origin.field, y, float(data["cfg/scale"]))(x, t), out) < EXACT


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("flow")])
def test_guidance_acts_on_all_channels_where_it_does_there(tmp_path: Path, name: str) -> None:
    _, data = parity(name)
    origin = opened(tmp_path, published(name), **SIZES[name])
    v = guided(origin.field, data["y"], 1 + float(data["cfg/weight"]))(data["x"], data["t"])
    assert difference(v, data["cfg/out"]) < EXACT


@pytest.mark.parametrize("name", ["repa", "repa_qknorm"])
def test_repa_goes_from_noise_to_data_as_its_own_sampler(tmp_path: Path, name: str) -> None:
    _, data = parity(name)
    origin = opened(tmp_path, published(name), **SIZES[name])
    velocity = guided(origin.field, data["euler/y"])
    found = integrate(velocity, data["euler/x"].float(), method="euler", steps=int(data["euler/steps"]))
    assert difference(found.x.double(), data["euler/out"]) < EXACT


@pytest.mark.parametrize("name", NAMES)
def test_a_bare_state_dict_is_recognised(tmp_path: Path, name: str) -> None:
    origin = opened(tmp_path, wrapped(parity(name)[0], "module._orig_mod."), **SIZES[name])
    assert f"(imported from {kind(name)}, weights as they came)" in origin.name


def test_a_table_without_a_null_row_samples_but_is_not_guided(tmp_path: Path) -> None:
    weights, data = parity("torchcfm")
    weights["label_emb.weight"] = torch.randn(10, 128)
    origin = opened(tmp_path, {"ema_model": weights, "net_model": weights}, **SIZES["torchcfm"])
    assert (origin.field.num_classes, origin.field.null_label) == (10, False)
    shifted = {**weights, "label_emb.weight": torch.cat([weights["label_emb.weight"][1:], torch.zeros(1, 128)])}
    other = opened(tmp_path, {"ema_model": shifted}, **SIZES["torchcfm"])
    x, t = data["x"], data["t"]
    labels = torch.tensor([0, 3, 8, 5])
    assert torch.equal(origin.field(x, t, labels + 1), other.field(x, t, labels))
    with pytest.raises(KineticError, match=r"guidance 2 needs a label that means none, .* use guidance 1"):
        draw(origin.field, [0], labels=1, sampler=Sampler(guidance=2.0))
    with pytest.raises(KineticError, match="no label that means none; pass labels"):
        draw(origin.field, [0], sampler=Sampler(steps=1))
    told = opened(tmp_path, {"ema_model": weights}, classes=9, **SIZES["torchcfm"])
    assert (told.field.num_classes, told.field.null_label) == (9, True)


@pytest.mark.parametrize(
    ("rows", "settings", "classes", "null"),
    [
        (1001, {}, 1000, True),
        (1000, {}, 1000, False),  # ImageNet's
        (11, {}, 10, True),
        (11, {"num_classes": 11}, 11, False),
        (1000, {"data": {"num_classes": 999}}, 999, True),
    ],
)
def test_whether_a_table_has_a_null_row(rows: int, settings: dict[str, Any], classes: int, null: bool) -> None:
    weights = parity("sit")[0]
    weights["y_embedder.embedding_table.weight"] = torch.zeros(rows, 48)
    found = read_transformer(weights, "sit", "it", heads=3, settings=settings)
    assert (found.classes, found.field.get("null_label", True)) == (classes, null)


TRANSFORMERS: list[dict[str, Any]] = [
    *({"size": size, "num_classes": 1000, "learn_sigma": True} for size in ("S", "B", "L", "XL")),
    {"size": "B", "patch_size": 4, "in_channels": 3, "input_size": 64},
    {"size": "S", "mlp_ratio": 2.5, "qk_norm": True},
    {"size": "L", "mlp": "swiglu", "norm": "rms", "num_classes": 1000},
    {"size": "S", "mlp": "swiglu", "norm": "rms", "mlp_ratio": 3.1},
]


@pytest.mark.parametrize("options", TRANSFORMERS, ids=str)
def test_sizes_of_transformers_are_read_off(options: dict[str, Any]) -> None:
    with torch.device("meta"):
        net = DiT(**{"depth": 2, **options})
        found = read_transformer(net.state_dict(), "lightningdit" if "norm" in options else "sit", "it", settings={})
        again = DiT(**found.network)
    assert [(k, v.shape) for k, v in again.state_dict().items()] == [(k, v.shape) for k, v in net.state_dict().items()]
    assert again.blocks[0].attn.num_heads == net.blocks[0].attn.num_heads
    assert again.sample_shape == net.sample_shape


UNETS: list[dict[str, Any]] = [
    {},  # torchcfm's CIFAR-10
    {"resblock_updown": True, "use_scale_shift_norm": True, "num_classes": 10, "attention_resolutions": [16, 8]},
    {"conv_resample": False, "num_res_blocks": 3, "channel_mult": [2, 2, 2], "attention_resolutions": [32, 8]},
    {"channel_mult": [1], "attention_resolutions": [], "in_channels": 1, "num_res_blocks": 1, "num_head_channels": 32},
]


@pytest.mark.parametrize("options", UNETS, ids=str)
def test_sizes_of_unets_are_read_off(options: dict[str, Any]) -> None:
    with torch.device("meta"):
        net = UNet(**options)
        told = {"head_channels": options.get("num_head_channels", 64), "classes": options.get("num_classes")}
        found = read_unet(net.state_dict(), "torchcfm", "it", **told, settings={})
        again = UNet(**found.network)
    assert [(k, v.shape) for k, v in again.state_dict().items()] == [(k, v.shape) for k, v in net.state_dict().items()]
    assert found.network["attention_resolutions"] == options.get("attention_resolutions", [16])
    assert (again.sample_shape, again.num_classes) == (net.sample_shape, net.num_classes)


def test_heads_that_weights_do_not_show_are_those_of_the_recipes() -> None:
    with torch.device("meta"):
        plain, residual = UNet().state_dict(), UNet(resblock_updown=True).state_dict()
    for weights, like, expected in (
        (plain, "torchcfm", (None, 64, False)),
        (plain, "flow_matching", (1, None, True)),
        (residual, "flow_matching", (None, 64, True)),
    ):
        found = read_unet(weights, like, "it", settings={"dataset": "imagenet"})  # type: ignore[arg-type]
        names = ("num_heads", "num_head_channels", "use_new_attention_order")
        assert tuple(found.network.get(name) for name in names) == expected
        assert found.network["image_size"] == 64


def test_legacy_files_of_repa_keep_half_of_their_blocks_under_another_name(tmp_path: Path) -> None:
    weights, data = parity("repa")
    legacy = {key.replace("blocks.1.", "decoder_blocks.0."): value for key, value in weights.items()}
    assert set(renamed(legacy)) == set(renamed(weights))
    origin = opened(tmp_path, legacy, heads=3)
    assert difference(origin.field(data["x"], 1 - data["t"], data["y"]), -data["out"]) < EXACT


def test_paths_and_predictions_are_those_that_the_file_states(tmp_path: Path) -> None:
    state = published("sit")
    state["args"].path_type, state["args"].prediction = "GVP", "noise"
    field = opened(tmp_path, state, heads=3).field
    assert (field.path.name, field.prediction, field.time) == ("gvp", "x0", "noise_to_data")
    state["args"].prediction = "energy"
    with pytest.raises(KineticError, match="predicts 'energy'; known are velocity, v, noise, score"):
        opened(tmp_path, state, heads=3)
    state["args"].path_type, state["args"].prediction = "spiral", "velocity"
    with pytest.raises(KineticError, match="trained on the path 'spiral'"):
        opened(tmp_path, state, heads=3)


class Evil:
    """Writes a file when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ("touch executed",)


def test_a_namespace_is_read_and_nothing_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    state = published("sit")
    for place in (state, vars(state["args"])):
        place["evil"] = Evil()
        with pytest.raises(KineticError, match="is refused, it holds more than weights"):
            opened(tmp_path, state, heads=3)
        del place["evil"]
    assert not (tmp_path / "executed").exists()
    state["args"].nested = argparse.Namespace()
    with pytest.raises(KineticError, match="one of its values should be a plain one, and is a Namespace"):
        opened(tmp_path, state, heads=3)
    torch.save({"args": argparse.Namespace()}, tmp_path / "own.pt")
    with pytest.raises(KineticError, match="holds more than weights"):  # only where it is expected
        read_checkpoint(tmp_path / "own.pt")


def changed(name: str, **values: Any) -> dict[str, Any]:
    """Bare weights of a fixture with some of them replaced, or (None) left out."""
    given = {key.replace("__", "."): value for key, value in values.items()}
    return {key: value for key, value in {**parity(name)[0], **given}.items() if value is not None}


def shadowed(count: int) -> dict[str, Any]:
    state = published("flow_matching_imagenet")
    shadows = [key for key in state["model"] if key.startswith("shadow")]
    del state["model"][shadows[count]]
    return state


def swapped() -> dict[str, Any]:
    state = published("flow_matching_imagenet")
    one, other = "shadow_params.0", "shadow_params.1"
    state["model"][one], state["model"][other] = state["model"][other], state["model"][one]
    return state


FAULTS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "no kind": (
        lambda: {"weights": torch.ones(1), "more": 1},
        {},
        r"of no known kind \(torchcfm, .*\); its keys are we",
    ),
    "other tensors": (lambda: {"a.b": torch.ones(1)}, {}, "of no known kind .*; its keys are a.b"),
    "empty": (dict, {}, "of no known kind .*; its keys are none"),
    "unknown kind": (lambda: published("sit"), {"like": "edm"}, "unknown kind 'edm'; choose from torchcfm, flow_mat"),
    "wrong family": (lambda: published("sit"), {"like": "torchcfm"}, "is not of torchcfm: it lacks input_blocks.0"),
    "sit or repa": (
        lambda: changed("repa", **{k: None for k in parity("repa")[0] if k.startswith("projectors")}),
        {"heads": 3},
        "may be of sit or of repa, .*--like",
    ),
    "no heads": (lambda: published("sit"), {}, r"width of 48 .*\(known: 384, 768, 1024, 1152\); say so with --heads"),
    "odd heads": (lambda: published("sit"), {"heads": 5}, "--heads 5 does not divide the width of 48"),
    "odd heads of a UNet": (lambda: published("torchcfm"), {"size": 8, "heads": 5}, "--heads 5 does not divide the 64"),
    "both heads": (lambda: published("torchcfm"), {"heads": 1, "head_channels": 64}, "do not go together"),
    "odd size": (lambda: published("torchcfm"), {"size": 9}, "--size should be a multiple of 2 below"),
    "size of a transformer": (lambda: published("sit"), {"size": 8, "heads": 3}, "--size is for UNets"),
    "classes": (lambda: published("sit"), {"heads": 3, "classes": 5}, "--classes 5: the table .* has 11 rows"),
    "no classes": (lambda: published("torchcfm"), {"size": 8, "classes": 5}, "has no table of labels; leave it out"),
    "variance": (
        lambda: changed("torchcfm", out__2__weight=torch.zeros(6, 64, 3, 3)),
        {"size": 8},
        "makes 6 channels of 3, as networks of diffusion",
    ),
    "lacking": (
        lambda: changed("sit", pos_embed=None),
        {"heads": 3},
        "does not fit a network of its kind: it lacks pos",
    ),
    "lacking a weight": (
        lambda: changed("sit", blocks__1__attn__proj__bias=None),
        {"heads": 3},
        "1 tensors missing, .* 'blocks.1.attn.proj.bias'; name its kind with --like",
    ),
    "no square": (lambda: changed("sit", pos_embed=torch.zeros(1, 15, 48)), {"heads": 3}, "make no square"),
    "a gap": (
        lambda: {k.replace("blocks.1.", "blocks.7."): v for k, v in parity("sit")[0].items()},
        {"heads": 3},
        "its blocks.N are not numbered from 0 on",
    ),
    "stages": (
        lambda: {k: v for k, v in parity("torchcfm")[0].items() if not k.startswith("output_blocks.5.")},
        {"size": 8},
        "6 stages down and 5 up make no UNet of 2 levels",
    ),
    "other positions": (
        lambda: changed("lightningdit", feat_rope__freqs_cos=torch.zeros(16, 16)),
        {},
        r"its rotary positions \(feat_rope.freqs_cos\) are none of LightningDiT's",
    ),
    "too few shadows": (lambda: shadowed(3), {"size": 8, "head_channels": 32}, "has 144 averaged tensors"),
    "other order": (swapped, {"size": 8, "head_channels": 32}, "averaged tensor of .* has another shape"),
    "twice": (
        lambda: {**parity("sit")[0], "module.pos_embed": torch.zeros(1, 16, 48)},
        {"heads": 3},
        "has two tensors called 'pos_embed'",
    ),
    "huge": (
        lambda: changed("sit", pos_embed=torch.zeros(1).expand(1, 2**20, 48)),
        {"heads": 3},
        "is larger than what is stored of it",
    ),
    "no weights": (lambda: {**published("sit"), "ema": {"pos_embed": 3}}, {"heads": 3}, "should be a tensor"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_imported_is_one_line(tmp_path: Path, fault: str) -> None:
    make, options, message = FAULTS[fault]
    torch.save(make(), tmp_path / "public.pt")
    with pytest.raises(KineticError, match=message) as refused:
        imported(tmp_path / "public.pt", **options)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 900


@pytest.mark.parametrize(
    "declared",
    [{"time": "sideways"}, {"time": 1}, {"mood": "good"}, {"cfg_channels": 0}, {"null_label": 1}, [1]],
    ids=str,
)
def test_what_a_checkpoint_declares_is_checked(tmp_path: Path, declared: Any) -> None:
    torch.save(published("sit"), tmp_path / "public.pt")
    checkpoint = imported(tmp_path / "public.pt", heads=3).checkpoint
    checkpoint["hyper_parameters"]["field"] = declared
    write_checkpoint(checkpoint, tmp_path / "ours.ckpt")
    with pytest.raises(KineticError) as refused:
        open_checkpoint(tmp_path / "ours.ckpt")
    assert "\n" not in str(refused.value)


def test_statistics_of_latents_are_one_number_a_channel(tmp_path: Path) -> None:
    mean, std = torch.arange(4.0).view(1, 4, 1, 1), torch.full((1, 4, 1, 1), 2.0)
    torch.save({"mean": mean, "std": std}, tmp_path / "stats.pt")
    assert read_statistics(tmp_path / "stats.pt", 4) == ((0.0, 1.0, 2.0, 3.0), (2.0,) * 4)
    with pytest.raises(KineticError, match="mean should have 3 finite values, and has 4"):
        read_statistics(tmp_path / "stats.pt", 3)
    torch.save({"mean": mean, "std": 0 * std}, tmp_path / "stats.pt")
    with pytest.raises(KineticError, match="std must be above 0"):
        read_statistics(tmp_path / "stats.pt", 4)
