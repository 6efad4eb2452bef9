"""Lightning's door to checkpoint files."""

from pathlib import Path
from typing import Any

from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from kinetic.models.checkpoint import read_checkpoint, write_checkpoint


class SafeCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints beside their place and renames them; reads tensors and plain types only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a whole checkpoint, or leave what was there."""
        write_checkpoint(checkpoint, path)

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint, executing nothing from it."""
        return read_checkpoint(Path(path), device="cpu")
