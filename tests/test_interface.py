"""What commands answer at once: it is what their parsers say, and torch is not imported for it."""

import json
import subprocess
import sys

import pytest

from kinetic.cli import interface, main

UNKNOWN = (
    ["train", "--foo", "3"],
    ["train", "--trainer.max_step", "3"],
    ["train", "--resum"],
    ["train", "--config", "toy2d", "--model.sampler.stepz=3"],
    ["sample", "--kst", "balanced"],
    ["report", "--foo"],
    ["import", "a.pt", "--hed", "3"],
    ["study", "balance", "--nums", "3"],
    ["study", "all", "digits", "--whatever"],
)
KNOWN = (
    ["train", "--network.init_args.model_channels", "3", "--trainer.max_steps=-1"],
    ["train", "--trainer.callbacks+=kinetic.callbacks.KPECallback", "--data.num_train", "3"],
    ["train", "--resume", "--trust", "mine", "--dry-run"],
    ["sample", "--kts", "balanced", "--seeds", "0-3"],
    ["study", "all", "digits", "--skip", "kts"],
    ["nothing", "--foo"],
)


def test_file_is_what_the_parsers_say() -> None:
    held = json.loads(interface.FILE.read_text())
    if held["parsers"] != interface.versions():
        pytest.skip(f"interface.json was written for {held['parsers']}")
    code = "import json; from kinetic.cli.asking import everything; print(json.dumps(everything()))"
    # in a process of its own, since help lists the classes that were imported
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    found = json.loads(done.stdout)["commands"]
    for name, entry in found.items():
        assert held["commands"][name] == entry, f"what `{name}` takes has changed: python -m kinetic.cli.asking"
    assert set(held["commands"]) == set(found)


@pytest.mark.parametrize("args", UNKNOWN, ids=" ".join)
def test_unknown_option_is_refused_at_once_in_the_words_of_the_parser(args, monkeypatch, capsys) -> None:
    said = []
    for _ in range(2):
        with pytest.raises(SystemExit) as stop:
            main(args)
        said.append((stop.value.code, capsys.readouterr().err.strip()))
        monkeypatch.setattr("kinetic.cli.answer", lambda args: None)  # have the parser say it
    assert said[0] == said[1]
    assert said[0][1].startswith("error: unknown option --")


@pytest.mark.parametrize("args", KNOWN, ids=" ".join)
def test_what_may_be_known_is_left_to_the_parser(args) -> None:
    assert interface.answer(args) is None


def test_other_versions_of_the_parsers_are_asked(monkeypatch) -> None:
    monkeypatch.setattr(interface, "versions", lambda: {"lightning": "0"})
    interface._entries.cache_clear()
    assert interface.answer(["train", "--help"]) is None
    interface._entries.cache_clear()


@pytest.mark.parametrize("args", [["train", "--help"], ["study", "kts", "-h"], ["sample", "--foo"]], ids=" ".join)
def test_torch_is_not_imported_for_it(args) -> None:
    code = f"import sys; from kinetic.cli import main\ntry: main({args})\nfinally: assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert "AssertionError" not in done.stderr
    assert "--" in done.stdout + done.stderr


def test_help_of_training_tells_what_is_taken_before_the_parser() -> None:
    """Kills: --resume and --dry-run, which the parser never sees, left out of the help."""
    text = json.loads(interface.FILE.read_text())["commands"]["train"]["help"]
    assert all(f"--{name}" in text for name in interface.TAKEN["train"])
