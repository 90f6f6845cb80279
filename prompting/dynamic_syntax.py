"""How a dynamic prompt is written, read into parts; what they stand for is for `dynamic`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import SettingsError
from ..texts import one_line

MAX_NESTING = 50  # of braces in braces, and of wildcards in wildcards
MAX_NUMBER = 1_000_000_000  # of picks, and of a weight: Python reads at most 4,300 digits, and sums must be finite
MAX_WRITTEN = 200_000  # characters of a dynamic prompt: reading it takes a second
SEPARATOR = ", "  # between several picks, unless one is written

# Each of these fails in time proportional to what it has read: no two of its repetitions can share the same characters.
_COUNT = re.compile(r"(\d*)(?:(-)(\d*))?\$\$")
_WRITTEN_SEPARATOR = re.compile(r"([^{}|]*?)\$\$")
_WEIGHT = re.compile(r"\s*(-?(?:\d+(?:\.\d*)?|\.\d+))::")
_VARIABLE = re.compile(r"\$\{\s*(\w+)\s*(=!?|:|\})")
_WILDCARD = re.compile(r"__([^\W_][\w*?./ -]*?|[*?][\w*?./ -]*?)__")
_PLAIN = re.compile(r"[^\\{}|$#_]+")  # nothing that could mean something
_ESCAPABLE = "{}|$#_"

Check = Callable[[], None]  # ends the work by raising


def never() -> None:
    """A `Check` that lets everything go on."""


class DynamicPromptError(SettingsError):
    """A dynamic prompt cannot be read. `position` is the character at fault, counted from 0 in `text`."""

    def __init__(self, what: str, text: str, position: int, source: str) -> None:
        self.position = position
        line = text.count("\n", 0, position) + 1
        column = position - text.rfind("\n", 0, position)
        near = one_line(text[position : position + 24])
        super().__init__(f"{source}, line {line}, character {column}, at '{near}': {what}")


@dataclass(frozen=True)
class Place:
    """Where a part was written, for errors."""

    text: str
    position: int
    source: str

    def error(self, what: str) -> DynamicPromptError:
        return DynamicPromptError(what, self.text, self.position, self.source)


@dataclass(frozen=True)
class Option:
    weight: float
    parts: tuple


@dataclass(frozen=True)
class Choice:
    options: tuple[Option, ...]
    low: int
    high: int | None  # None: as many as there are
    separator: str
    place: Place


@dataclass(frozen=True)
class Wildcard:
    pattern: str
    place: Place


@dataclass(frozen=True)
class Assignment:
    name: str
    parts: tuple
    once: bool


@dataclass(frozen=True)
class Use:
    name: str
    default: tuple | None
    place: Place


class Parser:
    """Reads one text; `source` is how errors call it."""

    def __init__(self, text: str, source: str, check: Check = never) -> None:
        if len(text) > MAX_WRITTEN:
            raise SettingsError(f"{source} has {len(text):,} characters. Write at most {MAX_WRITTEN:,}.")
        self.text, self.source, self._check = text, source, check
        self.position = 0
        self.depth = 0

    def place(self, position: int | None = None) -> Place:
        return Place(self.text, self.position if position is None else position, self.source)

    def parts(self, stops: str = "") -> tuple:
        """Everything up to one of `stops`, which is left standing, or to the end."""
        found: list = []
        while self.position < len(self.text) and self.text[self.position] not in (stops or "}"):
            self._check()
            found.append(self._part(stops))
        if not stops and self.position < len(self.text):
            raise self.place().error("this '}' closes nothing. Remove it, or write \\} for the character.")
        return tuple(found)

    def option(self, stops: str = "") -> Option:
        weight = 1.0
        if written := _WEIGHT.match(self.text, self.position):
            weight = float(written[1])
            if weight < 0:
                raise self.place().error(f"the weight {written[1][:20]} is below 0. Write 0 or more.")
            if not weight <= MAX_NUMBER:
                raise self.place().error(f"the weight is above {MAX_NUMBER:,}. Write a smaller one.")
            self.position = written.end()
        return Option(weight, self.parts(stops))

    def _part(self, stops: str):
        text, start = self.text, self.position
        if text.startswith("${", start):
            return self._nested(self._variable)
        if text[start] == "{":
            return self._nested(self._choice)
        if wildcard := _WILDCARD.match(text, start):
            self.position = wildcard.end()
            return Wildcard(wildcard[1], self.place(start))
        return self._words(stops)

    def _nested(self, read):
        self.depth += 1
        if self.depth > MAX_NESTING:
            raise self.place().error(f"braces are nested more than {MAX_NESTING} deep.")
        part = read()
        self.depth -= 1
        return part

    def _words(self, stops: str) -> str:
        """Plain text up to whatever is not: at least one character, or a comment, which gives nothing."""
        text, words = self.text, ""
        while self.position < len(text):
            start = self.position
            if plain := _PLAIN.match(text, start):
                words += plain[0]
                self.position = plain.end()
                continue
            letter = text[start]
            if letter == "\\" and text[start + 1 : start + 2] and text[start + 1] in _ESCAPABLE:
                words += text[start + 1]
                self.position += 2
            elif letter in (stops or "}") or self._opens_something():
                break
            elif letter == "#" and self._is_comment():
                words = words.rstrip(" \t")
                self._skip_comment()
            else:
                words += letter
                self.position += 1
        return words

    def _opens_something(self) -> bool:
        return self.text.startswith(("{", "${"), self.position) or bool(_WILDCARD.match(self.text, self.position))

    def _is_comment(self) -> bool:
        before = self.text[max(self.position - 1, 0) : self.position]
        after = self.text[self.position + 1 : self.position + 2]
        return self._opens_the_line() or (before.isspace() and (not after or after.isspace()))

    def _opens_the_line(self) -> bool:
        """Whether only spaces stand before this; looked at from here, so that each is passed by once."""
        start = self.position
        while start and self.text[start - 1] != "\n" and self.text[start - 1].isspace():
            start -= 1
        return not start or self.text[start - 1] == "\n"

    def _skip_comment(self) -> None:
        opens_the_line = self._opens_the_line()
        end = self.text.find("\n", self.position)
        self.position = len(self.text) if end < 0 else end + opens_the_line

    def _choice(self) -> Choice:
        opening = self.place()
        self.position += 1
        low, high, separator = self._count()
        options = []
        while True:
            options.append(self.option("|}"))
            if self.position >= len(self.text):
                raise opening.error("this '{' is never closed. Write the '}', or \\{ for the character.")
            self.position += 1
            if self.text[self.position - 1] == "}":
                break
        if options == [Option(1.0, ())]:
            raise opening.error("there is nothing to choose from. Write options between the braces: {red|green}.")
        if not any(option.weight for option in options):
            raise opening.error("every weight is 0, so that nothing can be taken.")
        return Choice(tuple(options), low, high, separator, opening)

    def _count(self) -> tuple[int, int | None, str]:
        written = _COUNT.match(self.text, self.position)
        if not written or not (written[1] or written[3]):
            if _WRITTEN_SEPARATOR.match(self.text, self.position):
                raise self.place().error("before '$$' stands how many to take: {2$$…}, {1-2$$…}, {-2$$…} or {2-$$…}.")
            return 1, 1, SEPARATOR
        if max(len(written[1]), len(written[3] or "")) >= len(str(MAX_NUMBER)):
            raise self.place().error(f"more than {MAX_NUMBER - 1:,} are to be taken. Write a smaller number.")
        low = int(written[1] or 1)
        high = int(written[3]) if written[3] else None if written[2] else low
        if high is not None and high < low:
            raise self.place().error(f"'{written[0][:-2]}' counts down. Write the smaller number first.")
        self.position = written.end()
        separator = _WRITTEN_SEPARATOR.match(self.text, self.position)
        if not separator:
            return low, high, SEPARATOR
        self.position = separator.end()
        return low, high, separator[1]

    def _variable(self):
        opening = self.place()
        head = _VARIABLE.match(self.text, self.position)
        if not head:
            raise opening.error("'${' opens a variable: write ${name=value} or ${name}, or \\$ for the character.")
        self.position = head.end()
        name, kind = head[1], head[2]
        if kind == "}":
            return Use(name, None, opening)
        parts = self._value_of_variable(opening)
        return Use(name, parts, opening) if kind == ":" else Assignment(name, parts, kind == "=!")

    def _value_of_variable(self, opening: Place) -> tuple:
        """Up to the closing brace; several values with '|' between them are a choice."""
        first = self.place()
        options = []
        while not options or self.text[self.position - 1] == "|":
            options.append(self.option("|}"))
            if self.position >= len(self.text):
                raise opening.error("this '${' is never closed. Write the '}'.")
            self.position += 1
        if len(options) == 1:
            return options[0].parts
        if not any(option.weight for option in options):
            raise first.error("every weight is 0, so that nothing can be taken.")
        return (Choice(tuple(options), 1, 1, SEPARATOR, first),)
