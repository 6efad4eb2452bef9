"""Messages of the libraries that tell a user of the command lines nothing."""

import logging
import warnings


def quiet() -> None:
    """Silence Lightning's banners and the hints that do not apply here; every other warning stays."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for text in (
        ".*LightningCLI's args parameter is intended.*",
        ".*module\\(s\\) in eval mode at the start of training.*",  # the averaged network
        ".*is smaller than the logging interval.*",  # rows of metrics.csv are counted in steps, not epochs
        ".*You have overridden `transfer_batch_to_device`.*",  # seeds stay on the host
        ".*does not have many workers.*",  # images in memory need none
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*GPU available but not used.*",
        ".*The `srun` command is available.*",
        ".*epoch parameter in `scheduler.step\\(\\)`.*",
        ".*It is recommended to use `self.log\\('val/loss'.*sync_dist=True.*",  # it is the mean already
        ".*isinstance\\(treespec, LeafSpec\\).*",
    ):
        warnings.filterwarnings("ignore", text)
