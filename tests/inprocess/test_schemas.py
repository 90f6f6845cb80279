"""Every node of the pack, looked at as ComfyUI and a person see it: its schema, its ids, its words."""

import asyncio
import re

import pytest


@pytest.fixture(scope="module")
def nodes(comfyui) -> list[type]:
    """All node classes of the pack, each module imported on its own so that a failure shows as itself."""
    import importlib

    from impasto.nodes import MODULES, ImpastoExtension

    for name in MODULES:
        importlib.import_module(f"impasto.nodes.{name}")
    return asyncio.run(ImpastoExtension().get_node_list())


def sockets(node: type) -> list:
    schema = node.GET_SCHEMA()
    return [*schema.inputs, *schema.outputs]


def test_every_module_says_which_nodes_it_has(nodes):
    assert nodes
    assert len(set(nodes)) == len(nodes)


def test_every_schema_is_valid(nodes):
    for node in nodes:
        schema = node.GET_SCHEMA()
        schema.validate()
        node.VALIDATE_CLASS()


def test_ids_are_unique_and_bear_the_packs_prefix(nodes):
    ids = [node.GET_SCHEMA().node_id for node in nodes]
    assert len(set(ids)) == len(ids)
    assert not [node_id for node_id in ids if not re.fullmatch(r"Impasto[A-Z]\w+", node_id)]


def test_classes_are_called_as_their_ids_without_the_prefix(nodes):
    assert [f"Impasto{node.__name__}" for node in nodes] == [node.GET_SCHEMA().node_id for node in nodes]


def test_every_node_says_what_it_is_for_and_where_it_is_found(nodes):
    for node in nodes:
        schema = node.GET_SCHEMA()
        assert schema.display_name and schema.description, schema.node_id
        assert schema.category.startswith("Impasto/"), schema.node_id
        assert schema.search_aliases, schema.node_id


def test_every_input_and_output_has_a_tooltip(nodes):
    silent = [
        f"{node.GET_SCHEMA().node_id}.{getattr(socket, 'id', None) or socket.display_name}"
        for node in nodes
        for socket in sockets(node)
        if not socket.tooltip
    ]
    assert not silent


def test_a_fingerprint_that_runs_a_node_anew_is_never_found_in_a_cache(comfyui):
    """Containers compare by identity first: one NaN for all would equal itself there."""
    from impasto.nodes.inputs import anew

    assert (anew(),) != (anew(),) and len({(anew(),), (anew(),)}) == 2


def test_every_input_is_called_in_words(nodes):
    named = {each.id: each.display_name for node in nodes for each in node.GET_SCHEMA().inputs}
    assert all(name and "_" not in name for name in named.values())
    assert named["min_bytes_per_pixel"] == "min bytes per pixel" and named["held_out"] == "held-out prompts"


def test_of_the_quality_filter_an_artist_sees_what_an_artist_needs(nodes):
    node = next(node for node in nodes if node.__name__ == "QualityFilter")
    plain = [each.id for each in node.GET_SCHEMA().inputs if not each.advanced]
    assert plain == [
        *("dataset", "min_side", "max_aspect", "min_sharpness", "duplicate_distance", "clip_vision", "watched")
    ]
