"""What a run's folder holds already, as a page to send to somebody: grid, curves, settings, dataset with its rights,
watched pictures, and what Evaluate LoRA found. Nothing is painted and no model is loaded.

    python -m impasto.evaluation RUN_FOLDER [--page FILE]
    python worker.py impasto.evaluation.run_page RUN_FOLDER [--page FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..dataset.pictures import PictureRefused, opened, thumbnail
from ..dataset.records import Dataset, Record
from ..drawing.page import escaped, image, table, whole
from ..errors import DatasetError, FeatureError, ImpastoError
from ..files import parsed_json, write_changed
from ..progress import silent
from ..rendering.grid import Label
from ..rendering.loss_plot import loss_plot
from ..rendering.picture_grid import PictureGrid
from ..trainers.features import index
from ..trainers.run.folder import Job, Run
from .watched_run import FOLDER, RESULT, files_of

if TYPE_CHECKING:
    from PIL import Image

CELL = (256, 256)  # pixels of a picture of the grid on the page, at most
SHOWN_SIDE = 192  # pixels of a watched picture
MOST_WATCHED = 60
PICTURES = (".png", ".jpg", ".webp")
DRAWN_SIDE = 384  # pixels of what the trainer drew at a step
MOST_DRAWN = 100  # steps; of more the last
MOST_COUNTED = 12  # of a label of the dataset; the rest is summed up
DRAWN = ("width", "height", "steps", "guidance", "sampler_name", "scheduler", "strength")  # what one grid has in common


def write_page(run: Run, file: Path | None = None) -> Path:
    """Make the page of a run: `page.html` in its `evaluation` folder, or at `file`.

    Raises:
        TrainingError: the folder is no run's.
    """
    job = Job.read(run)
    parts = [_state(run), *_evaluated(run), *_grid(run), *_drawn(run), *sections(run, job)]
    target = file or run.path / "evaluation" / "page.html"
    target.parent.mkdir(parents=True, exist_ok=True)
    write_changed(target, whole(run.name, parts).encode())
    return target


def sections(run: Run, job: Job | None = None) -> list[str]:
    """What Evaluate LoRA's page has too: curves, watched pictures, dataset and its rights, settings; as HTML."""
    job = job or Job.read(run)
    return [*_curves(run), *_watched(run, job), *_dataset(job), _settings(run, job)]


def _state(run: Run) -> str:
    status = run.status()
    told = f"{status.get('state', 'not started')}, step {status.get('step', 0)} of {status.get('total', '?')}"
    best = f"; lowest held-out loss at step {best}" if (best := run.best_step()) is not None else ""
    remarks = [str(status[name]) for name in ("warning", "error") if status.get(name)]
    return "".join(f"<p>{escaped(line)}</p>" for line in (f"Run {run.id}: {told}{best}.", *remarks))


def loss_of(run: Run) -> Image.Image:
    """The run's loss with all that is marked on it.

    Raises:
        TrainingError: no step has been measured yet.
    """
    return loss_plot(run.metrics(), run.name, run.id, [*run.checkpoints()], [*run.samples()])


def _drawn(run: Run) -> list[str]:
    """What the trainer drew on the way, by step; a damaged picture is left out with a word."""
    shown = []
    for step, sample in [*run.samples().items()][-MOST_DRAWN:]:
        for file in sorted(file for file in sample.parent.iterdir() if file.suffix in PICTURES):
            words = f"step {step}"
            try:
                picture = image(thumbnail(file, DRAWN_SIDE), words)
            except PictureRefused as error:
                picture, words = "", f"{words}: {error}"
            shown.append(f"<figure>{picture}<figcaption>{escaped(words)}</figcaption></figure>")
    return ["<h2>Drawn on the way</h2>" + "".join(shown)] if shown else []


def _curves(run: Run) -> list[str]:
    try:
        plotted = loss_of(run)
    except ImpastoError as error:  # no step yet, or no matplotlib
        return [f"<h2>Curves</h2><p>{escaped(str(error))}</p>"]
    return [f"<h2>Curves</h2>{image(plotted, 'loss, learning rate and sigmas over the steps')}"]


def _settings(run: Run, job: Job) -> str:
    told = {"run": run.id, "base model": Path(job.weights).name, "fingerprint of it": job.fingerprint}
    return f"<h2>Settings of the training</h2>{table(told | job.settings.to_dict())}"


def _watched(run: Run, job: Job) -> list[str]:
    """What Loss Watch found. Its file may be a stranger's: a picture is shown where it is one that the run learned."""
    try:
        found = parsed_json((run.path / FOLDER / RESULT).read_bytes())
        pictures = [one for one in found["pictures"] if isinstance(one, dict)]
        title = str(found["title"])
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        said = f"The result of Loss Watch cannot be read ({error}): queue it again."
        return [f"<h2>Watched</h2><p>{escaped(said)}</p>"]
    shown = []
    known = {one["image"] for one in pictures[:MOST_WATCHED] if isinstance(one.get("image"), str)}
    files = files_of(index.Features(job.features_folder, job.features_key), known)
    for one in pictures[:MOST_WATCHED]:
        words = f"{str(one.get('digits'))[:8]} {one.get('reason')}"
        try:
            picture = image(thumbnail(files[str(one.get("image"))], SHOWN_SIDE), words)
        except (PictureRefused, KeyError, OSError):
            picture = "<p>(not found where it was: queue Loss Watch again)</p>"
        said = f"{escaped(words)}<br>“{escaped(str(one.get('caption')))}”"
        shown.append(f'<figure style="max-width:12rem">{picture}<figcaption>{said}</figcaption></figure>')
    return [f"<h2>Watched: {escaped(title)}</h2>{''.join(shown)}"]


def _dataset(job: Job) -> list[str]:
    features = index.Features(job.features_folder, job.features_key)
    try:
        cache = str(Path(job.features_folder).parent)  # of this machine: nothing for whoever gets the page
        encoded = [line for line in index.report(features).splitlines() if cache not in line]
        folders = sorted({picture.path.parent for picture in index.pictures(features)})
    except (FeatureError, DatasetError):
        return ["<h2>Dataset</h2><p>The training data is no longer where the run was trained on it.</p>"]
    parts = [f"<h2>Dataset</h2><p>{'<br>'.join(map(escaped, encoded))}</p>"]
    records = [record for folder in folders for record in _records(folder)]
    if not records:
        return [*parts, "<p>Dataset TOML Writer did not write it: nothing is known of labels and rights.</p>"]
    for name in ("genre", "style", "artist"):
        if any(getattr(record, name) for record in records):
            parts.append(f"<h3>{name}</h3>{table(_counted(getattr(record, name) for record in records))}")
    stated = _counted((record.rights for record in records), unknown="(no source states anything)")
    return [*parts, f"<h3>Rights, as the sources state them</h3>{table(stated)}"]


def _records(train: Path) -> Sequence[Record]:
    """Of a folder that Dataset TOML Writer filled, `train/<revision>`; nothing of another one."""
    dataset = train.parent.parent
    try:
        return Dataset(dataset.name, str(dataset), train.name.removesuffix("-alpha")).records()
    except DatasetError:
        return ()


def _counted(values: Iterable[str], unknown: str = "(unknown)") -> dict[str, int]:
    counted = Counter(value.strip() or unknown for value in values).most_common()
    rest = sum(count for _, count in counted[MOST_COUNTED:])
    return dict(counted[:MOST_COUNTED]) | ({"(others)": rest} if rest else {})


def _grid(run: Run) -> list[str]:
    """The kept pictures of prompts and checkpoints: of several grids, the one with the most pictures."""
    grids: dict[str, dict[tuple[str, int, int], Path]] = defaultdict(dict)
    for file, about in _kept(run.path / "grid"):
        alike = {name: about.get(name) for name in DRAWN if name != "strength" or about.get("step")}
        place = str(about.get("prompt")), int(about.get("seed", 0)), int(about.get("step", 0))
        grids[json.dumps(alike | {"strength": None}, sort_keys=True)].setdefault(place, file)
    if not grids:
        return []
    said, cells = max(grids.items(), key=lambda grid: len(grid[1]))
    rows = list(dict.fromkeys((prompt, seed) for prompt, seed, _ in sorted(cells)))
    steps = sorted({step for _, _, step in cells})
    by_place = {((prompt, seed), step): file for (prompt, seed, step), file in cells.items()}
    files = tuple(tuple((by_place[row, step],) if (row, step) in by_place else () for step in steps) for row in rows)
    labels = tuple(Label(prompt, f"seed {seed}") for prompt, seed in rows)
    columns = tuple(Label(f"step {step}" if step else "base model") for step in steps)
    common = ", ".join(f"{name} {value}" for name, value in parsed_json(said).items() if value is not None)
    drawn = PictureGrid(Label(run.name, common), labels, columns, files, CELL).pages(silent)
    return ["<h2>Prompts and checkpoints</h2>", *(image(page, "prompts by checkpoints") for page in drawn)]


def _kept(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Each picture that Progress Grid or Evaluate LoRA painted, with what it says of itself."""
    for file in sorted(folder.glob("step-*.png"), key=lambda file: file.stat().st_mtime_ns, reverse=True):
        try:
            with opened(file) as picture:
                about = parsed_json(str(picture.info.get("impasto", "")))
        except (PictureRefused, OSError, ValueError):
            continue
        if isinstance(about, dict) and isinstance(about.get("step"), int) and isinstance(about.get("seed"), int):
            yield file, about


def _evaluated(run: Run) -> list[str]:
    """Verdict and scores of the newest evaluation that lies with the run."""
    files = sorted((run.path / "evaluation").glob("*.json"), key=lambda file: file.stat().st_mtime_ns)
    if not files:
        return ["<p>It was not judged yet: queue Evaluate LoRA for its verdict.</p>"]
    try:
        found = parsed_json(files[-1].read_bytes())
        why = "".join(f"<p>{escaped(str(sentence))}</p>" for sentence in found["verdict"]["why"])
        trust = "; ".join(
            f"{one['name']} {one['auc']:.2f}{'' if one['trusted'] else ', not to be believed'}"
            for one in found["measures"]
        )
        names = [one["name"] for one in found["measures"]]
        fitting = found.get("adherence")
        kept = ("composition kept", *(["fits its prompt"] if fitting else []), "copies")
        head = "".join(f"<th>{escaped(name)}</th>" for name in ("step", *names, *kept))
        rows = "".join(_scores(step, names) for step in found["steps"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return [f"<p>{escaped(files[-1].name)} in its evaluation folder is damaged. Queue Evaluate LoRA again.</p>"]
    told = f'<p class="quiet">How often each measure tells the set from the base model (AUC): {escaped(trust)}.</p>'
    if fitting:
        believed = "" if fitting.get("trusted") else ", not to be believed"
        auc = escaped(str(fitting.get("auc")))
        told += f'<p class="quiet">How often CLIP tells the right prompt: {auc}{believed}.</p>'
    return [f"<h2>Verdict</h2>{why}<h2>Scores</h2><table><tr>{head}</tr>{rows}</table>{told}"]


def _scores(step: dict[str, Any], names: Sequence[str]) -> str:
    found = [*(step["style"][name] for name in names), step["content"]]
    shown = [f"{100 * one['mean']:.0f} % ({100 * one['low']:.0f} to {100 * one['high']:.0f})" for one in found]
    if "adherence" in step:
        shown.append("{mean:.3f} ({low:.3f} to {high:.3f})".format(**step["adherence"]))
    cells = [str(step["step"] or "base model"), *shown, str(len(step["copies"]))]
    return "<tr>" + "".join(f"<td>{escaped(cell)}</td>" for cell in cells) + "</tr>"


def main() -> int:
    parser = argparse.ArgumentParser(description="Make the page of a training run from what its folder holds.")
    parser.add_argument("run", type=Path, help="the run's folder, as under output/impasto/runs")
    parser.add_argument("--page", type=Path, help="where to write it, else page.html in evaluation/ of the run")
    arguments = parser.parse_args()
    folder = arguments.run.resolve()
    try:
        written = write_page(Run(folder.name, str(folder)), arguments.page)
    except ImpastoError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{written}\n")
    return 0
