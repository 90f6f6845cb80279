"""ComfyUI's other ways on a real server: widgets over links, another pack's outputs in the history, a second root."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from impasto.setup.serving import ComfyServer, Result

from ..small_sources import picture_bytes
from .conftest import new_server
from .test_managers import graph, seeds, shown, text_of

ODD_PACK = '''
class OddOut:
    """Shows what no node of core shows: files without a folder, nothing, a number, what cannot be copied."""

    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "show"
    CATEGORY = "odd"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"seed": ("INT", {"default": 0, "min": 0, "max": 0xFFFFFFFFFFFFFFFF})}}

    def show(self, seed):
        files = [{"filename": "odd.png", "type": "output"}, {"type": "output"}, None, "text"]
        return {"ui": {"images": files, "audio": [None], "text": ["words"]}, "result": ()}


class OddAny:
    """Passes anything on, under the name that ComfyUI's own builder of graphs uses for something else."""

    RETURN_TYPES = ("*",)
    FUNCTION = "give"
    CATEGORY = "odd"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"id": ("*",)}}

    @classmethod
    def VALIDATE_INPUTS(cls, input_types):
        return True

    def give(self, id):
        return (id,)


NODE_CLASS_MAPPINGS = {"OddOut": OddOut, "OddAny": OddAny}
'''


@pytest.fixture(scope="module")
def odd_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """A server with another pack, and with a datasets folder on "another disk" that comes before its own."""
    base = tmp_path_factory.mktemp("comfyui")
    running = new_server(base)
    (base / "custom_nodes" / "odd.py").write_text(ODD_PACK)
    second = base / "another disk"
    (second / "datasets").mkdir(parents=True)
    paths = base / "extra_model_paths.yaml"
    paths.write_text(f"second:\n    is_default: true\n    base_path: {second}\n    datasets: datasets\n")
    running.options += ("odd.py", "--extra-model-paths-config", str(paths))
    running.start()
    yield running
    running.stop()


def composition(spare: object, top_up: object, name: str) -> dict:
    asked = {"source": "embedded-wikiart", "style": "any", "genre": "any", "artist": "any", "count": 8, "seed": 0}
    wanted = {"quotas": "landscape: 6\nportrait: 6", "by": "genre", "max_per_artist": 0, "seed": 0, "top_up": top_up}
    return graph(
        spare=("PrimitiveInt", {"value": 10}),
        turns=("PrimitiveInt", {"value": 2}),
        style=("OddAny", {"id": ["words", 0]}),
        words=("PrimitiveString", {"value": "any"}),
        load=("ImpastoWikiArtLoader", asked | {"name": name, "spare": spare, "style": ["style", 0]}),
        odd=("OddAny", {"id": ["load", 0]}),
        compose=("ImpastoDatasetComposition", {"dataset": ["odd", 0]} | wanted),
        composed=shown("compose", 1),
    )


def taken(report: str) -> int:
    return int(re.search(r"(\d+) of 12 asked for", report)[1])


def test_a_composition_asks_for_more_through_links_as_without_them(odd_server: ComfyServer):
    linked = text_of(odd_server.queue(composition(["spare", 0], ["turns", 0], "linked")), "composed")
    written = text_of(odd_server.queue(composition(10, 2, "written")), "composed")
    assert linked.replace("'linked'", "'written'") == written
    once = text_of(odd_server.queue(composition(10, 0, "once")), "composed")
    assert taken(once) < taken(written)


def test_new_datasets_go_to_the_first_root_and_those_of_any_root_are_found(odd_server: ComfyServer):
    roots = [odd_server.base / "another disk" / "datasets", odd_server.base / "datasets"]
    folder = roots[1] / "barns"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(picture_bytes(1))
    (folder / "a.txt").write_text("a barn")
    text = '[[datasets]]\nresolution = 64\n[[datasets.subsets]]\nimage_dir = "."\n'
    (folder / "mine.toml").write_text(text)

    def loaded(name: str) -> Result:
        inputs = {"root": "datasets", "folder": "barns", "name": name, "format": "JPEG"}
        return odd_server.queue(graph(load=("ImpastoImageFolderLoader", inputs), report=shown("load", 1)))

    loaded("mine")
    assert (roots[0] / "mine" / "manifests").is_dir() and not (roots[1] / "mine").exists()
    (roots[1] / "here before" / "images").mkdir(parents=True)
    loaded("here before")
    assert (roots[1] / "here before" / "manifests").is_dir() and not (roots[0] / "here before").exists()
    inputs = {"file": "barns/mine.toml", "target": "sd-scripts", "resolution": 0, "batch_size": 0, "num_repeats": 0}
    copied = odd_server.queue(graph(load=("ImpastoDatasetTOMLLoader", inputs), toml=shown("load", 1)))
    assert Path(folder).as_posix() in text_of(copied, "toml")


def test_what_another_pack_showed_leaves_the_seed_book_open(odd_server: ComfyServer):
    values = seeds("increment", seed=5, sequence="odd")
    odd_server.queue(graph(seed=values, odd=("OddOut", {"seed": ["seed", 0]})))
    report = text_of(odd_server.queue(graph(seed=values, show=shown("seed", 6))), "show")
    assert report.startswith("Seeds: 6\n") and "increment: 5 → odd.png" in report


def test_a_profile_that_comes_over_a_link_steps_at_each_queueing(odd_server: ComfyServer):
    def queued() -> str:
        kind, values = seeds("fixed", seed=7, sequence="linked profile")
        return text_of(
            odd_server.queue(
                graph(
                    words=("PrimitiveString", {"value": "increment"}),
                    profile=("OddAny", {"id": ["words", 0]}),
                    seed=(kind, values | {"profile": ["profile", 0]}),
                    show=shown("seed", 5),
                )
            ),
            "show",
        )

    assert [queued(), queued()] == ["7", "8"]
