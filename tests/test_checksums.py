"""Files that say what their content was: every bit counts, and files without a sum are taken as they are."""

import time

import pytest
import torch
from impasto import checksums
from safetensors import safe_open
from safetensors.torch import save, save_file

TENSORS = {"latent": torch.arange(24.0).reshape(2, 12), "text": torch.ones(3, dtype=torch.bfloat16)}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(checksums.sealed(save(TENSORS, checksums.UNSEALED)))
    return path


def test_a_sealed_file_is_read_as_any_other_and_written_the_same_either_way(file, tmp_path):
    with safe_open(file, "pt") as opened:
        assert torch.equal(opened.get_tensor("latent"), TENSORS["latent"])
        assert len(opened.metadata()[checksums.SEAL]) == 64 and checksums.SEAL != "0" * 64
    save_file(TENSORS, tmp_path / "b.safetensors", checksums.UNSEALED)
    checksums.seal(tmp_path / "b.safetensors")
    assert (tmp_path / "b.safetensors").read_bytes() == file.read_bytes() and checksums.damage_of(file) == ""


def test_no_flipped_bit_goes_unseen_unless_it_takes_the_name_of_the_sum_away(file):
    content = file.read_bytes()
    name = content.index(checksums.SEAL.encode()) - 1
    unseen = []
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        file.write_bytes(changed)
        if not checksums.damage_of(file):
            unseen.append(place)
    # There, and where a digit of the sum is none any more, all that the sum is of is as it was.
    assert all(name <= place < name + len(checksums.SEAL) + 5 + 64 for place in unseen), unseen


@pytest.mark.parametrize("length", [0, 7, 30, -1, -20])
def test_a_cut_file_is_not_whole_with_or_without_a_sum(file, tmp_path, length):
    plain = tmp_path / "plain.safetensors"
    save_file(TENSORS, plain)
    assert checksums.damage_of(plain) == ""
    for path in (file, plain):
        path.write_bytes(path.read_bytes()[:length])
        assert "is not a whole safetensors file" in checksums.damage_of(path)


def test_a_file_that_has_not_changed_is_compared_once_in_a_process(file, monkeypatch):
    assert checksums.damage_of(file) == ""
    monkeypatch.setattr(checksums, "_SEALED", None)  # nobody looks
    assert checksums.damage_of(file) == ""
    monkeypatch.undo()
    time.sleep(0.02)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert "has other content than was written" in checksums.damage_of(file)


def test_a_file_named_by_its_content_is_compared_with_it(tmp_path):
    path = tmp_path / "picture"
    path.write_bytes(b"abc")
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert checksums.has_content(path, abc) and checksums.has_content(path, abc)
    assert not checksums.has_content(path, "0" * 64)
