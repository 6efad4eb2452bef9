"""Which members of a tar make one sample, and which images belong to none."""

from dataclasses import dataclass, field

from kinetic.data.names import shown

IMAGES = ("jpg", "jpeg", "png", "webp")
LABELS = ("cls", "json")
KINDS = (*IMAGES, "npy", *LABELS)  # what is read; members of any other kind are left alone
UNREAD = ("avif", "bmp", "gif", "heic", "jfif", "jp2", "jxl", "pbm", "pgm", "pnm", "ppm", "tga", "tif", "tiff")
HELD = 64  # members of one group that are held back until one says how keys are to be read
HELD_BYTES = 2**26
Sample = tuple[str, dict[str, bytes]]  # key, and the bytes of each kind


@dataclass
class LeftOut:
    """Images of shards that are not used: how many for each reason, and the first of them."""

    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, reason: str, name: str) -> None:
        """Count the image called `name`."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
        self.first.setdefault(reason, name)

    def lines(self) -> list[str]:
        """Say of each reason how many images it concerns."""
        return [
            f"{count:,} {'further images' if 'convention' in reason else 'images'} such as"
            f" {shown(self.first[reason].split(chr(0))[0])} were left out:"
            f" {reason.format(key=shown(self.first[reason].split(chr(0))[-1]))}"
            for reason, count in self.counts.items()
        ]


MASK = "by webdataset's convention they belong to sample {key}"
FORMAT = f"shards hold {', '.join(IMAGES)} or npy"
LINK = "they are links within the tar, which are not followed"
SECOND = "a sample has one image, and {key} has another one"


class Grouper:
    """Put members that follow one another and share a key into one sample.

    The key is the name up to the first dot of its last part, by webdataset's convention, where the members that share
    it have an image of a plain kind (`a.png` beside `a.seg.png`); further images are then left out and counted. Where
    they have none (`0.1.png`, `0.1.cls`, `0.2.png`), the key goes up to the last dot. A group of which HELD members
    say nothing is taken to have none.
    """

    def __init__(self, left_out: LeftOut | None = None) -> None:
        self.left_out = LeftOut() if left_out is None else left_out
        self.stem: str | None = None  # what the members of the group share
        self.plain: bool | None = None  # whether it has an image of a plain kind; None: not known yet
        self.held: list[tuple[str, bytes]] = []
        self.bytes = 0
        self.key, self.sample = "", dict[str, bytes]()

    def add(self, name: str, data: bytes) -> list[Sample]:
        """Take the next member; return the samples that it completes."""
        folder, slash, base = name.rpartition("/")
        first, _, rest = base.partition(".")
        done: list[Sample] = []
        if f"{folder}{slash}{first}" != self.stem:
            done = self.end()
            self.stem = f"{folder}{slash}{first}"
        if self.plain is not None:
            return done + self._place(name, data)
        if rest.lower() in KINDS and rest.lower() not in LABELS:
            return done + self._decide(True) + self._place(name, data)
        self.held.append((name, data))
        self.bytes += len(data)
        full = len(self.held) > HELD or self.bytes > HELD_BYTES
        return done + self._decide(False) if full else done

    def end(self) -> list[Sample]:
        """Complete what is there; the last sample is the one to which the last member belongs."""
        done = self._decide(False) + self._complete()
        self.stem, self.plain = None, None
        return done

    def _decide(self, plain: bool) -> list[Sample]:
        if self.plain is None:
            self.plain = plain
        held, self.held, self.bytes = self.held, [], 0
        return [sample for name, data in held for sample in self._place(name, data)]

    def _place(self, name: str, data: bytes) -> list[Sample]:
        before, _, kind = name.rpartition(".")
        kind = kind.lower()
        key = (self.stem or "") if self.plain else before
        if self.plain and before != key:
            if kind not in LABELS:
                self.left_out.add(MASK, f"{name}\0{key}")
            return []
        done = self._complete() if key != self.key or kind in self.sample else []
        self.key, self.sample[kind] = key, data
        return done

    def _complete(self) -> list[Sample]:
        sample, self.sample = self.sample, {}
        if not sample:
            return []
        images = [kind for kind in (*IMAGES, "npy") if kind in sample]
        for kind in images[1:]:
            self.left_out.add(SECOND, f"{self.key}.{kind}\0{self.key}")
            del sample[kind]
        return [(self.key, sample)]
