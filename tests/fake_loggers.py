"""Loggers that fail, or keep what they are told."""

from lightning.pytorch.loggers import TensorBoardLogger

from kinetic.training.weights_and_biases import QuietWandb


class Broken(QuietWandb):
    """A W&B logger that fails at media."""

    name, version, save_dir = "broken", "0", ""
    log_metrics = log_hyperparams = log_graph = finalize = save = after_save_checkpoint = lambda *args, **kwargs: None

    def __init__(self):
        self.calls = 0

    def log_media(self, media, *, step):
        self.calls += 1
        raise OSError("the disk is full\nTraceback of many lines")


class Listening(Broken):
    """A W&B logger that keeps what it is told."""

    def __init__(self):
        self.media, self.alerts = [], []

    def log_media(self, media, *, step):
        self.media.append((step, media))

    def alert(self, title, text):
        self.alerts.append((title, text))


class Boards(TensorBoardLogger):
    """What TensorBoard would be told."""

    name, version, save_dir, log_dir = "boards", "0", "", ""
    log_metrics = log_hyperparams = log_graph = finalize = save = after_save_checkpoint = lambda *args, **kwargs: None

    def __init__(self):
        self.histograms, self.images = [], []

    @property
    def experiment(self):
        return self

    def add_histogram(self, key, values, step, bins):
        self.histograms.append((key, len(values), step, len(bins)))

    def add_image(self, key, image, step, dataformats):
        self.images.append((key, image.shape[2], step, dataformats))
