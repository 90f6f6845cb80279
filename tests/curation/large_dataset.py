"""A process of its own: a large dataset is planned, filtered, composed and counted, and told what memory that took.

Sparse files stand for the pictures and remembered measurements for what decoding them would give: what is measured is
what the records, their measurements and the tables over them take.
"""

from __future__ import annotations

import json
import random
import runpy
import sys
from dataclasses import asdict
from pathlib import Path

runpy.run_path(str(Path(__file__).resolve().parents[1] / "conftest.py"))  # makes the repository importable as `impasto`

from impasto.curation.composition import Composition, compose  # noqa: E402
from impasto.curation.measurements import VERSION  # noqa: E402
from impasto.curation.measures import Measures  # noqa: E402
from impasto.curation.quality import Thresholds, filter_quality  # noqa: E402
from impasto.curation.statistics import draw, statistics  # noqa: E402
from impasto.dataset.records import Dataset, Record, write_manifest  # noqa: E402
from impasto.sources.plan import Request, plan_cells, planned  # noqa: E402
from impasto.sources.source import Row  # noqa: E402

GENRES = ("landscape", "portrait", "cityscape", "still_life", "")
MOST_PER_ARTIST = 200


def labels(count: int) -> list[Row]:
    return [
        Row(n // 1000, n % 1000, f"painter-{n % 997}", GENRES[n % 5], "Impressionism", f"No. {n}", "1872", f"words {n}")
        for n in range(count)
    ]


def dataset(folder: Path, rows: list[Row]) -> Dataset:
    """The paintings as a dataset in which every picture was measured before."""
    chance = random.Random(1)
    (folder / "images").mkdir()
    records: list[Record] = []
    lines: dict[str, list[dict[str, object]]] = {"headers": [], "pictures": []}
    for n, row in enumerate(rows):
        sha256, size = f"{n:064x}", chance.randint(300_000, 900_000)
        width, height = chance.randint(400, 2000), chance.randint(400, 2000)
        with open(folder / "images" / f"{sha256}.jpg", "wb") as picture:
            picture.truncate(size)
        hashes = (chance.getrandbits(64), chance.getrandbits(64))
        seen = Measures((width, height), chance.random() / 2, 0.9, 0.1, 7.0, 9.0, 40.0, (0.0, 0.0, 0.0, 0.0), hashes)
        lines["headers"].append({"sha256": sha256, "jpeg_quality": chance.randint(60, 100)})
        lines["pictures"].append({"sha256": sha256, **asdict(seen)})
        known = {"artist": row.artist, "genre": row.genre, "style": row.style, "source": f"museum#{n}"}
        records.append(Record(f"images/{sha256}.jpg", sha256, width, height, size, f"a picture of {n}", **known))
    (folder / "measurements").mkdir()
    for name, measured in lines.items():
        text = "".join(json.dumps(line) + "\n" for line in measured)
        (folder / "measurements" / f"{name}-{VERSION}.jsonl").write_text(text)
    return write_manifest(folder, records)


def peak_memory() -> int:
    """Bytes; read here, because `hardware.memory` brings PyTorch along, which takes more than all that is measured."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def main() -> None:
    folder, count = Path(sys.argv[1]), int(sys.argv[2])
    rows = labels(count)
    quotas = f"landscape: {count // 20}\nportrait: {count // 20}\ncityscape: {count // 40}"
    request = Request("museum", "large", quotas=quotas, max_per_artist=MOST_PER_ARTIST)
    cells = plan_cells(request, rows, [str(shard) for shard in range(count)], None)
    chosen = sum(map(len, planned(cells, MOST_PER_ARTIST).values()))
    filtered = filter_quality(dataset(folder, rows), Thresholds())
    filtered.histograms()
    composed = compose(filtered.dataset, Composition(quotas, max_per_artist=MOST_PER_ARTIST))
    found = statistics(
        filtered.dataset,
        512,
        lambda width, height: (width // 64, height // 64),
        lambda text: (len(text), len(text)),
    )
    draw(found)
    told = (chosen, len(composed.write().records()), found.pictures, len(filtered.refused), peak_memory())
    sys.stdout.write(" ".join(map(str, told)))


if __name__ == "__main__":
    main()
