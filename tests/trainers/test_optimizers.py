"""What each optimiser's row says of it is so."""

from pathlib import Path

import pytest
import torch
from impasto.trainers.optimization import make_optimizer
from impasto.trainers.optimizers import OPTIMIZERS
from impasto.trainers.settings import Settings

HELP = Path(__file__).resolve().parents[2] / "web" / "docs" / "ImpastoTrainingSettings.md"
SIZE = (16, 3072)  # of A in FLUX.1-dev at rank 16


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_state_that_memory_is_planned_with_is_what_it_keeps(name):
    weight = torch.nn.Parameter(torch.randn(SIZE, generator=torch.Generator().manual_seed(0)))
    optimizer = make_optimizer([weight], Settings(optimizer=name, learning_rate=1.0))
    if OPTIMIZERS[name].schedule_free:
        optimizer.train()
    weight.grad = torch.randn(SIZE, generator=torch.Generator().manual_seed(1))
    optimizer.step()
    kept = sum(value.nbytes for value in optimizer.state[weight].values() if isinstance(value, torch.Tensor))
    planned = OPTIMIZERS[name].state * weight.nbytes
    assert 0.5 * planned < kept < 1.1 * planned


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_help_page_says_of_it_what_its_row_does(name):
    rows = [line.strip("|").split("|") for line in HELP.read_text(encoding="utf-8").splitlines() if line[:1] == "|"]
    about, needs = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}[name]
    optimizer = OPTIMIZERS[name]
    assert about.startswith(optimizer.about)
    assert needs == (f"`pip install {optimizer.package}`" if optimizer.package else "")
