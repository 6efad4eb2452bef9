"""Every shipped configuration parses, builds, and states the recipe it is named after."""

from pathlib import Path

import pytest
import torch
import yaml
from jsonargparse import get_loader
from jsonargparse._common import parsing_settings

from kinetic.cli.train import TrainCLI
from kinetic.trust import OWN

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))
MILLIONS = {
    "digits": 0.651041,
    "digits_long": 0.3956,
    "digits_dit": 1.2723,
    "cifar10_gray16": 0.701345,
    "faces_memorization": 0.13017,
    "toy2d": 0.6582,
    "cifar10_unet": 35.746,
    "cifar10_dit": 32.479,
    "celeba32_memorization": 4.02,
    "imagenet256_sit": 675.06,
}


class ParseOnly(TrainCLI):
    """Stops before anything is made."""

    def _set_seed(self):
        pass

    def before_instantiate_classes(self):
        raise StopIteration

    @classmethod
    def parse_args(cls, args: list[str]):
        cli = cls.__new__(cls)
        with pytest.raises(StopIteration):
            cli.__init__(args, stem="x", trust=OWN)
        return cli


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_config_parses_and_its_network_has_the_size_it_should(path):
    config = ParseOnly.parse_args(["--config", str(path)]).config
    network = config.network.as_dict()
    module, name = network["class_path"].rsplit(".", 1)
    with torch.device("meta"):
        net = getattr(__import__(module, fromlist=[name]), name)(**network["init_args"])
    count = sum(p.numel() for p in net.parameters()) / 1e6
    assert count == pytest.approx(MILLIONS[path.stem], rel=1e-3)


def test_cifar10_unet_is_torchcfms_recipe():
    config = yaml.safe_load(next(p for p in CONFIGS if p.stem == "cifar10_unet").read_text())
    assert config["optimizer"] == {"class_path": "torch.optim.Adam", "init_args": {"lr": 2e-4}}
    assert (config["model"]["warmup_steps"], config["model"]["ema_decay"]) == (5000, 0.9999)
    data, trainer = config["data"]["init_args"], config["trainer"]
    assert (data["batch_size"], data["flip"]) == (128, True)
    assert (trainer["max_steps"], trainer["gradient_clip_val"], trainer["precision"]) == (400001, 1.0, "32-true")


def test_what_a_command_trusts_does_not_outlast_its_parsing():
    before = dict(parsing_settings), get_loader("yaml")
    ParseOnly.parse_args(["--config", str(CONFIGS[0])])
    assert (dict(parsing_settings), get_loader("yaml")) == before
