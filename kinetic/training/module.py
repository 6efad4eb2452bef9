"""Training of a conditional flow-matching model as a LightningModule."""

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader

from kinetic.build import ClassConfig, build_trusted
from kinetic.data.fit import check_fit
from kinetic.errors import KineticError
from kinetic.flow.integration import Trajectory
from kinetic.flow.paths import path as affine_path
from kinetic.flow.sampling import Sampler, draw, renoise
from kinetic.flow.seeds import ValidationSampling, seed_loader
from kinetic.models.checkpoint import check_weights
from kinetic.tensors import generator, seed_from, seeded_noise
from kinetic.training.averaging import AveragedNetwork
from kinetic.training.couplings import pair
from kinetic.training.optimizers import make_optimizer
from kinetic.training.times import draw_times, drop_labels, validation_times

Batch = dict[str, Any]
STRATA = 1024  # of validation times; in their order any few in a row cover [0, 1]


class NonFiniteLoss(KineticError):
    """The training loss is NaN or infinite; the message names step, times and samples."""


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
        ema_decay: decay of the averaged weights in (0, 1); None averages nothing.
        compile: run the network under torch.compile.
        channels_last: keep weights and images in channels-last memory format.
        seed: noise, times and dropout are a function of (seed, rank, step).
        samples: which samples every validation draws.
        sampler: how they are drawn.

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
        compile: bool = False,
        channels_last: bool = False,
        seed: int = 0,
        samples: ValidationSampling = ValidationSampling(),  # noqa: B008 (frozen)
        sampler: Sampler = Sampler(),  # noqa: B008 (frozen)
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
            "seed": seed,
            "samples": asdict(samples),
            "sampler": sampler.to_dict(),
        }
        self.save_hyperparameters(plain, logger=False)
        self.net = network if isinstance(network, nn.Module) else build_trusted(network, base=nn.Module)
        if channels_last:
            self.net.to(memory_format=torch.channels_last)
        self.ema = None if ema_decay is None else AveragedNetwork(self.net, decay=ema_decay)
        self.path = affine_path(path)
        draw_times(1, generator(seed), kind=times, mean=time_mean, std=time_std)  # refuses bad settings now
        self.coupling, self.channels_last, self.seed = coupling, channels_last, seed
        self.times, self.time_mean, self.time_std = times, time_mean, time_std
        self.label_dropout = _checked_dropout(label_dropout, self.num_classes)
        self.optimizer_config, self.scheduler_config = optimizer, scheduler
        self.warmup_steps = warmup_steps
        self.samples, self.sampler = samples, sampler
        if compile:
            self.net.compile()
            if self.ema is not None:
                self.ema.network.compile()

    @property
    def num_classes(self) -> int | None:
        """Number of classes of the network, None if it is unconditional."""
        return getattr(self.net, "num_classes", None)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample, without the batch axis."""
        shape = getattr(self.net, "sample_shape", None) or getattr(self.trainer, "datamodule").shape  # noqa: B009
        return tuple(shape)

    @property
    def sampling_network(self) -> nn.Module:
        """The averaged network, or the trained one if nothing is averaged."""
        return self.net if self.ema is None else self.ema

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
        t = draw_times(len(x1), rng, kind=self.times, mean=self.time_mean, std=self.time_std)
        labels = self._labels(batch)
        if labels is not None and self.num_classes is not None and self.label_dropout > 0:
            labels = drop_labels(labels, self.label_dropout, self.num_classes, rng)
        loss = self.errors(self.net, x0, x1, t, labels).mean()
        if not torch.isfinite(loss):
            self._stop_on(loss, step, t, batch)
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

    def _stop_on(self, loss: Tensor, step: int, t: Tensor, batch: Batch) -> None:
        """Save what is needed to look into a non-finite loss, and raise."""
        times, ids = [round(float(v), 6) for v in t], list(batch.get("ids", []))
        folder = Path(self.trainer.default_root_dir) / "checkpoints"
        target = folder / f"nonfinite-rank{self.global_rank}.ckpt"
        state = self.trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
        state["nonfinite"] = {"step": step, "loss": float(loss), "times": times, "ids": ids}
        self.trainer.strategy.checkpoint_io.save_checkpoint(state, target)
        raise NonFiniteLoss(
            f"the loss is {float(loss)} at step {step} (times {times[:4]}..., samples {ids[:4]}...); the weights "
            f"before it, all times and all samples are in {target}; lower the learning rate or clip gradients "
            "(--trainer.gradient_clip_val 1), then --resume"
        )

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Log the norm of the gradient before clipping, at the steps that are logged."""
        if (self.global_step + 1) % getattr(self.trainer, "log_every_n_steps", 1) == 0:
            gradients = [p.grad for p in self.net.parameters() if p.grad is not None]
            self.log("train/grad_norm", nn.utils.get_total_norm(gradients))

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Take the step, then let the averaged weights follow."""
        super().optimizer_step(*args, **kwargs)
        if self.ema is not None:
            self.ema.update(self.net)

    def configure_optimizers(self) -> Any:
        """Build the optimiser over the trained network, and its schedule with the warm-up in front."""
        trained = [p for p in self.net.parameters() if p.requires_grad]
        optimizer, schedule = make_optimizer(
            trained, self.optimizer_config, self.scheduler_config, warmup_steps=self.warmup_steps
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
    ) -> Trajectory | None:
        """Loss on held-out images (first loader), or the trajectories of a batch of seeds (second)."""
        if "seeds" in batch:
            drawn = self.draw(batch, self.sampler, precision=self.samples.precision)
            return self._renoised(batch, drawn) if self.samples.renoise else drawn
        loss, count = self._held_out_loss(batch, batch_idx), len(batch["x"])
        self.log("val/loss", loss, batch_size=count, prog_bar=True, sync_dist=True, add_dataloader_idx=False)
        return None

    def _held_out_loss(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean loss of held-out images; image i always meets the same time and noise, so that the curve is smooth.

        A batch without "index" is taken to hold the images after those of the batches before it.
        """
        x1 = batch["x"].float()
        if len(x1) == 0:  # this rank's share where there are fewer images than ranks
            return x1.new_zeros(())
        index = batch.get("index", batch_idx * len(x1) + torch.arange(len(x1))).cpu()
        t = validation_times(STRATA)[index % STRATA].to(self.device)
        x0 = seeded_noise(index, x1.shape[1:]).to(self.device)
        return self.errors(self.sampling_network, x0, x1, t, self._labels(batch)).mean()

    def on_validation_epoch_end(self) -> None:
        """Log at the number of steps taken, which is also the step of every file that a validation writes."""
        if self.trainer.state.fn == "fit":
            place = {"step": float(self.global_step), "epoch": float(self.current_epoch)}
            self.log_dict(place, on_step=False, on_epoch=True, sync_dist=True, batch_size=1)

    def draw(self, batch: Batch, sampler: Sampler, *, precision: Literal["32", "bf16"] = "32") -> Trajectory:
        """Draw the samples of {"seeds": int64 [B], "labels": int64 [B] or None} with the averaged weights."""
        return draw(
            self.sampling_network,
            batch["seeds"].tolist(),
            shape=self.sample_shape,
            labels=batch["labels"],
            sampler=sampler,
            device=self.device,
            precision=precision,
        )

    def _renoised(self, batch: Batch, drawn: Trajectory) -> Trajectory:
        response = renoise(
            self.sampling_network,
            drawn.x,
            batch["seeds"],
            labels=batch["labels"],
            sampler=self.sampler,
            precision=self.samples.precision,
        )
        return replace(drawn, response=response)

    # Set-up and checkpoints

    def setup(self, stage: str) -> None:
        """Check the data before anything is computed."""
        data = getattr(self.trainer, "datamodule", None)
        if stage == "fit" and data is not None:
            check_fit(self.net, data)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the weights of another architecture in one line."""
        check_weights(self, checkpoint["state_dict"], source="the checkpoint")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Record what is needed to use the weights without this class; plain types only."""
        checkpoint["kinetic"] = {"format": 1, "weights": self.weights, "sample_shape": list(self.sample_shape)}


def _checked_dropout(probability: float, num_classes: int | None) -> float:
    if not 0 <= probability <= 1 or math.isnan(probability):
        raise KineticError(f"label_dropout must lie in [0, 1], got {probability}")
    if probability > 0 and num_classes is None:
        raise KineticError("label_dropout is set, but the network is unconditional; set label_dropout to 0")
    return probability
