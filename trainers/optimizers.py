"""The optimisers, one row each: all that settings, the plan of the memory, the node and the trainer know of one.

Each is a library's, none is ours; `optimization` makes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Optimizer:
    """One optimiser.

    Attributes:
        module: where its class is.
        class_name: name of the class.
        state: what it keeps per trained number, in 32-bit numbers.
        about: what to know for choosing it, in a few words.
        arguments: of its class, besides the learning rate and the weight decay.
        on_cuda: more of them on a CUDA device.
        package: what to install for it; "" where ComfyUI brings it along.
        queued: a class of bitsandbytes whose step can be queued on the device; see `optimization`.
        finds_learning_rate: it multiplies its own estimate by the learning rate, which should be 1.
        schedule_free: it averages the weights instead of following a schedule, and does the warm-up itself.
    """

    module: str
    class_name: str
    state: float
    about: str
    arguments: Mapping[str, Any]
    on_cuda: Mapping[str, Any] = field(default_factory=dict)
    package: str = ""
    queued: bool = False
    finds_learning_rate: bool = False
    schedule_free: bool = False


_ADAM = {"betas": (0.9, 0.999)}
_LION = {"betas": (0.9, 0.99)}
# As sd-scripts' README runs it: a fixed learning rate, not scaled by the size of the weights.
_ADAFACTOR = {"scale_parameter": False, "relative_step": False}
# Its README: decouple (AdamW's weight decay, its default), and both of these for diffusion models.
_PRODIGY = {"use_bias_correction": True, "safeguard_warmup": True}
_IN_8_BITS = "state in 8 bits"

# Name in the settings -> the optimiser, in the order of the node's list.
OPTIMIZERS = {
    "adamw": Optimizer("torch.optim", "AdamW", 2.0, "the plain choice", _ADAM, on_cuda={"fused": True}),
    "adamw8bit": Optimizer(
        "bitsandbytes.optim", "AdamW8bit", 0.5, _IN_8_BITS, _ADAM, package="bitsandbytes", queued=True
    ),
    "paged_adamw8bit": Optimizer(
        "bitsandbytes.optim",
        "PagedAdamW8bit",
        0.5,
        f"{_IN_8_BITS}, moved off a full card",
        _ADAM,
        package="bitsandbytes",
    ),
    "adafactor": Optimizer(  # its state of a matrix is a row and a column
        "transformers.optimization", "Adafactor", 0.1, "hardly any state", _ADAFACTOR
    ),
    "prodigy": Optimizer(
        "prodigyopt",
        "Prodigy",
        4.0,
        "finds the learning rate itself: set it to 1",
        _PRODIGY,
        package="prodigyopt",
        finds_learning_rate=True,
    ),
    "schedule_free_adamw": Optimizer(
        "schedulefree",
        "AdamWScheduleFree",
        2.0,
        "needs no scheduler, and ignores it",
        _ADAM,
        package="schedulefree",
        schedule_free=True,
    ),
    "lion8bit": Optimizer(
        "bitsandbytes.optim", "Lion8bit", 0.25, _IN_8_BITS, _LION, package="bitsandbytes", queued=True
    ),
}


def described() -> str:
    """For each its name, what to know for choosing it, and what it needs that may not be installed."""
    return "; ".join(
        f"{name}: {optimizer.about}" + (f" (needs {optimizer.package})" if optimizer.package else "")
        for name, optimizer in OPTIMIZERS.items()
    )
