"""What the quality filter would do with other thresholds, told from measurements that are there already."""

from __future__ import annotations

import functools

from ..curation.bench import Bench
from ..curation.keeping import read_keep
from ..curation.measurements import measurement_files
from ..curation.quality import CALLED, WIDGETS, Thresholds
from ..dataset.records import Dataset
from .datasets import named
from .models import TryThresholds
from .routing import Call, Refused, Reply
from .run_files import State, state_of


def measured(call: Call) -> Reply:
    """What every picture of a dataset measures, by rule, in the order of `pictures`; null where nobody has looked."""
    dataset = named(call)
    bench = _bench(dataset)
    values = [bench.measured(record) for record in bench.records]
    rules = [rule for rule in CALLED if any(rule in of for of in values)]
    return Reply(
        {
            "name": dataset.name,
            "revision": dataset.revision,
            "thresholds": list(WIDGETS),
            "rules": [{"rule": rule, "called": CALLED[rule], "widget": WIDGETS[rule]} for rule in rules],
            "values": {rule: [of.get(rule) for of in values] for rule in rules},
            "pictures": [{"picture": record.sha256, "known_as": record.known_as} for record in bench.records],
            "unmeasured": bench.unmeasured,
        }
    )


def refused(call: Call) -> Reply:
    """Which pictures these thresholds would refuse, and why; nothing is filtered."""
    body: TryThresholds = call.body
    usual = Thresholds()
    for name, value in body.thresholds.items():
        wanted = bool if isinstance(getattr(usual, name, None), bool) else int | float
        if name not in WIDGETS or not isinstance(value, wanted) or (wanted is not bool and isinstance(value, bool)):
            raise Refused(f"{name[:60]} in thresholds is no threshold, or not of its kind.", "thresholds")
    bench = _bench(named(call))
    refusals = bench.refused(Thresholds(**body.thresholds), read_keep(body.keep))
    told = [
        {"picture": record.sha256, "known_as": record.known_as, "rule": refusal.rule, "reason": refusal.reason}
        for record, refusal in refusals.items()
    ]
    return Reply({"total": len(bench.records), "refused": told, "unmeasured": bench.unmeasured})


def _bench(dataset: Dataset) -> Bench:
    return _read(dataset, *(state_of(path) for path in (dataset.manifest, *measurement_files(dataset))))


@functools.lru_cache(maxsize=4)  # a threshold that is dragged asks ten times a second
def _read(dataset: Dataset, *states: State | None) -> Bench:
    """Its files as they are in these states."""
    return Bench.of(dataset)
