"""The training recipe: a LoRA for FLUX.1 by flow matching. It reads like the algorithm; its parts live beside it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.parallel import DistributedDataParallel

from ..errors import TrainingError
from ..files import appearing, remove_partials, write_whole
from ..hardware.memory import free_device_memory, peak_device_memory, peak_host_memory, spilled_device
from ..texts import first_line
from . import objective
from . import preview as sampling
from .batches import Batch, prefetched
from .features import index as features_index
from .features.feature_set import epoch_batches
from .flux import detection, loading, sharding
from .flux.forward import compile_blocks, predict_velocity
from .flux.streaming import StreamedBlocks, block_names, streamed_indices
from .lora import adapter
from .lora import metadata as provenance
from .memory import choice
from .memory import estimate as memory_plan
from .memory.block_profile import BatchShape
from .memory.estimate import Budget
from .memory.remedy import cheaper, explained, remedy
from .optimizers import STATE_NUMBERS, averaged, check_installed, make_optimizer, make_scheduler
from .run import checkpoints
from .run.failure import SAID, is_lost_process
from .run.folder import Job, Run
from .run.metrics import Metrics

if TYPE_CHECKING:
    from torch import Tensor

    from .features.feature_set import Sample
    from .flux.layout import FluxArchitecture
    from .run.checkpoints import Checkpoint
    from .settings import Settings

logger = logging.getLogger(__name__)

_PLANNED = ("lr", "initial_lr", "weight_decay")  # what settings decide in an optimiser's group
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
        if is_lost_process(error):
            return False
        said = explained(error, recipe.settings, recipe.budget)
        try:
            recipe.report("failed", error=said)
        except OSError:  # the disk is full
            sys.stderr.write(f"\n{SAID}{said}\n")
        return False
    finally:
        recipe.cleanup()
    return True


class VelocityModel(torch.nn.Module):
    """The transformer behind one `forward`, which is what is sharded and distributed over several processes."""

    def __init__(self, transformer: torch.nn.Module, settings: Settings, streamed: StreamedBlocks | None) -> None:
        super().__init__()
        self.transformer = transformer
        self.options = {
            "guidance": settings.guidance,
            "checkpointing": settings.gradient_checkpointing,
            "interval": settings.checkpointing_interval,
            "streamed": streamed,
        }

    def forward(self, latents: Tensor, sigma: Tensor, t5: Tensor, pooled: Tensor, **changed: float) -> Tensor:
        return predict_velocity(self.transformer, latents, sigma, t5, pooled, **self.options | changed)


class FluxLoraRecipe:
    """`setup`, `train` and `cleanup` of one run; `save` in between. Killed anywhere, the next one goes on.

    Args:
        run: the run's folder, holding `settings.toml`.
        cpu: train on the CPU whatever accelerators there are.
        stop_requested: asked after every step and while a milestone is measured; when it says True, training ends with
            the step saved.
    """

    def __init__(self, run: Run, cpu: bool, stop_requested: Callable[[], bool]) -> None:
        self.run = run
        self.cpu = cpu
        self.stop_requested = stop_requested
        self.job = Job.read(run)
        self.settings = self.job.settings
        self.step = 0
        self.budget: Budget | None = None
        self.plan = ""
        self.doing = ""
        self.warning = ""
        self.told = 0.0
        self.owed = False  # whether the checkpoint gone back to is a milestone whose measuring did not come to its end

    def setup(self) -> None:
        """Load features and base model, add the adapter, and go back to the last checkpoint if there is one."""
        self.report("starting")
        check_installed(self.settings)
        self.accelerator = self.make_accelerator()
        self.device = self.accelerator.device
        self.mesh = self.make_mesh()
        self.metrics = Metrics(self.run, self.job, self.accelerator.is_main_process, self.send)
        self.load_features()
        if self.accelerator.is_main_process:
            remove_partials(self.run.path / "checkpoints")
        self.accelerator.wait_for_everyone()
        checkpoint = checkpoints.latest(self.run.path / "checkpoints")
        state = checkpoint.state() if checkpoint else {}
        self.settings = self.plan_memory(state.get("precision"))
        self.transformer = self.load_base()
        self.parameters = self.add_lora(afresh=checkpoint is None)
        streamed = self.stream_blocks()
        if self.settings.compile:
            compile_blocks(self.transformer, self.device)
        optimizer = make_optimizer(self.parameters, self.settings)
        self.scheduler = make_scheduler(optimizer, self.settings, self.job.first_step)
        self.ema = self.make_ema()
        if checkpoint:
            self.go_back_to(checkpoint, state, optimizer)
        self.metrics.forget_after(self.step)
        self.check_disk()
        model = VelocityModel(self.transformer, self.settings, streamed)
        if self.mesh:
            sharding.as_root(model, self.mesh)
        self.model = self.distributed(model)
        self.optimizer = self.accelerator.prepare(optimizer, device_placement=[False])

    def make_accelerator(self) -> Any:
        from accelerate import Accelerator

        tracker = self.settings.tracker
        tracking = {} if tracker == "none" else {"log_with": tracker, "project_dir": self.run.path / "logs"}
        self.sharded = sharding.asked_for()
        # Not the launch profile's precision: that would train other weights.
        accelerator = Accelerator(cpu=self.cpu, mixed_precision="no", **tracking)
        if accelerator.distributed_type in ("DEEPSPEED", "MEGATRON_LM"):
            raise TrainingError(
                f"The launch profile is for {accelerator.distributed_type.value}, which this trainer does not save "
                "from. Choose one for several GPUs with FSDP, which shards the base, or without."
            )
        if tracking:
            accelerator.init_trackers(self.run.id, config=self.settings.to_dict())
        return accelerator

    def make_mesh(self) -> Any:
        """What the base is sharded over; None where each process holds all of it."""
        processes = self.accelerator.num_processes
        if not self.sharded or processes == 1:
            return None
        if self.settings.streamed_blocks > 0:
            raise TrainingError(
                f"streamed_blocks is {self.settings.streamed_blocks}, but the launch profile shards the base (FSDP). "
                "Set streamed_blocks to 0, or choose a launch profile without FSDP."
            )
        logger.info("The base is sharded over %d processes", processes)
        return sharding.make_mesh(self.device, processes)

    def send(self, numbers: dict[str, float], step: int) -> None:
        self.accelerator.log(numbers, step=step)

    def load_features(self) -> None:
        job = self.job
        job.check_places()
        self.features = features_index.load(features_index.Features(job.features_folder, job.features_key, job.prompts))
        self.training_samples = tuple(sample for sample in self.features.samples if not sample.held_out)
        self.held_out = tuple(sample for sample in self.features.samples if sample.held_out)[:HELD_OUT_PICTURES]
        if not self.training_samples:
            raise TrainingError(
                f"The features in {self.job.features_folder} hold no picture to train on (all are held out). "
                "Set a smaller validation_split in Dataset TOML Writer, or add pictures."
            )
        if self.settings.early_stop_patience and not self.held_out:
            raise TrainingError(
                f"early_stop_patience is {self.settings.early_stop_patience}, but no picture is held out to tell when "
                "the LoRA becomes no better. Set a validation_split in Dataset TOML Writer, which holds out at least "
                "one of four pictures, or set early_stop_patience to 0."
            )
        # Every epoch has as many batches as the first: buckets and repeats do not change.
        self.batches_per_epoch = len(self.epoch(0))

    def plan_memory(self, precision: str | None) -> Settings:
        """Settle what is left to the free memory, and say what the run needs.

        Args:
            precision: that the run began with, which the weights depend on; None when it begins.
        """
        settings = self.settings
        if precision:
            settings = dataclasses.replace(settings, precision=precision)
        architecture = detection.inspect(self.job.weights)
        self.check_widths(architecture)
        shards = self.accelerator.num_processes if self.mesh else 1
        self.budget = Budget(architecture, self.largest_batches(), self.device.type, self.free_memory(), shards)
        if settings.precision == "auto" or settings.streamed_blocks < 0:
            settings = choice.choose(settings, self.budget)
        self.plan = memory_plan.preflight(settings, self.budget)
        if not memory_plan.fits(settings, self.budget):
            # Settings that were chosen by hand are tried all the same: it is a prediction.
            self.plan += f" {remedy(settings, self.budget)}"
        logger.info(self.plan)
        self.report("starting")
        return settings

    def largest_batches(self) -> tuple[BatchShape, ...]:
        """Of the batches of as many pictures and as long texts, the shape of the one with the most pixels."""
        largest: dict[tuple[int, int], BatchShape] = {}
        for batch in self.epoch(0):
            texts = (text.tokens for sample in batch for text in sample.all_texts)
            tokens = max(self.features.empty_tokens, *texts)
            shape = BatchShape(batch[0].width, batch[0].height, len(batch), tokens)
            known = largest.setdefault((len(batch), tokens), shape)
            if shape.width * shape.height > known.width * known.height:
                largest[len(batch), tokens] = shape
        return tuple(largest.values())

    def free_memory(self) -> int | None:
        """Bytes that each process may use; all processes come to the same answer. None where PyTorch cannot tell."""
        try:
            free = free_device_memory(self.device)
        except NotImplementedError:
            return None
        if self.accelerator.num_processes == 1:
            return free
        free = free // self.accelerator.num_processes if self.device.type == "cpu" else free
        return int(self.accelerator.gather(torch.tensor([float(free)], device=self.device)).min().item())

    def load_base(self) -> torch.nn.Module:
        """The frozen base; what is streamed stays in host memory."""
        architecture, settings = self.budget.architecture, self.settings
        total = architecture.double_blocks + architecture.single_blocks
        self.streamed = streamed_indices(total, settings.streamed_blocks)
        return loading.load_transformer(
            Path(self.job.weights),
            settings.precision,
            self.device,
            progress=self.loading,
            in_host_memory=block_names(architecture, self.streamed),
            shard=self.mesh and partial(sharding.shard, mesh=self.mesh),
        )

    def add_lora(self, afresh: bool) -> list[torch.nn.Parameter]:
        parameters = adapter.add_lora(self.transformer, self.settings.lora, self.settings.seed)
        if self.job.start_lora and afresh:
            adapter.load_existing(self.transformer, self.job.start_lora)
        return parameters

    def stream_blocks(self) -> StreamedBlocks | None:
        return StreamedBlocks(self.transformer, self.streamed, self.device) if self.streamed else None

    def check_widths(self, architecture: FluxArchitecture) -> None:
        t5, pooled = self.features.load_text(self.features.empty_text_path)
        expected = architecture.context_width, architecture.pooled_width
        if (t5.shape[-1], pooled.shape[-1]) != expected:
            raise TrainingError(
                f"The text features are {t5.shape[-1]} and {pooled.shape[-1]} wide, but {self.job.weights} takes "
                f"{expected[0]} and {expected[1]}. Encode the training data with the CLIP that belongs to this model."
            )

    def distributed(self, model: VelocityModel) -> torch.nn.Module:
        """`model` with its LoRA's gradients averaged over all processes."""
        if self.accelerator.num_processes == 1:
            return model
        # Every process has read the same base: it is neither sent around nor, where it is streamed, moved.
        frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
        frozen += [name for name, _ in model.named_buffers()]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, frozen)
        # Not by accelerate, which refuses a model with sharded parts.
        return DistributedDataParallel(model, gradient_as_bucket_view=True)

    def make_ema(self) -> Any:
        """The moving average of the LoRA's weights (diffusers' EMAModel), or None."""
        from diffusers.training_utils import EMAModel

        decay = self.settings.ema_decay
        return EMAModel(self.parameters, decay=decay, foreach=True) if decay else None

    def go_back_to(self, checkpoint: Checkpoint, state: dict[str, Any], optimizer: torch.optim.Optimizer) -> None:
        processes = self.accelerator.num_processes
        if state["processes"] != processes:
            raise TrainingError(
                f"The run was trained by {state['processes']} processes and is to go on with {processes}, which would "
                "give it other batches. Choose the launch profile it was begun with, or begin another run."
            )
        planned = [{name: group[name] for name in _PLANNED if name in group} for group in optimizer.param_groups]
        optimizer.load_state_dict(state["optimizer"])
        if checkpoint.step > self.job.first_step:
            self.scheduler.load_state_dict(state["scheduler"])
        else:  # a continued run plans its learning rate anew
            for group, values in zip(optimizer.param_groups, planned, strict=True):
                group.update(values)
        if self.ema:
            self.ema.load_state_dict(state["ema"])
            self.ema.to(self.device)
        with torch.no_grad():
            for parameter, trained in zip(self.parameters, state["trained"], strict=True):
                parameter.copy_(trained)
        self.step = checkpoint.step
        self.owed = checkpoints.is_by_stop(checkpoint.folder) and self.is_milestone(self.step)
        logger.info("Going on from step %d", self.step)

    def check_disk(self) -> None:
        """Refuse to start where not even one checkpoint has room; warn where those that are to be kept have none."""
        settings, lora = self.settings, sum(parameter.nbytes for parameter in self.parameters)
        # The LoRA as it is saved and as it is trained, with the optimiser's state and the moving average.
        size = lora * (2 + STATE_NUMBERS[settings.optimizer] + bool(self.ema))
        kept = sum(map(self.is_milestone, range(self.step + 1, settings.steps + 1)))
        kept = min(kept, settings.keep_checkpoints or kept)
        needed = size + lora * max(kept - 1, 0)  # of all but the newest, the LoRA alone is kept
        free = shutil.disk_usage(self.run.path).free
        says = f"{self.run.path} has {free / 1e6:,.0f} MB free"
        logger.info("A checkpoint takes about %.0f MB, all %d %.0f MB; %s", size / 1e6, kept, needed / 1e6, says)
        if free < size:
            raise TrainingError(
                f"A checkpoint takes about {size / 1e6:,.0f} MB, but {says}. "
                "Free some space and queue again, or choose a smaller rank."
            )
        if free < needed:
            self.warning = (
                f"{kept} checkpoints are to be kept and take about {needed / 1e6:,.0f} MB, but {says}. Free some "
                "space, or set keep_checkpoints in Checkpoint Settings: that makes no other run."
            )
            logger.warning(self.warning)

    def train(self) -> None:
        """Train to the last step, or to the one at which it is asked to stop; that step is saved.

        Raises:
            TrainingError: the loss stays without a finite value, nothing can be learned, or the disk is full.
        """
        self.doing = ""
        self.report("training")
        self.report("finished" if self.train_to_the_end() else "stopped")
        if warning := spilled_device():
            logger.warning(warning)

    def train_to_the_end(self) -> bool:
        """Whether the end was reached; if not, a stop was asked for."""
        settings = self.settings
        if self.step == 0:
            self.evaluate_untrained()
        elif self.owed and not self.complete_milestone():
            return False
        if self.step < settings.steps and self.should_stop():
            return False
        with contextlib.closing(prefetched(self.batches())) as batches:
            self.model.train()
            self.optimizer.train()  # of concern to schedule-free ones alone
            while self.step < settings.steps and not self.should_stop_early():
                self.metrics.start_clock()
                self.train_step(batches)
                stopping = self.should_stop()
                if stopping or self.is_milestone(self.step):
                    self.save()
                    if stopping or not self.complete_milestone():
                        return False
        return True

    def evaluate_untrained(self) -> None:
        with self.measuring():
            loss = self.held_out_loss()
        if loss is not None and not math.isfinite(loss):
            raise TrainingError(self.metrics.diverged(0, loss))
        self.metrics.write({"step": 0, "held_out_loss": loss})

    def train_step(self, batches: Iterator[Batch]) -> None:
        """One optimiser step, or one that is left out because it had no memory, and its line in the metrics."""
        taken = [next(batches) for _ in range(self.settings.gradient_accumulation)]
        record = {
            "step": self.step + 1,
            "learning_rate": self.scheduler.get_last_lr()[0],
            "sigma": [round(sigma, 4) for batch in taken for sigma in batch.sigma.tolist()],
        }
        try:
            loss = self.add_gradients(taken)
        except torch.OutOfMemoryError as error:
            if self.accelerator.num_processes > 1:  # the others would wait for this one's gradients
                raise
            self.optimizer.zero_grad()  # a part of them may have been added
            logger.warning("Step %d is left out: %s", self.step + 1, error)
            self.metrics.skipped(record, "out of memory", explained(error, self.settings, self.budget))
        else:
            self.metrics.add(record, torch.stack([loss, self.follow_gradients()]))
        self.step += 1
        self.scheduler.step()
        self.metrics.settle(late=1)

    def add_gradients(self, batches: list[Batch]) -> Tensor:
        """Forward and backward pass of all `batches`; their mean loss, on the device."""
        total = torch.zeros((), device=self.device)
        for index, batch in enumerate(batches):
            last = index == len(batches) - 1
            if self.settings.lora_dropout:
                torch.manual_seed(objective.derived_seed(self.settings.seed, "dropout", self.position(index)))
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.model):
                loss = self.loss(batch) / len(batches)
                self.accelerator.backward(loss)
            total += loss.detach()
        return self.accelerator.reduce(total, "mean")

    def follow_gradients(self) -> Tensor:
        """One step of the optimiser; the norm of the gradient before clipping, on the device.

        Where that is not finite, the gradient counts as 0: only momentum and weight decay act.
        """
        norm = self.accelerator.clip_grad_norm_(self.parameters, self.settings.max_grad_norm or math.inf)
        broken = ~norm.isfinite()  # decided on the device, for to ask it would be to wait for it
        for parameter in self.parameters:
            parameter.grad.masked_fill_(broken, 0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.ema:
            self.ema.step(self.parameters)
        return norm

    def loss(self, batch: Batch) -> Tensor:
        """Flow-matching loss of one batch."""
        batch = batch.to(self.device)
        noisy = objective.noisy_latents(batch.latents, batch.noise, batch.sigma)
        velocity = self.model(noisy, batch.sigma, batch.t5, batch.pooled)
        return objective.velocity_loss(velocity, batch.latents, batch.noise, batch.weights, batch.mask)

    def position(self, index: int) -> int:
        """Which batch of the run is this process's `index`-th of the step after the last."""
        processes = self.accelerator.num_processes
        return (self.step * self.settings.gradient_accumulation + index) * processes + self.accelerator.process_index

    def batches(self) -> Iterator[Batch]:
        """This process's batches from the current step on, without end."""
        processes = self.accelerator.num_processes
        position = self.position(0)
        while True:
            epoch, index = divmod(position, self.batches_per_epoch)
            batches = self.epoch(epoch)
            while index < self.batches_per_epoch:
                yield self.prepare(position, batches[index])
                position += processes
                index += processes

    def prepare(self, position: int, samples: tuple[Sample, ...]) -> Batch:
        """Read and draw one batch; what is random in it depends on the seed and `position` alone."""
        settings = self.settings
        random = objective.generator(settings.seed, "batch", position)
        draw = self.features.draw(
            samples,
            random,
            epoch=position // self.batches_per_epoch,
            caption_dropout=settings.caption_dropout,
            prior_loss_weight=settings.prior_loss_weight,
        )
        image_tokens = draw.latents.shape[-1] * draw.latents.shape[-2] // 4
        sigma = objective.sample_sigmas(len(samples), settings, image_tokens, random)
        noise = torch.randn(draw.latents.shape, generator=random)
        weights = objective.loss_weights(sigma, settings.loss_weighting)
        if draw.weights is not None:
            weights = draw.weights if weights is None else draw.weights * weights
        batch = Batch(draw.latents, noise, sigma, draw.t5, draw.pooled, weights, draw.mask)
        return batch.pinned() if self.device.type == "cuda" else batch

    def load_texts(self, paths: list[Path]) -> tuple[Tensor, Tensor]:
        """T5 `(batch, tokens, width)` and pooled `(batch, width)` embeddings."""
        t5, pooled = zip(*(self.features.load_text(path) for path in paths), strict=True)
        return torch.stack(t5), torch.stack(pooled)

    def epoch(self, number: int) -> list[tuple[Sample, ...]]:
        return epoch_batches(self.training_samples, self.settings.seed, number)

    def is_milestone(self, step: int) -> bool:
        """Whether `step` is one at which a checkpoint is kept, the held-out loss measured and a sample drawn."""
        settings = self.settings
        if step == settings.steps:
            return True
        if not settings.checkpoint_epochs:
            return step % settings.checkpoint_every == 0
        per_step = settings.gradient_accumulation * self.accelerator.num_processes
        length = settings.checkpoint_epochs * self.batches_per_epoch
        return step * per_step // length > (step - 1) * per_step // length

    def complete_milestone(self) -> bool:
        """Measure the step that was just saved, and make a milestone of its checkpoint.

        Returns:
            False when asked to stop meanwhile; then it is made up for when the run goes on.
        """
        if not self.measure():
            return False
        if self.accelerator.is_main_process:
            self.metrics.flush()
            self.discard_checkpoints()
            checkpoints.keep(self.run.checkpoints()[self.step])
            sigmas = [sigma for record in self.run.metrics() for sigma in record.get("sigma", ())]
            logger.info("Step %d; sigmas so far, by tenths of 0…1: %s", self.step, objective.histogram(sigmas))
            self.report("training")
        return True

    def measure(self) -> bool:
        """Measure the held-out loss and draw the samples, which only inform: what has no memory is left out and told.

        Returns:
            False when asked to stop meanwhile.
        """
        loss = samples = left_out = None
        with self.measuring():
            try:
                loss = self.held_out_loss()
                samples = self.sample()
            except torch.OutOfMemoryError as error:
                if self.accelerator.num_processes > 1:  # the others would wait for this one
                    raise
                left_out = first_line(error)
        if self.should_stop():
            return False
        if left_out:
            missing = "held-out loss and no sample" if self.held_out and loss is None else "sample"
            self.warning = (  # only now that the error's frames are gone, which held on to what it was measured with
                f"Out of memory at step {self.step}: it has no {missing}, and training goes on. {left_out} "
                f"{cheaper(self.settings, self.budget)}"
            )
            logger.warning(self.warning)
        self.metrics.write({"step": self.step, "held_out_loss": loss, "left_out": left_out and "out of memory"})
        if samples is not None and self.accelerator.is_main_process:
            self.save_samples(samples)
        return True

    @torch.no_grad()
    def held_out_loss(self) -> float | None:
        """Mean loss over the held-out pictures at fixed sigmas and fixed noise, comparable between steps and runs.

        It is masked as the loss in training is, so that it tells nothing of what is not to be learned.

        None when nothing is held out, or when the run was asked to stop meanwhile.
        """
        losses = []
        for sample in self.held_out:
            latents = self.features.load_latent(sample)[None]
            noise = torch.randn(latents.shape, generator=objective.generator(0, "held out", sample.id))
            texts = self.load_texts([sample.text_path])
            mask = self.features.load_mask(sample)[None] if sample.mask_path else None
            for sigma in objective.HELD_OUT_SIGMAS:
                if self.should_stop():
                    return None
                losses.append(self.loss(Batch(latents, noise, torch.tensor([sigma]), *texts, mask=mask)))
        return torch.stack(losses).mean().item() if losses else None

    @torch.no_grad()
    def sample(self) -> Tensor | None:
        """Scaled latents `(prompts, 16, h, w)`, each prompt from its own noise; None if there is no time for them.

        The prompts are those that were encoded with the training data, else the first held-out caption.
        """
        if not self.settings.sample_steps:
            return None
        subject = (self.held_out or self.training_samples)[0]
        prompts = self.features.prompts or ((subject.caption, self.settings.seed, subject.text_path),)
        shape = (1, 16, subject.height // 8, subject.width // 8)
        latents = []
        for _, seed, text_path in prompts:
            if self.should_stop():
                return None
            noise = torch.randn(shape, generator=objective.generator(seed, "sample")).to(self.device)
            latents.append(sampling.sample(self.sampled_velocity(text_path), noise, self.settings.sample_steps))
        return torch.cat(latents)

    def sampled_velocity(self, text_path: Path) -> Callable[[Tensor, float], Tensor]:
        """The model as `sampling.sample` calls it."""
        t5, pooled = (tensor.to(self.device) for tensor in self.load_texts([text_path]))

        def velocity(latents: Tensor, sigma: float) -> Tensor:
            sigmas = torch.full((1,), sigma, device=self.device)
            return self.model(latents, sigmas, t5, pooled, guidance=sampling.PREVIEW_GUIDANCE).float()

        return velocity

    @contextlib.contextmanager
    def measuring(self) -> Iterator[None]:
        """Within it the model is the one that would be saved now, without dropout."""
        self.model.eval()
        with averaged(self.optimizer, self.ema, self.parameters):
            yield
        self.model.train()

    def should_stop(self) -> bool:
        """Whether any process was asked to stop; all of them must ask at the same places, and get the same answer."""
        stop = self.stop_requested()
        if self.accelerator.num_processes == 1:
            return stop
        return bool(self.accelerator.reduce(torch.tensor(float(stop), device=self.device)).item())

    def should_stop_early(self) -> bool:
        """Whether the held-out loss has not become better for `early_stop_patience` milestones."""
        patience = self.settings.early_stop_patience
        if not patience or not self.is_milestone(self.step):
            return False
        self.accelerator.wait_for_everyone()  # the first process writes what all read
        best = self.run.best_step()
        stop = best is not None and len([step for step, _ in self.run.evaluations() if step > best]) >= patience
        if stop:
            logger.info("Stopped early: no better held-out loss since step %d", best)
        return stop

    def save(self) -> None:
        """Write the checkpoint of this step, before anything else can go wrong.

        Unless `complete_milestone` makes a milestone of it, the next one drops it, so that an interrupted run ends with
        the same files as an uninterrupted one.
        """
        self.metrics.settle()
        state = {
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "precision": self.settings.precision,
            "processes": self.accelerator.num_processes,
            "trained": [parameter.detach().to("cpu", copy=True) for parameter in self.parameters],
            "ema": self.ema and self.ema.state_dict(),
        }
        with self.measuring():
            lora = adapter.lora_state_dict(self.transformer)
        if not self.accelerator.is_main_process:
            return
        if not all(weight.isfinite().all() for weight in lora.values()):
            raise TrainingError(self.metrics.diverged(self.step, math.nan))
        self.metrics.flush()
        checkpoints.save(self.run.path / "checkpoints", self.step, lora, self.metadata(), state)

    def metadata(self) -> dict[str, str]:
        guidance = self.transformer.config.guidance_embeds
        return provenance.metadata(self.run, self.job, self.step, self.training_samples, guidance)

    def discard_checkpoints(self) -> None:
        """Drop the earlier ones that are no milestones, and all but the latest `keep_checkpoints` and the best.

        Of those that are kept, only this one is gone on from: the others keep their LoRA alone.
        """
        earlier = {step: folder for step, folder in self.run.checkpoints().items() if step < self.step}
        milestones = [step for step, folder in earlier.items() if not checkpoints.is_by_stop(folder)]
        others = self.settings.keep_checkpoints - 1
        kept = {*(milestones[-others:] if others > 0 else milestones if others < 0 else ()), self.run.best_step()}
        for step, folder in earlier.items():
            if step in kept:
                checkpoints.drop_state(folder)
            else:
                checkpoints.discard(folder)

    def save_samples(self, latents: Tensor) -> None:
        from safetensors.torch import save_file

        target = self.run.path / "samples" / f"step-{self.step:06d}" / "latents.safetensors"
        with appearing(target) as temporary:
            save_file({"latents": latents.cpu().contiguous()}, temporary)

    def report(self, state: str, error: str | None = None) -> None:
        """Write status.json for whoever follows the run."""
        status = {
            "state": state,
            "name": self.job.name,
            "step": self.step,
            "total": self.settings.steps,
            "patience": self.settings.early_stop_patience,
            "best_step": self.run.best_step(),
            "plan": self.plan,
            "doing": self.doing,
            "warning": self.warning,
            "peak_memory": peak_host_memory(),
            "peak_device_memory": peak_device_memory(),
        }
        if error:
            status["error"] = error
        if os.environ.get("RANK", "0") == "0":  # as `runs.sole_trainer`, for there is no accelerator yet at first
            write_whole(self.run.path / "status.json", json.dumps(status, indent=1))
        elif error:
            sys.stderr.write(f"\n{SAID}{error}\n")

    def loading(self, done: int, total: int, text: str) -> None:
        """Say how far loading is, once a second."""
        if time.monotonic() - self.told > 1:
            self.told = time.monotonic()
            self.doing = f"{text}: {100 * done // total} %"
            self.report("starting")

    def cleanup(self) -> None:
        """Leave the process group; the memory goes back with the process."""
        if hasattr(self, "accelerator"):
            self.accelerator.end_training()
