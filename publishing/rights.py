"""What is known of the rights in the pictures that a LoRA was trained on, and whether that suffices to publish it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from ..dataset.records import Dataset
from ..errors import SettingsError

AS_STATED = "as the sources state them"
MINE = "I have the right to publish"
CLAIMS = (AS_STATED, MINE)


@dataclass(frozen=True)
class Rights:
    """What the sources of a set state.

    Attributes:
        stated: statement -> pictures.
        unknown: pictures of which no source states anything.
        claimed: the person says that they have the right to publish.
    """

    stated: tuple[tuple[str, int], ...] = ()
    unknown: int = 0
    claimed: bool = False

    @property
    def pictures(self) -> int:
        return self.unknown + sum(count for _, count in self.stated)

    def check(self) -> None:
        """Refuse to publish what nobody is known to have a right to.

        Raises:
            SettingsError: of some pictures, or of the whole set, nothing is known, and the person claims nothing.
        """
        if self.claimed or (self.pictures and not self.unknown):
            return
        known = (
            f"of {self.unknown:,} of its {self.pictures:,} pictures no source states under which rights they stand"
            if self.pictures
            else "nothing is known of the pictures that it was trained on: no dataset is connected"
        )
        raise SettingsError(
            f"The LoRA cannot be published yet: {known}. Connect the dataset whose sources state it, or find out and "
            f"set rights to '{MINE}'."
        )


def rights_of(dataset: Dataset | None, claim: str = AS_STATED) -> Rights:
    """What is known of a dataset's pictures; None for a set that nobody knows."""
    stated = _counted(record.rights for record in dataset.records()) if dataset else Counter()
    unknown = stated.pop("", 0)
    return Rights(tuple(stated.most_common()), unknown, claim == MINE)


def _counted(statements: Iterable[str]) -> Counter[str]:
    return Counter(statement.strip() for statement in statements)
