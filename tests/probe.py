"""A callback that writes down what one rank saw, for the tests of several processes."""

import hashlib
import json
from pathlib import Path

import torch.distributed as dist
from lightning.pytorch.callbacks import Callback
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook


class Probe(Callback):
    """Writes probe-RANK.json: what every training batch held, the seeds of every validation, the final weights."""

    def __init__(self):
        self.seen = {"ids": [], "times": [], "noise": [], "seeds": []}

    def on_fit_start(self, trainer, module):
        original = module.errors

        def noted(net, x0, x1, t, labels):
            if net is module.net:
                self.seen["times"].append([float(v) for v in t])
                self.seen["noise"].append(float(x0.flatten()[0]))
            return original(net, x0, x1, t, labels)

        module.errors = noted

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.seen["ids"].append(batch["ids"])

    def on_validation_batch_end(self, trainer, module, outputs, batch, batch_idx, dataloader_idx=0):
        if "seeds" in batch:
            self.seen["seeds"].extend(zip(batch["seeds"].tolist(), outputs.energy.tolist(), strict=True))

    def on_train_end(self, trainer, module):
        digest = hashlib.sha256()
        for value in module.state_dict().values():
            digest.update(value.cpu().numpy().tobytes())
        self.seen["weights"] = digest.hexdigest()
        Path(f"probe-{trainer.global_rank}.json").write_text(json.dumps(self.seen))


class Reductions(Callback):
    """Writes reductions-RANK.json: how many backward passes there were, and how many buckets of gradients reduced."""

    def __init__(self):
        self.seen = {"reductions": 0, "backwards": 0}

    def on_train_start(self, trainer, module):
        def counted(state, bucket: dist.GradBucket):
            self.seen["reductions"] += 1
            return allreduce_hook(None, bucket)

        trainer.strategy.model.register_comm_hook(None, counted)

    def on_after_backward(self, trainer, module):
        self.seen["backwards"] += 1

    def on_train_end(self, trainer, module):
        Path(f"reductions-{trainer.global_rank}.json").write_text(json.dumps(self.seen))
