"""Dynamic prompts: one text that stands for many, by choices, wildcards and variables.

==========================  =========================================================================================
``{red|green}``             one of them; an option may be empty, and may hold whatever is written here
``{3::red|green}``          weights, 1 where none is written; 0 is never taken
``{2$$a|b|c}``              two different ones in any order, joined by ", "
``{1-2$$ and $$a|b|c}``     one or two, joined by " and "; ``{-2$$…}`` is one or two, ``{2-$$…}`` two or more
``__animals/cat*__``        a line of the wildcard files whose names match; lines may hold whatever is written here
``${tone=warm|cold}``       a variable for the text after it, read anew at each use; ``${tone=!…}`` is read once
``${tone}  ${tone:grey}``   its value; the second with what to take when it has none
``# words``                 a comment to the end of the line, where '#' opens the line or stands between spaces
``\\{ \\} \\| \\$ \\# \\_``       the character itself
==========================  =========================================================================================

The syntax is that of adieyal's dynamicprompts. Parentheses and their weights, ``(x:1.2)``, are left to the encoder.
"""

from __future__ import annotations

import fnmatch
import itertools
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..errors import SettingsError
from .text_file import read_text

MAX_NESTING = 50  # of braces in braces, and of wildcards in wildcards
MAX_DEPTH = 150  # of everything in everything while expanding; a level is three of Python's 1,000 frames
MAX_NUMBER = 1_000_000_000  # of picks, and of a weight: Python reads at most 4,300 digits, and sums must be finite
MAX_WRITTEN = 200_000  # characters of a dynamic prompt: reading it takes a second
MAX_LENGTH = 100_000  # characters of one expanded prompt
MAX_TOGETHER = 50_000_000  # characters of all combinations
MAX_STEPS = 100_000  # parts read for one expanded prompt: variables can double themselves without end
MAX_COMBINATIONS = 10_000
SEPARATOR = ", "  # between several picks, unless one is written

# Each of these fails in time proportional to what it has read: no two of its repetitions can share the same characters.
_COUNT = re.compile(r"(\d*)(?:(-)(\d*))?\$\$")
_WRITTEN_SEPARATOR = re.compile(r"([^{}|]*?)\$\$")
_WEIGHT = re.compile(r"\s*(-?(?:\d+(?:\.\d*)?|\.\d+))::")
_VARIABLE = re.compile(r"\$\{\s*(\w+)\s*(=!?|:|\})")
_WILDCARD = re.compile(r"__([^\W_][\w*?./ -]*?|[*?][\w*?./ -]*?)__")
_PLAIN = re.compile(r"[^\\{}|$#_]+")  # nothing that could mean something
_ESCAPABLE = "{}|$#_"

_LOOK_EVERY = 256  # parts between two looks at Cancel; one takes at most some milliseconds
_VARIABLES_OF_A_PART = 8  # of those set so far: they are copied where another is set, so that a copy counts as parts
_OPTIONS_OF_A_PART = 64

Check = Callable[[], None]  # ends the work by raising
Wildcards = Mapping[str, Sequence[str]]  # name, with "/" between folders and no extension -> its lines


class DynamicPromptError(SettingsError):
    """A dynamic prompt cannot be read. `position` is the character at fault, counted from 0 in `text`."""

    def __init__(self, what: str, text: str, position: int, source: str) -> None:
        self.position = position
        line = text.count("\n", 0, position) + 1
        column = position - text.rfind("\n", 0, position)
        near = " ".join(text[position : position + 24].split())
        super().__init__(f"{source}, line {line}, character {column}, at '{near}': {what}")


@dataclass(frozen=True)
class _Place:
    """Where a part was written, for errors."""

    text: str
    position: int
    source: str

    def error(self, what: str) -> DynamicPromptError:
        return DynamicPromptError(what, self.text, self.position, self.source)


@dataclass(frozen=True)
class _Option:
    weight: float
    parts: tuple


@dataclass(frozen=True)
class _Choice:
    options: tuple[_Option, ...]
    low: int
    high: int | None  # None: as many as there are
    separator: str
    place: _Place


@dataclass(frozen=True)
class _Wildcard:
    pattern: str
    place: _Place


@dataclass(frozen=True)
class _Assignment:
    name: str
    parts: tuple
    once: bool


@dataclass(frozen=True)
class _Use:
    name: str
    default: tuple | None
    place: _Place


def never() -> None:
    """A `Check` that lets everything go on."""


def expand(text: str, seed: int, wildcards: Wildcards | None = None, check: Check = never) -> str:
    """One prompt from a dynamic one; the same seed and wildcards always give the same.

    Args:
        check: called many times a second; ends this by raising.

    Raises:
        DynamicPromptError: the text or a wildcard's line cannot be read.
        SettingsError: the text is longer than 200,000 characters, or its prompt than 100,000.
    """
    return next(_Expansion(wildcards or {}, _AtRandom(seed, check), check).of(text))


def combinations(text: str, wildcards: Wildcards | None = None, check: Check = never) -> list[str]:
    """Every prompt that a dynamic one stands for, the first choice changing slowest.

    Args:
        check: as `expand`.

    Raises:
        DynamicPromptError, SettingsError: as `expand`; also where there are more than 10,000, or 50 million characters.
    """
    prompts: list[str] = []
    length = 0
    for prompt in _Expansion(wildcards or {}, _Everything(), check).of(text):
        prompts.append(prompt)
        length += len(prompt)
        if len(prompts) > MAX_COMBINATIONS or length > MAX_TOGETHER:
            much = f"{MAX_COMBINATIONS:,} combinations"
            if length > MAX_TOGETHER:
                much = f"{MAX_TOGETHER:,} characters in all its combinations"
            raise SettingsError(
                f"The dynamic prompt has more than {much}. Take some at random, or write fewer options."
            )
    return prompts


def read_wildcards(folder: str | Path) -> dict[str, tuple[str, ...]]:
    """The .txt files under `folder` as wildcards: a value a line, without empty lines and lines that open with '#'.

    Raises:
        SettingsError: a file is not UTF-8.
    """
    root = Path(folder)
    return {
        path.relative_to(root).with_suffix("").as_posix(): _values(read_text(path))
        for path in sorted(root.rglob("*.txt"))
    }


def _values(content: str) -> tuple[str, ...]:
    lines = (line.strip() for line in content.splitlines())
    return tuple(line for line in lines if line and not line.startswith("#"))


class _Parser:
    """Reads one text; `source` is how errors call it."""

    def __init__(self, text: str, source: str, check: Check = never) -> None:
        if len(text) > MAX_WRITTEN:
            raise SettingsError(f"{source} has {len(text):,} characters. Write at most {MAX_WRITTEN:,}.")
        self.text, self.source, self._check = text, source, check
        self.position = 0
        self.depth = 0

    def place(self, position: int | None = None) -> _Place:
        return _Place(self.text, self.position if position is None else position, self.source)

    def parts(self, stops: str = "") -> tuple:
        """Everything up to one of `stops`, which is left standing, or to the end."""
        found: list = []
        while self.position < len(self.text) and self.text[self.position] not in (stops or "}"):
            self._check()
            found.append(self._part(stops))
        if not stops and self.position < len(self.text):
            raise self.place().error("this '}' closes nothing. Remove it, or write \\} for the character.")
        return tuple(found)

    def option(self, stops: str = "") -> _Option:
        weight = 1.0
        if written := _WEIGHT.match(self.text, self.position):
            weight = float(written[1])
            if weight < 0:
                raise self.place().error(f"the weight {written[1][:20]} is below 0. Write 0 or more.")
            if not weight <= MAX_NUMBER:
                raise self.place().error(f"the weight is above {MAX_NUMBER:,}. Write a smaller one.")
            self.position = written.end()
        return _Option(weight, self.parts(stops))

    def _part(self, stops: str):
        text, start = self.text, self.position
        if text.startswith("${", start):
            return self._nested(self._variable)
        if text[start] == "{":
            return self._nested(self._choice)
        if wildcard := _WILDCARD.match(text, start):
            self.position = wildcard.end()
            return _Wildcard(wildcard[1], self.place(start))
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

    def _choice(self) -> _Choice:
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
        if options == [_Option(1.0, ())]:
            raise opening.error("there is nothing to choose from. Write options between the braces: {red|green}.")
        if not any(option.weight for option in options):
            raise opening.error("every weight is 0, so that nothing can be taken.")
        return _Choice(tuple(options), low, high, separator, opening)

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
            return _Use(name, None, opening)
        parts = self._value_of_variable(opening)
        return _Use(name, parts, opening) if kind == ":" else _Assignment(name, parts, kind == "=!")

    def _value_of_variable(self, opening: _Place) -> tuple:
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
        return (_Choice(tuple(options), 1, 1, SEPARATOR, first),)


class _AtRandom:
    """Goes one way at each choice."""

    def __init__(self, seed: int, check: Check) -> None:
        self._random, self._check = random.Random(seed), check

    def picks(self, weights: list[float], low: int, high: int) -> Iterator[tuple[int, ...]]:
        count = self._random.randint(low, high)
        if count > MAX_STEPS:
            raise _too_many_parts()
        rest = [index for index, weight in enumerate(weights) if weight]
        left = [weights[index] for index in rest]
        alike = all(weight == 1 for weight in left)
        taken: list[int] = []
        for _ in range(count):
            self._check()
            if alike:  # what `choices` draws, without adding up the weights once more for each pick
                drawn = min(int(self._random.random() * len(rest)), len(rest) - 1)
            else:
                drawn = self._random.choices(range(len(rest)), left)[0]
            taken.append(rest.pop(drawn))
            left.pop(drawn)
        yield tuple(taken)


class _Everything:
    """Goes every way at each choice."""

    def picks(self, weights: list[float], low: int, high: int) -> Iterator[tuple[int, ...]]:
        possible = [index for index, weight in enumerate(weights) if weight]
        for count in range(low, high + 1):
            yield from itertools.permutations(possible, count)


@dataclass(frozen=True)
class _Scope:
    """What a part is read under: the variables set before it, those whose own value it is in, and its wildcards."""

    variables: Mapping[str, tuple] = field(default_factory=dict)
    hidden: frozenset[str] = frozenset()
    within: tuple[str, ...] = ()

    def having(self, name: str, parts: tuple) -> _Scope:
        return _Scope({**self.variables, name: parts}, self.hidden - {name}, self.within)

    def value(self, name: str) -> tuple | None:
        return None if name in self.hidden else self.variables.get(name)


def _too_many_parts() -> SettingsError:
    return SettingsError(f"The dynamic prompt has more than {MAX_STEPS:,} parts. Shorten its variables.")


class _Expansion:
    """Walks a parsed prompt depth first, as many ways as `way` goes."""

    def __init__(self, wildcards: Wildcards, way: _AtRandom | _Everything, check: Check) -> None:
        self._wildcards, self._way, self._check = wildcards, way, check
        self._lines: dict[str, tuple[_Option, ...]] = {}
        self._matching: dict[str, tuple[_Option, ...]] = {}  # lines by pattern
        self._steps = 0

    def of(self, text: str) -> Iterator[str]:
        parser = _Parser(text, "The dynamic prompt", self._check)
        for prompt, _ in self._sequence(parser.parts(), _Scope(), 0):
            self._steps = 0
            self._check()
            yield prompt.strip()

    def _step(self, cost: int = 1) -> None:
        before = self._steps
        self._steps += cost
        if self._steps > MAX_STEPS:
            raise _too_many_parts()
        if before // _LOOK_EVERY != self._steps // _LOOK_EVERY:
            self._check()

    def _sequence(self, parts: tuple, scope: _Scope, depth: int) -> Iterator[tuple[str, _Scope]]:
        if not parts:
            yield "", scope
            return
        running, before = [self._part(parts[0], scope, depth)], [""]  # one iterator a part; the text in front of each
        while running:
            text, reached = next(running[-1], (None, None))
            if text is None:
                running.pop()
                before.pop()
                continue
            text = before[-1] + text
            if len(text) > MAX_LENGTH:
                raise SettingsError(
                    f"The dynamic prompt grows beyond {MAX_LENGTH:,} characters. Shorten its variables."
                )
            if len(running) == len(parts):
                yield text, reached
            else:
                running.append(self._part(parts[len(running)], reached, depth))
                before.append(text)

    def _part(self, part, scope: _Scope, depth: int) -> Iterator[tuple[str, _Scope]]:
        self._step(1 + isinstance(part, _Assignment) * len(scope.variables) // _VARIABLES_OF_A_PART)
        if depth > MAX_DEPTH and isinstance(part, _Choice | _Wildcard | _Use):
            raise part.place.error(f"variables, wildcards and braces lead into one another more than {MAX_DEPTH} deep.")
        if isinstance(part, str):
            yield part, scope
        elif isinstance(part, _Choice):
            yield from self._choose(self._flattened(part, scope), part, scope, depth)
        elif isinstance(part, _Wildcard):
            choice = _Choice(self._options(part, scope), 1, 1, SEPARATOR, part.place)
            inner = replace(scope, within=(*scope.within, part.pattern))
            for text, _ in self._choose(choice.options, choice, inner, depth):
                yield text, scope
        elif isinstance(part, _Use):
            yield from self._use(part, scope, depth)
        elif part.once:
            for text, _ in self._sequence(part.parts, scope, depth + 1):
                yield "", scope.having(part.name, (text,))
        else:
            yield "", scope.having(part.name, part.parts)

    def _choose(
        self, options: tuple[_Option, ...], choice: _Choice, scope: _Scope, depth: int
    ) -> Iterator[tuple[str, _Scope]]:
        self._step(len(options) // _OPTIONS_OF_A_PART)
        possible = sum(option.weight > 0 for option in options)
        if choice.low > possible:
            raise choice.place.error(f"{choice.low} are to be taken, and there are {possible}.")
        high = possible if choice.high is None else min(choice.high, possible)
        for picks in self._way.picks([option.weight for option in options], choice.low, high):
            parts: list = []
            for index in picks:
                parts += [*([choice.separator] if parts else []), *(options[index].parts or ("",))]
            yield from self._sequence(tuple(parts), scope, depth + 1)

    def _flattened(self, choice: _Choice, scope: _Scope) -> tuple[_Option, ...]:
        """Several picks from one wildcard, ``{2$$__colour__}``, are picks among its lines."""
        only = choice.options[0].parts if len(choice.options) == 1 else ()
        if len(only) == 1 and isinstance(only[0], _Wildcard):
            return self._options(only[0], scope)
        return choice.options

    def _options(self, wildcard: _Wildcard, scope: _Scope) -> tuple[_Option, ...]:
        if wildcard.pattern in scope.within or len(scope.within) >= MAX_NESTING:
            chain = " > ".join([*scope.within, wildcard.pattern])
            raise wildcard.place.error(f"the wildcard leads back to itself: {chain}.")
        if wildcard.pattern not in self._matching:
            names = [name for name in sorted(self._wildcards) if fnmatch.fnmatchcase(name, wildcard.pattern)]
            self._matching[wildcard.pattern] = tuple(option for name in names for option in self._parsed(name))
        options = self._matching[wildcard.pattern]
        if not options:
            known = ", ".join(sorted(self._wildcards)[:8]) or "none"
            raise wildcard.place.error(f"no wildcard file '{wildcard.pattern}' has any line. There are: {known}.")
        if not any(option.weight for option in options):
            raise wildcard.place.error(f"every line of the wildcard '{wildcard.pattern}' has the weight 0.")
        return options

    def _parsed(self, name: str) -> tuple[_Option, ...]:
        if name not in self._lines:
            lines = enumerate(self._wildcards[name], start=1)
            self._lines[name] = tuple(
                _Parser(line, f"Value {n} of the wildcard '{name}'", self._check).option() for n, line in lines
            )
        return self._lines[name]

    def _use(self, use: _Use, scope: _Scope, depth: int) -> Iterator[tuple[str, _Scope]]:
        parts = scope.value(use.name)
        parts = use.default if parts is None else parts
        if parts is None:
            raise use.place.error(f"the variable '{use.name}' has no value before this. Write ${{{use.name}=…}} first.")
        # Read at use, a value that uses its own name would never end: inside its own value the name has none.
        inner = replace(scope, hidden=scope.hidden | {use.name})
        for text, _ in self._sequence(parts, inner, depth + 1):
            yield text, scope
