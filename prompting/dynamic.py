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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..errors import SettingsError
from .dynamic_syntax import (
    MAX_NESTING,
    SEPARATOR,
    Assignment,
    Check,
    Choice,
    DynamicPromptError,
    Option,
    Parser,
    Use,
    Wildcard,
    never,
)

__all__ = ["Check", "DynamicPromptError", "Wildcards", "combinations", "expand", "never"]

MAX_DEPTH = 150  # of everything in everything while expanding; a level is three of Python's 1,000 frames
MAX_LENGTH = 100_000  # characters of one expanded prompt
MAX_TOGETHER = 50_000_000  # characters of all combinations
MAX_STEPS = 100_000  # parts read for one expanded prompt: variables can double themselves without end
MAX_COMBINATIONS = 10_000

_LOOK_EVERY = 256  # parts between two looks at Cancel; one takes at most some milliseconds
_VARIABLES_OF_A_PART = 8  # of those set so far: they are copied where another is set, so that a copy counts as parts
_OPTIONS_OF_A_PART = 64

Wildcards = Mapping[str, Sequence[str]]  # name, with "/" between folders and no extension -> its lines


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
        self._lines: dict[str, tuple[Option, ...]] = {}
        self._matching: dict[str, tuple[Option, ...]] = {}  # lines by pattern
        self._steps = 0

    def of(self, text: str) -> Iterator[str]:
        parser = Parser(text, "The dynamic prompt", self._check)
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
        self._step(1 + isinstance(part, Assignment) * len(scope.variables) // _VARIABLES_OF_A_PART)
        if depth > MAX_DEPTH and isinstance(part, Choice | Wildcard | Use):
            raise part.place.error(f"variables, wildcards and braces lead into one another more than {MAX_DEPTH} deep.")
        if isinstance(part, str):
            yield part, scope
        elif isinstance(part, Choice):
            yield from self._choose(self._flattened(part, scope), part, scope, depth)
        elif isinstance(part, Wildcard):
            choice = Choice(self._options(part, scope), 1, 1, SEPARATOR, part.place)
            inner = replace(scope, within=(*scope.within, part.pattern))
            for text, _ in self._choose(choice.options, choice, inner, depth):
                yield text, scope
        elif isinstance(part, Use):
            yield from self._use(part, scope, depth)
        elif part.once:
            for text, _ in self._sequence(part.parts, scope, depth + 1):
                yield "", scope.having(part.name, (text,))
        else:
            yield "", scope.having(part.name, part.parts)

    def _choose(
        self, options: tuple[Option, ...], choice: Choice, scope: _Scope, depth: int
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

    def _flattened(self, choice: Choice, scope: _Scope) -> tuple[Option, ...]:
        """Several picks from one wildcard, ``{2$$__colour__}``, are picks among its lines."""
        only = choice.options[0].parts if len(choice.options) == 1 else ()
        if len(only) == 1 and isinstance(only[0], Wildcard):
            return self._options(only[0], scope)
        return choice.options

    def _options(self, wildcard: Wildcard, scope: _Scope) -> tuple[Option, ...]:
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

    def _parsed(self, name: str) -> tuple[Option, ...]:
        if name not in self._lines:
            lines = enumerate(self._wildcards[name], start=1)
            self._lines[name] = tuple(
                Parser(line, f"Value {n} of the wildcard '{name}'", self._check).option() for n, line in lines
            )
        return self._lines[name]

    def _use(self, use: Use, scope: _Scope, depth: int) -> Iterator[tuple[str, _Scope]]:
        parts = scope.value(use.name)
        parts = use.default if parts is None else parts
        if parts is None:
            raise use.place.error(f"the variable '{use.name}' has no value before this. Write ${{{use.name}=…}} first.")
        # Read at use, a value that uses its own name would never end: inside its own value the name has none.
        inner = replace(scope, hidden=scope.hidden | {use.name})
        for text, _ in self._sequence(parts, inner, depth + 1):
            yield text, scope
