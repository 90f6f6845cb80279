"""The training recipe: a LoRA for FLUX.1 by flow matching. It reads like the algorithm; its parts live beside it."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..errors import TrainingError
from ..files import appearing, read_jsonl, write_whole
from ..hardware.memory import peak_device_memory, peak_host_memory
from . import adapter, checkpoints, features, flux_weights, objective, sampling
from .failure import explained
from .runs import Job, Run
from .velocity import predict_velocity

if TYPE_CHECKING:
    from torch import Tensor

    from .features import Sample

logger = logging.getLogger(__name__)

HELD_OUT_PICTURES = 8  # evaluated at most: with 4 sigmas each, 32 forward passes per evaluation


def train_run(run: Run, cpu: bool, stop_requested: Callable[[], bool]) -> bool:
    """Train `run` from where it is, in this process; the arguments are `FluxLoraRecipe`'s.

    Returns:
        Whether it is finished or was stopped as asked; if not, status.json says why and the log has the traceback.
    """
    if run.finished:
        return True
    recipe = FluxLoraRecipe(run, cpu, stop_requested)
    try:
        recipe.setup()
        recipe.train()
    except Exception as error:
        logger.exception("Training failed")
        recipe.report("failed", explained(error, recipe.settings))
        return False
    finally:
        recipe.cleanup()
    return True


class VelocityModel(torch.nn.Module):
    """The transformer behind one `forward`, which is what accelerate wraps for several GPUs."""

    def __init__(self, transformer: torch.nn.Module, gradient_checkpointing: bool) -> None:
        super().__init__()
        self.transformer = transformer
        self.gradient_checkpointing = gradient_checkpointing

    def forward(self, latents: Tensor, sigma: Tensor, t5: Tensor, pooled: Tensor, guidance: float) -> Tensor:
        return predict_velocity(
            self.transformer, latents, sigma, t5, pooled, guidance, checkpointing=self.gradient_checkpointing
        )


class FluxLoraRecipe:
    """`setup`, `train` and `cleanup` of one run; `save` in between. Killed anywhere, the next one goes on.

    Args:
        run: the run's folder, holding `settings.toml`.
        cpu: train on the CPU whatever accelerators there are.
        stop_requested: asked after every step; when it says True, the step is saved and training ends.
    """

    def __init__(self, run: Run, cpu: bool, stop_requested: Callable[[], bool]) -> None:
        self.run = run
        self.cpu = cpu
        self.stop_requested = stop_requested
        self.job = Job.read(run)
        self.settings = self.job.settings
        self.step = 0

    def setup(self) -> None:
        """Load features and base model, add the adapter, and go back to the last checkpoint if there is one."""
        from accelerate import Accelerator

        settings = self.settings
        self.report("starting")
        self.accelerator = Accelerator(cpu=self.cpu, gradient_accumulation_steps=settings.gradient_accumulation)
        self.device = self.accelerator.device
        self.features = features.load(features.Features(self.job.features_folder, self.job.features_key))
        self.training_samples = tuple(sample for sample in self.features.samples if not sample.held_out)
        self.held_out = tuple(sample for sample in self.features.samples if sample.held_out)[:HELD_OUT_PICTURES]
        if not self.training_samples:
            raise TrainingError(
                f"The features in {self.job.features_folder} hold no picture to train on (all are held out). "
                "Set a smaller validation_split in Dataset TOML Writer, or add pictures."
            )

        transformer = flux_weights.load_transformer(Path(self.job.weights), self.base_precision(), self.device)
        self.check_widths(transformer)
        parameters = adapter.add_lora(transformer, settings.rank, settings.alpha, settings.targets, seed=settings.seed)
        optimizer = self.make_optimizer(parameters)
        scheduler = self.make_scheduler(optimizer)
        self.transformer = transformer
        self.resume(optimizer, scheduler)
        model = VelocityModel(transformer, settings.gradient_checkpointing)
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.scheduler = scheduler

    def base_precision(self) -> str:
        """What the frozen base's weights are kept in."""
        precision = self.settings.precision
        if precision == "auto":
            return "fp32" if self.device.type == "cpu" else "bf16"
        return precision

    def check_widths(self, transformer: torch.nn.Module) -> None:
        t5, pooled = self.features.load_text(self.features.empty_text_path)
        expected = transformer.config.joint_attention_dim, transformer.config.pooled_projection_dim
        if (t5.shape[-1], pooled.shape[-1]) != expected:
            raise TrainingError(
                f"The text features are {t5.shape[-1]} and {pooled.shape[-1]} wide, but {self.job.weights} takes "
                f"{expected[0]} and {expected[1]}. Encode the training data with the CLIP that belongs to this model."
            )

    def make_optimizer(self, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        settings = self.settings
        arguments = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay, "betas": (0.9, 0.999)}
        if settings.optimizer == "adamw8bit":
            try:
                from bitsandbytes.optim import AdamW8bit
            except ImportError as error:
                raise TrainingError(
                    "The optimizer adamw8bit needs bitsandbytes. Install it into ComfyUI's Python with "
                    "'python -m pip install bitsandbytes', or choose adamw."
                ) from error
            return AdamW8bit(parameters, **arguments)
        return torch.optim.AdamW(parameters, **arguments)

    def make_scheduler(self, optimizer: torch.optim.Optimizer) -> Any:
        from diffusers.optimization import get_scheduler

        settings = self.settings
        name = "constant_with_warmup" if settings.scheduler == "constant" else settings.scheduler
        return get_scheduler(name, optimizer, num_warmup_steps=settings.warmup_steps, num_training_steps=settings.steps)

    def resume(self, optimizer: torch.optim.Optimizer, scheduler: Any) -> None:
        """Go back to the last checkpoint; without one, start at step 0."""
        checkpoint = checkpoints.latest(self.run.path / "checkpoints")
        if checkpoint:
            adapter.load_lora_state_dict(self.transformer, checkpoint.adapter())
            state = checkpoint.state()
            optimizer.load_state_dict(state["optimizer"])
            scheduler.load_state_dict(state["scheduler"])
            self.step = checkpoint.step
            logger.info("Going on from step %d", self.step)
        if self.accelerator.is_main_process:
            # Steps after the checkpoint are trained again, to the same result.
            kept = [record for record in read_jsonl(self.metrics_file) if record["step"] <= self.step]
            write_whole(self.metrics_file, "".join(json.dumps(record) + "\n" for record in kept))

    def train(self) -> bool:
        """Train to the last step.

        Returns:
            True when the run is finished, False when it was asked to stop; the last step is saved either way.

        Raises:
            TrainingError: the loss is not finite, or the disk is full.
        """
        settings = self.settings
        self.report("training")
        if self.step == 0:
            self.log({"step": 0, "held_out_loss": self.held_out_loss()})
            if self.should_stop():
                self.report("stopped")
                return False
        batches = self.batches()
        self.model.train()
        while self.step < settings.steps:
            started = time.perf_counter()
            loss = self.optimise(batches)
            self.step += 1
            if not math.isfinite(loss):
                raise TrainingError(self.diverged(loss))
            record = {"step": self.step, "loss": loss, "learning_rate": self.scheduler.get_last_lr()[0]}
            self.scheduler.step()
            milestone = self.step % settings.checkpoint_every == 0 or self.step == settings.steps
            stopping = self.should_stop()
            if milestone:
                record["held_out_loss"] = self.held_out_loss()
            record["seconds"] = round(time.perf_counter() - started, 4)
            self.log(record)
            if milestone or stopping:
                self.save(milestone)
            if stopping and self.step < settings.steps:
                self.report("stopped")
                return False
        self.report("finished")
        return True

    def diverged(self, loss: float) -> str:
        """What to say of a loss that is not finite."""
        if self.step == 1:
            return (
                f"The loss is {loss} at the first step, before anything was learned: the base model {self.job.weights} "
                "or the encoded training data hold values that are not finite. Try another file of the model, or "
                "another VAE and CLIP."
            )
        return (
            f"The loss or the LoRA became {loss} at step {self.step}; it was not saved. The checkpoints before it "
            f"are whole. Lower learning_rate (now {self.settings.learning_rate:g}) and queue again."
        )

    def optimise(self, batches: Iterator[tuple[int, tuple[Sample, ...]]]) -> float:
        """One optimiser step over `gradient_accumulation` batches; returns their mean loss."""
        settings = self.settings
        total = torch.zeros((), device=self.device)
        for _ in range(settings.gradient_accumulation):
            position, batch = next(batches)
            with self.accelerator.accumulate(self.model):
                loss = self.loss(position, batch)
                self.accelerator.backward(loss)
                if self.accelerator.sync_gradients and settings.max_grad_norm:
                    self.accelerator.clip_grad_norm_(self.model.parameters(), settings.max_grad_norm)
                self.optimizer.step()
                self.optimizer.zero_grad()
            total += loss.detach() / settings.gradient_accumulation
        return self.accelerator.reduce(total, "mean").item()

    def loss(self, position: int, batch: tuple[Sample, ...]) -> Tensor:
        """Flow-matching loss of one batch; what is random in it depends on the seed and `position` alone."""
        settings = self.settings
        random = objective.generator(settings.seed, "batch", position)
        latents = torch.stack([self.features.load_latent(sample) for sample in batch])
        # For the batch as a whole: the empty caption has T5's least length, and texts of two lengths make no batch.
        dropped = torch.rand((), generator=random) < settings.caption_dropout
        texts = [self.features.empty_text_path if dropped else sample.text_path for sample in batch]
        image_tokens = latents.shape[-1] * latents.shape[-2] // 4
        sigma = objective.sample_sigmas(len(batch), settings.timestep_sampling, image_tokens, random)
        noise = torch.randn(latents.shape, generator=random)
        return self.loss_at(latents, noise, sigma, texts)

    def loss_at(self, latents: Tensor, noise: Tensor, sigma: Tensor, texts: list[Path]) -> Tensor:
        latents, noise, sigma = (tensor.to(self.device) for tensor in (latents, noise, sigma))
        t5, pooled = self.load_texts(texts)
        noisy = objective.noisy_latents(latents, noise, sigma)
        velocity = self.model(noisy, sigma, t5, pooled, self.settings.guidance)
        return objective.velocity_loss(velocity, latents, noise)

    def load_texts(self, paths: list[Path]) -> tuple[Tensor, Tensor]:
        """T5 `(batch, tokens, width)` and pooled `(batch, width)` embeddings on the device."""
        t5, pooled = zip(*(self.features.load_text(path) for path in paths), strict=True)
        return torch.stack(t5).to(self.device), torch.stack(pooled).to(self.device)

    def batches(self) -> Iterator[tuple[int, tuple[Sample, ...]]]:
        """This process's batches from the current step on, each with its position in the run."""
        settings, processes = self.settings, self.accelerator.num_processes
        position = self.step * settings.gradient_accumulation * processes + self.accelerator.process_index
        while True:
            # Every epoch has as many batches as the first: buckets and repeats do not change.
            per_epoch = len(self.epoch(0))
            epoch, index = divmod(position, per_epoch)
            batches = self.epoch(epoch)
            while index < per_epoch:
                yield position, batches[index]
                position += processes
                index += processes

    def epoch(self, number: int) -> list[tuple[Sample, ...]]:
        return features.epoch_batches(self.training_samples, self.features.batch_size, self.settings.seed, number)

    @torch.no_grad()
    def held_out_loss(self) -> float | None:
        """Mean loss over the held-out pictures at fixed sigmas and fixed noise, comparable between steps and runs.

        None when nothing is held out, or when the run was asked to stop meanwhile.
        """
        if not self.held_out:
            return None
        losses = []
        for sample in self.held_out:
            latents = self.features.load_latent(sample)[None]
            noise = torch.randn(latents.shape, generator=objective.generator(0, "held out", sample.id))
            for sigma in objective.HELD_OUT_SIGMAS:
                if self.hurried():
                    return None
                losses.append(self.loss_at(latents, noise, torch.tensor([sigma]), [sample.text_path]))
        return torch.stack(losses).mean().item()

    @torch.no_grad()
    def sample(self) -> Tensor | None:
        """Scaled latents `(1, 16, h, w)` for the first held-out caption, from the same noise; None if hurried."""
        if not self.settings.sample_steps or self.hurried():
            return None
        subject = (self.held_out or self.training_samples)[0]
        t5, pooled = self.load_texts([subject.text_path])
        shape = (1, 16, subject.height // 8, subject.width // 8)
        noise = torch.randn(shape, generator=objective.generator(self.settings.seed, "sample")).to(self.device)

        def velocity(latents: Tensor, sigma: float) -> Tensor:
            sigmas = torch.full((1,), sigma, device=self.device)
            return self.model(latents, sigmas, t5, pooled, sampling.PREVIEW_GUIDANCE).float()

        return sampling.sample(velocity, noise, self.settings.sample_steps)

    def hurried(self) -> bool:
        """Whether to leave out what only informs. Several processes would have to agree, so there it is left in."""
        return self.accelerator.num_processes == 1 and self.stop_requested()

    def should_stop(self) -> bool:
        """Whether any process was asked to stop; all of them must leave the loop after the same step."""
        stop = self.stop_requested()
        if self.accelerator.num_processes == 1:
            return stop
        return bool(self.accelerator.reduce(torch.tensor(float(stop), device=self.device)).item())

    def save(self, milestone: bool) -> None:
        """Write the checkpoint of this step, and at a milestone its sample.

        A checkpoint written because of a stop is dropped at the next milestone, so that an interrupted run ends with
        the same files as an uninterrupted one.
        """
        sample = self.sample() if milestone else None
        if not self.accelerator.is_main_process:
            return
        folder = self.run.path / "checkpoints"
        state = {"optimizer": self.optimizer.state_dict(), "scheduler": self.scheduler.state_dict()}
        lora = adapter.lora_state_dict(self.transformer)
        if not all(weight.isfinite().all() for weight in lora.values()):
            raise TrainingError(self.diverged(math.nan))
        if sample is not None:
            self.save_sample(sample)
        self.flush_metrics()
        checkpoints.save(folder, self.step, lora, self.metadata(), state)
        if milestone:
            for step, path in self.run.checkpoints().items():
                if step % self.settings.checkpoint_every and step < self.step:
                    checkpoints.discard(path)

    def save_sample(self, latents: Tensor) -> None:
        from safetensors.torch import save_file

        target = self.run.path / "samples" / f"step-{self.step:06d}" / "latents.safetensors"
        with appearing(target) as temporary:
            save_file({"latents": latents.cpu().contiguous()}, temporary)

    def metadata(self) -> dict[str, str]:
        """What the LoRA file says of itself; safetensors metadata holds text only."""
        settings = self.settings
        return {
            "format": "pt",
            "impasto_run": self.run.id,
            "impasto_step": str(self.step),
            "impasto_base_fingerprint": self.job.fingerprint,
            "ss_network_dim": str(settings.rank),  # kohya's keys, which LoRA browsers show
            "ss_network_alpha": str(settings.alpha),
            "ss_base_model_version": "flux1",
            "ss_learning_rate": str(settings.learning_rate),
            "ss_steps": str(self.step),
        }

    @property
    def metrics_file(self) -> Path:
        return self.run.path / "metrics.jsonl"

    def flush_metrics(self) -> None:
        """Bring the lines up to a checkpoint to the disk; those after it are written again on resuming."""
        with open(self.metrics_file, "rb+") as file:
            os.fsync(file.fileno())

    def log(self, record: dict[str, Any]) -> None:
        """Append to metrics.jsonl."""
        if self.accelerator.is_main_process:
            with open(self.metrics_file, "a", encoding="utf-8") as file:
                file.write(json.dumps({key: value for key, value in record.items() if value is not None}) + "\n")

    def report(self, state: str, error: str | None = None) -> None:
        """Write status.json for whoever follows the run."""
        status = {
            "state": state,
            "name": self.job.name,
            "step": self.step,
            "total": self.settings.steps,
            "peak_memory": peak_host_memory(),
            "peak_device_memory": peak_device_memory(),
        }
        if error:
            status["error"] = error
        accelerator = getattr(self, "accelerator", None)
        if accelerator is None or accelerator.is_main_process:
            write_whole(self.run.path / "status.json", json.dumps(status, indent=1))

    def cleanup(self) -> None:
        """Leave the process group; the memory goes back with the process."""
        if hasattr(self, "accelerator"):
            self.accelerator.end_training()
