"""Captions edited by rule and by hand: a person's own words outlive every captioner.

Rules work on the dataset's captions as they come in. Overrides lie in the dataset's `edits.jsonl`, by picture: an
edited picture keeps its text, and a locked one the caption that it had when it was locked, whatever is captioned again.
The trigger word is put in front last.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ..clock import now_and_then
from ..dataset import watch_list
from ..dataset.pictures import PictureRefused, thumbnail
from ..errors import SettingsError
from ..files import appearing, append_line, read_jsonl
from ..progress import Progress, silent
from ..texts import cleaned, one_line
from .captions import checked_trigger_word, with_trigger, without_trigger
from .expression import MAX_LENGTH, compiled
from .lint import CountTokens, flags, least_tokens, lint, lint_report

MATCH_SECONDS = 0.5  # for one expression on one caption; an honest one takes microseconds
MAX_FRAME = 2_000  # characters of a prefix or suffix
MAX_RULES = 200
MAX_OVERRIDES = 10_000
MAX_CAPTION = 10_000  # characters
SHORTEST_HASH = 6  # hexadecimal digits by which a picture may be named
LISTED = 10
THUMBNAIL_SIDE = 192  # pixels


class EditableRecord(Protocol):
    @property
    def sha256(self) -> str: ...
    @property
    def file_name(self) -> str: ...
    @property
    def source_sha256(self) -> str: ...
    @property
    def text(self) -> str: ...


D = TypeVar("D", bound="Editable")


class Editable(Protocol):
    """A dataset, as far as editing its captions needs it."""

    def records(self) -> Sequence[EditableRecord]: ...
    @property
    def folder(self) -> str: ...
    def image_path(self, record: EditableRecord) -> Path: ...
    def with_texts(self: D, texts: Mapping[str, str]) -> D: ...


@dataclass(frozen=True)
class Replacement:
    """One line of find and replace."""

    pattern: str
    replacement: str


@dataclass(frozen=True)
class Edit:
    """What a person decided about one picture's caption, without trigger word, prefix and suffix."""

    text: str
    locked: bool = False  # an edit made here is kept until it is changed here; a lock also refuses that


@dataclass(frozen=True)
class EditRules:
    """What is done to every caption, in this order; prefix, suffix and trigger word also to those edited by hand."""

    trigger_word: str = ""
    prefix: str = ""
    suffix: str = ""
    replacements: tuple[Replacement, ...] = ()
    removed_tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("prefix", "suffix"):
            length = len(getattr(self, name))
            if length > MAX_FRAME:
                raise SettingsError(f"The {name} has {length} characters. Use at most {MAX_FRAME}.")


@dataclass(frozen=True)
class TableRow:
    """One line of the table of captions."""

    sha256: str
    file_name: str  # under the dataset's folder
    thumbnail: str  # file name in the folder of thumbnails; "" where none could be made
    caption: str  # as it goes out
    edited: bool
    locked: bool
    flags: Mapping[str, Sequence[str]] = field(default_factory=dict)  # see `lint.flags`
    text: str = ""  # as a person edits it: without trigger word, prefix and suffix
    tokens: tuple[int, int] = (0, 0)  # of `caption`, for CLIP-L and T5


def read_replacements(text: str) -> tuple[Replacement, ...]:
    """Find-and-replace rules, one a line: `find => replace`, where find is a regular expression.

    Raises:
        SettingsError: a line has no `=>`, its expression is invalid or too large (see `expression`), its replacement is
            too long, or there are too many.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) > MAX_RULES:
        raise SettingsError(f"There are {len(lines)} find-and-replace rules. Use at most {MAX_RULES}.")
    return tuple(_replacement(line) for line in lines)


def _replacement(line: str) -> Replacement:
    pattern, arrow, replacement = line.partition("=>")
    pattern, replacement = pattern.strip(), replacement.strip()
    if not arrow or not pattern:
        raise SettingsError(f"The rule '{line[:60]}' has not the form 'find => replace'. Example: 'a dog => a puppy'.")
    if len(replacement) > MAX_LENGTH:
        raise SettingsError(
            f"The replacement '{replacement[:40]}…' has {len(replacement)} characters. Use at most {MAX_LENGTH}."
        )
    compiled(pattern)
    return Replacement(pattern, replacement)


def read_overrides(text: str) -> dict[str, Edit | None]:
    """Captions by hand, one a line: `<first digits of the picture's hash>: caption`.

    `!` before the caption locks it, `!` alone locks the caption as it is, and nothing after the colon takes the edit or
    lock away (None).

    Raises:
        SettingsError: a line has no hash of at least 6 digits and colon, its caption is too long, or there are too
            many.
    """
    edits: dict[str, Edit | None] = {}
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) > MAX_OVERRIDES:
        raise SettingsError(f"There are {len(lines)} overrides. Use at most {MAX_OVERRIDES} at a time; they are kept.")
    for line in lines:
        digits, colon, caption = line.partition(":")
        digits, caption = digits.strip().lower(), one_line(caption)
        if not colon or not re.fullmatch(rf"[0-9a-f]{{{SHORTEST_HASH},64}}", digits):
            raise SettingsError(
                f"The override '{line[:60]}' does not begin with a picture's hash and a colon. The report and the "
                "picture's file name show the hash; its first 6 digits are enough."
            )
        if len(caption) > MAX_CAPTION:
            raise SettingsError(f"The caption for {digits} has {len(caption)} characters. Use at most {MAX_CAPTION}.")
        locked = caption.startswith("!")
        caption = caption.removeprefix("!").strip()
        edits[digits] = Edit(caption, locked) if caption or locked else None
    return edits


def edits_file(folder: str | Path) -> Path:
    return Path(folder) / "edits.jsonl"


def read_edits(folder: str | Path) -> dict[str, Edit]:
    """The edits of a dataset by sha256; the last line of a picture counts."""
    edits: dict[str, Edit] = {}
    for line in read_jsonl(edits_file(folder)):
        if isinstance(line.get("image"), str) and isinstance(line.get("text"), str):
            edits[line["image"]] = Edit(cleaned(line["text"]), bool(line.get("locked")))
            if not line["text"]:
                del edits[line["image"]]
    return edits


def save_edit(folder: str | Path, sha256: str, edit: Edit | None) -> None:
    """Keep an edit, or with None forget it; it is on disk when this returns."""
    append_line(edits_file(folder), json.dumps({"image": sha256} | asdict(edit or Edit(""))))


def edit_captions(
    dataset: D,
    rules: EditRules,
    overrides: Mapping[str, Edit | None],
    progress: Progress = silent,
    thumbnails: Path | None = None,
    count_tokens: CountTokens = least_tokens,
    watched: Mapping[str, str] | None = None,
) -> tuple[D, str, tuple[TableRow, ...]]:
    """Apply rules and edits to every caption; returns the edited revision, a report and the table's rows.

    Args:
        overrides: by the first digits of the picture's hash; kept in the dataset's folder from now on.
        thumbnails: a folder for small copies of the pictures, each made once; None for none.
        count_tokens: of a caption, to say which are too long.
        watched: by the first digits of the picture's hash, why a person should look at it, which becomes one of its
            doubts.

    Raises:
        SettingsError: the trigger word is no short line, an override names no picture or several, an expression takes
            too long, or a picture would have no caption.
    """
    trigger_word = checked_trigger_word(rules.trigger_word)
    rules, records = replace(rules, trigger_word=trigger_word), dataset.records()
    rows: list[TableRow] = []
    check = now_and_then(lambda: progress(len(rows), len(records)))
    edits = _kept_edits(dataset, records, overrides, rules, check)
    texts: dict[str, str] = {}
    doubted = watch_list.reasons(watched or {}, [record.sha256 for record in records])
    for record in records:
        edit = edits.get(record.sha256)
        bare = without_trigger(edit.text if edit else record.text, trigger_word)
        bare = bare if edit else edited(bare, rules, check)
        caption, tokens, doubts = looked_over(bare, rules, count_tokens)
        texts[record.sha256] = caption
        rows.append(
            TableRow(
                sha256=record.sha256,
                file_name=record.file_name,
                thumbnail=_thumbnail(dataset.image_path(record), record.sha256, thumbnails),
                caption=caption,
                edited=bool(edit),
                locked=bool(edit and edit.locked),
                flags=doubts | _watched(doubted.get(record.sha256)),
                text=bare,
                tokens=tokens,
            )
        )
        progress(len(rows), len(records), caption)
    report = _report(rows, records, lint_report(lint(texts, count_tokens, check, trigger_word)))
    report = "\n".join([report, *(f"watched: {sha256[:8]} {reason}" for sha256, reason in doubted.items())])
    return dataset.with_texts(texts), report, tuple(rows)


def _watched(reason: str | None) -> dict[str, tuple[str, ...]]:
    return {} if reason is None else {"watched": (reason,)}


def looked_over(
    text: str, rules: EditRules, count_tokens: CountTokens
) -> tuple[str, tuple[int, int], dict[str, tuple[str, ...]]]:
    """A person's text as it goes out, "" for none; its tokens for CLIP-L and T5; and what is doubtful about it."""
    bare = without_trigger(text, rules.trigger_word)
    caption = with_trigger(rules.trigger_word, _framed(bare, rules)) if bare else ""
    tokens = count_tokens(caption)
    return caption, tokens, flags(caption, lambda _: tokens, rules.trigger_word)


def edited(caption: str, rules: EditRules, check: Callable[[], None] = lambda: None) -> str:
    """A caption after find and replace and the removal of tags, one line; "" where nothing is left.

    Args:
        check: called before each rule; ends this by raising.

    Raises:
        SettingsError: an expression takes longer than half a second on it, or makes it too long.
    """
    text = caption
    for rule in rules.replacements:
        check()
        text = _replaced(text, rule)
    return _without_tags(one_line(text), rules.removed_tags)


class _TooLong(Exception):
    """Ends a replacement before it fills the memory."""


def _replaced(text: str, rule: Replacement) -> str:
    import regex

    length = 0

    def expanded(match: regex.Match) -> str:
        nonlocal length
        put = match.expand(rule.replacement)
        length += len(put)
        if length > MAX_CAPTION:
            raise _TooLong
        return put

    expression = compiled(rule.pattern)
    try:
        return expression.sub(expanded, text, timeout=MATCH_SECONDS)
    except (regex.error, IndexError) as error:  # of the replacement: a group that is not there
        raise SettingsError(f"The replacement '{rule.replacement[:60]}' is invalid: {error}.") from None
    except TimeoutError:
        raise SettingsError(
            f"The expression '{rule.pattern[:60]}' takes more than {MATCH_SECONDS} s on the caption '{text[:60]}'. "
            "Repetitions inside repetitions, like (a+)+, do that: write it without."
        ) from None
    except _TooLong:
        raise SettingsError(
            f"The rule '{rule.pattern[:60]} => {rule.replacement[:60]}' makes the caption '{text[:60]}' longer than "
            f"{MAX_CAPTION} characters. Match less, or put less in its place."
        ) from None


def _without_tags(text: str, tags: Sequence[str]) -> str:
    """`text` without those of its comma-separated parts that are one of the tags, whatever their case."""
    unwanted = {tag.strip().lower() for tag in tags if tag.strip()}
    if not unwanted:
        return text
    parts = [part.strip() for part in text.split(",")]
    kept = [part for part in parts if part.rstrip(".").lower() not in unwanted]
    return text if len(kept) == len(parts) else ", ".join(part for part in kept if part)


def _framed(caption: str, rules: EditRules) -> str:
    return one_line(f"{rules.prefix} {caption} {rules.suffix}").replace(" ,", ",")


def _kept_edits(
    dataset: Editable,
    records: Sequence[EditableRecord],
    overrides: Mapping[str, Edit | None],
    rules: EditRules,
    check: Callable[[], None],
) -> dict[str, Edit]:
    """The edits on disk, after the overrides have been added to them. A locked one is changed by a lock alone."""
    edits = read_edits(dataset.folder)
    for record in records:  # made before private data was taken out of the file
        if record.source_sha256 in edits:
            edits.setdefault(record.sha256, edits[record.source_sha256])
    by_hash = {record.sha256: record for record in records}
    hashes = sorted(by_hash)
    for digits, override in overrides.items():
        check()
        # "g" comes behind every hexadecimal digit.
        named = hashes[bisect_left(hashes, digits) : bisect_left(hashes, f"{digits}g")]
        if len(named) != 1:
            raise SettingsError(
                f"The override for '{digits}' fits {len(named)} pictures of the dataset. "
                + ("Type more digits of the hash." if named else "Take that line out, or correct the hash.")
            )
        sha256, held = named[0], edits.get(named[0])
        if override is not None and not override.text:  # a lock of the caption as it is
            text = (
                held.text if held else edited(without_trigger(by_hash[sha256].text, rules.trigger_word), rules, check)
            )
            if not text:
                raise SettingsError(f"The picture {digits} has no caption to lock. Type one behind its '!'.")
            override = held if held and held.locked else Edit(text, True)
        if held and held.locked and override is not None and not override.locked:
            continue
        if override != held:
            save_edit(dataset.folder, sha256, override)
            if override is None:
                edits.pop(sha256, None)
                if (source := by_hash[sha256].source_sha256) in edits:
                    save_edit(dataset.folder, source, None)
            else:
                edits[sha256] = override
    return edits


def _thumbnail(picture: Path, sha256: str, folder: Path | None) -> str:
    """The name of the picture's small copy in `folder`, made if it is not there yet."""
    if folder is None:
        return ""
    target = folder / f"{sha256[:32]}.jpg"
    if not target.exists():
        try:
            small = thumbnail(picture, THUMBNAIL_SIDE)
        except PictureRefused:  # the table shows the caption alone
            return ""
        with appearing(target) as temporary:
            small.save(temporary, "JPEG", quality=80)
    return target.name


def _report(rows: Sequence[TableRow], before: Sequence[EditableRecord], doubts: str) -> str:
    changed = sum(row.caption != record.text for row, record in zip(rows, before, strict=True))
    by_hand, locked = sum(row.edited for row in rows), sum(row.locked for row in rows)
    empty = [row for row in rows if not row.caption]
    lines = [f"{len(rows)} captions, {changed} changed, {by_hand} by hand, {locked} of them locked."]
    if empty:
        lines.append(f"{len(empty)} pictures have no caption; write them as overrides:")
        lines += [f"  {row.sha256[:12]}: " for row in empty[:LISTED]]
    return "\n".join([*lines, doubts])


def table(rows: Sequence[TableRow]) -> list[dict[str, Any]]:
    """The rows as plain values, for JSON."""
    return [asdict(row) for row in rows]
