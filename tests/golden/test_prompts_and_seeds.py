"""Seeds, prompts and the names of painted pictures: others would paint everything again, and otherwise."""

from __future__ import annotations

from . import current

TEXT = """a harbour at __time__
# a note
__place__, {2$$ and $$fog|rain|snow} --d 123
été à Giverny --d 18446744073709551615
"""
PROFILES = (
    *("fixed", "increment", "decrement", "golden-ratio walk", "from text", "from date", "list", "neighbourhood"),
)
PROMPTS = [("a harbour at dawn", 7), ("été", 2**64 - 1), ("a harbour at dawn", 8)]


def test_seeds(golden):
    found = {profile: current.seeds(profile) for profile in PROFILES}
    found |= {f"{profile} later": current.seeds(profile, position=10, seed=2**64 - 3) for profile in PROFILES}
    found["from an accented text"] = current.seeds("from text", text=" été ", count=1)
    found |= {f"companions of {seed}": current.companions(seed) for seed in (0, 1, 2**64 - 1)}
    golden("seeds", found)


def test_a_seed_book_steps_and_remembers(golden, tmp_path):
    book = tmp_path / "seeds.sqlite"
    asked = [("increment", "default"), ("list", "default"), ("increment", "other"), ("increment", "default")]
    asked += [("list", "default"), ("last queued", "default"), ("neighbourhood", "default"), ("increment", "default")]
    golden("seed_book", {"taken": [[*each, *current.taken(book, *each)] for each in asked]})


def test_prompt_sets(golden):
    found = {
        expansion: current.prompts(TEXT, 7, expansion) for expansion in ("as written", "at random", "every combination")
    }
    found["crossed with seeds"] = current.prompts(TEXT, 7, seeds="1, 2 # two")
    found["held out"] = current.held_out(["marina", "landscape", "marina", "veduta", ""], ["Apples"], 8, "mntgrdn,")
    golden("prompt_sets", found)


def test_prompts_for_other_trainers(golden, tmp_path):
    golden("sample_prompts", current.sample_prompts(tmp_path, PROMPTS))


def test_batches(golden, tmp_path):
    small = {"width": 64, "height": 96}
    found = {
        "defaults": current.batch_files(tmp_path / "1", PROMPTS[:1], "models", **small),
        "two prompts": current.batch_files(tmp_path / "2", PROMPTS, "models", **small),
        "other models": current.batch_files(tmp_path / "3", PROMPTS[:1], "others", **small),
        "sampled otherwise": current.batch_files(
            tmp_path / "4",
            PROMPTS[:1],
            "models",
            steps=4,
            guidance=1.0,
            sampler_name="dpmpp_2m",
            scheduler="beta",
            **small,
        ),
    }
    golden("batches", found)


def test_cells_of_a_progress_grid(golden, tmp_path):
    adapters = {}
    for step in (250, 500):
        adapters[step] = tmp_path / f"{step}.safetensors"
        adapters[step].write_text(f"the LoRA of step {step}")
    small = {"width": 64, "height": 96, "steps": 4}
    found = {
        "both": current.grid_files(tmp_path / "1", adapters, PROMPTS, "models", 1.0, **small),
        "weaker": current.grid_files(tmp_path / "2", {250: adapters[250]}, PROMPTS[:1], "models", 0.5, **small),
        "other models": current.grid_files(tmp_path / "3", {250: adapters[250]}, PROMPTS[:1], "others", 1.0, **small),
    }
    golden("grid_cells", found)
