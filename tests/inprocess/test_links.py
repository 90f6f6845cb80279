"""Every widget of every node may be a link: ComfyUI then gives None for it before the graph runs."""

from __future__ import annotations

import asyncio
import math

import pytest


@pytest.fixture(scope="module")
def nodes(comfyui) -> list[type]:
    from impasto.nodes import ImpastoExtension

    return asyncio.run(ImpastoExtension().get_node_list())


def overriding(nodes: list[type], name: str) -> list[type]:
    from comfy_api.latest import io

    return [node for node in nodes if getattr(node, name).__func__ is not getattr(io.ComfyNode, name).__func__]


def inputs_of(node: type) -> list[str]:
    return [each.id for each in node.GET_SCHEMA().inputs]


def runs_anew(fingerprint: object) -> bool:
    return isinstance(fingerprint, float) and math.isnan(fingerprint)


def test_no_node_refuses_a_link_before_it_knows_what_comes_over_it(comfyui, nodes):
    import inspect

    checking = overriding(nodes, "validate_inputs")
    assert len(checking) >= 5
    for node in checking:
        looked_at = set(inspect.signature(node.validate_inputs).parameters) & set(inputs_of(node))
        assert node.validate_inputs(**dict.fromkeys(looked_at)) is True, node


def test_a_node_whose_fingerprint_needs_what_comes_over_a_link_runs_anew(comfyui, nodes):
    """The others look at what lies on the disk, whatever their inputs are."""
    looking_at_the_disk = {
        "ImpastoSavePrompt",
        "ImpastoFindPrompt",
        "ImpastoFlorence2Captioner",
        "ImpastoOpenAICaptioner",
        "ImpastoPromptManager",
    }
    fingerprints = {
        node.GET_SCHEMA().node_id: node.fingerprint_inputs(**dict.fromkeys(inputs_of(node)))
        for node in overriding(nodes, "fingerprint_inputs")
    }
    assert len(fingerprints) >= 13
    assert {node for node, fingerprint in fingerprints.items() if not runs_anew(fingerprint)} == looking_at_the_disk


def test_a_seed_profile_that_comes_over_a_link_may_be_one_that_steps(comfyui):
    from impasto.nodes.seeds import SeedManager

    plain = {"profile": "fixed", "seed": 1, "text": "", "count": 1, "replay": "", "save_as": "", "note": ""}
    assert SeedManager.fingerprint_inputs(**plain) == ""
    assert runs_anew(SeedManager.fingerprint_inputs(**plain | {"profile": None}))
    assert runs_anew(SeedManager.fingerprint_inputs(**plain | {"note": None}))
    assert SeedManager.fingerprint_inputs(**plain | {"profile": None, "replay": "7"}) == ""


def test_a_choice_that_comes_over_a_link_is_held_to_the_list_unless_the_node_looks_at_it_itself(comfyui):
    from impasto.errors import SettingsError
    from impasto.nodes.admission import checks
    from impasto.nodes.dataset import WikiArtLoader

    admitted = checks(WikiArtLoader, WikiArtLoader.GET_SCHEMA())
    assert admitted({"style": "Pointillism of another source"}) == {"style": "Pointillism of another source"}
    with pytest.raises(SettingsError, match="prefer is the text 'anything'. Choose one of: automatic"):
        admitted({"prefer": "anything"})


@pytest.mark.parametrize(
    "shown",
    [
        None,
        "text",
        {"images": None},
        {"images": [None, "text", 3, ["a"], {"type": "output"}, {"type": "output", "filename": None}]},
        {"text": ["words"], "number": 3, "state": {"a": 1}},
    ],
)
def test_what_nodes_of_other_packs_show_hides_no_saved_file(comfyui, shown):
    from impasto.nodes.host.execution import files_shown

    files = [
        {"filename": "a.png", "type": "output"},
        {"filename": "b.png", "subfolder": "tests", "type": "output"},
        {"filename": "c.png", "subfolder": None, "type": "output"},
        {"filename": "d.png", "subfolder": "", "type": "temp"},
    ]
    assert files_shown({"outputs": {"1": shown, "2": {"images": files}}}) == ["a.png", "tests/b.png", "c.png"]
    assert files_shown(shown) == [] and files_shown({"outputs": shown}) == []
