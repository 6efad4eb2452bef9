"""Lightning's door to checkpoint files."""

from pathlib import Path
from typing import Any

from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from kinetic.models.checkpoint import read_checkpoint, write_checkpoint
from kinetic.models.schema import check_resumable


class SafeCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints beside their place and renames them; reads tensors and plain types only."""

    def __init__(self) -> None:
        super().__init__()
        self._held: tuple[Path, dict[str, Any]] | None = None

    def hold(self, state: dict[str, Any], path: Path) -> None:
        """Keep what was read of a checkpoint already for the next time that it is loaded."""
        self._held = path, state

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a whole checkpoint, or leave what was there."""
        write_checkpoint(checkpoint, path)

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint that training can go on from, executing nothing from it."""
        held, self._held = self._held, None
        if held is not None and held[0] == Path(path):
            return held[1]
        state = read_checkpoint(path)
        check_resumable(state, f"checkpoint {path}")
        return state
