"""Run by torchrun as a module, `<weights>`: what one process holds of a sharded base and takes for a step.

The first process prints bytes as JSON: `held`, of the model's parameters in this process, and `step`, the most that
PyTorch's allocator handed out during a training step.
"""

import json
import sys
from functools import partial

import torch

from ... import conftest  # noqa: F401 (makes `impasto` importable)
from ..memory.test_estimate import SMALL, allocations, random_loss

RANK = 2


def main(weights: str) -> None:
    from impasto.trainers.flux import loading, sharding
    from impasto.trainers.lora import adapter
    from impasto.trainers.settings import Settings
    from impasto.trainers.step import VelocityModel

    torch.distributed.init_process_group("gloo")
    settings = Settings(rank=RANK)
    mesh = sharding.make_mesh(torch.device("cpu"), torch.distributed.get_world_size())
    transformer = loading.load_transformer(weights, "fp32", shard=partial(sharding.shard, mesh=mesh))
    adapter.add_lora(transformer, settings.lora, seed=0)
    model = VelocityModel(transformer.train(), settings, None)
    sharding.as_root(model, mesh)

    def step() -> None:
        random_loss(model, SMALL).backward()
        model.zero_grad()

    step()  # from then on, nothing is made for the first time
    taken = allocations(step)
    local = [getattr(parameter, "_local_tensor", parameter).untyped_storage() for parameter in model.parameters()]
    held = sum({storage.data_ptr(): len(storage) for storage in local}.values())
    if torch.distributed.get_rank() == 0:
        sys.stdout.write(json.dumps({"held": held, "step": taken}))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
