"""What a run was told: its config.yaml, each setting at its own place."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from kinetic.errors import KineticError
from kinetic.store.runs import CONFIG

MEMORIZATION = "MemorizationCallback"  # the class, in whichever module


@dataclass(frozen=True)
class SavedConfig:
    """The settings in a config.yaml; what is not there, or is of another type, is None or the default asked for."""

    values: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, run: Path) -> "SavedConfig":
        """Read the settings of a run folder; KineticError where there are none, or they are damaged."""
        path = run / CONFIG
        try:
            return cls.parse(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise KineticError(f"{path} cannot be read: {' '.join(str(error).split())}") from None

    @classmethod
    def parse(cls, text: str) -> "SavedConfig":
        """Take settings from the text of a config.yaml."""
        values = yaml.safe_load(text)
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
