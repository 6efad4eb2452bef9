"""Bad, damaged and hostile shards, folders, manifests and options: each is one line that names it, soon and cheaply."""

import gzip
import io
import os
import struct
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kinetic.cli.shards import shards
from kinetic.data import Digits, FlowDataModule, Folder, Shards, Toy, Vision
from kinetic.data.grouping import HELD
from kinetic.data.images import read_image
from kinetic.data.sources import expansions, find_shards
from kinetic.data.writing import write_shards
from kinetic.errors import KineticError
from kinetic.trust import Trust
from tests.robust.makers import limited, manifest, many, member, npy, npy_header, picture, png, tar

Make = Callable[[Path], Any]  # makes the input in a folder and returns what to run


def everything(data: FlowDataModule) -> list[str]:
    """Train for an epoch without a network; the ids that were seen."""
    return sorted({name for batch in data.train_loader() for name in batch["ids"]})


def shard(path: Path | str, **options: Any) -> list[str]:
    return everything(Shards(**{"train": str(path), "num_val": 0, "batch_size": 2} | options))


def folder(path: Path, **options: Any) -> list[str]:
    return everything(Folder(**{"path": str(path), "num_val": 0, "batch_size": 2} | options))


def of(name: str, *pieces: bytes, end: bool = True, **options: Any) -> Make:
    """Read a shard made of blocks."""

    def run(at: Path) -> None:
        data = b"".join(pieces) + bytes(1024 if end else 0)
        (at / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
        shard(at / name, **options)

    return run


def files(named: dict[str, bytes], name: str = "a.tar", **options: Any) -> Make:
    """Read a shard of files."""
    return lambda at: shard(tar(at / name, named), **options)


def images(named: dict[str, bytes], **options: Any) -> Make:
    """Read a folder of files."""

    def run(at: Path) -> None:
        for name, data in named.items():
            (at / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
            (at / "photos" / name).write_bytes(data)
        folder(at / "photos", **options)

    return run


def listed(**changes: Any) -> Make:
    """Read a shard whose manifest has other fields."""
    return lambda at: shard(manifest(at, **changes))


def made(kind: type[FlowDataModule], **options: Any) -> Make:
    """Make a data module of these options."""
    return lambda at: kind(**options)


def command(*args: str) -> Make:
    """Run `kinetic shards` with paths below the folder."""
    return lambda at: shards([a.format(at=at) for a in args])


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width: int, height: int) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def bomb(path: Path, kind: str) -> None:
    """A gzip that unpacks to 200 MB of nothing: within a member, or behind the end of the archive (`kind` "")."""
    with gzip.open(path, "wb") as file:
        file.write(member("0.png", png()) + (member(f"1.{kind}", b"", size=200 * 2**20) if kind else bytes(1024)))
        for _ in range(200):
            file.write(bytes(2**20))


def fifo(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)


def deep(path: Path) -> None:
    """A folder so deep that its path is too long to be listed."""
    here = os.open(path, os.O_RDONLY)
    for _ in range(25):
        os.mkdir("d" * 200, dir_fd=here)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


def after(prepare: Callable[[Path], Any], then: Callable[[Path], Any]) -> Make:
    def run(at: Path) -> Any:
        prepare(at)
        return then(at)

    return run


def pax(**records: str) -> bytes:
    info = tarfile.TarInfo("0.png")
    info.size = 4
    info.pax_headers = records
    return info.tobuf(tarfile.PAX_FORMAT)


HUGE = "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999, 99999), }"
GRAY = np.arange(16, dtype=np.uint16).reshape(4, 4)
DEEP = b"[" * 100_000
TABLE: dict[str, tuple[Make, str]] = {
    # sources
    "braces without end": (lambda at: shard(f"{at}/{{0..999999999}}.tar"), "stands for more than 100,000 shards"),
    "braces times braces": (lambda at: shard("{0..999}{0..999}.tar"), "stands for more than 100,000 shards"),
    "nested braces": (lambda at: shard("{{0..99999},{0..99999}}.tar"), "stands for more than 100,000 shards"),
    "a range of many digits": (lambda at: shard("{0.." + "9" * 5000 + "}.tar"), "more than 100,000"),
    "braces within braces": (lambda at: shard("{" * 3000 + "a,b" + "}" * 3000), "more than 100,000"),
    "an open brace": (lambda at: shard("a{1,2.tar"), "is no pattern (Unbalanced braces"),
    "a pattern without end": (lambda at: shard("a" * 100_000), "at most 8,192 characters"),
    "an unknown variable": (lambda at: shard("${NOWHERE_AT_ALL}/a.tar"), "is no pattern (missing environment variable"),
    "an unknown scheme": (lambda at: shard("gopher://host/a.tar"), "no gopen handler"),
    "two **": (lambda at: shard(f"{at}/**/x/**/*.tar"), "more than one **"),
    "a bad glob": (lambda at: shard(f"{at}/a**/*.tar"), "cannot be listed"),
    "a fifo for a shard": (after(lambda at: fifo(at / "a.tar"), shard), "a.tar is not a regular file"),
    "a folder for a shard": (after(lambda at: (at / "a.tar").mkdir(), shard), "a.tar is not a regular file"),
    "a link to nothing": (after(lambda at: (at / "a.tar").symlink_to("x"), shard), "a.tar is not a regular file"),
    "a shard that moves the cursor": (lambda at: shard(tar(at / "a\x1b[2J.tar", many())), "rename it"),
    "a zero byte": (lambda at: shard("a\0.tar"), "is no text that names anything"),
    # bounds
    "a member larger than its file": (of("a.tar", member("0.png", b"", size=2**40)), "at most 268,435,456 are read"),
    "a member of eight exabytes": (of("a.tar", member("0.bin", b"", size=2**63)), "its end is missing"),
    "a member of less than nothing": (of("a.tar", member("0.png", b"", size=-512)), "has a size of -512"),
    "a huge .cls": (of("a.tar", member("0.cls", b"1" * 5000)), "0.cls in it has 5,000 bytes, at most 4,096"),
    "a huge unread member, gzipped": (of("a.tgz", member("0.bin", bytes(2**20), size=2**50)), "its end is missing"),
    "a gzip bomb": (after(lambda at: bomb(at / "a.tgz", "bin"), shard), "unpacks to more than 250 times its size"),
    "a gzip bomb of an image": (after(lambda at: bomb(at / "a.tgz", "png"), shard), "more than 250 times its size"),
    "a gzip bomb behind its end": (after(lambda at: bomb(at / "a.tgz", ""), shard), "follow the end of its archive"),
    "zeros behind a tar": (of("a.tar", member("0.png", png()), bytes(2**26 + 2**20)), "follow the end of its archive"),
    "zeros behind a gzip": (
        lambda at: ((at / "a.tgz").write_bytes(gzip.compress(b"") + bytes(2**25)), shard(at / "a.tgz")),
        "nothing but zeros follow its end",
    ),
    "a long name of a gigabyte": (of("a.tar", member("x", b"", size=2**30, type=b"L")), "an extended header in it has"),
    "a pax header of a gigabyte": (
        of("a.tar", member("x", b"", size=2**30, type=b"x")),
        "an extended header in it has",
    ),
    "a long name": (of("a.tar", member("x", b"n" * 9000, type=b"L"), member("x", b"")), "a name in it has 9,000"),
    "pax records out of bounds": (of("a.tar", member("x", b"999 path=a\n", type=b"x")), "bad extended header"),
    "a pax size": (of("a.tar", pax(size="99999999999999999"), b"abcd"), "at most 268,435,456"),
    "a sparse member": (
        of("a.tar", member("0.png", b"", type=b"S")),
        "it was written as sparse): write it again without",
    ),
    "a pax sparse member": (of("a.tar", pax(**{"GNU.sparse.major": "1"}), b"abcd"), "written as sparse"),
    "two tars joined": (of("a.tar", member("0.png", png()), bytes(1024), member("1.png", png())), "tars were joined"),
    # members
    "members apart": (
        files({f"{i}.png": png() for i in range(3)} | {f"{i}.cls": b"1" for i in range(3)}),
        "the members of sample 0 do not follow one another in",
    ),
    "a sample twice": (files({"0.png": png(), "1.png": png(), "0.PNG": png()}), "sample a/0 occurs twice in"),
    "a sample twice in a row": (files({"0.png": png(), "0.PNG": png()}), "sample a/0 occurs twice in"),
    "a key of two lines": (files({"a\nb.png": png()}), "a line break or control character: rename 'a\\nb'"),
    "a key that is no text": (files({"a\udcff.png": png()}), "bytes that are no UTF-8: rename"),
    "a key that moves the cursor": (files({"a\x1b[2J.png": png()}), "a line break or control character"),
    "no image of a kind that is read": (files({"0.bmp": b"", "1.bmp": b""}), "2 images such as 0.bmp were left out"),
    "links alone": (of("a.tar", member("0.png", b"", type=b"1")), "they are links within the tar"),
    "an npy of a huge shape": (files({"0.npy": npy_header(HUGE, bytes(64))}), "promises 39,999,599,600,004 bytes"),
    "an npy of objects": (files({"0.npy": npy(np.array([{}], dtype=object))}), "its numbers are object, not floats"),
    "an npy of nothing": (files({"0.npy": npy(np.zeros((0, 3)))}), "its shape is [0, 3], which holds nothing"),
    "an npy of one number": (files({"0.npy": npy(np.zeros(()))}), "its shape is [], which holds nothing"),
    "an npy with NaN": (files({"0.npy": npy(np.array([1.0, np.nan]))}), "are NaN or infinite"),
    "an npy beyond float32": (files({"0.npy": npy(np.array([1e300]))}), "are NaN or infinite"),
    "an npy times a huge scale": (files({"0.npy": npy(np.array([1e30]))}, scale=1e30), "infinite times scale=1e+30"),
    "an npy of a deep header": (files({"0.npy": npy_header("(" * 9000)}), "cannot read the latents of a/0"),
    "an npy that calls": (files({"0.npy": npy_header("__import__('os').getpid()")}), "cannot read the latents of a/0"),
    "a deep .json": (files({"0.png": png(), "0.json": DEEP}), "no label of sample a/0, its .json cannot be read"),
    "a label that is true": (files({"0.png": png(), "0.json": b'{"label": true}'}), "label of sample a/0 is 'True'"),
    "a label of a billion": (files({"0.png": png(), "0.cls": b"1000000000"}), "there are at most 1,000,000 classes"),
    "a label of 4000 digits": (files({"0.png": png(), "0.cls": b"9" * 4000}), "label of sample a/0 is '999"),
    # manifests
    "a manifest without keys": (listed(entry={"keys": None}), "its keys of a.tar is None, not a list of texts"),
    "a manifest of no sample": (listed(entry={"keys": [], "count": 0, "labels": []}), "it lists no sample of a.tar"),
    "a negative count": (listed(entry={"count": -1}), "the count of a.tar is -1"),
    "a count that is true": (listed(entry={"count": True}), "the count of a.tar is True"),
    "a label that is a text": (
        listed(entry={"labels": ["0"] * 6}),
        "labels of a.tar has '0' among whole numbers of 0 to 2",
    ),
    "a label out of range": (listed(entry={"labels": [3] * 6}), "labels of a.tar has 3 among whole numbers of 0 to 2"),
    "a label that is nothing": (listed(entry={"labels": [None] * 6}), "labels of a.tar has None among"),
    "a file elsewhere": (listed(entry={"file": "../../a.tar"}), "the file '../../a.tar' is not the name of a shard"),
    "an absolute file": (listed(entry={"file": "/etc/passwd"}), "the file '/etc/passwd' is not the name of a shard"),
    "a file that is a list": (listed(entry={"file": []}), "the file a list of 0 is not the name of a shard"),
    "a key of two lines listed": (
        listed(entry={"keys": ["a\nb", *"bcdef"]}),
        "the key 'a\\nb' of a.tar cannot be used",
    ),
    "a key twice": (listed(entry={"keys": ["a"] * 6}), "the keys of a.tar are not unique"),
    "a shape of texts": (listed(shape=["3", 4, 4]), "its shape has '3' among whole numbers of 1 or more"),
    "a shape that is a text": (listed(shape="3,4,4"), "its shape is '3,4,4', not a list"),
    "a huge number of classes": (listed(num_classes=10**9), "its num_classes is 1000000000"),
    "class names of another number": (listed(class_names=["x"]), "its class_names are not one line of text for each"),
    "another count": (listed(count=7), "its count is 7, not the sum of those of its shards"),
    "a checksum that is none": (listed(entry={"sha256": 5}), "the sha256 of a.tar is no checksum"),
    "a wrong checksum": (listed(entry={"sha256": "0" * 64}), "its SHA-256 is not that of manifest.json"),
    "another field": (listed(hello=1), "must have the fields"),
    "a sample that is not listed": (
        listed(entry={"keys": list(map("{:04d}".format, range(5))), "count": 5, "labels": [0] * 5}, count=5),
        "holds more of sample 0005 than was listed",
    ),
    "a deep manifest": (
        after(lambda at: manifest(at), lambda at: ((at / "manifest.json").write_bytes(DEEP), shard(at))),
        "manifest.json cannot be used (it is nested too deep)",
    ),
    "a huge manifest": (
        after(lambda at: manifest(at), lambda at: (os.truncate(at / "manifest.json", 2**40), shard(at))),
        "it has more than 16,777,216 bytes",
    ),
    # folders and images
    "a fifo for an image": (after(lambda at: fifo(at / "x.png"), folder), "x.png (it is not a regular file)"),
    "a device for an image": (after(lambda at: (at / "x.png").symlink_to("/dev/zero"), folder), "not a regular file"),
    "a link to itself": (after(lambda at: (at / "x.png").symlink_to("x.png"), folder), "cannot decode image"),
    "a link to no file": (after(lambda at: (at / "x.png").symlink_to("y"), folder), "x.png does not exist"),
    "an image of no bytes": (images({"x.png": b""}), "x.png (it is no picture in a format that is read)"),
    "PostScript for an image": (
        images({"x.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"}),
        "it is no picture",
    ),
    "an image bomb": (images({"x.png": png_header(60_000, 60_000)}), "it has more than the 89,478,485 pixels"),
    "a smaller image bomb": (images({"x.png": png_header(10_000, 10_000)}), "10,000 x 10,000 pixels, at most"),
    "an image of two lines": (images({"x\ny.png": png()}), "image 'x\\ny.png' in"),
    "a name that is no text": (images({os.fsdecode(b"\xff.png"): png()}), "bytes that are no UTF-8"),
    "a folder that is a file": (lambda at: folder(tar(at / "a.tar", {})), "a.tar is a file: pass the path of a folder"),
    "a folder too deep": (after(deep, folder), "cannot be listed (File name too long)"),
    "floats below zero": (images({"x.tif": picture(np.full((4, 4), -0.5, np.float32), "TIFF")}), "floats from -0.5 to"),
    "floats above 255": (images({"x.tif": picture(np.full((4, 4), 300, np.float32), "TIFF")}), "has floats from 300"),
    "floats that are none": (
        images({"x.tif": picture(np.full((4, 4), np.nan, np.float32), "TIFF")}),
        "floats from nan",
    ),
    "12 bits in 16": (
        images({"x.png": picture(GRAY * 273, "PNG")}),
        "looks like 12 bits in 16, its values end at 4,095",
    ),
    "8 bits in 16": (images({"x.png": picture(GRAY, "PNG")}), "looks like 8 bits in 16, its values end at 15"),
    "12 bits in 32": (images({"x.tif": picture(GRAY.astype(np.int32) * 273, "TIFF")}), "looks like 12 bits in 16"),
    "beyond 16 bits": (
        images({"x.tif": picture(GRAY.astype(np.int32) * 9999, "TIFF")}),
        "whole numbers from 0 to 149,985",
    ),
    "whole numbers below 0": (images({"x.tif": picture(GRAY.astype(np.int32) - 1, "TIFF")}), "whole numbers from -1"),
    # options
    "a batch of true": (
        made(Digits, batch_size=True),
        "batch_size=True is not a whole number: pass batch_size of 1 to 1,0",
    ),
    "a huge batch": (
        made(Digits, batch_size=2**21),
        "batch_size=2097152 is too large: pass batch_size of 1 to 1,048,576",
    ),
    "a batch of text": (made(Digits, batch_size="8"), "batch_size='8' is not a whole number"),
    "half a worker": (
        made(Digits, num_workers=0.5),
        "num_workers=0.5 is not a whole number: pass num_workers of 0 to 512",
    ),
    "many workers": (made(Digits, num_workers=513), "num_workers=513 is too large: pass num_workers of 0 to 512"),
    "a huge size": (made(Digits, size=16_385), "size=16385 is too large: pass size of 1 to 16,384"),
    "no size": (made(Digits, size=0), "size=0 is too small: pass size of 1 to 16,384"),
    "a size beyond digits": (made(Digits, size=10**9999), "size=a number of 33,216 bits is too large"),
    "many steps": (made(Digits, steps_per_epoch=2 * 10**9), "steps_per_epoch=2000000000 is too large"),
    "many points": (made(Toy, points=10**12), "points=1000000000000 is too large"),
    "a distribution of lists": (made(Toy, distribution=[]), "distribution=[] is unknown"),
    "a huge buffer": (
        made(Shards, train="a", shuffle=10**8),
        "shuffle=100000000 is too large: pass shuffle of 1 to 10",
    ),
    "many classes": (made(Shards, train="a", num_classes=10**7), "num_classes=10000000 is too large"),
    "a scale of nothing": (made(Shards, train="a", scale=float("nan")), "scale=nan is not allowed"),
    "no shards": (made(Shards, train=[]), "train=[] is no text"),
    "a flip of 1": (made(Digits, flip=1), "flip=1 is neither true nor false"),
    "a path of numbers": (made(Folder, path=5), "path=5 is no text"),
    # writing
    "shards of no images": (command("digits", "{at}/out", "--per-shard", "0"), "per_shard=0 is too small"),
    "shards of size 0": (command("digits", "{at}/out", "--size", "0"), "size=0 is too small: pass size of 1 to 16,384"),
    "a file to write to": (
        after(lambda at: (at / "out").write_text(""), command("digits", "{at}/out")),
        "out is a file: pass a folder",
    ),
    "a place under a file": (
        after(lambda at: (at / "out").write_text(""), command("digits", "{at}/out/in")),
        "cannot write to",
    ),
    "a source that is none": (command("nonsense", "{at}/out"), "nonsense is no data set"),
    "a source of tars and images": (
        after(
            lambda at: (tar(at / "in" / "a.tar", many()), (at / "in/x.png").write_bytes(png())),
            command("{at}/in", "{at}/o"),
        ),
        "holds tars (a.tar) and images (x.png)",
    ),
    "a source that is damaged": (
        after(lambda at: tar(at / "in" / "a.tar", {"0.png": b""}), command("{at}/in", "{at}/out")),
        "cannot decode image a/0",
    ),
}


@pytest.mark.filterwarnings("ignore:Image size")
@pytest.mark.parametrize("what", TABLE)
def test_what_is_bad_is_told_in_one_line(what: str, tmp_path: Path) -> None:
    run, words = TABLE[what]
    with limited(), pytest.raises(KineticError) as error:
        run(tmp_path)
    message = str(error.value)
    assert words in message
    assert len(message.splitlines()) == 1
    assert len(message) < 900
    assert not [name for _, _, files in os.walk(tmp_path) for name in files if name.endswith(".partial")]


# Sources


def test_a_file_called_like_a_command_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tar(tmp_path / "pipe:touch done;.tar", many())
    (tmp_path / "a:").mkdir()
    tar(tmp_path / "a:" / "b.tar", many(start=9))
    for pattern in (".", "./*.tar", "./pipe:touch done;.tar"):
        assert len(everything(Shards(train=pattern, num_val=0, batch_size=6))) == 6
    assert len(everything(Shards(train="./a://b.tar", num_val=0, batch_size=6))) == 6
    assert not (tmp_path / "done").exists()


@pytest.mark.parametrize(
    "pattern",
    [
        "pipe:touch {at}/done",
        "a.tar::pipe:touch {at}/done",
        "pi\\pe:touch {at}/done{{1,2}}",
        "{{a.tar,pipe:touch {at}/done}}",
    ],
)
@pytest.mark.parametrize("option", ["train", "test"])
def test_a_command_of_a_saved_configuration_is_not_run(tmp_path: Path, pattern: str, option: str) -> None:
    good = str(tar(tmp_path / "good.tar", many()))
    tar(tmp_path / "a.tar", many())
    pattern = pattern.format(at=tmp_path).replace("a.tar", f"{tmp_path}/a.tar")
    data = Shards(**{"train": good, "num_val": 0} | {option: pattern})
    data.trust = Trust()
    with pytest.raises(KineticError, match=rf"{option} comes from a saved configuration and is not opened: .*--trust"):
        data.setup()
    assert not list(tmp_path.glob("done*"))


def test_sources_that_are_trusted_are_opened_as_written_or_as_expanded(tmp_path: Path) -> None:
    tar(tmp_path / "a1.tar", many())
    tar(tmp_path / "a2.tar", many())
    pattern = f"pipe:cat {tmp_path}/a{{1,2}}.tar"
    one = [f"pipe:cat {tmp_path}/a{n}.tar" for n in (1, 2)]
    for sources in ((pattern,), tuple(one)):
        assert [s.url for s in find_shards(pattern, Trust(sources=sources))] == one
    with pytest.raises(KineticError, match="not opened"):
        find_shards(pattern, Trust(sources=(one[0],)))
    assert not find_shards(f"file://{tmp_path}/a1.tar", Trust())[0].remote
    assert find_shards(one[0])[0].remote


def test_nothing_is_downloaded_for_a_saved_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision.datasets

    asked: list[bool] = []

    def refuse(root: str, train: bool, download: bool) -> None:
        asked.append(download)
        raise RuntimeError("not found")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", refuse)
    data = Vision(root=str(tmp_path), download=True)
    data.trust = Trust(sources=("https://somewhere/",))
    data.prepare_data()
    with pytest.raises(KineticError, match="nothing is downloaded for a saved configuration"):
        data.setup()
    with pytest.raises(KineticError, match="cannot download"):
        Vision(root=str(tmp_path), download=True).prepare_data()
    assert asked == [False, True]


@pytest.mark.parametrize(
    ("pattern", "count"),
    [
        ("a", 1),
        ("{a,b}", 2),
        ("{1..3}{a,b}", 6),
        ("{a,{b,c}d,}", 4),
        ("{0..10..5}", 3),
        ("x{a}y", 1),
        ("{3..1}\\{1,2", 3),
    ],
)
def test_expansions_are_counted_as_they_are_made(pattern: str, count: int) -> None:
    from braceexpand import braceexpand

    assert expansions(pattern) == count == len(list(braceexpand(pattern)))


# Every image is used, or told


def test_what_macos_adds_is_passed_over(tmp_path: Path) -> None:
    extra = {f"._{name}": b"\0\5\x16\7" for name in many()} | {
        "__MACOSX/0000.png": b"",
        ".DS_Store": b"",
        "x/.DS_Store": b"",
    }
    names = sorted(many() | extra, key=lambda n: n.lstrip("._"))
    path = tar(tmp_path / "a.tar", {n: (many() | extra)[n] for n in names})
    assert shard(path, batch_size=6) == [f"a/{i:04d}" for i in range(6)]
    for name, data in {"x.png": png(), "._x.png": b"", "__MACOSX/y.png": b""}.items():
        (tmp_path / "f" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "f" / name).write_bytes(data)
    assert folder(tmp_path / "f", batch_size=1) == ["x.png"]


@pytest.mark.parametrize("count", [12, HELD - 1, HELD + 1, 3 * HELD])
@pytest.mark.parametrize("labels", [True, False])
def test_keys_with_a_dot_go_up_to_the_last_one(tmp_path: Path, count: int, labels: bool, recwarn: Any) -> None:
    named: dict[str, bytes] = {}
    for i in range(count):
        named |= {f"v1.{i:04d}.png": png(i % 200)} | ({f"v1.{i:04d}.cls": b"1"} if labels else {})
    path = tar(tmp_path / "a.tar", named)
    assert shard(path, batch_size=count) == [f"a/v1.{i:04d}" for i in range(count)]
    assert not [w for w in recwarn if "left out" in str(w.message)]


@pytest.mark.parametrize("order", [("a.png", "a.seg.png", "a.depth.npy"), ("a.depth.npy", "a.seg.png", "a.png")])
def test_masks_beside_an_image_are_left_alone_and_counted(tmp_path: Path, order: tuple[str, ...]) -> None:
    content = {"a.png": png(1), "a.seg.png": png(2), "a.depth.npy": b"x"}
    named = {n: content[n] for n in order} | {"b.1.png": png(3), "b.1.cls": b"1", "b.2.png": png(4), "b.2.cls": b"1"}
    named["a.cls"] = named.pop("a.cls", b"0")
    named = {n: named[n] for n in (*order, "a.cls", "b.1.png", "b.1.cls", "b.2.png", "b.2.cls")}
    path = tar(tmp_path / "a.tar", named)
    with pytest.warns(
        UserWarning, match=r"^2 further images such as a\.\w+\.\w+ were left out: .* belong to sample a$"
    ):
        assert shard(path, batch_size=3) == ["a/a", "a/b.1", "a/b.2"]


def test_a_second_image_of_a_sample_and_links_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(
        member("0.png", png()) + member("0.webp", b"x") + member("1.png", b"", type=b"2") + bytes(1024)
    )
    with pytest.warns(UserWarning, match="images such as") as told:
        assert shard(tmp_path / "a.tar", batch_size=1) == ["a/0"]
    lines = [str(w.message) for w in told]
    assert any("1 images such as 0.webp were left out: a sample has one image" in line for line in lines)
    assert any("1 images such as 1.png were left out: they are links" in line for line in lines)


def test_images_of_kinds_that_are_not_read_are_told(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(png())
    (tmp_path / "y.heic").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"1 images in .* were left out, such as y\.heic"):
        assert folder(tmp_path, batch_size=1) == ["x.png"]


def test_a_cut_tar_of_keys_with_a_dot_gives_its_whole_samples(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", {f"v1.{i}.png": png(i) for i in range(8)})
    os.truncate(path, 1024 * 6 + 600)
    with pytest.warns(UserWarning, match="skipped 1 faults beside 5 good samples"):
        assert shard(path, skip_bad=True, batch_size=5) == [f"a/v1.{i}" for i in range(5)]


def test_skip_bad_leaves_out_and_counts(tmp_path: Path) -> None:
    named = {"0.png": png(), "1.png": picture(GRAY, "PNG"), "a\nb.png": png(), "2.png": png_header(60_000, 60_000)}
    with pytest.warns(UserWarning, match="skipped 3 faults beside 1 good samples, the first: image a/1 looks like"):
        assert shard(tar(tmp_path / "a.tar", named), skip_bad=True, batch_size=1) == ["a/0"]
    for name, data in named.items():
        (tmp_path / "f" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "f" / name).write_bytes(data)
    fifo(tmp_path / "f" / "z.png")
    with pytest.warns(UserWarning, match="skipped") as told:
        assert folder(tmp_path / "f", skip_bad=True, batch_size=1) == ["0.png"]
    lines = " ".join(str(w.message) for w in told)
    assert "skipped 1 images" in lines
    assert "skipped 3 of 4 images" in lines


# Pictures


@pytest.mark.parametrize(
    ("array", "format", "expected"),
    [
        (np.linspace(0, 1, 16, dtype=np.float32), "TIFF", np.arange(16) * 17),
        (np.linspace(0, 255, 16, dtype=np.float32), "TIFF", np.arange(16) * 17),
        (np.zeros(16, dtype=np.float32), "TIFF", np.zeros(16)),
        (np.arange(16, dtype=np.int32) * 17, "TIFF", np.arange(16) * 17),
        (np.arange(16, dtype=np.int32) * 4369, "TIFF", np.arange(16) * 17),
        (np.arange(16, dtype=np.uint16) * 4369, "PNG", np.arange(16) * 17),
        (np.zeros(16, dtype=np.uint16), "PNG", np.zeros(16)),
    ],
)
def test_pictures_of_other_ranges_keep_their_brightness(array: np.ndarray, format: str, expected: np.ndarray) -> None:
    data = io.BytesIO(picture(array.reshape(4, 4), format))
    levels = read_image(data, name="x", channels=1).flatten()
    assert torch.equal(levels, torch.from_numpy(expected).to(torch.uint8))


def test_twelve_bits_in_sixteen_of_three_channels_are_refused() -> None:
    rows = b"".join(b"\0" + struct.pack(">6H", *[4095] * 6) for _ in range(2))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    with pytest.raises(KineticError, match="looks like 12 bits in 16"):
        read_image(io.BytesIO(data), name="x", channels=3)


def test_classes_are_sorted_as_text_and_named(tmp_path: Path) -> None:
    for i in range(12):
        (tmp_path / str(i)).mkdir()
        (tmp_path / str(i) / "x.png").write_bytes(png(i))
    data = Folder(path=str(tmp_path), num_val=0, batch_size=12)
    batch = next(iter(data.train_loader()))
    assert data.class_names == tuple(sorted(map(str, range(12))))
    assert data.class_names[2] == "10"
    assert [data.class_names[k] for k in batch["labels"].tolist()] == [i.split("/")[0] for i in batch["ids"]]
    manifest(tmp_path / "s")
    shards_ = Shards(train=str(tmp_path / "s"), num_val=0)
    shards_.setup()
    assert shards_.class_names == ("x", "y", "z")


# Loaders


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_is_told_in_the_first_batch(tmp_path: Path, workers: int) -> None:
    tar(tmp_path / "a.tar", many() | {"0001.png": png()[:50]})
    data = Shards(train=str(tmp_path), num_val=0, batch_size=6, num_workers=workers, cache=False)
    with pytest.raises(KineticError, match="cannot decode image a/0001"):
        next(iter(data.train_loader()))


@pytest.mark.filterwarnings("ignore")
def test_a_worker_that_is_killed_is_one_line(tmp_path: Path) -> None:
    for i in range(8):
        (tmp_path / f"{i}.png").write_bytes(png(i))
    code = f"""
import os, signal
from kinetic.data import Folder, folders
from kinetic.errors import KineticError
parent, read = os.getpid(), folders.read_image
def dying(*args, **kwargs):
    if os.getpid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
    return read(*args, **kwargs)
folders.read_image = dying
try:
    list(Folder(path={str(tmp_path)!r}, num_val=0, batch_size=4, num_workers=1, cache=False).train_loader())
except KineticError as error:
    print(error)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=90)
    assert "a process that decodes images could not go on" in out.stdout, out.stderr[-500:]
    assert "pass num_workers of less than 1, or 0" in out.stdout


# Writing


def test_what_a_killed_writing_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in (".train-00007.tar.partial", ".manifest.json.partial", ".mine.partial", "train.partial"):
        (tmp_path / name).write_text("half")
    write_shards(Digits(num_train=5), tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        ".mine.partial",
        "manifest.json",
        "test-00000.tar",
        "train-00000.tar",
        "train.partial",
    ]


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    import kinetic.data.writing as writing

    def full(self: Any, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(writing.HashingWriter, "write", full)
    with pytest.raises(KineticError, match=rf"cannot write to {tmp_path}.* \(No space left on device\)"):
        write_shards(Digits(num_train=5), tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
