"""Safetensors files written tensor by tensor: as the library reads them, with one tensor in memory at a time."""

import weakref

import pytest
import torch
from impasto.trainers.flux.header import read_header
from impasto.trainers.flux.weights_file import file_size, write_tensors
from safetensors.torch import load_file

LAYOUT = {
    "b.weight": (torch.bfloat16, (3, 5)),
    "a.scale": (torch.float32, (7,)),
    "a.weight": (torch.float16, (2, 2)),
    "number": (torch.float32, ()),
}


def test_the_library_reads_what_was_written(tmp_path):
    tensors = {key: torch.randn(shape) for key, (_, shape) in LAYOUT.items()}
    write_tensors(tmp_path / "x.safetensors", LAYOUT, tensors.values())
    found = load_file(tmp_path / "x.safetensors")
    assert found.keys() == LAYOUT.keys()
    assert all(torch.equal(found[key], tensors[key].to(dtype)) for key, (dtype, _) in LAYOUT.items())
    header = read_header(tmp_path / "x.safetensors")
    assert header.data_start % 8 == 0
    assert (tmp_path / "x.safetensors").stat().st_size == header.data_start + file_size(LAYOUT)


def test_no_tensor_outlives_the_making_of_the_next(tmp_path):
    alive = []

    def made():
        for dtype, shape in LAYOUT.values():
            assert not any(reference() is not None for reference in alive)
            yield followed(torch.zeros(shape, dtype=dtype))

    def followed(tensor):
        alive.append(weakref.ref(tensor))
        return tensor

    write_tensors(tmp_path / "x.safetensors", LAYOUT, made())
    assert len(alive) == len(LAYOUT)


@pytest.mark.parametrize(
    ("tensors", "named"),
    [
        ([torch.zeros(5, 3)], r"b\.weight has the shape \(5, 3\), not \(3, 5\)"),
        ([torch.zeros(3, 5)], r"a\.scale has the shape None"),
        ([torch.zeros(shape) for _, shape in [*LAYOUT.values(), (None, (1,))]], "more tensors than the 4 announced"),
    ],
)
def test_other_tensors_than_were_announced_are_refused(tmp_path, tensors, named):
    with pytest.raises(ValueError, match=named):
        write_tensors(tmp_path / "x.safetensors", LAYOUT, tensors)
