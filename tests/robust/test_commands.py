"""Bad command lines, configurations, checkpoints and folders: one line that names the fault, and nothing is touched."""

import os
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from kinetic.cli import main
from kinetic.cli.sample import sample
from kinetic.cli.train import train
from kinetic.errors import KineticError
from kinetic.samples.parts import read_part
from kinetic.store import tables
from tests.conftest import TINY, inside, merged
from tests.robust.commands import (
    BOMB,
    CANARY,
    DEEP,
    LAST,
    PART,
    RUN,
    Make,
    Touch,
    config,
    data,
    hparams,
    huge_array,
    listing,
    network,
    part,
    pickled,
    refused,
    state,
    text,
    weight,
    within,
    zipped,
)
from tests.robust.makers import many, png, tar
from tests.robust.test_data import png_header

CPU = ["--accelerator", "cpu"]
Row = tuple[Make, str | list[str], str]  # what is made, the command line, and words of the one line


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, samples of it in out/, and configurations."""
    changes = {"trainer": {"max_steps": 3}, "model": {"samples": {"num": 0}}, "run": {"wandb": "disabled"}}
    with inside(tmp_path_factory.mktemp("trained")) as home:
        Path("tiny.yaml").write_text(yaml.safe_dump(merged(TINY, changes)))
        train(["--config", "tiny.yaml", "--run.name", "run"])
        sample(["--num", "4", "--steps", "2", "--out", "out", *CPU])
    return home


@pytest.fixture
def here(trained: Path, workdir: Path) -> Path:
    """A copy of that folder, the current one."""
    shutil.copytree(trained, workdir, symlinks=True, dirs_exist_ok=True)
    return workdir


def nothing() -> None:
    """Spoil nothing."""


def line(command: str, words: str, *, make: Make = nothing) -> Row:
    return make, command, words


TRAIN = "train --config tiny.yaml "
PIPE = f"pipe:touch {CANARY}"
FOREIGN = {"class_path": "os.system", "init_args": {"command": f"touch {CANARY}"}}
SHARDS = {"class_path": "kinetic.data.Shards", "init_args": {"train": PIPE}}


def tiny(**groups: Any) -> Make:
    return config(Path("tiny.yaml"), **groups)


def own_config(content: str | bytes, words: str) -> Row:
    return text("bad.yaml", content), "train --config bad.yaml", words


TRAINING: dict[str, Row] = {
    # names and places of runs
    **{
        f"run.name {name!r:.12}": (nothing, [*TRAIN.split(), "--run.name", name], "cannot name a run: pass at most 100")
        for name in ("..", ".", "", ".a", "a\nb", "x" * 300, "a/b", "a\\b", "latest", "a.", " ", "a\x1b[2J")
    },
    "run.name -x": line(TRAIN + "--run.name -x", "--run.name"),
    "run.name of a dash": (nothing, [*TRAIN.split(), "--run.name=-x"], "cannot name a run"),
    "run.name taken": line(TRAIN + "--run.name run", "exists already; continue it with --resume run"),
    "run.name of a file": line(TRAIN + "--run.name notes", "is no run", make=text("runs/notes", "mine")),
    "run.name of a folder": line(TRAIN + "--run.name mine", "is no run", make=text("runs/mine/x.txt", "mine")),
    "run.root ''": (nothing, [*TRAIN.split(), "--run.root", ""], "--run.root '' is no folder"),
    "run.root a file": line(TRAIN + "--run.root tiny.yaml", "--run.root 'tiny.yaml' is no folder"),
    "run.root below a file": line(TRAIN + "--run.root tiny.yaml/x", "tiny.yaml"),
    "run.name with resume": line("train --resume run --run.name x", "--run.name does not go with --resume"),
    "resume of none": line("train --resume nosuch", "no run 'nosuch' in runs/; known runs: run"),
    "resume outside": line("train --resume ../..", "no run '../..'"),
    "resume without runs": line("train --resume", "train one first", make=lambda: shutil.rmtree("runs")),
    "resume, latest dangling": line("train --resume", "there is no run in runs/ yet", make=lambda: shutil.rmtree(RUN)),
    "resume, latest a text": line(
        "train --resume",
        "there is no run in runs/",
        make=lambda: (os.unlink("runs/latest"), text("runs/latest", "x")()),
    ),
    "checkpoint_every 0": line(TRAIN + "--run.checkpoint_every 0", "--run.checkpoint_every must be at least 1, got 0"),
    "keep_every -1": line(TRAIN + "--run.keep_every -1", "--run.keep_every must be at least 1, got -1"),
    "wandb maybe": line(TRAIN + "--run.wandb maybe", "--run.wandb"),
    # options that are none
    "an abbreviation of config": line("train --conf tiny.yaml", "unknown option --conf; did you mean --config?"),
    "an abbreviation of max_steps": line(TRAIN + "--trainer.max_step 3", "trainer.max_step"),
    "a misspelt group": line(TRAIN + "--modle.path vp", "unknown option --modle.path"),
    "a misspelt flag": line(TRAIN + "--dryrun", "unknown option --dryrun"),
    "a value alone": line(TRAIN + "5", "5"),
    "an option without a value": line(TRAIN + "--trainer.max_steps", "--trainer.max_steps"),
    "config without a value": line("train --config", "--config needs a file"),
    "trust without a value": line(TRAIN + "--trust", "--trust needs a value"),
    "trust of no name": line(TRAIN + "--trust 0bad", "--trust takes the name of a package"),
    # options of the trainer
    **{
        f"trainer {options}": line(TRAIN + options, words)
        for options, words in {
            "--trainer.logger false": "--trainer.logger False is not obeyed",
            "--trainer.default_root_dir x": "--trainer.default_root_dir x is not obeyed",
            "--trainer.enable_checkpointing false": "--trainer.enable_checkpointing False is not obeyed",
            "--trainer.overfit_batches 3": "--trainer.overfit_batches 3 is not obeyed",
            "--trainer.barebones true": "--trainer.barebones True is not obeyed",
            "--trainer.fast_dev_run true": "--trainer.fast_dev_run True is not obeyed",
            "--trainer.max_steps -5": "--trainer.max_steps must be 1 to 1,000,000,000,000, or -1, got -5",
            "--trainer.max_steps 0": "--trainer.max_steps must be 1",
            "--trainer.max_steps many": "--trainer.max_steps takes a whole number, got 'many'",
            "--trainer.max_steps 1.5": "--trainer.max_steps takes a whole number",
            "--trainer.max_steps true": "--trainer.max_steps",
            "--trainer.max_steps nan": "--trainer.max_steps takes a whole number",
            "--trainer.max_epochs -2": "--trainer.max_epochs must be 1",
            "--trainer.min_steps -1": "--trainer.min_steps must be 0",
            "--trainer.log_every_n_steps -1": "--trainer.log_every_n_steps must be 0",
            "--trainer.log_every_n_steps 1e30": "--trainer.log_every_n_steps",
            "--trainer.accumulate_grad_batches 0": "--trainer.accumulate_grad_batches must be 1",
            "--trainer.gradient_clip_val -1": "--trainer.gradient_clip_val must be 0 or more",
            "--trainer.gradient_clip_val .nan": "--trainer.gradient_clip_val must be 0 or more",
            "--trainer.num_nodes 0": "--trainer.num_nodes must be 1",
            "--trainer.limit_val_batches 1.5": "--trainer.limit_val_batches",
            "--trainer.limit_train_batches -1": "--trainer.limit_train_batches must be 0",
            "--trainer.limit_train_batches true": "--trainer.limit_train_batches",
            "--trainer.val_check_interval 0": "--trainer.val_check_interval must be greater than 0",
            "--trainer.val_check_interval 0.0": "--trainer.val_check_interval must be greater than 0",
            "--trainer.val_check_interval -3": "--trainer.val_check_interval",
            "--trainer.val_check_interval x": "val_check_interval",
            "--trainer.check_val_every_n_epoch 0": "--trainer.check_val_every_n_epoch must be 1",
            "--trainer.num_sanity_val_steps -2": "--trainer.num_sanity_val_steps must be 0",
            "--trainer.devices 0": "--trainer.devices must be 1",
            "--trainer.devices 100000000": "--trainer.devices must be 1",
            "--trainer.devices 99999999999999999999": "--trainer.devices",
            "--trainer.devices -7": "--trainer.devices must be 1",
            "--trainer.devices none": "--trainer.devices takes a number",
            "--trainer.accelerator abacus": "abacus",
            "--trainer.strategy fast": "fast",
            "--trainer.strategy fsdp": "--trainer.strategy fsdp splits the weights over processes",
            "--trainer.strategy deepspeed_stage_3": "use ddp, and where memory is short smaller batches",
            "--trainer.strategy lightning.pytorch.strategies.FSDPStrategy": "FSDPStrategy splits the weights",
            "--trainer.strategy lightning.pytorch.strategies.ModelParallelStrategy": "ModelParallelStrategy splits",
            "--trainer.precision 7": "--trainer.precision",
            "--trainer.max_time soon": "--trainer.max_time is written as",
            "--trainer.profiler slow": "--trainer.profiler takes one of",
            "--trainer.callbacks.class_path os.system": "os.system",
        }.items()
    },
    # optimiser, schedule, model, network, data
    **{
        f"{options}": line(TRAIN + options, words)
        for options, words in {
            "--optimizer.init_args.lr -1": "nvalid learning rate",
            "--optimizer.init_args.lr .inf": "learning rate must be a finite number",
            "--optimizer.init_args.lr .nan": "earning rate",
            "--optimizer.init_args.lr nan": "--optimizer.init_args.lr takes a number, got 'nan'",
            "--optimizer.init_args.lr fast": "--optimizer.init_args.lr takes a number",
            "--optimizer.init_args.betas [2,2]": "nvalid beta",
            "--optimizer.init_args.weight_decay -1": "weight_decay",
            "--optimizer.class_path torch.optim.Nosuch": "torch.optim has no class Nosuch",
            "--optimizer.class_path os.system": "os.system",
            "--optimizer.class_path subprocess.Popen": "subprocess.Popen",
            "--scheduler.class_path torch.optim.lr_scheduler.ReduceLROnPlateau": "ReduceLROnPlateau",
            "--scheduler.class_path torch.optim.lr_scheduler.LambdaLR": "lr_lambda",
            "--scheduler.init_args.T_max 0": "the schedule: integer modulo by zero",
            "--scheduler.init_args.T_max x": "T_max",
            "--model.warmup_steps -1": "warmup_steps",
            "--model.warmup_steps 1.5": "--model.warmup_steps takes a whole number",
            "--model.ema_decay 2": "ema_decay",
            "--model.ema_decay nan": "ema_decay",
            "--model.path straight": "takes one of linear, gvp, vp",
            "--model.samples.num -1": "samples.num must be 1 to 10,000,000, got -1",
            "--model.samples.num 1000000000000": "samples.num must be 1 to 10,000,000",
            "--model.samples.first_seed -1": "samples.first_seed must be 0",
            "--model.samples.first_seed 99999999999999999999": "samples.first_seed must be 0",
            "--model.samples.batch_size 0": "samples.batch_size must be at least 1",
            "--model.samples.num 2 --model.samples.labels 3": "unconditional",
            "--model.samples.measures [os.system]": "os.system",
            "--model.sampler.steps 0": "steps must be a whole number of 1 to 100,000, got 0",
            "--model.sampler.steps 1000000000": "steps must be a whole number of 1 to 100,000",
            "--model.sampler.method rk99": "unknown method 'rk99'",
            "--model.sampler.rtol 0": "rtol must be above 0",
            "--model.sampler.guidance .nan": "guidance must be a finite number",
            "--model.sampler.kts.alpha -1": "alpha must be a finite number of at least 0",
            "--model.sampler.kts.tau 1": "tau must lie strictly between 0 and 1",
            "--network.class_path kinetic.nn.UNett": "UNett",
            "--network.class_path os.system": "os.system",
            "--network.class_path kinetic.nn.blocks": "kinetic.nn.blocks",
            "--network.init_args.model_chanels 8": "did you mean model_channels?",
            "--network.init_args.model_channels 0": "model_channels",
            "--network.init_args.model_channels -8": "model_channels",
            "--network.init_args.model_channels 7": "does not divide the 14 channels",
            "--network.init_args.num_head_channels 0": "num_head_channels",
            "--network.init_args.num_head_channels 3": "3",
            "--network.init_args.dropout 2": "dropout must be at least 0 and below 1",
            "--network.init_args.dropout nan": "dropout",
            "--network.init_args.num_classes 0": "num_classes",
            "--network.init_args.image_size 0": "image_size",
            "--network.init_args.channel_mult []": "channel_mult",
            "--network.init_args.channel_mult [0]": "channel_mult",
            "--network.init_args.in_channels 3": "the channels differ",
            "--data.class_path kinetic.data.Nosuch": "Nosuch",
            "--data.class_path os.system": "os.system",
            "--data.class_path kinetic.data.Folder --data.init_args.path nosuch": "nosuch",
            "--data.class_path kinetic.data.Shards --data.init_args.train nosuch.tar": "nosuch.tar",
            "--data.init_args.batch_size 0": "batch_size",
            "--data.init_args.num_train 5000": "1297",
            "--data.init_args.num_workers -1": "num_workers",
            "--seed_everything -1": "--seed_everything must be 0 to 4,294,967,295, got -1",
            "--seed_everything 99999999999999999999": "seed",
            "--seed_everything x": "seed_everything",
        }.items()
    },
    # configurations
    "config missing": line("train --config nosuch.yaml", "is no file and no shipped configuration; those are"),
    "config a folder": line("train --config runs", "is no file and no shipped configuration"),
    "config a fifo": line("train --config fifo", "fifo", make=lambda: os.mkfifo("fifo")),
    "config a name without end": (nothing, ["train", "--config", "x" * 5000], "File name too long"),
    "config twice, one bad": line(TRAIN + "--config nosuch.yaml", "nosuch.yaml"),
    "config binary": own_config(bytes(range(256)), "bad.yaml cannot be read"),
    "config of zeros": own_config(bytes(100), "bad.yaml cannot be read"),
    "config empty": own_config("", "bad.yaml is no configuration"),
    "config a list": own_config("[1, 2]", "holds a list, not groups of options"),
    "config a text": own_config("trainer", "holds a str, not groups of options"),
    "config of no YAML": own_config("a: [1", "bad.yaml cannot be read"),
    "config with tabs": own_config("trainer:\n\tmax_steps: 3", "bad.yaml cannot be read"),
    "config of aliases": own_config(BOMB, "its aliases stand for"),
    "config that holds itself": own_config("a: &a [*a]", "stands for what it lies in"),
    "config without depth": own_config(DEEP, "nested more than 60 deep"),
    "config of 5 MB": own_config("# " + "x" * 5 * 2**20, "bytes"),
    "config that calls": own_config(f"trainer: !!python/object/apply:os.system ['touch {CANARY}']", "bad.yaml"),
    "config of a tag": own_config("trainer: !what {}", "bad.yaml"),
    "config of duplicate keys": own_config(
        "trainer: {max_steps: 3}\ntrainer: {max_steps: 4}", "it has 'trainer' twice"
    ),
    "config of an unknown group": own_config("trainr: {}", "has the unknown group 'trainr'; the groups are"),
    "config of a group of text": own_config("trainer: fast", "trainer should be options with values, and is 'fast'"),
    "config of a number for a key": own_config("1: {}", "has the unknown group 1"),
    "config of a list for a class": own_config("network: {class_path: [1]}", "network.class_path should name a class"),
    "config of a number of many digits": own_config("seed_everything: " + "9" * 5000, "bad.yaml cannot be read"),
    "config without a network": own_config("data: {class_path: kinetic.data.Digits}\nmodel: {}", "network"),
    "config of a run of another kind": line("train --config bad.yaml", "sett", make=text("bad.yaml", "settings: {}")),
    "a function for a class": line(TRAIN, "os.system", make=tiny(network=FOREIGN)),
    "a function for an optimiser": line(TRAIN, "os.system", make=tiny(optimizer=FOREIGN)),
    "a function for data": line(TRAIN, "os.system", make=tiny(data=FOREIGN)),
    "a function for a callback": line(TRAIN, "os.system", make=tiny(trainer={"callbacks": [FOREIGN]})),
    "a function for a measure": line(TRAIN, "os.system", make=tiny(model={"samples": {"measures": ["os.system"]}})),
    "a foreign class": line(TRAIN, "pass --trust antigravity", make=tiny(network={"class_path": "antigravity.Net"})),
    "a class of the wrong kind": line(TRAIN, "kinetic.data.Toy", make=tiny(network={"class_path": "kinetic.data.Toy"})),
    "a callback that is none": line(TRAIN, "callbacks", make=tiny(trainer={"callbacks": [5]})),
    "arguments as a list": line(TRAIN, "network", make=tiny(network={"init_args": [1]})),
    # run folders that go on
    **{
        f"resumed config {name}": line("train --resume run", words, make=make)
        for name, (make, words) in {
            "missing": (lambda: (RUN / "config.yaml").unlink(), "no run 'run'"),
            "binary": (text(RUN / "config.yaml", bytes(range(256))), "config.yaml cannot be read"),
            "of aliases": (text(RUN / "config.yaml", BOMB), "its aliases stand for"),
            "that calls": (
                text(RUN / "config.yaml", f"data: !!python/object/apply:os.system [touch {CANARY}]"),
                "config",
            ),
            "of a list": (text(RUN / "config.yaml", "[1]"), "holds a list"),
            "of a foreign network": (config(network=FOREIGN), "os.system"),
            "of a foreign callback": (config(trainer={"callbacks": [FOREIGN]}), "os.system"),
            "of torch's callbacks": (
                config(trainer={"callbacks": [{"class_path": "lightning.pytorch.callbacks.LambdaCallback"}]}),
                "lightning",
            ),
            "of a command": (config(data=SHARDS), "comes from a saved configuration and is not opened"),
            "of a plugin": (config(trainer={"plugins": [FOREIGN]}), "os.system"),
            "of a strategy": (config(trainer={"strategy": FOREIGN}), "os.system"),
            "of a profiler": (config(trainer={"profiler": FOREIGN}), "os.system"),
        }.items()
    },
    **{
        f"resumed checkpoint {name}": line("train --resume run --trainer.max_steps 5", words, make=make)
        for name, (make, words) in {
            "cut": (data(lambda b: b[: len(b) // 2]), "damaged"),
            "empty": (data(lambda b: b""), "damaged"),
            "of text": (text(LAST, "weights"), "damaged"),
            "that calls": (pickled({"state_dict": Touch()}), "refused"),
            "a plain pickle": (text(LAST, pickle.dumps(Touch())), "damaged"),
            "a list": (pickled([1, 2]), "not a dictionary"),
            "of nothing": (pickled({}), "it lacks"),
            "a global step of inf": (state(lambda s: s.update(global_step=float("inf"))), "global_step"),
            "a global step of a list": (state(lambda s: s.update(global_step=[1])), "global_step"),
            "settings of a list": (state(lambda s: s.update(hyper_parameters=[1])), "hyper_parameters"),
            "numbers for weights": (weight(5), "state_dict"),
        }.items()
    },
}


def sampled(options: str, words: str) -> Row:
    return line(f"sample {options} --steps 2", words)


def spoilt(make: Make, words: str, options: str = "") -> Row:
    return line(f"sample --num 2 {options} --steps 2", words, make=make)


def again(make: Make, words: str) -> Row:
    """Samples of before that are damaged when they are asked for again."""
    return line("sample --num 4 --steps 2 --out out", words, make=make)


SAMPLING: dict[str, Row] = {
    **{
        options: sampled(options, words)
        for options, words in {
            "--num 0": "--num must be 1 to 10,000,000, got 0",
            "--num -1": "--num",
            "--num 1e9": "--num",
            "--num 1000000000000": "--num must be 1 to 10,000,000, got 1000000000000",
            "--num abc": "--num takes a whole number, got 'abc'",
            "--num 1.5": "--num",
            "--num nan": "--num",
            "--num 99999999999999999999999999": "--num must be 1 to",
            "--num true": "--num",
            "--num": "--num",
            "--batch-size 0": "--batch-size must be at least 1, got 0",
            "--batch-size -4": "--batch-size",
            "--batch-size x": "--batch-size takes a whole number, got 'x'",
            "--devices 0": "--devices must be 1 to",
            "--devices -1": "--devices",
            "--devices 1000000000": "--devices must be 1 to",
            "--devices 99999999999999999999": "--devices must be 1 to",
            "--devices all": "--devices must be 1 to",
            "--devices 1,2": "--devices must be 1 to",
            "--seeds 0-1000000000000": "at most 10,000,000 are drawn at a time",
            "--seeds 0-99999999999999999999": "are too large; the largest is 9,007,199,254,740,991",
            "--seeds 9-3": "must rise without repeats",
            "--seeds 1,1": "must rise without repeats",
            "--seeds 3,1": "must rise without repeats",
            "--seeds=-5": "cannot read seeds '-5'",
            "--seeds 1-2-3": "cannot read seeds",
            "--seeds a": "cannot read seeds 'a'",
            "--seeds 1,": "cannot read seeds",
            "--seeds ²": "cannot read seeds",
            "--labels 3": "unconditional",
            "--labels cat": "cannot read labels 'cat'",
            "--labels 1,,2": "cannot read labels",
            "--labels 99999999999999999999": "cannot read labels",
            "--labels 0,1": "unconditional",
            "--index -1": "--index",
            "--index 99999999999999999999": "--index is a seed of 0 to",
            "--index x": "--index",
            "--guidance .nan": "--guidance must be a finite number, got nan",
            "--guidance .inf": "--guidance must be a finite number, got inf",
            "--guidance 2": "--guidance 2 needs a network with classes",
            "--guidance much": "--guidance takes a number, got 'much'",
            "--kts blanced": "unknown KTS preset 'blanced'; choose from off, balanced, launch, landing",
            "--alpha nan": "--alpha takes a number, got 'nan'",
            "--alpha .nan": "--alpha must be a finite number of at least 0",
            "--alpha -1": "--alpha must be a finite number of at least 0",
            "--alpha .inf": "--alpha must be a finite number of at least 0",
            "--beta 5": "--beta=5 would reverse the motion",
            "--beta -1": "--beta must be",
            "--tau 0": "--tau must lie strictly between 0 and 1",
            "--tau .nan": "--tau must lie strictly between 0 and 1",
            "--k 0": "--k must lie above 0",
            "--k 1e9": "--k must lie above 0",
            "--launch-form cubic": "unknown KTS launch form 'cubic'",
            "--landing-form cubic": "unknown KTS landing form 'cubic'",
            "--method eular": "unknown method 'eular'",
            "--sampler euler": "--sampler",
            "--rtol 0": "--rtol must be above 0",
            "--rtol .nan": "--rtol must be above 0",
            "--atol -1": "--atol must be above 0",
            "--grid log": "unknown grid 'log'",
            "--grid 0,x,1": "cannot read the grid",
            "--grid 0,nan,1": "times must rise strictly",
            "--grid 0,0.5": "times must rise strictly from 0 to 1",
            "--grid 1,0": "times must rise strictly",
            "--grid [0,[1]]": "--grid",
            "--weights best": "unknown weights 'best'; choose from ema, raw",
            "--precision 8": "unknown precision '8'; choose from 32, bf16, 16",
            "--format jpg": "unknown format 'jpg'; choose from png, npz, shards",
            "--format ,": "unknown format ''",
            "--accelerator abacus": "abacus",
            "--accelerator tpu": "accelerator",
            "--num 3 --seeds 0-2": "--seeds and --num do not go together",
            "--compare off --kts off": "--compare and --kts do not go together",
            "--compare off,off": "names a setting twice",
            "--compare off,x": "unknown setting 'x'",
            "--empirical --weights raw": "--empirical and --weights do not go together",
            "--measure os.system": "lies outside kinetic",
            "--measure kinetic.nn.UNet": "is not a Measure",
            "--measure nosuch": "nosuch",
            "--measure kinetic.Nosuch": "cannot be imported",
            "--trust": "--trust",
            "--step 5": "--step",
            "--nmu 5": "--nmu",
            "--out": "--out",
            "nosuch": "no run 'nosuch' in runs/; known runs: run",
            "run --run other": "two runs are named",
            "--root nosuch": "train one first",
            "--root tiny.yaml": "train one first",
            "--checkpoint nosuch.ckpt": "checkpoint nosuch.ckpt does not exist",
            "--checkpoint runs": "runs is no exported model",
            "--checkpoint tiny.yaml": "damaged or no checkpoint",
            "--checkpoint /dev/zero": "/dev/zero",
            "--empirical --labels x": "cannot read labels",
        }.items()
    },
    "--steps 0": line("sample --steps 0", "--steps must be a whole number of 1 to 100,000, got 0"),
    "--steps -5": line("sample --steps -5", "--steps"),
    "--steps 1000000000": line("sample --steps 1000000000", "--steps must be a whole number of 1 to 100,000"),
    "--steps x": line("sample --steps x", "--steps takes a whole number, got 'x'"),
    "--steps 1e3": line("sample --steps 1e3", "--steps takes a whole number"),
    "--grid of aliases": (nothing, ["sample", "--grid", BOMB], "grid"),
    "--grid without depth": (nothing, ["sample", "--grid", "[" * 900 + "]" * 900], "grid"),
    "--num of aliases": (nothing, ["sample", "--num", BOMB], "--num"),
    "--num of 5000 digits": (nothing, ["sample", "--num", "9" * 5000], "--num"),
    "--seeds of 5000 digits": (nothing, ["sample", "--seeds", "9" * 5000], "are too large"),
    "--labels of 5000 digits": (nothing, ["sample", "--labels", "9" * 5000], "cannot read labels"),
    "--devices of 5000 digits": (nothing, ["sample", "--devices", "9" * 5000], "--devices"),
    "--config of a stranger": line("sample --config tiny.yaml", "--config"),
    # places
    "out is a file": line("sample --num 2 --steps 2 --out tiny.yaml", "tiny.yaml is a file; choose another --out"),
    "out below a file": line("sample --num 2 --steps 2 --out tiny.yaml/x", "tiny.yaml"),
    "out with other samples": line("sample --num 4 --steps 3 --out out", "holds samples of other settings"),
    "out with more seeds": line("sample --num 2 --steps 2 --out out", "holds seeds 0-3, more than are asked for"),
    "out with a person's file": line(
        "sample --num 2 --steps 2 --out mine", "mine holds grid.png of something else", make=text("mine/grid.png", "x")
    ),
    "out with a person's folder": line(
        "sample --num 2 --steps 2 --out mine", "mine holds images of", make=text("mine/images/x.png", "x")
    ),
    "latest dangling": line("sample --num 2", "there is no run in runs/ yet", make=lambda: shutil.rmtree(RUN)),
    "latest a text": spoilt(lambda: (os.unlink("runs/latest"), text("runs/latest", "x")()), "there is no run in runs/"),
    "latest of 2 MB": spoilt(
        lambda: (os.unlink("runs/latest"), text("runs/latest", "x" * 2**21)()), "runs/latest cannot be read"
    ),
    "latest a folder": spoilt(lambda: (os.unlink("runs/latest"), text("runs/latest/x", "")()), "there is no run in"),
    "latest names itself": spoilt(
        lambda: (os.unlink("runs/latest"), os.symlink("latest", "runs/latest")), "there is no run in"
    ),
    "no checkpoint yet": spoilt(LAST.unlink, "has no checkpoint yet"),
    # checkpoints
    "cut checkpoint": spoilt(data(lambda b: b[: len(b) // 2]), "damaged"),
    "cut by a byte": spoilt(data(lambda b: b[:-1]), "damaged"),
    "empty checkpoint": spoilt(data(lambda b: b""), "damaged"),
    "zeros for a checkpoint": spoilt(data(lambda b: bytes(len(b))), "damaged"),
    "flipped byte": spoilt(
        data(lambda b: b[: len(b) // 2] + bytes([b[len(b) // 2] ^ 1]) + b[len(b) // 2 + 1 :]), "damaged"
    ),
    "text for a checkpoint": spoilt(text(LAST, "weights"), "damaged"),
    "pickle that calls": spoilt(pickled({"state_dict": Touch()}), "refused, it holds more than weights"),
    "plain pickle that calls": spoilt(text(LAST, pickle.dumps({"state_dict": Touch()})), "damaged or no checkpoint"),
    "zip bomb": spoilt(
        lambda: zipped({"x/data.pkl": bytes(2**24)}, LAST, zipfile.ZIP_DEFLATED), "claims to hold more than its"
    ),
    "zip of other things": spoilt(lambda: zipped({"a.txt": b"x"}, LAST), "its table of contents is missing"),
    "pickle without end": spoilt(
        lambda: zipped({"x/data.pkl": b"\x80\x02" + b"(" * 10**5, "x/version": b"3"}, LAST), ""
    ),
    "list for a checkpoint": spoilt(pickled([1, 2]), "holds a list, not a dictionary"),
    "number for a checkpoint": spoilt(pickled(5), "holds a int, not a dictionary"),
    "keys of numbers": spoilt(pickled({1: 2}), "not a dictionary of names"),
    "foreign checkpoint": spoilt(pickled({"model": {"w": torch.zeros(3)}}), "was not written by train.py: it lacks"),
    "bare weights": spoilt(pickled({"w": torch.zeros(3)}), "was not written by train.py"),
    "weights that are numbers": spoilt(weight(5), "should be a tensor, and is 5"),
    "weights of another shape": spoilt(weight(torch.zeros(2, 2)), "1 of another shape"),
    "weights of whole numbers": spoilt(
        weight(torch.zeros(1, 8, 3, 3, dtype=torch.int64)), "1 of another shape or kind"
    ),
    "weights that are complex": spoilt(
        weight(torch.zeros(1, 8, 3, 3, dtype=torch.complex64)), "1 of another shape or kind"
    ),
    "weights that are sparse": spoilt(weight(torch.zeros(1, 8, 3, 3).to_sparse()), "damaged"),
    "weights that are stretched": spoilt(weight(torch.zeros(1).expand(10**12)), "larger than what is stored"),
    "weights by number": spoilt(state(lambda s: s["state_dict"].update({5: torch.zeros(1)})), "tensors by name"),
    "weights missing": spoilt(state(lambda s: s["state_dict"].popitem()), "another architecture"),
    "weights as a list": spoilt(state(lambda s: s.update(state_dict=[1])), "state_dict should be tensors by name"),
    "no weights": spoilt(state(lambda s: s.update(state_dict={})), "another architecture"),
    "global step inf": spoilt(state(lambda s: s.update(global_step=float("inf"))), "global_step"),
    "global step of a list": spoilt(state(lambda s: s.update(global_step=[])), "global_step"),
    "epoch that is true": spoilt(state(lambda s: s.update(epoch=True)), "epoch"),
    "settings of a list": spoilt(state(lambda s: s.update(hyper_parameters=[])), "hyper_parameters"),
    "settings without a network": spoilt(state(lambda s: s["hyper_parameters"].pop("network")), "network"),
    "values without depth": spoilt(
        state(lambda s: s["kinetic"].update(x=__import__("functools").reduce(lambda a, _: [a], range(200), 1))),
        "values without end",
    ),
    "another format": spoilt(state(lambda s: s["kinetic"].update(format=2)), "format"),
    "no record": spoilt(state(lambda s: s.pop("kinetic")), "lacks kinetic"),
    "a shape of text": spoilt(state(lambda s: s["kinetic"].update(sample_shape="x")), "sample_shape"),
    "a shape without bounds": spoilt(state(lambda s: s["kinetic"].update(sample_shape=[2**40])), "sample_shape"),
    "a shape of nothing": spoilt(state(lambda s: s["kinetic"].update(sample_shape=[])), "sample_shape"),
    "another shape": spoilt(state(lambda s: s["kinetic"].update(sample_shape=[3, 8, 8])), "shape"),
    "classes of numbers": spoilt(state(lambda s: s["kinetic"].update(class_names=[1])), "class_names"),
    "a foreign network": spoilt(hparams("os.system", "network", "class_path"), "lies outside kinetic.nn"),
    "a network of any module": spoilt(hparams("antigravity.Net", "network", "class_path"), "--trust antigravity"),
    "a torch network": spoilt(hparams("torch.nn.Linear", "network", "class_path"), "lies outside kinetic.nn"),
    "a network by another name": spoilt(hparams("kinetic.nn.unet.nn.Linear", "network", "class_path"), "nn.Linear"),
    "a network that is a function": spoilt(hparams("kinetic.nn.blocks.zeroed", "network", "class_path"), "is not a"),
    "a network that is no name": spoilt(hparams(5, "network", "class_path"), "5"),
    "a network without a name": spoilt(hparams("", "network", "class_path"), "lies outside"),
    "a network of a list": spoilt(hparams([1], "network"), "its network is a list"),
    "a network of other keys": spoilt(hparams({"path": 1}, "network"), "class_path"),
    "arguments of a list": spoilt(hparams([1], "network", "init_args"), "must be names with values"),
    "arguments by number": spoilt(state(lambda s: s["hyper_parameters"]["network"]["init_args"].update({5: 1})), ""),
    "a huge network": spoilt(network(model_channels=2**24), "architecture"),
    "a deep network": spoilt(network(num_res_blocks=10**9), "architecture"),
    "a network of many levels": spoilt(network(channel_mult=[1] * 10**6), "values without end"),
    "a network of text": spoilt(network(model_channels="8"), "model_channels"),
    "a network of no heads": spoilt(network(num_head_channels=0), "num_head_channels"),
    "a network of no channels": spoilt(network(model_channels=0), "model_channels"),
    "a network of NaN": spoilt(network(dropout=float("nan")), "dropout"),
    "a network of nothing": spoilt(network(channel_mult=None), "channel_mult"),
    "a network of unknown options": spoilt(network(colour=3), "colour"),
    "a network of a class": spoilt(network(channel_mult={"class_path": "os.system"}), "channel_mult"),
    "a network of classes": spoilt(network(num_classes=10**9), ""),
    "a measure that is foreign": spoilt(hparams(["os.system"], "samples", "measures"), "lies outside kinetic"),
    "a measure that is a number": spoilt(hparams(5, "samples", "measures"), "samples.measures should be a list"),
    "measures of numbers": spoilt(hparams([5], "samples", "measures"), "samples.measures should be a list"),
    "a measure of other keys": spoilt(hparams([{"a": 1}], "samples", "measures"), "class_path"),
    # the data of a run, which a comparison needs and the training set itself is
    **{
        f"data {name}": spoilt(make, words, "--empirical")
        for name, (make, words) in {
            "of a command": (config(data=SHARDS), "comes from a saved configuration and is not opened"),
            "of a function": (config(data=FOREIGN), "lies outside kinetic.data"),
            "of a list": (config(data=[1]), "does not describe the data"),
            "of no class": (config(data={"class_path": None}), "None"),
            "of other arguments": (config(data={"init_args": {"colour": 1}}), "colour"),
            "of text for a number": (config(data={"init_args": {"num_train": "x"}}), "num_train"),
            "of text for a seed": (config(seed_everything="x"), "does not describe the data"),
            "that changed": (config(data={"init_args": {"num_train": 10}}), "no longer the one"),
            "of another subset": (text(RUN / "subset.txt", "x\n"), "no longer the one"),
            "of a binary subset": (text(RUN / "subset.txt", bytes(range(256))), "subset.txt cannot be read"),
            "of a damaged config": (text(RUN / "config.yaml", "a: ["), "config.yaml cannot be read"),
            "of an alias bomb": (text(RUN / "config.yaml", BOMB), "its aliases stand for"),
            "of a call": (
                text(RUN / "config.yaml", f"data: !!python/object/apply:os.system [touch {CANARY}]"),
                "config",
            ),
            "of an empty config": (text(RUN / "config.yaml", ""), "names no training set"),
        }.items()
    },
    # samples of before
    "record of aliases": again(text("out/sample.yaml", BOMB), "sample.yaml is damaged"),
    "record that calls": again(
        text("out/sample.yaml", f"settings: !!python/object/apply:os.system [touch {CANARY}]"), "sample.yaml is damaged"
    ),
    "record of depth": again(text("out/sample.yaml", DEEP), "sample.yaml is damaged"),
    "record binary": again(text("out/sample.yaml", bytes(range(256))), "sample.yaml is damaged"),
    "record empty": again(text("out/sample.yaml", ""), "sample.yaml is damaged"),
    "record a list": again(text("out/sample.yaml", "[1]"), "sample.yaml is damaged"),
    "record without seeds": again(config(Path("out/sample.yaml"), seeds=None), "its seeds is None"),
    "record of seeds without end": again(config(Path("out/sample.yaml"), seeds="0-999999999999"), "are too many"),
    "record of a batch of text": again(config(Path("out/sample.yaml"), batch_size="x"), "its batch_size is 'x'"),
    "record of no batch": again(config(Path("out/sample.yaml"), batch_size=0), "its batch_size is 0"),
    "record of settings of text": again(config(Path("out/sample.yaml"), settings="x"), "its settings is 'x'"),
    "record of other settings": again(config(Path("out/sample.yaml"), settings={"x": 1}), "samples of other settings"),
}

REPORTING: dict[str, Row] = {
    "report of none": line("report nosuch", "no run 'nosuch' in runs/"),
    "report without runs": line("report", "there is no run in", make=lambda: shutil.rmtree("runs")),
    "report of a file": line("report tiny.yaml", "no run 'tiny.yaml'"),
    "report, latest dangling": line("report", "there is no run in runs/", make=lambda: shutil.rmtree(RUN)),
    "report, latest a text": line(
        "report", "there is no run in", make=lambda: (os.unlink("runs/latest"), text("runs/latest", "x")())
    ),
    "report of two": line("report run run", "run"),
    "report of an option": line("report --name run", "--name"),
    "report of a name without end": (nothing, ["report", "x" * 5000], "x"),
    "report of a name of two lines": (nothing, ["report", "a\nb"], "no run"),
    "report of a zero byte": (nothing, ["report", "a\0b"], "no run"),
    "root of nothing": line("report --root", "--root"),
}

WRITING: dict[str, Row] = {
    "shards of nothing": line("shards", "source"),
    "shards to nowhere": line("shards digits", "out"),
    "shards of none": line("shards nosuch out2", "nosuch is no data set"),
    "shards of an empty name": (nothing, ["shards", "", "out2"], "is no"),
    "shards of an empty folder": line("shards empty out2", "empty", make=lambda: Path("empty").mkdir()),
    "shards of a config": line("shards tiny.yaml out2", "tiny.yaml"),
    "shards beside others": line("shards digits mine", "mine", make=text("mine/manifest.json", "{}")),
    "shards to a file": line("shards digits tiny.yaml", "tiny.yaml is a file"),
    "shards below a file": line("shards digits tiny.yaml/x", "cannot write to"),
    "shards of no images": line("shards digits out2 --per-shard 0", "per_shard=0 is too small"),
    "shards of less than none": line("shards digits out2 --per-shard -3", "per"),
    "shards of a number of text": line("shards digits out2 --per-shard x", "--per-shard"),
    "shards of a size of 0": line("shards digits out2 --size 0", "size=0 is too small"),
    "shards of a huge size": line("shards digits out2 --size 99999999", "size=99999999 is too large"),
    "shards of a size of text": line("shards digits out2 --size x", "--size"),
    "shards of another format": line("shards digits out2 --format gif", "--format"),
    "shards of an abbreviation": line("shards digits out2 --per 5", "--per"),
    "shards of an unknown option": line("shards digits out2 --quick", "--quick"),
    "shards of cifar that is not here": line("shards cifar10 out2 --root nosuch", "nosuch"),
    "shards of a damaged image": line("shards photos out2", "cannot decode", make=text("photos/0.png", png()[:50])),
    "shards of a damaged tar": line(
        "shards tars out2", "cannot decode", make=lambda: tar(Path("tars/a.tar"), many() | {"0001.png": b"x"})
    ),
}
MEASURING: dict[str, Row] = {
    command: line(f"{command} --accelerator cpu", words)
    for command, words in {
        **{
            f"{what} {options}": words
            for what in ("study balance run", "audit run")
            for options, words in {
                "--num 0": "--num must be 1 to",
                "--steps 0": "--steps must be",
                "--steps x": "--steps takes a whole number",
                "--method eulr": "unknown method 'eulr'",
                "--grid 1,0": "times must rise strictly",
                "--rtol 0": "--rtol must be above 0",
                "--images 0": "--images must be 1 to",
                "--checkpoint nosuch.ckpt": "--run and --checkpoint do not go together",
                "--run other": "two runs are named, 'run' and 'other'",
                "--empirical --weights raw": "--empirical and --weights do not go together",
                "--weights both": "unknown weights",
            }.items()
        },
        "study balance run --bins 0": "--bins must be 1 to 100",
        "study balance run --out tiny.yaml": "tiny.yaml",
        "study nosuch run": "unknown study 'nosuch'",
        "audit run --fit nosuch": "kinetic audit nosuch --verify",
        "audit run --fit tiny.yaml": "tiny.yaml",
        "audit run --before 17": "kept no checkpoint of step 17",
        "audit run --before nosuch.ckpt": "no checkpoint 'nosuch.ckpt'",
        "audit run --seeds 5-1": "5-1",
        "audit run --out tiny.yaml": "tiny.yaml is a file",
        "audit nosuch": "no run 'nosuch'",
        "sample run --compare off,landing --features faces": "unknown features 'faces'",
        "sample run --features pixels": "--features goes with --compare alone",
    }.items()
}
TABLE = {
    **MEASURING,
    **{f"train: {name}": row for name, row in TRAINING.items()},
    **{f"sample: {name}": row for name, row in SAMPLING.items()},
    **{f"report: {name}": row for name, row in REPORTING.items()},
    **{f"shards: {name}": row for name, row in WRITING.items()},
    "no such command": (
        nothing,
        ["trian"],
        "unknown command 'trian'; choose from train, sample, shards, encode, study, tune, reference, audit, report",
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("what", TABLE)
def test_what_is_bad_is_one_line_and_nothing_is_touched(what: str, here: Path, capsys: Any) -> None:
    make, command, words = TABLE[what]
    make()
    args = command.split() if isinstance(command, str) else list(command)
    if args[0] == "sample" and "--accelerator" not in args:
        args += CPU
    assert words in refused(capsys, args)


PARTS: dict[str, tuple[Make, str]] = {
    "of a column of text": (part(energy=["a"] * 4), "a column is no numbers"),
    "of a short column": (part(energy=[1.0]), "its columns differ in length"),
    "without samples": (part(x=None), "000000.npz is damaged"),
    "of a huge array": (part(x=huge_array()), "000000.npz is damaged"),
    "of objects": (part(energy=np.array([Touch()] * 4, dtype=object)), "000000.npz is damaged"),
    "of kinds of numbers": (part(kinds='{"energy": 5}'), "is not one of units and signs"),
    "of kinds of a list": (part(kinds="[1]"), "000000.npz is damaged"),
    "of kinds without depth": (part(kinds="[" * 10**5), "nested too deep"),
    "of kinds that are none": (part(kinds="x"), "000000.npz is damaged"),
    "of other times": (part(times=[0.0]), "its power is not that of its samples"),
    "cut": (data(lambda b: b[: len(b) // 2], PART), "is damaged"),
    "of a flipped byte": (data(lambda b: b[:200] + bytes([b[200] ^ 1]) + b[201:], PART), "is damaged"),
    "of text": (text(PART, "x"), "is damaged"),
    "empty": (text(PART, ""), "is damaged"),
    "of a pickle": (text(PART, pickle.dumps(Touch())), "is damaged"),
    "packed": (lambda: zipped({"x.npy": bytes(2**24)}, PART, zipfile.ZIP_DEFLATED), "claims to hold more than its"),
    "of nothing": (lambda: zipped({}, PART), "is damaged"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("what", PARTS)
def test_a_damaged_part_is_told_and_drawn_again(what: str, here: Path) -> None:
    make, words = PARTS[what]
    whole = PART.read_bytes()
    make()
    with within(), pytest.raises(KineticError) as error:
        read_part(PART)
    assert words in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    with within(), pytest.raises(SystemExit) as stop:
        main(["sample", "--num", "4", "--steps", "2", "--out", "out", *CPU])
    assert stop.value.code == 0
    assert PART.read_bytes() == whole
    assert not list(Path().rglob(f"{CANARY}*"))


def parquet(path: Path, **columns: Any) -> Make:
    return lambda: pq.write_table(pa.table(columns), path)


def many_of(path: Path, count: int, **columns: Any) -> Make:
    return parquet(path, **{name: pa.repeat(value, count) for name, value in columns.items()})


KPE, RATIOS = RUN / "kpe.parquet", RUN / "memorization.parquet"
HTML = "<script>alert(1)</script><img src=x onerror=alert(1)>"
COMPARED = "setting,n,energy,f_mem,low,high\n"
# what is spoilt, the folder, and words of its page
PAGES: dict[str, tuple[Make, str, str]] = {
    "nothing measured": (lambda: (RUN / "metrics.csv").unlink(), "run", "this run has written no measurements yet"),
    "a binary metrics.csv": (text(RUN / "metrics.csv", bytes(range(256)) * 9), "run", "metrics.csv has no"),
    "an empty metrics.csv": (text(RUN / "metrics.csv", ""), "run", "metrics.csv has no rows yet"),
    "a metrics.csv without steps": (text(RUN / "metrics.csv", "a,b\n1,2\n"), "run", "metrics.csv has no column step"),
    "a metrics.csv of text": (text(RUN / "metrics.csv", "step,train/loss\nx,y\n"), "run", "holds no losses yet"),
    "a metrics.csv of infinities": (text(RUN / "metrics.csv", "step,train/loss\ninf,inf\n1e999,nan\n"), "run", "Loss"),
    "a metrics.csv of a huge cell": (
        text(RUN / "metrics.csv", f"step,train/loss\n1,{'9' * 200_000}\n"),
        "run",
        "metrics.csv could not be read: field",
    ),
    "a metrics.csv of html": (text(RUN / "metrics.csv", f"step,{HTML}/loss\n1,2\n2,3\n"), "run", "&lt;script&gt;"),
    "a metrics.csv of mathtext": (text(RUN / "metrics.csv", "step,$\\frac{$/loss\n1,2\n2,3\n"), "run", "frac"),
    "a kpe.parquet of text": (text(KPE, "x" * 99), "run", "kpe.parquet could not be read"),
    "an empty kpe.parquet": (text(KPE, ""), "run", "kpe.parquet could not be read"),
    "a kpe.parquet of other columns": (parquet(KPE, a=[1]), "run", "kpe.parquet has no column step, energy"),
    "a kpe.parquet of words": (parquet(KPE, step=[1], energy=["x"]), "run", "Left out"),
    "a kpe.parquet of no rows": (
        parquet(KPE, step=pa.array([], pa.int64()), energy=pa.array([], pa.float64())),
        "run",
        "has no rows yet",
    ),
    "a kpe.parquet of NaN": (parquet(KPE, step=[1, 2], energy=[float("nan")] * 2), "run", "No sample has a finite"),
    "a kpe.parquet of infinity": (parquet(KPE, step=[1, 2], energy=[float("inf"), 1e308]), "run", "Energy"),
    "a kpe.parquet of no steps": (parquet(KPE, step=pa.array([None, 1]), energy=[1.0, 2.0]), "run", "Left out"),
    "a kpe.parquet of lists": (parquet(KPE, step=[1], energy=[[1.0]]), "run", "Left out"),
    "a huge kpe.parquet": (many_of(KPE, 10**6, step=1, energy=1.0), "run", "claims to have 1,000,000 rows"),
    "a memorization.parquet of words": (
        parquet(RATIOS, step=["a"], seed=["a"], ratio=["a"], copied=["a"]),
        "run",
        "Left out",
    ),
    "a huge memorization.parquet": (many_of(RATIOS, 10**6, step=1), "run", "claims to have 1,000,000 rows"),
    "a deep onset.json": (text(RUN / "onset.json", "[" * 6000), "run", "onset.json could not be read"),
    "an onset.json of a list": (text(RUN / "onset.json", "[1]"), "run", "onset.json does not hold an object"),
    "an onset.json of html": (text(RUN / "onset.json", '{"step": 3, "checkpoint": "`<b>"}'), "run", "&lt;b&gt;"),
    "an onset.json of a huge step": (text(RUN / "onset.json", '{"step": 1e300}'), "run", "Summary"),
    "an onset.json of lists": (text(RUN / "onset.json", '{"step": [1], "f_mem": {}}'), "run", "Summary"),
    "a gallery of a huge picture": (
        text(RUN / "galleries/step_0000099.png", png_header(60_000, 60_000)),
        "run",
        "galleries/ holds no pictures",
    ),
    "a gallery of text": (text(RUN / "galleries/step_1.png", "x"), "run", "galleries/ holds no pictures"),
    "a gallery of a folder": (lambda: (RUN / "galleries/step_1.png").mkdir(parents=True), "run", "holds no pictures"),
    "a config.yaml of html": (text(RUN / "config.yaml", f"a: {HTML}"), "run", "&lt;script&gt;"),
    "a config.yaml of aliases": (text(RUN / "config.yaml", BOMB), "run", "Settings"),
    "a binary config.yaml": (text(RUN / "config.yaml", bytes(range(256))), "run", "Settings"),
    "a config.yaml of odd kinds": (config(trainer={"callbacks": 5}, model={"sampler": [1]}), "run", "Settings"),
    "an energies.csv of text": (text("out/energies.csv", "x"), "out", "energies.csv has no rows yet"),
    "an energies.csv of words": (text("out/energies.csv", "seed,energy\nx,y\n"), "out", "did not stay finite"),
    "an energies.csv of html": (text("out/energies.csv", f"seed,energy\n{HTML},y\n"), "out", "&lt;script&gt;"),
    "an energies.csv without rows": (text("out/energies.csv", "seed,energy\n"), "out", "energies.csv has no rows yet"),
    "a deep memorization.json": (text("out/memorization.json", "[" * 9**5), "out", "memorization.json could not be"),
    "a memorization.json of numbers": (text("out/memorization.json", '{"settings": {"a": 1}}'), "out", "Left out"),
    "a memorization.json of a list": (text("out/memorization.json", '{"settings": [1]}'), "out", "Left out"),
    "a signals.csv of text": (text("out/signals.csv", "x"), "out", "signals.csv has no rows yet"),
    "a grid.png of text": (text("out/grid.png", "x"), "out", "grid.png could not be read"),
    "a huge grid.png": (text("out/grid.png", png_header(60_000, 60_000)), "out", "grid.png could not be read"),
    "a cut grid.png": (text("out/grid.png", png()[:50]), "out", "grid.png could not be read"),
    "a sample.yaml of html": (text("out/sample.yaml", HTML), "out", "&lt;script&gt;"),
    "an empty sample.yaml": (text("out/sample.yaml", ""), "out", "sample.yaml is empty"),
    "a compare.csv of mathtext": (
        text("out/compare.csv", COMPARED + "$\\frac{$,1,1,.5,.1,.9\noff,1,1,.5,.1,.9\n"),
        "out",
        "frac",
    ),
    "a compare.csv of words": (text("out/compare.csv", COMPARED + "a,b,c,d,e,f\n"), "out", "Settings side by side"),
    "a compare.csv of html": (text("out/compare.csv", COMPARED + f"{HTML},1,1,.5,.1,.9\n"), "out", "&lt;script&gt;"),
    "a compare.csv of many rows": (
        text("out/compare.csv", COMPARED + "a,1,1,.5,.1,.9\n" * 5000),
        "out",
        "Settings side by side",
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("what", PAGES)
def test_a_report_of_damaged_files_says_what_is_left_out(
    what: str, here: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, name, words = PAGES[what]
    monkeypatch.setattr(tables, "VALUES", 10**5)
    make()
    folder = RUN if name == "run" else Path(name)
    before = {key: value for key, value in listing(Path()).items() if Path(key).name != "report.html"}
    with within(60), pytest.raises(SystemExit) as stop:
        main(["report", name])
    assert stop.value.code == 0
    said = capsys.readouterr()
    assert "Traceback" not in said.err + said.out
    page = (folder / "report.html").read_text()
    assert page.rstrip().endswith("</html>")
    assert words in page
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert {key: value for key, value in listing(Path()).items() if Path(key).name != "report.html"} == before


@pytest.mark.filterwarnings("ignore")
def test_weights_that_are_not_finite_are_told(here: Path, capsys: Any) -> None:
    weight(torch.full((1, 8, 3, 3), torch.nan))()
    with within(), pytest.raises(SystemExit) as stop:
        main(["sample", "--num", "2", "--steps", "2", *CPU])
    assert stop.value.code == 0
    assert "2 of 2 samples did not stay finite: seeds 0, 1" in capsys.readouterr().err
