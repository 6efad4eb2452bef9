"""What a configuration may import and open."""

from dataclasses import dataclass, replace

ANY = ("*",)


@dataclass(frozen=True)
class Trust:
    """What may be imported and opened on behalf of a configuration.

    It is made once, on the command line, and handed down to whatever builds classes or opens sources of data. Nothing
    below widens it. `Trust()` is for what a stranger may have written: a run folder, a checkpoint, a shard. It allows
    the classes of Kinetic that belong at a place, torch's optimisers, and files that lie here.

    Attributes:
        packages: whose classes may be imported besides.
        sources: URLs and `pipe:` commands that may be opened, as they are written; `ANY` allows all.
    """

    packages: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()

    def including(self, named: tuple[str, ...]) -> "Trust":
        """Trust what a person named besides: packages, and sources, which have a `:` or a `/`."""
        sources = tuple(name for name in named if ":" in name or "/" in name)
        packages = tuple(name for name in named if name not in sources)
        return replace(self, packages=self.packages + packages, sources=self.sources + sources)

    def opening(self, sources: tuple[str, ...]) -> "Trust":
        """Trust sources of data that a person typed."""
        return replace(self, sources=self.sources + sources)

    def allows_class(self, path: str, home: str) -> bool:
        """Whether the class at a dotted path may be imported where classes of the package `home` are expected."""
        return any(path == name or path.startswith(f"{name}.") for name in (home, *self.packages))

    def allows_source(self, source: str) -> bool:
        """Whether a URL or a command may be opened."""
        return self.sources == ANY or source in self.sources


STRANGER = Trust()  # whoever wrote a run folder or a checkpoint
OWN = Trust(packages=("kinetic", "torch", "lightning"), sources=ANY)  # what a person wrote and passes in
