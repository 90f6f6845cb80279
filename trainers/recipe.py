"""The training recipe: a LoRA for FLUX.1 by flow matching. It reads like the algorithm; its parts lie beside it.

What a step computes is in `step`, what is measured in `validation`, and what is refused in `preflight`.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..errors import DiskError, TrainingError
from ..files import remove_partials
from ..hardware.memory import spilled_device
from . import objective, preflight
from .batches import BatchLoader, prefetched
from .features import batch_sizes
from .flux import detection, loading, sharding
from .flux.streaming import block_names, streamed_indices
from .memory.estimate import Budget
from .memory.remedy import cheaper, explained
from .run import checkpoints, failure
from .run.folder import Job, Run
from .run.lora_metadata import metadata
from .run.metrics import Metrics
from .run.requests import FINISH, KINDS, SAMPLE, SAVE, STOP, Inbox
from .run.samples import save_samples
from .run.status import Status
from .step import make_learner, train_step
from .validation import Validation, has_stopped_improving, is_due

if TYPE_CHECKING:
    from .batches import Batch
    from .run.checkpoints import Checkpoint
    from .step import Learner
    from .validation import Measured

logger = logging.getLogger(__name__)


def train_run(run: Run, cpu: bool, stop_requested: Callable[[], bool], inbox: Inbox | None = None) -> bool:
    """Train `run` from where it is, in this process; the arguments are `FluxLoraRecipe`'s.

    Returns:
        Whether it is finished or was stopped as asked; if not, status.json says why and the log has the traceback.
    """
    if run.finished:
        return True
    recipe = FluxLoraRecipe(run, cpu, stop_requested, inbox)
    try:
        recipe.setup()
        recipe.train()
    except Exception as error:
        logger.exception("Training failed")
        if failure.is_lost_process(error):
            return False
        said = explained(error, recipe.settings, recipe.budget)
        try:
            recipe.report("failed", error=said)
        except (OSError, DiskError):
            failure.say(said)
        return False
    finally:
        recipe.cleanup()
    return True


class FluxLoraRecipe:
    """`setup`, `train` with `save_checkpoint` and `validate` in between, and `cleanup` of one run. Killed anywhere, the
    next one goes on.

    Args:
        run: the run's folder, holding `settings.toml`.
        cpu: train on the CPU whatever accelerators there are.
        stop_requested: asked after every step and while a checkpoint is measured; when it says True, training ends with
            the step saved.
        inbox: what else is asked for while it trains, looked at after every step.
    """

    def __init__(self, run: Run, cpu: bool, stop_requested: Callable[[], bool], inbox: Inbox | None = None) -> None:
        self.run = run
        self.cpu = cpu
        self.stop_requested = stop_requested
        self.inbox = inbox or Inbox()
        self.job = Job.read(run)
        self.settings = self.job.settings
        self.status = Status(run, self.job)
        self.step = 0
        self.budget: Budget | None = None
        self.pending_validation = False  # whether the checkpoint gone back to is due to be measured, and was not
        self.lora_damaged = False  # whether that checkpoint's LoRA is damaged, which its state gives again

    def setup(self) -> None:
        """Load features and base model, add the LoRA, and go back to the last checkpoint if there is one."""
        self.report("starting")
        self.data = preflight.preflight(self.job, self.run)
        self.accelerator = self._make_accelerator()
        self.loader = self._make_loader()
        self.metrics = Metrics(self.run, self.job, self.accelerator.is_main_process, self._send)
        if self.accelerator.is_main_process:
            remove_partials(self.run.path / "checkpoints")
            self.status.warning = checkpoints.set_aside_damaged(self.run.path / "checkpoints")
        self.accelerator.wait_for_everyone()
        checkpoint = checkpoints.latest(self.run.path / "checkpoints")
        state = checkpoint.state() if checkpoint else {}
        self._plan_memory(state.get("precision"))
        self.learner = self._make_learner(from_scratch=checkpoint is None)
        if checkpoint:
            self._restore(checkpoint, state)
        self.metrics.forget_after(self.step)
        self._check_disk()
        self.learner.prepare(self.mesh)
        self.validation = Validation(self.data, self.learner, self.should_stop)

    def train(self) -> None:
        """Train to the last step, or to the one at which it is asked to stop; that step is saved.

        Raises:
            TrainingError: the loss stays without a finite value, nothing can be learned, or the disk is full.
        """
        self.status.doing = ""
        self.report("training")
        self.report("finished" if self._train_to_the_end() else "stopped")
        if warning := spilled_device():
            logger.warning(warning)

    def _train_to_the_end(self) -> bool:
        """Whether the end was reached, or that which a person has made of it; if not, a stop was asked for."""
        if self.lora_damaged:
            logger.warning("The LoRA of step %d is damaged, and is written anew from the checkpoint's state", self.step)
            self.save_checkpoint()
        if self.step == 0:
            self._measure_untrained()
        elif self.pending_validation and not self.validate():
            return False
        if self.step < self.settings.steps and self.should_stop():
            return False
        with contextlib.closing(prefetched(self.loader.from_step(self.step))) as batches:
            self.learner.train()
            while self.step < self.settings.steps and not self._should_stop_early():
                self.metrics.start_clock()
                self._train_step([next(batches) for _ in range(self.settings.gradient_accumulation)])
                asked = self._asked()
                if asked & {STOP, FINISH, SAVE} or self.is_due(self.step):
                    self.save_checkpoint()
                    if STOP in asked or not self.validate():
                        return False
                elif SAMPLE in asked:
                    self.draw_samples()
                if FINISH in asked:
                    self.status.finished_early = self.step < self.settings.steps
                    break
        return True

    def _train_step(self, batches: list[Batch]) -> None:
        positions = [self.loader.position(self.step, index) for index in range(len(batches))]
        train_step(self.learner, batches, positions, self.step + 1, self.metrics, self.budget)
        self.step += 1
        self.metrics.write_pending(keep=1)  # all but that of this step, which the device may still be computing

    def save_checkpoint(self) -> None:
        """Write the checkpoint of this step, before anything else can go wrong.

        Unless `validate` marks it as validated, the next one drops it, so that an interrupted run ends with the same
        files as an uninterrupted one.
        """
        self.metrics.write_pending()
        state, lora = self.learner.state_dict(), self.learner.lora_state_dict()
        if not self.accelerator.is_main_process:
            return
        if not all(weight.isfinite().all() for weight in lora.values()):
            raise TrainingError(self.metrics.diverged(self.step, math.nan))
        self.metrics.flush()
        guidance = self.learner.transformer.config.guidance_embeds
        described = metadata(self.run, self.job, self.step, self.data.training, guidance)
        checkpoints.save(self.run.path / "checkpoints", self.step, lora, described, state)

    def validate(self) -> bool:
        """Measure the step that was just saved, and keep its checkpoint.

        Returns:
            False when asked to stop meanwhile; then it is made up for when the run goes on.
        """
        measured = self.validation.measure()
        if self.should_stop():
            return False
        if measured.out_of_memory:
            self._warn_of_memory(measured)
        left_out = "out of memory" if measured.out_of_memory else None
        by_sigma = self.validation.by_sigma
        asked_for = not self.is_due(self.step)  # by a person
        record = {
            "step": self.step,
            "held_out_loss": measured.loss,
            "held_out_by_sigma": by_sigma,
            "left_out": left_out,
            "asked": SAVE if asked_for else None,
        }
        self.metrics.write(record)
        if self.accelerator.is_main_process:
            if measured.samples is not None:
                save_samples(self.run, self.step, measured.samples)
            self.metrics.flush()
            folder = self.run.path / "checkpoints"
            checkpoints.prune(folder, self.step, self.settings.keep_checkpoints, self.run.best_step())
            checkpoints.mark_validated(self.run.checkpoints()[self.step], asked_for)
            sigmas = [sigma for record in self.run.metrics() for sigma in record.get("sigma", ())]
            logger.info("Step %d; sigmas so far, by tenths of 0…1: %s", self.step, objective.histogram(sigmas))
            self.report("training")
        return True

    def draw_samples(self) -> None:
        """Draw the samples of this step without a checkpoint; none where there is no time or memory for them."""
        self.metrics.write_pending()  # the time that it takes is none of the step's
        measured = self.validation.measure(held_out=False)
        if measured.out_of_memory:
            self._warn_of_memory(measured)
        if self.accelerator.is_main_process and measured.samples is not None:
            save_samples(self.run, self.step, measured.samples)
        self.report("training")

    def cleanup(self) -> None:
        """Leave the process group; the memory goes back with the process."""
        if hasattr(self, "accelerator"):
            self.accelerator.end_training()

    def is_due(self, step: int) -> bool:
        return is_due(step, self.settings, self.loader)

    def should_stop(self) -> bool:
        """Whether any process was asked to stop; all of them must ask at the same places, and get the same answer."""
        stop = self.stop_requested()
        if self.accelerator.num_processes == 1:
            return stop
        return bool(self.accelerator.reduce(torch.tensor(float(stop), device=self.accelerator.device)).item())

    def _asked(self) -> set[str]:
        """Those of `KINDS` that any process was asked for since the last step; as with `should_stop`, for all."""
        heard = self.inbox.taken() | ({STOP} if self.stop_requested() else set())
        if self.accelerator.num_processes == 1:
            return heard
        flags = torch.tensor([float(kind in heard) for kind in KINDS], device=self.accelerator.device)
        return {kind for kind, count in zip(KINDS, self.accelerator.reduce(flags).tolist(), strict=True) if count}

    def report(self, state: str, error: str | None = None) -> None:
        """Write status.json for whoever follows the run."""
        self.status.report(state, self.step, error)

    def _should_stop_early(self) -> bool:
        patience = self.settings.early_stop_patience
        if not patience or not self.is_due(self.step):
            return False
        self.accelerator.wait_for_everyone()  # the first process writes what all read
        return has_stopped_improving(self.run, patience)

    def _measure_untrained(self) -> None:
        loss = self.validation.measure_untrained()
        if loss is not None and not math.isfinite(loss):
            raise TrainingError(self.metrics.diverged(0, loss))
        self.metrics.write({"step": 0, "held_out_loss": loss, "held_out_by_sigma": self.validation.by_sigma})

    def _warn_of_memory(self, measured: Measured) -> None:
        missing = "held-out loss and no sample" if self.data.held_out and measured.loss is None else "sample"
        self.status.warning = (
            f"Out of memory at step {self.step}: it has no {missing}, and training goes on. {measured.out_of_memory} "
            f"{cheaper(self.settings, self.budget)}"
        )
        logger.warning(self.status.warning)

    def _make_accelerator(self) -> Any:
        from accelerate import Accelerator

        tracker = self.settings.tracker
        tracking = {} if tracker == "none" else {"log_with": tracker, "project_dir": self.run.path / "logs"}
        sharded = sharding.asked_for()
        # Not the launch profile's precision: that would train other weights.
        accelerator = Accelerator(cpu=self.cpu, mixed_precision="no", **tracking)
        preflight.check_launch(accelerator, self.settings, sharded)
        if tracking:
            accelerator.init_trackers(self.run.id, config=self.settings.to_dict())
        processes = accelerator.num_processes
        self.mesh = sharding.make_mesh(accelerator.device, processes) if sharded and processes > 1 else None
        if self.mesh:
            logger.info("The base is sharded over %d processes", processes)
        return accelerator

    def _send(self, numbers: dict[str, float], step: int) -> None:
        self.accelerator.log(numbers, step=step)

    def _make_loader(self) -> BatchLoader:
        accelerator = self.accelerator
        pinned = accelerator.device.type == "cuda"
        return BatchLoader(self.data, self.settings, accelerator.process_index, accelerator.num_processes, pinned)

    def _plan_memory(self, precision: str | None) -> None:
        accelerator = self.accelerator
        architecture = detection.inspect(self.job.weights)
        shards = accelerator.num_processes if self.mesh else 1
        free = preflight.free_memory(accelerator)
        self.budget = Budget(architecture, self.loader.largest_batches(), accelerator.device.type, free, shards)
        self.settings, plan = preflight.plan_memory(self.settings, self.budget, precision)
        told = batch_sizes.told(self.data.training, self.data.features.empty_tokens)
        self.status.plan = f"{plan} {told}."
        logger.info(self.status.plan)
        self.report("starting")

    def _make_learner(self, from_scratch: bool) -> Learner:
        """The base with its LoRA, as they are before the first step."""
        settings, device = self.settings, self.accelerator.device
        architecture = self.budget.architecture
        streamed = streamed_indices(architecture.blocks, settings.streamed_blocks)
        transformer = loading.load_transformer(
            Path(self.job.weights),
            settings.precision,
            device,
            progress=self.status.loading,
            in_host_memory=block_names(architecture, streamed),
            shard=self.mesh and partial(sharding.shard, mesh=self.mesh),
        )
        start_lora = self.job.start_lora if from_scratch else ""
        return make_learner(transformer, settings, self.accelerator, device, streamed, start_lora, self.job.first_step)

    def _restore(self, checkpoint: Checkpoint, state: dict[str, Any]) -> None:
        preflight.check_resumable(state, self.accelerator.num_processes)
        # A continued run plans its learning rate anew.
        self.learner.load_state_dict(state, schedule_anew=checkpoint.step == self.job.first_step)
        self.step = checkpoint.step
        self.lora_damaged = not checkpoints.has_whole_adapter(checkpoint.folder)
        validated = checkpoints.is_validated(checkpoint.folder) and not self.lora_damaged
        self.pending_validation = not validated and self.is_due(self.step)
        logger.info("Going on from step %d", self.step)

    def _check_disk(self) -> None:
        to_come = sum(map(self.is_due, range(self.step + 1, self.settings.steps + 1)))
        lora = sum(parameter.nbytes for parameter in self.learner.parameters)
        if warning := preflight.check_disk(self.run.path, lora, to_come, self.settings):
            self.status.warning = warning
            logger.warning(warning)
