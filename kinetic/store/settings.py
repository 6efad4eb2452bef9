"""What a run was told: its config.yaml, each setting at its own place."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kinetic.store.plain import parse_yaml, read_text
from kinetic.store.runs import CONFIG

MEMORIZATION = "MemorizationCallback"  # the class, in whichever module


@dataclass(frozen=True)
class SavedConfig:
    """The settings in a config.yaml; what is not there, or is of another type, is None or the default asked for."""

    values: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, run: Path) -> "SavedConfig":
        """Read the settings of a run folder; KineticError where there are none, or they are damaged."""
        return cls.parse(read_text(run / CONFIG), name=str(run / CONFIG))

    @classmethod
    def parse(cls, text: str, *, name: str = CONFIG) -> "SavedConfig":
        """Take settings from the text of a config.yaml; KineticError where it is damaged."""
        values = parse_yaml(text, name=name)
        return cls(values if isinstance(values, dict) else {})

    def at(self, *keys: str, default: Any = None) -> Any:
        """The setting at a path of keys."""
        found: Any = self.values
        for key in keys:
            if not isinstance(found, dict) or key not in found:
                return default
            found = found[key]
        return found

    @property
    def tau(self) -> Any:
        """τ of the validations' sampler; None where it has the default."""
        return self.at("model", "sampler", "kts", "tau")

    def memorization(self, name: str, default: Any = None) -> Any:
        """An argument of the run's MemorizationCallback; `default` where it has none, or has not this argument."""
        callbacks = self.at("trainer", "callbacks", default=[])
        for callback in callbacks if isinstance(callbacks, list) else []:
            if isinstance(callback, dict) and str(callback.get("class_path")).split(".")[-1] == MEMORIZATION:
                arguments = callback.get("init_args")
                return arguments.get(name, default) if isinstance(arguments, dict) else default
        return default
