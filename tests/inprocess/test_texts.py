"""What every node is held to with regard to texts, on nodes of the test's own."""

import asyncio
import errno
import io as streams
import sys

import pytest
from impasto.errors import DatasetError, DiskError, SettingsError


def guarded(execute):
    """A node that executes so, as the pack's list of nodes gives it."""
    from comfy_api.latest import io
    from impasto.nodes import texts

    node = type("Node", (io.ComfyNode,), {"execute": classmethod(execute)})
    texts.guard(node)
    texts.guard(node)  # once is enough
    return node


def test_outputs_can_be_written_and_what_is_no_text_is_left_alone(comfyui):
    from comfy_api.latest import io

    thing = object()
    node = guarded(lambda cls: io.NodeOutput("half \ud83d", thing, 7, ["caf\udce9"], ui={"text": ("\udce9\n",)}))
    output = node.execute()
    assert output.args == (r"half \ud83d", thing, 7, [r"caf\xe9"]) and output.ui == {"text": ("\\xe9\n",)}


def test_what_no_word_has_is_taken_out_of_inputs_once(comfyui):
    node = guarded(lambda cls, **inputs: inputs)
    inputs = {"name": "fine", "caption_prefix": "a \ud83dcat\0and\x1b[31m dogs", "lines": ["a\nb", ("c\x07", 3)]}
    assert node.execute(**inputs) == {"name": "fine", "caption_prefix": "a cat and dogs", "lines": ["a\nb", ("c ", 3)]}


def test_tensors_pass_as_they_are_in_lists_too(comfyui):
    import torch

    node = guarded(lambda cls, value: value)
    picture = torch.zeros(1, 2, 2, 3)
    assert node.execute(value=picture) is picture
    conditioning = [[picture, {"pooled_output": picture}]]
    assert node.execute(value=conditioning) is conditioning
    [[same, found]] = node.execute(value=[[picture, {"a": ["half \ud83d"]}]])
    assert same is picture and found == {"a": ["half "]}


def test_an_input_nested_beyond_what_python_follows_is_a_sentence(comfyui):
    from comfy_api.latest import io

    value: list = []
    for _ in range(5_000):
        value = [value]
    with pytest.raises(SettingsError, match="nested too deeply"):
        guarded(lambda cls, value: io.NodeOutput(value)).execute(value=value)


def test_a_name_on_disk_that_is_not_utf8_is_named(comfyui):
    node = guarded(lambda cls, path: ("x" * 1_000 + "/caf\udce9.png").encode())
    with pytest.raises(DatasetError, match=r"x/caf\\xe9\.png'\. Rename that file") as raised:
        node.execute(path="fine")
    assert len(str(raised.value)) < 200


def test_a_node_that_waits_is_guarded_too(comfyui):
    from comfy_api.latest import io

    async def execute(cls, text):
        await asyncio.sleep(0)
        return io.NodeOutput(text + "\udce9")

    node = guarded(execute)
    assert asyncio.iscoroutinefunction(node.execute)
    assert asyncio.run(node.execute(text="caf")).args == (r"caf\xe9",)
    assert asyncio.run(node.execute(text="\ud83dcaf")).args == (r"caf\xe9",)


def test_the_packs_nodes_are_guarded(comfyui):
    from impasto.nodes import ImpastoExtension

    nodes = asyncio.run(ImpastoExtension().get_node_list())
    assert nodes and all(hasattr(node.execute, "__wrapped__") for node in nodes)


def test_a_strict_console_shows_an_escape_for_what_its_encoding_lacks(comfyui, monkeypatch):
    from impasto.nodes.texts import keep_consoles_writing

    console = streams.TextIOWrapper(streams.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stderr", console)
    monkeypatch.setattr(sys, "stdout", object())  # of another pack: nothing to be set
    keep_consoles_writing()
    console.write("é 梅 \udce9")
    console.flush()
    assert console.buffer.getvalue() == b"\xe9 \\u6885 \\udce9"


def test_what_a_disk_refuses_is_told_in_words_even_where_the_writer_did_not(comfyui, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    in_the_way = guarded(lambda cls: (tmp_path / "file" / "a.json").touch())
    with pytest.raises(DiskError, match=r"file/a\.json could not be .*there is a file where a folder is needed"):
        in_the_way.execute()

    def full(cls):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DiskError, match="A file could not be written: the disk is full.*Free some space"):
        guarded(full).execute()


def test_what_the_disk_has_no_part_in_is_raised_as_it_is(comfyui):
    def refused(cls):
        raise PermissionError(errno.EPERM, "a firewall")

    with pytest.raises(PermissionError):
        guarded(refused).execute()
