"""Training of a conditional flow-matching model as a LightningModule."""

from dataclasses import asdict, replace
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader

from kinetic.build import ClassConfig, as_config, build
from kinetic.data.fit import check_fit
from kinetic.flow.energy import STANDARD
from kinetic.flow.field import Field
from kinetic.flow.measures import Measure
from kinetic.flow.motion import IntegrationError
from kinetic.flow.paths import path as affine_path
from kinetic.flow.sampling import Sampler, draw
from kinetic.flow.seeds import ValidationSampling, seed_loader
from kinetic.flow.trajectory import Trajectory
from kinetic.models.checkpoint import MEASURES, NETWORKS, check_weights
from kinetic.tensors import seed_from, seeded_noise
from kinetic.training.averaging import AveragedNetwork
from kinetic.training.couplings import pair
from kinetic.training.lightning import is_logged_step
from kinetic.training.losses import LossWatch, RunningMean, stop_on
from kinetic.training.optimizers import make_optimizer
from kinetic.training.resuming import carry_over
from kinetic.training.times import TrainingTimes, checked_dropout, draw_times, drop_labels, validation_times
from kinetic.trust import STRANGER, Trust

Batch = dict[str, Any]
STRATA = 1024  # of validation times; in their order any few in a row cover [0, 1]


class FlowMatching(LightningModule):
    """Regress a network on the velocity of an affine path between noise (t = 0) and data (t = 1).

    Args:
        network: {"class_path": ..., "init_args": {...}} of an `nn.Module` called as net(x [B, ...], t [B], labels
            [B] int64 or None), or such a module itself (then a checkpoint cannot rebuild it by itself).
        path: "linear" (conditional optimal transport), "gvp" or "vp".
        coupling: "independent", or "ot" for minibatch optimal transport.
        times: distribution of training times: "uniform", "logit_normal" (with `time_mean`, `time_std`), "stratified".
        label_dropout: probability with which a label is replaced by the null label, for classifier-free guidance.
        optimizer: class_path and init_args of a torch optimiser (default Adam at 2e-4).
        scheduler: the same of a torch learning-rate schedule, counted in steps after the warm-up.
        warmup_steps: steps over which the learning rate rises linearly from near 0.
        ema_decay: decay of the averaged weights in (0, 1), a step; None averages nothing.
        ema_every: steps between two moves of the averaged weights, each by the decay of all of them.
        compile: run the network under torch.compile.
        channels_last: keep weights and images in channels-last memory format.
        seed: noise, times and dropout are a function of (seed, rank, step).
        samples: which samples every validation draws.
        sampler: how they are drawn.
        trust: which classes `network`, `optimizer`, `scheduler` and `samples.measures` may name.

    Batches are {"x": float32 [B, ...] in [-1, 1], "labels": int64 [B] or None, "ids": list of B names}.
    """

    def __init__(
        self,
        network: ClassConfig | nn.Module,
        *,
        path: Literal["linear", "gvp", "vp"] = "linear",
        coupling: Literal["independent", "ot"] = "independent",
        times: Literal["uniform", "logit_normal", "stratified"] = "uniform",
        time_mean: float = 0.0,
        time_std: float = 1.0,
        label_dropout: float = 0.0,
        optimizer: ClassConfig | None = None,
        scheduler: ClassConfig | None = None,
        warmup_steps: int = 0,
        ema_decay: float | None = 0.9999,
        ema_every: int = 1,
        compile: bool = False,
        channels_last: bool = False,
        seed: int = 0,
        samples: ValidationSampling = ValidationSampling(),  # noqa: B008 (frozen)
        sampler: Sampler = Sampler(),  # noqa: B008 (frozen)
        trust: Trust = STRANGER,
    ) -> None:
        super().__init__()
        plain = {
            "network": None if isinstance(network, nn.Module) else network,
            "path": path,
            "coupling": coupling,
            "times": times,
            "time_mean": time_mean,
            "time_std": time_std,
            "label_dropout": label_dropout,
            "optimizer": optimizer,
            "scheduler": scheduler,
            "warmup_steps": warmup_steps,
            "ema_decay": ema_decay,
            "ema_every": ema_every,
            "seed": seed,
            "samples": {**asdict(samples), "measures": list(samples.measures)},
            "sampler": sampler.to_dict(),
        }
        self.save_hyperparameters(plain, logger=False)
        self.net = (
            network if isinstance(network, nn.Module) else build(network, base=nn.Module, home=NETWORKS, trust=trust)
        )
        if channels_last:
            self.net.to(memory_format=torch.channels_last)
        self.ema = None if ema_decay is None else AveragedNetwork(self.net, decay=ema_decay, every=ema_every)
        self.path = affine_path(path)
        sampler.check_noise(self.path)
        self.coupling, self.channels_last, self.seed = coupling, channels_last, seed
        self.times = TrainingTimes(times, time_mean, time_std)
        self.label_dropout = checked_dropout(label_dropout, self.num_classes)
        self.optimizer_config, self.scheduler_config = optimizer, scheduler
        self.warmup_steps, self.trust = warmup_steps, trust
        self.samples, self.sampler = samples, sampler
        more = (build(as_config(one), base=Measure, home=MEASURES, trust=trust) for one in samples.measures)
        self.measures: tuple[Measure, ...] = (*STANDARD, *more)
        self.losses, self._held_out = LossWatch(), RunningMean()
        if compile:
            self.net.compile()
            if self.ema is not None:
                self.ema.network.compile()

    @property
    def num_classes(self) -> int | None:
        """Number of classes of the network, None if it is unconditional."""
        return Field.of(self.net).num_classes

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample, without the batch axis."""
        stated = Field.of(self.net).shape
        return tuple(getattr(self.trainer, "datamodule").shape) if stated is None else stated  # noqa: B009

    @property
    def sampling_network(self) -> nn.Module:
        """The averaged network, or the trained one if nothing is averaged."""
        return self.net if self.ema is None else self.ema

    @property
    def field(self) -> Field:
        """What validation draws from; its space is that of the data, where there is any."""
        found = replace(Field.of(self.sampling_network, shape=self.sample_shape), path=self.path)
        latents = getattr(getattr(self.trainer, "datamodule", None), "latents", None)
        return found if latents is None else replace(found, space="latents")

    @property
    def weights(self) -> Literal["ema", "raw"]:
        """Which weights validation and sampling use."""
        return "raw" if self.ema is None else "ema"

    # Training

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean squared error of the velocity at random times; raises NonFiniteLoss."""
        step = self.trainer.fit_loop.epoch_loop.total_batch_idx
        key = seed_from(self.seed, self.global_rank, step)
        torch.manual_seed(key)  # dropout, and whatever else the network draws
        rng = torch.Generator(self.device).manual_seed(key + 1)
        x1 = batch["x"].float()
        x0 = torch.randn(x1.shape, generator=rng, device=self.device)
        batch = pair(x0, batch, coupling=self.coupling)
        x1 = batch["x"].float()
        t = draw_times(len(x1), rng, self.times)
        labels = self._labels(batch)
        if labels is not None and self.num_classes is not None and self.label_dropout > 0:
            labels = drop_labels(labels, self.label_dropout, self.num_classes, rng)
        loss = self.errors(self.net, x0, x1, t, labels).mean()
        self.losses.add(step, loss, t, batch.get("ids", ()))
        if loss.device.type == "cpu" or is_logged_step(self.trainer):
            self.check_losses()
        self.log("train/loss", loss, prog_bar=True, batch_size=len(x1))
        self.log("train/lr", self.trainer.optimizers[0].param_groups[0]["lr"], batch_size=len(x1))
        return loss

    def errors(self, net: nn.Module, x0: Tensor, x1: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        """Squared error of each row, averaged over its dimensions: [B] float32."""
        sample = self.path.sample(x0, x1, t)
        xt = sample.xt.to(next(net.parameters()).dtype)
        if self.channels_last and xt.ndim == 4:
            xt = xt.contiguous(memory_format=torch.channels_last)
        velocity = net(xt, t, labels).float()
        return mse_loss(velocity, sample.target, reduction="none").flatten(1).mean(1)

    def _labels(self, batch: Batch) -> Tensor | None:
        return None if self.num_classes is None else batch["labels"]

    def check_losses(self) -> None:
        """Look at the losses since the last look; raises NonFiniteLoss, having saved what is needed to look into it.

        On a GPU this waits for the device, so it is done at the steps that are logged and before a checkpoint is
        written, which therefore never holds weights from behind a loss that was not finite.
        """
        bad = self.losses.take_bad()
        if bad is None:
            return
        stop_on(bad, self.trainer)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Log the norm of the gradient before clipping, at the steps that are logged."""
        if is_logged_step(self.trainer):
            gradients = [p.grad for p in self.net.parameters() if p.grad is not None]
            self.log("train/grad_norm", nn.utils.get_total_norm(gradients))

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Take the step, then let the averaged weights follow."""
        super().optimizer_step(*args, **kwargs)
        if self.ema is not None:
            self.ema.update(self.net)

    def trained_parameters(self) -> list[nn.Parameter]:
        """What the optimiser moves, in the order in which it numbers them."""
        return [p for p in self.net.parameters() if p.requires_grad]

    def configure_optimizers(self) -> Any:
        """Build the optimiser over the trained network, and its schedule with the warm-up in front."""
        optimizer, schedule = make_optimizer(
            self.trained_parameters(),
            self.optimizer_config,
            self.scheduler_config,
            warmup_steps=self.warmup_steps,
            fused=self.trainer.precision != "16-mixed",  # whose scaler clips between the backward pass and the step
            trust=self.trust,
        )
        if schedule is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # Validation and sampling

    def seed_loader(self) -> DataLoader | None:
        """Loader of the seeds that every validation draws, this rank's share; None if there are none."""
        if self.samples.num < 1:
            return None
        first = self.samples.first_seed
        return seed_loader(
            range(first, first + self.samples.num),
            labels=self.samples.labels,
            num_classes=self.num_classes,
            batch_size=self.samples.batch_size,
            rank=self.global_rank,
            world=self.trainer.world_size,
        )

    def validation_step(  # type: ignore[override]
        self, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> Trajectory | IntegrationError | None:
        """Loss on held-out images (first loader), or the trajectories of a batch of seeds (second).

        A solver that gives up is returned, not raised: the callbacks tell of it, and training goes on.
        """
        if "seeds" in batch:
            try:
                return self.draw(batch, self.sampler, precision=self.samples.precision)
            except IntegrationError as error:
                first, last = int(batch["seeds"][0]), int(batch["seeds"][-1])
                return IntegrationError(f"seeds {first} to {last} were not drawn: {error}")
        self._held_out.add(self._held_out_losses(batch, batch_idx))
        return None

    def _held_out_losses(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of each held-out image; image i always meets the same time and noise, so that the curve is smooth.

        A batch without "index" is taken to hold the images after those of the batches before it.
        """
        x1 = batch["x"].float()
        if len(x1) == 0:  # this rank's share where there are fewer images than ranks
            return x1.new_zeros(0)
        index = batch.get("index", batch_idx * len(x1) + torch.arange(len(x1))).cpu()
        t = validation_times(STRATA)[index % STRATA].to(self.device)
        x0 = seeded_noise(index, x1.shape[1:]).to(self.device)
        return self.errors(self.sampling_network, x0, x1, t, self._labels(batch))

    def on_validation_epoch_start(self) -> None:
        """Begin a new mean over the held-out images."""
        self._held_out = RunningMean()

    def on_validation_epoch_end(self) -> None:
        """Log the loss over all processes, at the number of steps taken: the step of the files of a validation."""
        loss = self._held_out.over_processes(self.trainer.strategy)
        if loss is not None:
            self.log("val/loss", loss, prog_bar=True, batch_size=1)
        if self.trainer.state.fn == "fit":
            place = {"step": float(self.global_step), "epoch": float(self.current_epoch)}
            self.log_dict(place, on_step=False, on_epoch=True, sync_dist=True, batch_size=1)

    def draw(self, batch: Batch, sampler: Sampler, *, precision: Literal["32", "bf16"] = "32") -> Trajectory:
        """Draw the samples of {"seeds": int64 [B], "labels": int64 [B] or None} with the averaged weights."""
        return draw(
            self.field,
            batch["seeds"].tolist(),
            labels=batch["labels"],
            sampler=sampler,
            device=self.device,
            precision=precision,
            measures=self.measures,
        )

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Leave seeds and their labels on the host, where noise is drawn and labels are checked."""
        if isinstance(batch, dict) and "seeds" in batch:
            return batch
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    # Set-up and checkpoints

    def setup(self, stage: str) -> None:
        """Check the data before anything is computed."""
        data = getattr(self.trainer, "datamodule", None)
        if stage == "fit" and data is not None:
            check_fit(self.net, data)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the weights of another architecture; let changed settings of the optimiser and its schedule hold."""
        check_weights(self, checkpoint["state_dict"], source="the checkpoint")
        if "optimizer_states" in checkpoint:
            carry_over(
                checkpoint,
                self.trained_parameters(),
                optimizer=self.optimizer_config,
                scheduler=self.scheduler_config,
                warmup_steps=self.warmup_steps,
                trust=self.trust,
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Record what is needed to use the weights without this class; plain types only."""
        self.check_losses()
        data = getattr(self.trainer, "datamodule", None)
        names, latents = getattr(data, "class_names", None), getattr(data, "latents", None)
        checkpoint["kinetic"] = {
            "format": 1,
            "weights": self.weights,
            "sample_shape": list(self.sample_shape),
            "class_names": None if names is None or self.num_classes is None else list(names),
            **({} if latents is None else {"latents": latents.to_dict()}),
        }
