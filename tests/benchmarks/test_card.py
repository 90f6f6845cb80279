"""The one command for a card: pretended on the CPU it runs every line; what it measures here means nothing."""

import importlib
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "benchmarks" / "card.py"
CARDS_OWN = "does not train on the CPU"  # what attention backends that need a card are refused with here

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the benchmark reads memory from /proc")


@pytest.fixture
def card(monkeypatch):
    """The benchmark as a module; by another name, for the repository's folder may be called `card` itself."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    spec = importlib.util.spec_from_file_location("benchmark_of_a_card", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # where dataclasses look for their types
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def part_of(card):
    """The modules that the benchmark consists of, by their names."""
    return importlib.import_module


@pytest.fixture(scope="module")
def pretended(tmp_path_factory) -> tuple[str, list[dict]]:
    """What a pretended run prints, and its lines."""
    results = tmp_path_factory.mktemp("card") / "results.jsonl"
    command = [sys.executable, str(SCRIPT), "--pretend", "--minutes", "30", "--results", str(results)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2000)
    assert done.returncode == 0, done.stderr
    return done.stdout, [json.loads(line) for line in results.read_text().splitlines()]


@linux
def test_every_part_measures_and_nothing_fails_but_what_needs_a_card(pretended, card):
    _, lines = pretended
    failed = [line for line in lines if "failure" in line and CARDS_OWN not in line["failure"]]
    assert not failed
    measured = {line["part"] for line in lines if "failure" not in line and line["what"] != "process"}
    assert measured == {"start", *(part.name for part in card.PARTS)}


@linux
def test_what_is_aimed_at_is_among_what_is_measured(pretended, part_of):
    """Else an aim would never be judged."""
    _, lines = pretended
    numbers = {(line["part"], line["what"]): line for line in lines}
    for aimed, (name, _, _) in part_of("card_results").AIMS.items():
        assert numbers[aimed][name] > 0


@linux
def test_ours_and_the_bare_loop_are_measured_alike(pretended):
    _, lines = pretended
    steps = {line["what"] for line in lines if line["part"] == "step" and "seconds_per_step" in line}
    ours = {what.removeprefix("Impasto, ") for what in steps if what.startswith("Impasto")}
    assert ours == {what.removeprefix("diffusers + PEFT, ") for what in steps if what.startswith("diffusers")}
    assert len(ours) == 4


@linux
def test_a_step_tells_time_memory_plan_and_share_of_the_matmul_rate(pretended):
    _, lines = pretended
    ours = [line for line in lines if line["what"].startswith("Impasto") and "failure" not in line]
    for line in ours:
        assert all(line[name] > 0 for name in ("seconds_per_step", "peak", "planned", "of_matmul", "first_step")), line


@linux
def test_the_profile_names_the_largest_of_what_is_neither_product_nor_attention(pretended, part_of):
    _, lines = pretended
    plain, _ = (line for line in lines if line["part"] == "profile" and "wastes" in line)
    assert len(plain["wastes"]) == part_of("card_parts").WASTES
    times = [waste["seconds"] for waste in plain["wastes"]]
    assert times == sorted(times, reverse=True) and times[-1] > 0
    assert plain["products_and_attention"] > 0


@linux
def test_the_table_has_every_step(pretended):
    printed, lines = pretended
    for line in lines:
        if "seconds_per_step" in line:
            assert f" {line['what']} |" in printed


def test_a_measurement_that_fails_costs_itself_alone_and_leaves_its_traceback(card, tmp_path):
    bench = card.Bench("step", tmp_path / "results.jsonl", pretend=True)
    bench.attempt("first", lambda: 1 / 0)
    bench.attempt("second", lambda: {"ratio": 2})
    first, second = card.read(tmp_path / "results.jsonl")
    assert "Traceback" in first["failure"] and "ZeroDivisionError" in first["failure"]
    assert second == {"part": "step", "what": "second", "ratio": 2}


def test_what_there_is_no_time_for_is_said(card, tmp_path):
    bench = card.Bench("step", tmp_path / "results.jsonl", pretend=True)
    bench.deadline = 0
    assert bench.attempt("late", lambda: pytest.fail("measured")) == {}
    assert card.read(tmp_path / "results.jsonl")[0]["failure"] == "There was no time left for it"


def test_a_part_that_dies_and_one_that_hangs_cost_themselves_alone(card, tmp_path, monkeypatch):
    results = tmp_path / "results.jsonl"
    bodies = {
        "dies": "input(); print('out of luck'); raise SystemExit(3)",
        "hangs": "import time; input(); time.sleep(600)",
        "works": f'input(); open({str(results)!r}, \'a\').write(\'{{"part": "works", "what": "done"}}\\n\')',
    }
    started = []

    def start(parts, results, pretend):
        with open(results.with_suffix(".log"), "a") as log:
            command = [sys.executable, "-c", bodies[parts[0].name]]
            started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, text=True))
        return started[-1]

    monkeypatch.setattr(card, "start", start)
    parts = [card.Part("dies", 1, None), card.Part("hangs", 0.01, None), card.Part("works", 1, None)]
    card.run([[part] for part in parts], results, seconds=200)
    found = card.read(results)
    ends = {line["part"]: line.get("failure", "") for line in found if line["what"] == "process"}
    assert "out of luck" in ends["dies"] and ends["dies"].endswith("status 3")
    assert ends["hangs"].startswith("Cut off after its")
    assert ends["works"] == "" and {"part": "works", "what": "done"} in found
    assert all(process.poll() is not None for process in started)


def test_a_torn_last_line_loses_no_other(card, tmp_path):
    results = tmp_path / "results.jsonl"
    card.append(results, {"part": "step", "what": "whole"})
    with open(results, "a") as file:
        file.write('{"part": "step", "wh')
    assert card.read(results) == [{"part": "step", "what": "whole"}]


@pytest.mark.parametrize(("rate", "taken", "said"), [(3.1, 100, "met.*within 5% met"), (2.9, 80, r"missed.*\(\+25%\)")])
def test_a_result_is_held_against_its_aim_and_its_plan(part_of, rate, taken, said):
    line = {"part": "step", "what": "Impasto, bf16, 1024 px", "steps_per_second": rate, "planned": 100}
    assert re.search(said, part_of("card_results").verdict(line | {"taken": taken}))


def test_the_drawn_weights_are_all_that_the_loader_reads_in_its_order(card, tmp_path):
    from impasto.trainers.flux.loading import weight_sizes

    bench = card.Bench("step", tmp_path / "results.jsonl", pretend=True)
    drawn = {name: stored.values for name, stored in bench.weights()}
    assert list(drawn) == list(weight_sizes(bench.flux, "bf16"))
    transformer = bench.transformer("bf16")
    parameters = dict(transformer.named_parameters())
    assert parameters.keys() == drawn.keys()
    assert all(torch.equal(parameters[name], tensor) for name, tensor in drawn.items())


@pytest.mark.parametrize(
    ("kernel", "work"),
    [
        ("nvjet_tst_128x256_64x4_1x2_h_bz_coopA_TNT", True),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n", True),
        ("void pytorch_flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel", True),
        ("triton_tem_fused_mm_3", True),
        ("triton_poi_fused__to_copy_mm_view_12", False),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>>", False),
    ],
)
def test_kernels_are_told_apart_by_their_names(part_of, kernel, work):
    assert part_of("card_parts").does_the_work(kernel) is work


def test_what_is_missing_is_said_with_what_is_left_out(card, monkeypatch):
    monkeypatch.setattr(card.importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else object())
    assert card.missing() == {"bitsandbytes": card.NEEDED["bitsandbytes"]}
    assert [part.name for part in card.PARTS if "bitsandbytes" in part.needs] == ["presets"]


def test_without_a_card_it_says_so():
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 2 and "no CUDA device; --pretend" in done.stderr


@pytest.fixture
def kit(part_of, monkeypatch, tmp_path):
    kit = part_of("card_kit")
    monkeypatch.setattr(kit, "KIT", tmp_path / ".card" / "packages.zip")
    monkeypatch.setattr(kit, "PACKAGES", ("iniconfig", "pluggy"))
    monkeypatch.setattr(kit, "repository_files", lambda: [])
    return kit


def test_a_package_that_was_brought_is_imported_where_there_is_none(kit, card, monkeypatch, capsys):
    assert kit.main() == 0
    assert "iniconfig" in capsys.readouterr().out
    monkeypatch.setattr(card, "BROUGHT", kit.KIT.with_suffix(""))
    monkeypatch.setattr(sys, "path", [])
    card.use_brought()
    assert sys.path == [str(kit.KIT.with_suffix(""))]
    assert (kit.KIT.with_suffix("") / "iniconfig" / "__init__.py").is_file()
    card.use_brought()  # again: it is there


def test_a_kit_that_is_too_large_is_refused(kit, monkeypatch, capsys):
    monkeypatch.setattr(kit, "LARGEST", 1000)
    with pytest.raises(SystemExit, match="more than .* MB: leave one out"):
        kit.main()


def test_of_bitsandbytes_only_libraries_for_cards_are_brought(part_of):
    kit = part_of("card_kit")
    names = [name for _, name in kit.files_of("bitsandbytes")]
    libraries = [name for name in names if name.endswith(".so")]
    assert libraries and not [name for name in libraries if "rocm" in name or "xpu" in name]
    assert not [name for name in names if name.endswith(".pyc")]
