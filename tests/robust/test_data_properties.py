"""Good tars, manifests, arrays and images, damaged at random: whole samples or one KineticError, soon and cheaply."""

import gzip
import io
import json
import os
import tarfile
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kinetic.data import Shards
from kinetic.data.arrays import read_array
from kinetic.data.images import read_image
from kinetic.data.manifest import load_manifest
from kinetic.data.sources import MOST_SHARDS, Shard, expansions, find_shards
from kinetic.data.tars import read_samples
from kinetic.errors import KineticError
from kinetic.trust import Trust
from tests.robust.makers import limited, manifest, many, npy, picture, tar

QUICK = settings(
    max_examples=int(os.environ.get("KINETIC_EXAMPLES", "150")),  # a test
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
pytestmark = pytest.mark.filterwarnings("ignore")

# What happens to some bytes: its kind, where (a part of the whole), and with what.
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "repeat", "insert", "zero", "size", "type", "name"]),
        st.floats(0, 1, exclude_max=True),
        st.integers(0, 2**40),
    ),
    min_size=1,
    max_size=4,
)
SIZES = (0, 1, 511, 513, 2**20, 2**33 - 1)


def damaged(data: bytes, steps: list[tuple[str, float, int]]) -> bytes:
    """Do the steps to `data`; those on headers of a tar leave the checksum right."""
    for what, where, value in steps:
        place = int(where * max(len(data), 1))
        if what == "cut":
            data = data[:place]
        elif what == "repeat":
            data = data[:place] + data[place : place + value % 3000] + data[place:]
        elif what == "insert":
            data = data[:place] + value.to_bytes(8, "little")[: value % 9] + data[place:]
        elif what == "zero":
            data = data[:place] + bytes(min(value % 2000, len(data) - place)) + data[place + value % 2000 :]
        elif what == "flip" or len(data) < 512:
            data = data[:place] + bytes(b ^ 1 << value % 8 for b in data[place : place + 1]) + data[place + 1 :]
        else:
            data = other_header(data, place // 512 * 512, what, value)
    return data


def other_header(data: bytes, start: int, what: str, value: int) -> bytes:
    """Change a field of the block at `start` as if it were a header."""
    block = bytearray(data[start : start + 512].ljust(512, b"\0"))
    if what == "size":
        size = SIZES[value % len(SIZES)] if value % 2 else value
        block[124:136] = b"%011o\0" % size if size < 8**11 else b"\x80" + size.to_bytes(11, "big")
    elif what == "type":
        block[156:157] = b"0123456LKSxgX"[value % 13 :][:1]
    else:
        block[:8] = [b"0000.png", b"0001.cls", b"0.1.png\0", b"._a.png\0", b"a\nb.png\0", b"\xff.png\0\0\0"][value % 6]
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return data[:start] + bytes(block) + data[start + 512 :]


def outcome(run: Any) -> Any:
    """What `run` gives, or the one line that it refuses with."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return run()
        except KineticError as error:
            refusal = error
    assert len(str(refusal).splitlines()) == 1
    assert len(str(refusal)) < 2000
    return refusal


def good_tar() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        files = many(4) | {"v.1.png": many(1)["0000.png"], "v.1.cls": b"1", "z.npy": b"", f"{'l' * 150}.json": b"{}"}
        return tar(Path(folder) / "a.tar", files).read_bytes()


GOOD = good_tar()


@QUICK
@given(steps=STEPS, packed=st.sampled_from(["no", "then damaged", "damaged first"]), skip=st.booleans())
def test_damaged_tars_give_whole_samples_or_one_line(steps: Any, packed: str, skip: bool) -> None:
    if packed == "then damaged":
        data = damaged(gzip.compress(GOOD, mtime=0), steps)
    else:
        data = damaged(GOOD, steps)
        data = gzip.compress(data, mtime=0) if packed == "damaged first" else data

    def read() -> Shards:
        found = Shards(train=str(path), num_val=0, batch_size=2, skip_bad=skip)
        for batch in found.train_loader():
            assert bool(torch.isfinite(batch["x"]).all())
        return found

    with tempfile.TemporaryDirectory() as folder, limited():
        path = Path(folder) / "a.tar"
        path.write_bytes(data)
        found = outcome(read)
        if isinstance(found, Shards):
            assert len(set(found.subset_ids)) == len(found.subset_ids)
            assert all(name.splitlines() == [name] for name in found.subset_ids)


@QUICK
@given(steps=STEPS)
def test_what_is_read_of_a_damaged_tar_is_what_the_library_reads(steps: Any) -> None:
    data = damaged(GOOD, steps)
    with tempfile.TemporaryDirectory() as folder, limited():
        path = Path(folder) / "a.tar"
        path.write_bytes(data)
        try:
            ours = {
                f"{key}.{kind}": len(v)
                for key, sample in read_samples(Shard(str(path), "a"))
                for kind, v in sample.items()
            }
        except KineticError:
            return
        theirs = {}
        with tarfile.open(path, "r:", errorlevel=0) as archive:
            for info in archive:
                theirs[info.name.removeprefix("./")] = info.size
        for name, size in ours.items():
            assert theirs[name] == size


FIELDS = (
    "format",
    "count",
    "shape",
    "num_classes",
    "class_names",
    "shards",
    "file",
    "size",
    "sha256",
    "keys",
    "labels",
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.sampled_from(["", "..", "a.tar", "/a", "a\nb", "\ud800", "0" * 64]),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=3),
    max_leaves=8,
)


@QUICK
@given(field=st.sampled_from(FIELDS), value=VALUES, drop=st.booleans(), steps=st.none() | STEPS)
def test_damaged_manifests_are_used_whole_or_refused(field: str, value: Any, drop: bool, steps: Any) -> None:
    with tempfile.TemporaryDirectory() as folder, limited():
        at = manifest(Path(folder))
        content = json.loads((at / "manifest.json").read_text())
        place = content if field in content and field != "count" else content["shards"][0]
        if drop:
            del place[field]
        else:
            place[field] = value
        data = json.dumps(content).encode()
        (at / "manifest.json").write_bytes(damaged(data, steps) if steps else data)
        outcome(lambda: list(Shards(train=folder, num_val=0, batch_size=2).train_loader()))
        found = outcome(lambda: load_manifest(at / "manifest.json"))
        if not isinstance(found, KineticError):
            assert found.count == sum(len(e.keys) for e in found.shards)
            assert all(isinstance(n, int) and not isinstance(n, bool) for e in found.shards for n in e.labels or ())


@QUICK
@given(steps=STEPS, half=st.booleans())
def test_damaged_arrays_are_finite_or_refused(steps: Any, half: bool) -> None:
    data = damaged(npy(np.linspace(-1, 1, 24).reshape(2, 3, 4).astype(np.float16 if half else np.float64)), steps)
    with limited():
        try:
            assert bool(torch.isfinite(read_array(data)).all())
        except ValueError as error:
            assert len(str(error).splitlines()) == 1  # noqa: PT017


LEVELS = np.random.default_rng(0).integers(0, 256, (12, 9), dtype=np.uint8)
PICTURES = {
    **{name: picture(np.stack([LEVELS] * 3, -1), name) for name in ("PNG", "JPEG", "WEBP", "BMP", "PPM", "TIFF")},
    "GIF": picture(LEVELS, "GIF"),
    "16 bits": picture(LEVELS.astype(np.uint16) * 257, "PNG"),
    "floats": picture(LEVELS.astype(np.float32), "TIFF"),
}


@QUICK
@given(steps=STEPS, kind=st.sampled_from(sorted(PICTURES)), size=st.sampled_from([None, 5]))
def test_damaged_pictures_are_pictures_or_refused(steps: Any, kind: str, size: int | None) -> None:
    data = damaged(PICTURES[kind], steps)
    with limited():
        found = outcome(lambda: read_image(io.BytesIO(data), name="x", channels=3, size=size))
        if not isinstance(found, KineticError):
            assert found.dtype == torch.uint8
            assert found.shape[2] == 3


@QUICK
@given(pattern=st.text(alphabet="{},.09az\\:-*[?/~$\n\0é", max_size=40))
def test_any_pattern_is_counted_and_expanded_or_refused(pattern: str) -> None:
    from braceexpand import UnbalancedBracesError, braceexpand

    with limited():
        outcome(lambda: find_shards(f"nowhere/{pattern}", Trust()))
        count = expansions(pattern)
        with suppress(UnbalancedBracesError):
            assert count > MOST_SHARDS or count == sum(1 for _ in braceexpand(pattern))
