"""README is true: its Python runs, its commands parse, its links lead somewhere."""

import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from kinetic.cli import COMMANDS, main
from kinetic.cli.train import train
from tests.test_configs import ParseOnly

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, re.S)
COMMAND_LINES = [line for block in re.findall(r"```bash\n(.*?)```", README, re.S) for line in block.strip().split("\n")]
TRAININGS = [line for line in COMMAND_LINES if line.startswith("uv run train.py --config")]


@pytest.mark.parametrize("code", PYTHON, ids=lambda code: code.strip().split("\n")[-1][:40])
def test_python_snippet_runs(code, tiny):
    if "open_run" in code:  # there has to be one
        train(["--config", str(tiny(trainer={"max_steps": 2}, model={"samples": {"num": 0}}))])
    known = {"pipe": Pipe()} if "pipe.scheduler" in code else {}
    exec(compile(code, "README.md", "exec"), {"__name__": "readme", **known})


class Pipe:
    """What README calls a pipeline: a scheduler of diffusers, and no network to speak of."""

    def __init__(self):
        diffusers = pytest.importorskip("diffusers", reason="the extra diffusers is not installed")
        self.scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)

    def __call__(self, prompt, *, num_inference_steps):
        x = torch.randn(2, 4, 8, 8)
        self.scheduler.set_timesteps(num_inference_steps)
        for timestep in self.scheduler.timesteps:
            x = self.scheduler.step(x, timestep, x).prev_sample
        return SimpleNamespace(images=x)


def test_every_command_is_one_that_exists():
    for line in COMMAND_LINES:
        words = shlex.split(line)
        assert words[:2] == ["uv", "run"], line
        assert words[2] in ("train.py", "sample.py", "pytest") or words[2:3] == ["kinetic"], line
        assert words[2] != "kinetic" or words[3] in COMMANDS, line
        assert not words[2].endswith(".py") or (ROOT / words[2]).is_file()


@pytest.mark.parametrize("line", TRAININGS)
def test_training_command_parses(line, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = ParseOnly.parse_args(shlex.split(line)[3:]).config
    assert config.data.class_path.startswith("kinetic.data.")


def test_shards_command_writes_what_the_next_command_reads(workdir):
    (workdir / "photos").mkdir()
    for i in range(12):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(workdir / "photos" / f"{i}.png")
    line = next(line for line in COMMAND_LINES if "kinetic shards" in line)
    with pytest.raises(SystemExit) as done:
        main(shlex.split(line)[3:])
    assert done.value.code == 0
    pattern = next(shlex.split(line)[-1] for line in TRAININGS if "kinetic.data.Shards" in line)
    assert list(workdir.glob(pattern))


def test_links_and_pictures_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).is_file(), target


def test_table_lists_every_configuration():
    assert {p.name for p in (ROOT / "configs").glob("*.yaml")} == set(
        re.findall(r"^\| `([a-z0-9_]+\.yaml)`", README, re.M)
    )
