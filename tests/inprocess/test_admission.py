"""What comes over links that ComfyUI does not check, and what an API call has in place of links, is refused by name."""

from __future__ import annotations

import asyncio

import pytest
from impasto.errors import SettingsError


@pytest.fixture(scope="module")
def nodes(comfyui) -> dict[str, type]:
    """Node id -> the pack's node, as ComfyUI gets it."""
    from impasto.nodes import ImpastoExtension

    return {node.GET_SCHEMA().node_id: node for node in asyncio.run(ImpastoExtension().get_node_list())}


def usual(node: type, **changes: object) -> dict[str, object]:
    """The inputs of a node as they are when nothing is changed, without its sockets."""
    widgets = {widget.id: getattr(widget, "default", None) for widget in node.GET_SCHEMA().inputs}
    return {name: value for name, value in widgets.items() if value is not None} | changes


@pytest.mark.parametrize("value", ["a name", 7, True, None, ["x"], {"folder": "/etc"}, object()])
def test_a_socket_of_ours_refuses_what_it_does_not_take_by_name_and_says_where_to_connect_it(nodes, value):
    node = nodes["ImpastoQualityFilter"]
    with pytest.raises(SettingsError, match=r"^dataset takes a dataset, and got .*\. Connect it to a loader"):
        node.execute(**usual(node, dataset=value))


def test_every_socket_of_the_packs_nodes_is_checked(nodes):
    from impasto.nodes.admission import TAKEN, TYPED

    passing = {"COMFY_MATCHTYPE_V3"}
    kinds = {widget.get_io_type() for node in nodes.values() for widget in node.GET_SCHEMA().inputs}
    assert kinds - passing == kinds & (TAKEN.keys() | TYPED.keys())


def test_a_tensor_is_no_model(nodes):
    import torch

    node = nodes["ImpastoEncoderPlacement"]
    with pytest.raises(SettingsError, match="vae takes an autoencoder, and got a value of type Tensor"):
        node.execute(**usual(node, vae=torch.zeros(1, 2, 2, 3)))
    with pytest.raises(SettingsError, match="clip takes text encoders, and got the text"):
        node.execute(**usual(node, clip="a name"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": 10**30}, "steps is 10*. It must be between 1 and 1000000"),
        ({"steps": 0}, "steps is 0. It must be between"),
        ({"steps": 10**300}, "steps is a number of very many digits"),
        ({"learning_rate": float("nan")}, "learning_rate is nan. It must be a finite number"),
        ({"learning_rate": float("inf")}, "learning_rate is inf"),
        ({"alpha": "much"}, "alpha takes a number, and got the text 'much'"),
        ({"steps": 1.5}, "steps takes a whole number, and got 1.5"),
        ({"optimizer": "sgd"}, "optimizer is the text 'sgd'. Choose one of: adamw"),
        ({"no_such": 1}, "has no input 'no_such'"),
    ],
)
def test_a_widget_is_held_to_its_range_over_a_link_too(nodes, changes, said):
    node = nodes["ImpastoTrainingSettings"]
    with pytest.raises(SettingsError, match=said):
        node.execute(**usual(node, **changes))


def test_a_choice_that_must_be_made_is_not_nothing(nodes):
    node = nodes["ImpastoNoiseSettings"]
    with pytest.raises(SettingsError, match="loss_weighting takes one of its list, and got nothing"):
        node.execute(**usual(node, loss_weighting=None))


def test_a_script_may_leave_out_every_training_setting(nodes):
    from impasto.trainers.settings import Settings

    assert nodes["ImpastoTrainingSettings"].execute().args[0] == Settings()
    assert nodes["ImpastoTrainingSettings"].execute(optimizer=None, steps=7).args[0] == Settings(steps=7)


def test_a_name_in_place_of_a_dataset_is_answered_with_the_node_that_takes_names(nodes):
    with pytest.raises(SettingsError, match="^dataset takes a dataset, and got the text 'monets'.*Dataset by Name"):
        nodes["ImpastoDatasetTOMLWriter"].execute(dataset="monets")


def test_numbers_of_other_packs_are_numbers(nodes):
    import numpy

    node = nodes["ImpastoTrainingSettings"]
    given = usual(node, steps=numpy.int64(7), learning_rate=numpy.float32(0.001), alpha=4)
    assert node.execute(**given).args[0].steps == 7
    with pytest.raises(SettingsError, match="alpha is nan"):
        node.execute(**usual(node, alpha=numpy.float32("nan")))


def test_what_may_be_left_out_may_be_nothing(nodes):
    node = nodes["ImpastoPromptSet"]
    prompts = node.execute(**usual(node, dataset=None, held_out=None)).args[0]
    assert prompts and node.execute(**usual(node)).args[0] == prompts


def test_a_node_that_looks_at_a_choice_itself_gets_what_is_not_in_the_list(nodes):
    node = nodes["ImpastoTrainingRunLoader"]
    with pytest.raises(Exception, match="no-such-run") as refused:
        node.execute(run_id="no-such-run-12345678")
    assert not isinstance(refused.value, SettingsError)


def test_what_comes_over_links_is_not_known_yet_to_a_fingerprint(nodes):
    for node in nodes.values():
        if "fingerprint_inputs" in vars(node):
            unknown = dict.fromkeys(widget.id for widget in node.GET_SCHEMA().inputs)
            assert isinstance(node.fingerprint_inputs(**unknown), str | float), node.__name__
