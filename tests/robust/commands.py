"""What tables of bad command lines share: one trained run to copy, hostile files, and what a refusal may not do."""

import hashlib
import io
import os
import pickle
import signal
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from kinetic.cli import main
from kinetic.models.checkpoint import read_checkpoint, write_checkpoint
from tests.robust.makers import npy_header

CANARY = "EXECUTED"
SECONDS = 20
RUN = Path("runs/run")
LAST = RUN / "checkpoints/last.ckpt"
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
DEEP = "a: " + "[" * 900 + "]" * 900
Make = Callable[[], Any]  # spoils something in the current folder, which holds a run


@contextmanager
def within(seconds: int = SECONDS) -> Iterator[None]:
    """Fail after some seconds."""

    def ring(*_: Any) -> None:
        raise AssertionError(f"took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def listing(folder: Path) -> dict[str, str]:
    """Everything in a folder: what kind it is, and the hash of what it holds."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"link to {os.readlink(path)}"
        elif path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            found[name] = "folder" if path.is_dir() else "special"
    return found


def refused(capsys: pytest.CaptureFixture[str], args: list[str]) -> str:
    """Run a command that must say no in one line and touch nothing here; return the line."""
    before = listing(Path())
    capsys.readouterr()
    with within(), pytest.raises(SystemExit) as stop:
        main(args)
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert stop.value.code not in (0, None, 70), said.err[-2000:]
    assert len(lines) == 1, said.err[-2000:]
    assert "Traceback" not in said.err + said.out
    assert said.err.rstrip().splitlines()[-1] == lines[0]
    assert len(lines[0]) < 900
    assert not list(Path().rglob(f"{CANARY}*"))
    assert listing(Path()) == before
    return lines[0]


class Touch:
    """Whoever unpickles it leaves a file behind."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path(CANARY),))


def state(change: Callable[[dict[str, Any]], Any], path: Path = LAST) -> Make:
    """Change what the checkpoint holds."""

    def make() -> None:
        found = read_checkpoint(path)
        change(found)
        write_checkpoint(found, path)

    return make


def weight(value: Any) -> Make:
    """Put something in place of a weight."""
    return state(lambda s: s["state_dict"].update({"ema.network.out.2.weight": value}))


def hparams(value: Any, *keys: str) -> Make:
    """Put a value at a path of keys of the checkpoint's settings."""

    def change(found: dict[str, Any]) -> None:
        place = found["hyper_parameters"]
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value

    return state(change)


def network(**values: Any) -> Make:
    """Change arguments of the checkpoint's network."""
    return state(lambda s: s["hyper_parameters"]["network"]["init_args"].update(values))


def data(change: Callable[[bytes], bytes], path: Path = LAST) -> Make:
    """Change the bytes of a file."""
    return lambda: path.write_bytes(change(path.read_bytes()))


def text(path: str | Path, content: str | bytes) -> Make:
    """Write a file."""

    def make() -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(content.encode() if isinstance(content, str) else content)

    return make


def config(path: Path = RUN / "config.yaml", **groups: Any) -> Make:
    """Change groups of a configuration: dictionaries are merged, anything else replaces what is there."""

    def merge(old: Any, new: Any) -> Any:
        if not (isinstance(old, dict) and isinstance(new, dict)):
            return new
        return {**old, **{key: merge(old.get(key), value) for key, value in new.items()}}

    return lambda: path.write_text(yaml.safe_dump(merge(yaml.safe_load(path.read_text()), groups)))


def both(*makes: Make) -> Make:
    """Do one after another."""
    return lambda: [make() for make in makes]


def pickled(value: Any, path: Path = LAST) -> Make:
    """Write a pickle where a checkpoint should be: as torch does, or plainly."""
    return lambda: torch.save(value, path, pickle_module=pickle)


def zipped(members: dict[str, bytes], path: Path, compression: int = zipfile.ZIP_STORED) -> None:
    """Write any zip."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


PART = Path("out/.parts/samples/000000.npz")
HUGE = "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999, 99999), }"


def part(**changes: Any) -> Make:
    """Change arrays of the first part of the samples in out/; None removes one, bytes are taken as they are."""

    def make() -> None:
        with zipfile.ZipFile(PART) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        for name, value in changes.items():
            members.pop(f"{name}.npy")
            if isinstance(value, bytes):
                members[f"{name}.npy"] = value
            elif value is not None:
                buffer = io.BytesIO()
                np.save(buffer, np.asarray(value), allow_pickle=True)
                members[f"{name}.npy"] = buffer.getvalue()
        zipped(members, PART)

    return make


def huge_array() -> bytes:
    """An npy file of a few bytes that claims to have 40 terabytes."""
    return npy_header(HUGE, bytes(64))
