"""The pages are true: their commands and their Python run, their options exist, their links lead somewhere."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from docs.making.commands import SAVED, Fence, arguments, fences, pages
from docs.making.house import ROOT
from kinetic.cli import COMMANDS, main
from kinetic.cli.interface import answer
from tests.test_configs import ParseOnly

RESULTS = ROOT / "RESULTS.md"
BASH = [fence for page in pages() for fence in fences(page, "bash")]
PYTHON = [fence for page in pages() for fence in fences(page, "python") if fence.runs]
LINES = [(fence, line) for fence in [*BASH, *fences(RESULTS, "bash")] for line in fence.lines()]
TYPED = {page: [f for f in fences(page) if f.runs] for page in pages()}
RUN = [
    page
    for page, found in TYPED.items()
    if any(arguments(line) for fence in found if fence.language == "bash" for line in fence.lines())
]
FIRST = {line: page for page in reversed(RUN) for fence in TYPED[page] for line in fence.lines()}  # where it is run
STAND_IN = [  # a run like the default one in all but size: it copies twelve digits after a hundred steps
    "--network.init_args.model_channels=8", "--network.init_args.num_head_channels=8", "--optimizer.lr=4e-3",
    "--data.num_train=12", "--trainer.max_steps=200", "--run.keep_every=50",
    "--trainer.val_check_interval=50", "--model.samples.num=32", "--run.wandb=disabled", "--trainer.accelerator=cpu",
]  # fmt: skip
STEPS = (400, 500, 1000)  # checkpoints of the default run that pages name
OTHERS = (  # what a line may be that runs no command of Kinetic
    "pip install", "git ", "cd ", "sed -i", "uv sync", "uv run --", "uv run pytest", "uv run ruff", "uv run mypy",
    "uv run python coarse.py", "uv run python -m benchmarks.", "uv run python -m docs.making.", "uv run benchmarks/",
    "uv run python -m kinetic.", ".ci/",
)  # fmt: skip
APART = {"--resume", "--dry-run", "--trust", "--print_config"}  # what the parser of a training never sees, or ends with


def named(fence: Fence) -> str:
    return f"{fence.page.stem}-{fence.text.strip().splitlines()[-1][:30]}"


@pytest.fixture(scope="session")
def stage(tmp_path_factory):
    """A folder with what pages speak of: the runs `digits` and `other`, and images."""
    folder = tmp_path_factory.mktemp("stage")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("WANDB_MODE", "disabled")
        for name, seed in (("other", 1), ("digits", 0)):
            run(["train", f"--run.name={name}", f"--seed_everything={seed}", *STAND_IN])
            for step in STEPS:
                shutil.copy(f"runs/{name}/checkpoints/step=50.ckpt", f"runs/{name}/checkpoints/step={step}.ckpt")
    (folder / "photos" / "cats").mkdir(parents=True)
    for i in range(80):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / "cats" / f"{i}.png")
    (folder / "configs").symlink_to(ROOT / "configs")
    return folder


@pytest.fixture
def here(stage, tmp_path, monkeypatch):
    """A copy of the stage, as the current folder."""
    shutil.copytree(stage, tmp_path / "here", symlinks=True)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.syspath_prepend(str(tmp_path / "here"))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.delenv("KINETIC_RUN", raising=False)
    return tmp_path / "here"


def run(args: list[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(args)
    assert done.value.code == 0, args


def typed(given: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Run a command, one of several processes as a program of its own; its exit status and what it said of faults."""
    if any(word.endswith("devices") for word in given):
        alone = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "kinetic", *given]
        ended = subprocess.run(command, env=alone, capture_output=True, text=True, timeout=150)
        return ended.returncode, ended.stderr
    with pytest.raises(SystemExit) as done:
        main(given)
    return done.value.code, capsys.readouterr().err


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
def test_every_command_of_a_page_runs(page, here, capsys):
    for fence in TYPED[page]:
        if fence.mark.startswith(SAVED):
            Path(fence.mark.removeprefix(SAVED)).write_text(fence.text)
        if fence.language == "bash":
            lines = [line for line in fence.lines() if FIRST[line] == page]  # what an earlier page has is run there
            for given in filter(None, map(arguments, lines)):
                code, said = typed(given, capsys)
                assert code == 0, f"{shlex.join(given)}: {said[-500:]}"


@pytest.mark.parametrize("fence", PYTHON, ids=named)
def test_python_of_a_page_runs(fence, here):
    exec(compile(fence.text, fence.page.name, "exec"), {"__name__": "page"})


@pytest.mark.parametrize(
    ("fence", "line"), LINES, ids=lambda found: found[:60] if isinstance(found, str) else found.page.stem
)
def test_every_command_is_one_that_exists(fence, line, monkeypatch):
    given = arguments(line)
    if given is None:
        assert any(line.startswith(start) for start in OTHERS), f"{fence.page.name}: {line}"
        script = re.search(r"benchmarks[/.](\w+)", line)
        assert script is None or (ROOT / "benchmarks" / f"{script[1]}.py").is_file(), line
        return
    if given[:1] == ["--help"]:
        return
    assert given[0] in COMMANDS, line
    assert answer(given) is None or "--help" in given, line
    if given[:2] == ["train", "--config"] and given[2].startswith("configs/") and not APART.intersection(given):
        monkeypatch.chdir(ROOT)
        assert ParseOnly.parse_args(given[1:]).config.data.class_path.startswith("kinetic.data.")


def test_links_of_what_lies_outside_the_site_lead_somewhere():
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", RESULTS):
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert target.startswith("https://") or (ROOT / target).exists(), f"{page.name}: {target}"


def test_table_lists_every_configuration():
    table = (ROOT / "docs" / "pages" / "reference" / "configurations.md").read_text()
    assert {p.name for p in (ROOT / "configs").glob("*.yaml")} == set(
        re.findall(r"^\| `([a-z0-9_]+\.yaml)`", table, re.M)
    )


def test_every_page_is_in_the_navigation():
    text = (ROOT / "docs" / "mkdocs.yml").read_text()
    listed = set(re.findall(r"([\w/-]+\.md)$", text[text.index("\nnav:") :], re.M))
    folder = ROOT / "docs" / "pages"
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*.md")} == listed


def test_a_fence_is_read_with_its_mark_and_without_comments(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        '<!-- takes 7 min -->\n```bash\nuv run sample.py --num 3  # few\n```\n\n```python\nx = "```"\n```\n'
    )
    bash, python = fences(page)
    assert (bash.mark, bash.runs, bash.lines()) == ("takes 7 min", False, ["uv run sample.py --num 3"])
    assert python.runs
    assert arguments(bash.lines()[0]) == ["sample", "--num", "3"]


INSTEAD = {  # words that would be a second name for what the glossary has
    "memorization rate": "F_mem", "memorisation rate": "F_mem", "copy rate": "F_mem",
    "trajectory energy": "path energy",
    "oracle": "closed-form field", "analytic field": "closed-form field", "ema weights": "averaged weights",
    "test images": "held-out images", "validation images": "held-out images", "null hypothesis": "null",
    "soft-landing": "landing", "function evaluations": "evaluations", "behaviour": "", "behavior": "",
    "optimizer": "optimiser", "memorization": "memorisation", "memorized": "memorised", "color": "colour",
}  # fmt: skip


def prose(page: Path) -> str:
    """What a page says, without code, formulas, links' targets, comments and HTML."""
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.M | re.S)
    text = re.sub(r"\\\[.*?\\\]|\\\(.*?\\\)", "", text, flags=re.S)
    text = re.sub(r"`[^`\n]*`|<!--.*?-->|<[^>]+>|\]\([^)]*\)|\]\[[^\]]*\]|\{[#:][^}]*\}", "", text)
    return text.lower()


@pytest.mark.parametrize("page", [*pages(), RESULTS], ids=lambda page: page.stem)
def test_one_thing_has_one_name(page):
    """Kills: a synonym for a term of the glossary, or the other spelling."""
    said = prose(page)
    found = {word: name for word, name in INSTEAD.items() if re.search(rf"\b{re.escape(word)}\b", said)}
    assert not found


def test_glossary_is_in_order_and_every_term_is_explained():
    text = (ROOT / "docs/pages/concepts/glossary.md").read_text()
    parts = re.split(r"^### (.*)$", text, flags=re.M)[1:]
    terms = [re.sub(r"\s*\{.*\}", "", term) for term in parts[::2]]
    assert all(len(words.strip()) > 30 for words in parts[1::2])
    letters = re.findall(r"^## (.)", text, flags=re.M)
    assert letters == sorted(letters)
    for needed in ("Path energy", "Power", "Excess", "Null", "Copy", "Control", "Averaged weights", "Executed energy"):
        assert needed in terms, needed
