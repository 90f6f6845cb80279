"""Who may import whom (docs/design.md), read from the source, so that no import has to be run to be caught."""

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
BOTTOM = (
    "checksums",
    "client",
    "clock",
    "errors",
    "files",
    "installation",
    "job_log",
    "mcp",
    "out_of_memory",
    "parquet_limits",
    "paths",
    "progress",
    "rate_limit",
    "texts",
    "token_limits",
    "worker",
)
# Package -> the other packages, or modules of them, that it may import, beside what lies at the bottom.
MAY_IMPORT = {
    "drawing": (),
    "hardware": (),
    "prompting": (),
    "dataset": (),
    # The tiny FLUX is trained by the trainers' own objective, and what a LoRA teaches it is examined.
    "embedded": ("dataset", "trainers"),
    "sources": ("dataset",),
    "captioners": ("dataset",),
    "curation": ("dataset", "drawing", "sources.availability", "sources.plan", "sources.quotas", "sources.selection"),
    "trainers": ("dataset", "hardware"),
    "evaluation": (
        *("dataset.pictures", "dataset.records", "dataset.watch_list", "curation.style_similarity"),
        *("drawing", "rendering"),
        *("trainers.features", "trainers.objective", "trainers.run"),
    ),
    "rendering": ("dataset.pictures", "drawing", "prompting", "trainers.run"),
    "publishing": ("curation.dataset_card", "dataset.pictures", "dataset.records", "rendering", "trainers"),
    # What is asked over HTTP: everything but the nodes, which it reaches through ComfyUI's queue.
    "api": (
        *("captioners", "curation", "dataset", "embedded", "evaluation", "hardware", "prompting", "rendering"),
        *("sources", "trainers"),
    ),
    # Says to a person what routes tell of runs' folders; on a running server it is a client like any other.
    "cli": ("api", "evaluation.run_page", "trainers.run"),
}
# The same within `trainers`: part -> the other parts of it that it may import.
_SETTINGS = ("lora.targets", "optimizers", "attention", "settings", "objective", "optimization", "libraries", "presets")
_FLUX = ("flux", "flux.layout")  # layout: names and numbers alone
_BELOW_MEMORY = (*_FLUX, "lora", "features", *_SETTINGS, "run")
_BELOW_STEP = (*_BELOW_MEMORY, "memory", "batches", "sampler")
WITHIN_TRAINERS = {
    "flux.layout": (),
    "flux": ("flux.layout",),
    "lora.targets": ("flux.layout",),
    "lora": (*_FLUX, "lora.targets"),
    "features": _FLUX,
    "optimizers": (),  # the table
    "attention": (),  # likewise
    "settings": ("lora.targets", "optimizers", "attention"),
    "objective": ("settings",),
    "optimization": ("optimizers", "settings"),
    "libraries": ("optimizers", "attention", "settings"),
    "presets": ("settings",),
    "job_files": ("settings",),
    "search_space": ("settings",),
    "sweep": ("libraries", "settings", "search_space"),
    "run": (*_FLUX, "lora", "lora.targets", "features", "optimizers", "settings"),
    "memory": _BELOW_MEMORY,
    "batches": (*_BELOW_MEMORY, "memory"),
    "sampler": (*_FLUX, "objective"),
    "step": _BELOW_STEP,
    "validation": (*_BELOW_STEP, "step"),
    "preflight": _BELOW_STEP,
    "recipe": (*_BELOW_STEP, "step", "validation", "preflight"),
    "__main__": ("run",),
}
PURE = tuple(MAY_IMPORT)
# Where pictures are opened: files in the first, charts that were drawn a moment ago in the other.
OPENS_PICTURES = {"dataset.pictures", "drawing.charts"}
READS_EXIF = {"dataset.orientation"}
SCRIPTS = {"trainers.run.process"}  # started by path as a process of its own; loads the pack as `impasto` first
COMFYUI = {
    "app",
    "comfy",
    "comfy_api",
    "comfy_execution",
    "comfy_extras",
    "execution",
    "folder_paths",
    "latent_preview",
    "main",
    "node_helpers",
    "nodes",
    "server",
}
# What ComfyUI does not load for itself at start. (transformers it does load; ours must not count on that.)
HEAVY = {
    "accelerate",
    "bitsandbytes",
    "datasets",
    "diffusers",
    "google",
    "matplotlib",
    "peft",
    "pyarrow",
    "tomlkit",
    "transformers",
}


def modules() -> dict[str, Path]:
    """Dotted name, from the repository root, of every module of the pack -> its file."""
    files = [path for package in (*PURE, "nodes") for path in (REPOSITORY / package).rglob("*.py")]
    files += [REPOSITORY / f"{name}.py" for name in BOTTOM]
    return {name_of(path): path for path in files}


def name_of(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(name: str, path: Path, whole: bool) -> Iterator[str]:
    """Dotted names that a module imports: ours from the repository root, others absolute, marked by a leading colon.

    With `whole`, from everywhere in it, else only what importing it runs (no functions, no type checking).
    """
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in statements(ast.parse(path.read_text(encoding="utf-8")), whole):
        if isinstance(node, ast.Import):
            yield from (f":{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield f":{node.module}"
        elif isinstance(node, ast.ImportFrom):
            source = [*package[: len(package) - node.level + 1], *(node.module.split(".") if node.module else [])]
            for alias in node.names:
                yield ".".join([*source, alias.name])


def statements(tree: ast.AST, whole: bool) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        yield node
        in_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for_types = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        if whole or not (in_function or for_types):
            yield from statements(node, whole)


def package_of(name: str) -> str:
    return name.split(".")[0]


def test_only_the_nodes_know_comfyui():
    offences = [
        f"{name} imports {imported[1:]}"
        for name, path in modules().items()
        if package_of(name) != "nodes"
        for imported in imports(name, path, whole=True)
        if imported.startswith(":") and package_of(imported[1:]) in COMFYUI
    ]
    assert not offences


def test_nodes_reach_comfyui_through_one_folder():
    """Apart from the node API itself, which every node is written against."""
    offences = [
        f"{name} imports {imported[1:]}"
        for name, path in modules().items()
        if package_of(name) == "nodes" and not f"{name}.".startswith("nodes.host.")
        for imported in imports(name, path, whole=True)
        if imported.startswith(":") and package_of(imported[1:]) in COMFYUI - {"comfy_api"}
    ]
    assert not offences


def test_packages_import_only_what_the_plan_says():
    offences = []
    for name, path in modules().items():
        package = package_of(name)
        if package == "nodes":
            continue
        allowed = BOTTOM if package in BOTTOM else (package, *BOTTOM, *MAY_IMPORT[package])
        for imported in imports(name, path, whole=True):
            if not imported.startswith(":") and not any(f"{imported}.".startswith(f"{one}.") for one in allowed):
                offences.append(f"{name} imports {imported}")
    assert not offences


def test_no_circle_ties_files_together():
    """Not even through an import inside a function, or one for types alone."""
    known = modules()
    reaches = {name: ours(name, path, known) for name, path in known.items()}
    circles = set()

    def follow(name: str, way: tuple[str, ...]) -> None:
        if name in way:
            circles.add(" -> ".join((*way[way.index(name) :], name)))
        elif name not in done:
            for other in sorted(reaches[name]):
                follow(other, (*way, name))
            done.add(name)

    done: set[str] = set()
    for name in sorted(known):
        follow(name, ())
    assert not circles


def ours(name: str, path: Path, known: dict[str, Path]) -> set[str]:
    """The modules of the pack that a module imports, from anywhere in it."""
    found = set()
    for imported in imports(name, path, whole=True):
        if not imported.startswith(":"):
            module = imported if imported in known else imported.rpartition(".")[0]
            found |= {module} & set(known) - {name}
    return found


def test_no_module_reaches_its_neighbours_by_an_absolute_name():
    """Inside ComfyUI the pack bears the name of whatever folder it was cloned into; only a script can choose a name."""
    offences = [
        f"{name} imports {imported[1:]}"
        for name, path in modules().items()
        if name not in SCRIPTS
        for imported in imports(name, path, whole=True)
        if imported.startswith(":") and package_of(imported[1:]) == "impasto"
    ]
    assert not offences


def test_pictures_are_opened_and_turned_in_one_place():
    """Else some readers see a picture on its side, black where it is transparent, or white where it has 16 bits."""
    offences = []
    for name, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Attribute | ast.Name):
                continue
            used = ast.unparse(node)
            if used.endswith("Image.open") and name not in OPENS_PICTURES:
                offences.append(f"{name} uses {used}")
            if used.rpartition(".")[2] in ("exif_transpose", "getexif") and name not in READS_EXIF:
                offences.append(f"{name} uses {used}")
    assert not offences
    assert set(modules()) >= OPENS_PICTURES | READS_EXIF


def run_by_importing(names: Iterable[str], known: dict[str, Path]) -> set[str]:
    """The modules of the pack, packages among them, that importing some of them runs."""
    reached, waiting = set(), list(names)
    while waiting:
        name = waiting.pop()
        if name in reached:
            continue
        reached.add(name)
        for imported in imports(name, known[name], whole=False):
            parts = imported.split(".")  # a module, or a name in a module; its packages are imported too
            waiting += [part for end in range(1, len(parts) + 1) if (part := ".".join(parts[:end])) in known]
    return reached


def test_importing_the_nodes_runs_no_heavy_import():
    known = modules()
    reached = run_by_importing((name for name in known if package_of(name) == "nodes"), known)
    offences = [
        f"{name} imports {imported[1:]}"
        for name in reached
        for imported in imports(name, known[name], whole=False)
        if imported.startswith(":") and package_of(imported[1:]) in HEAVY
    ]
    assert not offences
    assert {"nodes.host.execution", "errors"} <= reached


def test_reading_a_run_takes_twelve_modules_of_the_pack_at_most():
    """The `__init__` of packages aside, which hold a sentence each."""
    known = modules()
    reached = run_by_importing(["trainers.run.folder"], known)
    read = {name for name in reached if known[name].name != "__init__.py"}
    assert {"trainers.settings", "trainers.run.checkpoints", "trainers.run.folder"} <= read
    assert len(read) <= 12, sorted(read)


def test_within_the_trainers_each_part_imports_only_what_lies_below_it():
    """Also through an import inside a function, or one for types alone."""
    offences = []
    for name, path in modules().items():
        part = part_of_trainers(name)
        if part is None or name in SCRIPTS:
            continue
        for imported in imports(name, path, whole=True):
            other = part_of_trainers(imported)
            if other not in (None, part, *WITHIN_TRAINERS[part]):
                offences.append(f"{name} imports {imported}")
    assert not offences


def part_of_trainers(name: str) -> str | None:
    """The part, of those in `WITHIN_TRAINERS`, that a module or a name in it belongs to; None outside of them."""
    known = [part for part in WITHIN_TRAINERS if f"{name}.".startswith(f"trainers.{part}.")]
    return max(known, key=len, default=None)


def test_every_module_of_the_trainers_has_its_place_in_their_order():
    ours = {name for name in modules() if package_of(name) == "trainers"}
    assert {name for name in ours if part_of_trainers(name) is None} == {"trainers"}


@pytest.mark.parametrize("name", ["__init__", *BOTTOM])
def test_what_everything_rests_on_needs_only_the_standard_library(name: str):
    outside = {"torch", "numpy", "PIL", *HEAVY, *COMFYUI}
    path = REPOSITORY / f"{name}.py"
    assert (
        not {package_of(imported[1:]) for imported in imports(name, path, whole=False) if imported[0] == ":"} & outside
    )


def test_json_from_outside_is_read_in_one_place():
    """`json.loads` alone raises RecursionError for endless brackets, and ValueError for endless digits."""
    ours = {"prompting/seed_book.py", "dataset/records.py", "files.py"}  # written by the pack
    reading = {
        path.relative_to(REPOSITORY).as_posix()
        for package in (*PURE, "nodes")
        for path in (REPOSITORY / package).rglob("*.py")
        if "json.loads(" in path.read_text(encoding="utf-8")
    }
    assert reading <= ours


def test_no_two_public_classes_share_a_name():
    """Whoever reads `Refusal` in a signature need not look which one is meant. (Nodes are named by their ids.)"""
    places: dict[str, list[str]] = {}
    for module, path in modules().items():
        if package_of(module) == "nodes" and not module.startswith("nodes.host."):
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(module)
    shared = {name: where for name, where in places.items() if len(where) > 1}
    assert shared == {}


LONGEST_MODULE = 400  # lines


def lines_of(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def test_modules_fit_in_four_hundred_lines():
    lengths = {name: lines_of(path) for name, path in modules().items()}
    lengths |= {f"benchmarks/{path.name}": lines_of(path) for path in (REPOSITORY / "benchmarks").glob("*.py")}
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST_MODULE} == {}


def test_colours_of_what_we_draw_are_known_in_one_place():
    """Else one picture's ink and paper are not the other's. (What `embedded` paints has the colours of nature.)"""
    offences = [
        name
        for name, path in modules().items()
        if package_of(name) != "embedded" and name != "drawing.palette"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and re.fullmatch("#[0-9a-fA-F]{6}", str(node.value))
    ]
    assert not offences


def test_texts_are_put_on_one_line_in_one_place():
    """`texts.one_line`: else what counts as white space differs from one reader to the next."""
    offences = [
        name
        for name, path in modules().items()
        if name != "texts"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and re.fullmatch(r"' '\.join\(.*\.split\(\)\)", ast.unparse(node))
    ]
    assert not offences
