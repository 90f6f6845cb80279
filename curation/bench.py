"""What other thresholds of the quality filter would refuse, from measurements that were made before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from ..dataset.pictures import PictureRefused
from ..dataset.records import Dataset, Record, Refusal
from .keeping import kept_pictures
from .measurements import known
from .measures import Measures
from .quality import Judging, Thresholds, judge_measures, judge_quality, judge_record


@dataclass(frozen=True)
class Bench:
    """A dataset's pictures and what is known of them; those not in `seen` have to be measured first."""

    records: tuple[Record, ...]
    qualities: Mapping[Record, int | PictureRefused | None]
    seen: Mapping[Record, Measures | PictureRefused]

    @classmethod
    def of(cls, dataset: Dataset) -> Bench:
        records = dataset.records()
        return cls(records, *known(dataset, records))

    @property
    def unmeasured(self) -> int:
        """Pictures that no filter has looked into so far: they fell by size, shape or header."""
        return sum(record not in self.seen for record in self.records)

    def measured(self, record: Record) -> dict[str, float]:
        """Rule -> what the picture measures, whatever the thresholds are."""
        usual = Thresholds()
        verdicts = chain(
            judge_record(record, usual),
            judge_quality(self.qualities.get(record), usual),
            judge_measures(self.seen.get(record), usual),
        )
        return {verdict.rule: verdict.measured for verdict in verdicts if verdict.measured is not None}

    def refused(self, thresholds: Thresholds, keep: Sequence[str] = ()) -> dict[Record, Refusal]:
        """What the filter would refuse, but for what it has not measured; unlikeness of style is not looked at.

        Raises:
            SettingsError: one of `keep` fits several pictures.
        """
        judge = Judging(thresholds, kept_pictures(self.records, keep)[0])
        judge.look(self.records, lambda _: self.qualities, lambda _: self.seen)
        return judge.refusals
