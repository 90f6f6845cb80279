"""Prompt, seed and memory nodes on a real server: queued over the API, saved, and reproduced elsewhere."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy
import pytest
import torch
from impasto.prompting.seeds import FAVOURITE, PROFILES
from impasto.setup import comfy_cli
from impasto.setup.environment import HOME
from impasto.setup.serving import ComfyServer, NodeFailed, Result
from PIL import Image
from safetensors.torch import save_file

from .conftest import new_server
from .workflows import on_tiny_flux, shipped

BIG_SEED = 2**64 - 3  # a browser would round it
ROUNDS = 200 if os.environ.get("IMPASTO_LONG") else 0
LONG = pytest.mark.skipif(not ROUNDS, reason="a long test; set IMPASTO_LONG")


def graph(**nodes: tuple[str, dict]) -> dict:
    return {node: {"class_type": kind, "inputs": inputs} for node, (kind, inputs) in nodes.items()}


def seeds(profile: str, **others: object) -> tuple[str, dict]:
    values = {"profile": profile, "seed": BIG_SEED, "text": "", "count": 1, "sequence": profile, "replay": ""}
    return "ImpastoSeedManager", values | {"save_as": "", "note": ""} | others


def shown(node: str, slot: int) -> tuple[str, dict]:
    return "PreviewAny", {"source": [node, slot]}


def text_of(result: Result, node: str) -> str:
    (text,) = result.outputs[node]["text"]
    return text


def painting(size: int = 64, **seed: object) -> dict:
    """A picture of the tiny FLUX whose noise is the Seed Manager's."""
    return graph(
        tiny=("ImpastoTinyFluxLoader", {"seed": 0}),
        seed=seeds(**seed),
        text=("CLIPTextEncodeFlux", {"clip": ["tiny", 1], "clip_l": "a boat", "t5xxl": "a boat", "guidance": 3.5}),
        empty=("EmptySD3LatentImage", {"width": size, "height": size, "batch_size": 1}),
        sample=(
            "KSampler",
            {
                "model": ["tiny", 0],
                "seed": ["seed", 0],
                "steps": 2,
                "cfg": 1.0,
                "sampler_name": "euler",
                "scheduler": "simple",
                "positive": ["text", 0],
                "negative": ["text", 0],
                "latent_image": ["empty", 0],
                "denoise": 1.0,
            },
        ),
        decode=("VAEDecode", {"samples": ["sample", 0], "vae": ["tiny", 2]}),
        save=("SaveImage", {"images": ["decode", 0], "filename_prefix": "tests/seed"}),
    )


def saved(server: ComfyServer, prompt: dict) -> Image.Image:
    (file,) = server.output_files(server.queue(prompt), "save")
    picture = Image.open(file)
    picture.load()
    return picture


def seed_of(server: ComfyServer, **seed: object) -> str:
    return text_of(server.queue(graph(seed=seeds(**seed), show=shown("seed", 5))), "show")


@pytest.fixture(scope="module")
def pictures(server: ComfyServer) -> dict[str, Image.Image]:
    """Profile -> a picture painted with it, saved by core's SaveImage with its graph."""
    seed_of(server, profile="fixed", sequence="last queued")
    seed_of(server, profile="random", save_as="good light")
    texts = {"list": "5, 18446744073709551610", FAVOURITE: "good light"}
    for stepping in ("increment", "list", "golden-ratio walk"):  # so that the picture is not of the first seed
        seed_of(server, profile=stepping, text=texts.get(stepping, "some words"))
    return {
        profile: saved(server, painting(profile=profile, text=texts.get(profile, "some words"))) for profile in PROFILES
    }


def test_the_graph_of_a_saved_picture_reproduces_it_in_a_new_server_with_any_profile(
    server: ComfyServer, own_server: ComfyServer, pictures: dict[str, Image.Image]
):
    shutil.copytree(server.base / "models" / "impasto", own_server.base / "models" / "impasto")
    assert len({picture.tobytes() for picture in pictures.values()}) > 5
    for profile, picture in pictures.items():
        again = saved(own_server, json.loads(picture.info["prompt"]))
        assert numpy.array_equal(numpy.asarray(again), numpy.asarray(picture)), profile


@pytest.mark.parametrize("name", ["subgraph", "nested_subgraph"])
def test_with_the_seed_manager_in_a_subgraph_both_saved_forms_reproduce_the_picture(
    server: ComfyServer, tmp_path: Path, name: str
):
    """As ComfyUI's page (frontend 1.47.12) saves the graphs; the nested one shows `replay` on its inner box."""
    shipped = Path(__file__).with_name(f"{name}.json")
    workflow = json.loads(shipped.read_text(encoding="utf-8"))

    def painted(prompt: dict) -> Image.Image:
        (file,) = server.output_files(server.submit(prompt, workflow).wait(300), "7")
        picture = Image.open(file)
        picture.load()
        return picture

    picture = painted(comfy_cli.to_api(HOME, shipped, server.port))
    saved_ui = tmp_path / "saved.json"
    saved_ui.write_text(picture.info["workflow"], encoding="utf-8")
    for again in (json.loads(picture.info["prompt"]), comfy_cli.to_api(HOME, saved_ui, server.port)):
        assert numpy.array_equal(numpy.asarray(painted(again)), numpy.asarray(picture))
    another = painted(comfy_cli.to_api(HOME, shipped, server.port))
    assert not numpy.array_equal(numpy.asarray(another), numpy.asarray(picture))


def test_seeds_go_on_queue_after_queue_over_the_api_to_the_end_of_64_bits(server: ComfyServer):
    taken = [seed_of(server, profile="increment", sequence="to the end", count=2) for _ in range(3)]
    assert taken == ["18446744073709551613, 18446744073709551614", "18446744073709551615, 0", "1, 2"]
    assert seed_of(server, profile="last queued", sequence="to the end", count=2) == "1, 2"


def test_random_seeds_differ_and_fixed_ones_are_cached(server: ComfyServer):
    assert seed_of(server, profile="random") != seed_of(server, profile="random")
    prompt = graph(seed=seeds("fixed", sequence="cached"), show=shown("seed", 5))
    server.queue(prompt)
    assert "seed" in server.queue(prompt).cached


def test_the_seed_book_tells_which_file_a_seed_made(server: ComfyServer, pictures: dict[str, Image.Image]):
    prompt = graph(seed=seeds("increment", note="leans left"), show=shown("seed", 6))
    report = text_of(server.queue(prompt), "show")
    assert "Note: leans left" in report
    assert f"{BIG_SEED + 1} → tests/seed_" in report


def test_a_prompt_is_counted_and_shortened_for_each_encoder(server: ComfyServer):
    inputs = {
        "text": "a {red} boat, " + "masterpiece, " * 100,
        "seed": 0,
        "expansion": "at random",
        "t5_limit": "256",
        "shorten": True,
        "clip_l_text": "",
        "negative": "blurry",
        "true_cfg": 2.5,
        "remember": True,
        "lora": "monet",
    }
    nodes = {f"show{slot}": shown("prompt", slot) for slot in range(5)}
    result = server.queue(graph(prompt=("ImpastoPromptManager", inputs), **nodes))
    clip_l, t5xxl, negative, cfg, report = (text_of(result, f"show{slot}") for slot in range(5))
    assert clip_l.startswith("a red boat, masterpiece") and t5xxl.startswith("a red boat, masterpiece")
    assert len(clip_l) < len(t5xxl)
    assert (negative, float(cfg)) == ("blurry", 2.5)
    assert "of 77 tokens" in report and "of 256 tokens" in report and "true CFG" in report


def find(server: ComfyServer, source: str, words: str) -> list[str]:
    inputs = {"source": source, "words": words, "tag": "", "favourites": False, "place": 0}
    nodes = {f"show{slot}": shown("find", slot) for slot in range(3)}
    result = server.queue(graph(find=("ImpastoFindPrompt", inputs), **nodes))
    return [text_of(result, f"show{slot}") for slot in range(3)]


def test_prompts_are_saved_found_and_written_to_a_file(server: ComfyServer):
    save = {"text": "a windmill {by|near} a canal", "name": "mill", "tags": "water, Wind", "favourite": True}
    server.queue(graph(save=("ImpastoSavePrompt", save)))
    assert find(server, "library", "windm")[0] == save["text"]
    with pytest.raises(NodeFailed, match="no prompt with 'zeppelin'"):
        find(server, "library", "zeppelin")
    server.queue(graph(file=("ImpastoPromptLibraryFile", {"action": "export", "file": "mine.json"})))
    written = json.loads((server.base / "user" / "impasto" / "prompts" / "mine.json").read_text(encoding="utf-8"))
    assert "mill" in {entry["name"] for entry in written if "queued" not in entry}
    with pytest.raises(NodeFailed, match="not a path"):
        server.queue(graph(file=("ImpastoPromptLibraryFile", {"action": "export", "file": "../mine.json"})))


@pytest.fixture
def remembering_server(tmp_path: Path) -> Iterator[ComfyServer]:
    """One whose cache holds the results of earlier prompts however little memory is free."""
    running = new_server(tmp_path)
    running.options += ("--cache-lru", "50")
    running.start()
    yield running
    running.stop()


def test_what_is_kept_is_kept_anew_after_it_was_changed_or_removed(remembering_server: ComfyServer):
    server = remembering_server
    values = {"text": "a tram at night", "name": "tram", "tags": "", "favourite": False}
    told = [
        text_of(server.queue(graph(save=("ImpastoSavePrompt", values | change))), "save").partition(":")[0]
        for change in ({}, {"name": "old tram"}, {}, {"remove": True}, {})
    ]
    assert told == ["Saved", "Changed", "Changed", "Removed", "Saved"]
    assert find(server, "library", "tram")[0] == "a tram at night"

    def named(seed: int) -> str:
        return seed_of(server, profile="fixed", seed=seed, save_as="night", note=f"of {seed}", sequence="kept anew")

    assert [named(5), named(6), named(5)] == ["5", "6", "5"]
    assert seed_of(server, profile=FAVOURITE, text="night") == "5"
    prompt = graph(seed=seeds("fixed", seed=5, save_as="night", sequence="kept anew"), show=shown("seed", 5))
    server.queue(prompt)
    assert "seed" in server.queue(prompt).cached


def test_the_history_knows_the_lora_that_the_prompt_was_painted_with(server: ComfyServer):
    folder = server.base / "models" / "loras"
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"of.no.layer": torch.zeros(1)}, folder / "monet.safetensors")
    prompt = painting(profile="fixed", sequence="with a lora")
    lora = {"model": ["tiny", 0], "lora_name": "monet.safetensors", "strength_model": 0.8}
    values = {"text": "a pond with lilies", "seed": BIG_SEED, "expansion": "as written", "t5_limit": "512"}
    values |= {"shorten": True, "clip_l_text": "", "negative": "", "true_cfg": 3.5, "remember": True, "lora": ""}
    prompt |= graph(lora=("LoraLoaderModelOnly", lora), prompt=("ImpastoPromptManager", values))
    prompt["sample"]["inputs"]["model"] = ["lora", 0]
    prompt["text"]["inputs"] |= {"clip_l": ["prompt", 0], "t5xxl": ["prompt", 1]}
    server.queue(prompt)
    assert find(server, "history", "lilies") == ["a pond with lilies", str(BIG_SEED), "monet 0.8"]


def test_a_damaged_library_is_repaired_on_the_server(server: ComfyServer):
    file = server.base / "user" / "impasto" / "prompts.sqlite"
    for copy in file.parent.glob("prompts.copy*"):
        copy.unlink()  # so that one is made of what is saved now
    save = {"text": "a lighthouse", "name": "light", "tags": "water", "favourite": True}
    server.queue(graph(save=("ImpastoSavePrompt", save)))
    seed_of(server, profile="random")
    file.write_bytes(b"\xff" * 4096 + file.read_bytes()[4096:])
    with pytest.raises(NodeFailed, match="is damaged.*'repair'"):
        find(server, "library", "lighth")
    repair = graph(file=("ImpastoPromptLibraryFile", {"action": "repair", "file": ""}))
    (told,) = server.queue(repair).outputs["file"]["text"]
    assert told.startswith("Prompt library: The newest good daily copy, of ")
    assert "Seed book: It is sound and was left as it is: " in told
    assert find(server, "library", "lighth")[0] == "a lighthouse"


def test_encoders_are_placed_and_paint_the_same(server: ComfyServer):
    plain = saved(server, painting(profile="fixed"))
    prompt = painting(profile="fixed", sequence="placed")
    places = {"clip": ["tiny", 1], "vae": ["tiny", 2], "clip_device": "cpu", "vae_device": "most room"}
    prompt |= graph(place=("ImpastoEncoderPlacement", places), told=shown("place", 2))
    prompt["text"]["inputs"]["clip"] = ["place", 0]
    prompt["decode"]["inputs"]["vae"] = ["place", 1]
    result = server.queue(prompt)
    (file,) = server.output_files(result, "save")
    assert text_of(result, "told") == "CLIP on cpu, VAE on cpu"
    assert numpy.array_equal(numpy.asarray(Image.open(file)), numpy.asarray(plain))


def test_a_prompt_set_takes_a_file_and_is_exported_for_other_trainers(server: ComfyServer):
    folder = server.base / "user" / "impasto" / "prompts"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "set.txt").write_text("from the {file|list} --d 3\n")
    values = {"text": "a boat", "seed": 7, "file": "set.txt", "expand": "every combination"}
    sizes = {"width": 512, "height": 512, "steps": 4, "guidance": 3.5}
    prompt = graph(
        set=("ImpastoPromptSet", values),
        write=("ImpastoPromptSetExport", {"prompts": ["set", 0], "name": "mine", **sizes}),
    )
    server.queue(prompt)
    lines = (server.base / "output" / "impasto" / "prompts" / "mine" / "kohya.txt").read_text().splitlines()
    assert [line.split(" --")[0] for line in lines] == ["a boat", "from the file", "from the list"]
    (folder / "set.txt").write_text("edited\n")
    server.queue(prompt)
    assert "edited" in (server.base / "output" / "impasto" / "prompts" / "mine" / "kohya.txt").read_text()


CLEANUP = {"unload_models": True, "empty_caches": True, "collect_garbage": True, "return_heap": True, "only_above": 0}


def cleaned(above: int = 0, drop_outputs: bool = False, **seed: object) -> dict:
    """A painting whose latent goes through Memory Cleanup, and a report of what is held after it."""
    prompt = painting(**seed)
    prompt["decode"]["inputs"]["samples"] = ["clean", 0]
    values = {**CLEANUP, "only_above": above, "drop_outputs": drop_outputs, "value": ["sample", 0]}
    return prompt | graph(
        clean=("ImpastoMemoryCleanup", values),
        held=("ImpastoMemoryReport", {"value": ["clean", 0], "tensors": True}),
        told=shown("clean", 1),
    )


def test_cleanup_passes_its_value_on_and_gives_the_models_memory_back(server: ComfyServer):
    plain = saved(server, painting(profile="fixed"))
    result = server.queue(cleaned(profile="fixed"))
    (file,) = server.output_files(result, "save")
    assert numpy.array_equal(numpy.asarray(Image.open(file)), numpy.asarray(plain))
    told = text_of(result, "told")
    for action in ("Before", "Unload models", "Collect garbage", "Empty device caches", "Return freed heap", "After"):
        assert f"{action}: " in told
    assert "ComfyUI holds no model." in text_of(result, "held")


def test_below_the_threshold_cleanup_does_nothing(server: ComfyServer):
    result = server.queue(cleaned(above=100, profile="random"))
    assert text_of(result, "told").startswith("Nothing done: memory is ")
    assert "Flux on cpu" in text_of(result, "held")


def test_dropped_outputs_are_computed_anew(server: ComfyServer):
    prompt = painting(profile="fixed", sequence="dropped")
    server.queue(prompt)
    assert "tiny" in server.queue(prompt).cached
    server.queue(cleaned(drop_outputs=True, profile="fixed", sequence="dropped"))
    assert "tiny" not in server.queue(prompt).cached


def resident(server: ComfyServer) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS"))


@LONG
def test_resident_memory_is_flat_over_many_rounds(own_server: ComfyServer):
    held = []
    for _ in range(ROUNDS):
        own_server.queue(cleaned(profile="increment"))
        held.append(resident(own_server))
    first, last = numpy.median(held[40:60]), numpy.median(held[-20:])
    assert abs(last - first) < 0.02 * first, (first, last)


def left_behind(base: Path, **cleanup: object) -> int:
    """Bytes that a new server holds more after a large painting than before it, with Memory Cleanup at its end or not.

    It stands at the end: what the VAE takes after it, no node before it can give back.
    """
    server = new_server(base)
    server.start()
    try:
        idle = resident(server)
        prompt = painting(size=1024, profile="fixed")
        if cleanup:
            prompt |= graph(clean=("ImpastoMemoryCleanup", {"value": ["decode", 0], **cleanup}))
            prompt["save"]["inputs"]["images"] = ["clean", 0]
        server.queue(prompt)
        server.queue(graph(idle=("PreviewAny", {"source": "after what is done when a prompt has ended"})))
        return resident(server) - idle
    finally:
        server.stop()


@LONG
def test_a_large_run_leaves_less_behind_with_cleanup(tmp_path: Path):
    without = left_behind(tmp_path / "without")
    with_cleanup = left_behind(tmp_path / "with", **CLEANUP, drop_outputs=False)
    without_outputs = left_behind(tmp_path / "without outputs", **CLEANUP, drop_outputs=True)
    assert without_outputs < with_cleanup < 0.85 * without, (without, with_cleanup, without_outputs)


@pytest.fixture(scope="module")
def batch(server: ComfyServer) -> dict:
    """The shipped workflow on the tiny FLUX, made smaller."""
    prompt = on_tiny_flux(server, shipped(7))
    for node in prompt.values():
        if node["class_type"] == "ImpastoBatchGenerator":
            node["inputs"] |= {"width": 64, "height": 64, "steps": 2}
    return prompt


def test_the_shipped_batch_paints_prompts_times_seeds_with_a_manifest(server: ComfyServer, batch: dict):
    server.queue(batch)
    folder = server.base / "output" / "impasto" / "batches" / "schnell-batch"
    entries = [json.loads(line) for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(entries) == 3 * 3
    assert entries[0]["text"].startswith("a quiet harbour at dawn") and "!" not in entries[0]["text"]
    assert {entry["text"] for entry in entries[3:]} == {
        "a still life of apples on a table, oil painting",
        "a still life of lemons on a table, oil painting",
    }
    assert len({entry["seed"] for entry in entries}) == 3
    assert len({(folder / entry["file"]).read_bytes() for entry in entries}) == 9


def test_a_picture_of_a_batch_is_the_one_that_it_is_alone(server: ComfyServer):
    def batch_of(seeds: str, name: str) -> list[Path]:
        sizes = {"width": 64, "height": 64, "steps": 2, "guidance": 3.5, "at_a_time": 4}
        sampling = {"sampler_name": "euler", "scheduler": "simple", "seeds": seeds, "name": name}
        server.queue(
            graph(
                tiny=("ImpastoTinyFluxLoader", {"seed": 0}),
                set=("ImpastoPromptSet", {"text": "a boat", "seed": 7}),
                batch=(
                    "ImpastoBatchGenerator",
                    {"model": ["tiny", 0], "clip": ["tiny", 1], "vae": ["tiny", 2], "prompts": ["set", 0]}
                    | sizes
                    | sampling,
                ),
                show=shown("batch", 2),
            )
        )
        return sorted((server.base / "output" / "impasto" / "batches" / name).glob("*.png"))

    together, alone = batch_of("1, 2, 3", "together"), batch_of("2", "alone")
    (same,) = [file for file in together if file.name == alone[0].name]
    difference = numpy.asarray(Image.open(same)).astype(int) - numpy.asarray(Image.open(alone[0]))
    assert numpy.abs(difference).max() <= 1  # matrix products of another batch size round otherwise
