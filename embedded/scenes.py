"""What a painting shows, decided from a kind and a seed: composition, light and variable things, and a true caption.

Nothing is drawn here; `landscapes`, `portraits`, `cityscapes` and `still_lifes` draw what a Scene says.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import SettingsError

KINDS = ("landscape", "portrait", "cityscape", "still life")
GENRES = {"landscape": "landscape", "portrait": "portrait", "cityscape": "cityscape", "still life": "still_life"}

DAYLIGHT = ("morning", "noon", "afternoon", "sunset", "dusk")
# Each composition: the lights it is shown in, the things that vary, and the caption with their places.
_COMPOSITIONS: dict[str, dict[str, tuple[tuple[str, ...], dict[str, tuple[str, ...]], str]]] = {
    "landscape": {
        "river": (
            DAYLIGHT,
            {"flowers": ("yellow", "white", "violet")},
            "a river winding through green meadows past tall poplars towards blue hills, "
            "with {flowers} flowers in the grass",
        ),
        "poppies": (
            ("morning", "noon", "afternoon"),
            {"parasol": ("white", "yellow", "blue")},
            "a woman with a {parasol} parasol and a child walking through a field of red poppies, "
            "a red-roofed house among the trees behind them",
        ),
        "haystacks": (
            ("morning", "afternoon", "sunset"),
            {"number": ("two", "three")},
            "{number} haystacks on a stubble field, casting long shadows, with a line of trees and hills beyond",
        ),
        "sailboats": (
            ("morning", "noon", "sunset", "dusk"),
            {"sails": ("white", "red", "ochre")},
            "sailboats with {sails} sails on calm water, their reflections broken by ripples, "
            "a low coast in the distance",
        ),
        "lily pond": (
            ("morning", "noon", "afternoon"),
            {"lilies": ("pink", "white", "yellow")},
            "an arched green footbridge over a pond with {lilies} water lilies, willows hanging above the water",
        ),
        "snow": (
            ("morning", "afternoon", "sunset"),
            {"figures": ("one person", "two people")},
            "a lane through deep snow with {figures} walking towards a village, "
            "bare trees and houses with snow on their roofs",
        ),
        "cliffs": (
            ("morning", "noon", "afternoon", "sunset"),
            {"boats": ("a single sailboat", "three small sailboats")},
            "white cliffs with a natural arch above the sea, {boats} offshore and a pebble beach in front",
        ),
    },
    "portrait": {
        "parasol": (
            ("morning", "noon", "afternoon"),
            {"dress": ("white", "pale pink", "pale blue"), "parasol": ("green", "ochre", "rose")},
            "a woman in a {dress} dress standing on a grassy hill, "
            "holding a {parasol} parasol against a sky with clouds",
        ),
        "straw hat": (
            ("morning", "noon", "afternoon"),
            {"ribbon": ("blue", "red", "violet"), "dress": ("white", "pale blue", "yellow")},
            "a young woman in a straw hat with a {ribbon} ribbon and a {dress} dress, her eyes lowered, "
            "in a leafy garden",
        ),
        "profile": (
            ("morning", "afternoon", "lamplight"),
            {"hair": ("auburn", "dark", "fair"), "dress": ("green", "blue", "rose")},
            "a woman with {hair} hair gathered in a bun, seen in profile, wearing a {dress} dress with a white collar "
            "before a plain backdrop",
        ),
        "headscarf": (
            ("morning", "afternoon", "lamplight"),
            {"scarf": ("red", "blue", "yellow"), "shawl": ("green", "violet", "brown")},
            "a woman in a {scarf} headscarf and a {shawl} shawl, her eyes lowered, before a plain backdrop",
        ),
        "bearded man": (
            ("morning", "afternoon", "lamplight"),
            {"beard": ("grey", "brown", "red"), "jacket": ("blue", "green", "brown")},
            "a man with a {beard} beard in a broad-brimmed hat and a {jacket} jacket, before a plain backdrop",
        ),
    },
    "cityscape": {
        "boulevard": (
            ("morning", "afternoon", "sunset"),
            {"trees": ("green", "golden")},
            "a boulevard lined with tall houses and {trees} trees, people and carriages on the broad street",
        ),
        "rain": (
            ("evening", "dusk"),
            {"umbrellas": ("dark blue", "red", "violet")},
            "people with {umbrellas} umbrellas on a wet street after rain, "
            "lit windows and street lamps reflected on the pavement",
        ),
        "bridge": (
            ("morning", "noon", "sunset", "dusk"),
            {"boats": ("a barge", "two small boats")},
            "a stone bridge with arches over a river in a town, houses and a church tower beyond it, "
            "{boats} on the water",
        ),
        "canal": (
            ("morning", "noon", "afternoon", "sunset"),
            {"facades": ("pink and ochre", "red brick", "pale")},
            "a canal between {facades} houses, their reflections in the water, a moored boat and a small footbridge",
        ),
    },
    "still life": {
        "fruit": (
            ("morning", "afternoon"),
            {"fruit": ("apples", "oranges", "peaches"), "wall": ("blue", "green", "grey")},
            "{fruit} in a white bowl and on a folded white cloth, with a green bottle, before a {wall} wall",
        ),
        "flowers": (
            ("morning", "afternoon"),
            {
                "flowers": ("sunflowers", "pink and white peonies", "violet irises", "red and orange dahlias"),
                "vase": ("blue", "white", "ochre"),
            },
            "{flowers} in a {vase} vase on a table, before a plain wall",
        ),
        "jug": (
            ("morning", "afternoon", "lamplight"),
            {"jug": ("blue", "white", "copper"), "fruit": ("lemons", "pears")},
            "a {jug} jug with {fruit}, a loaf of bread and a glass of red wine on a wooden table",
        ),
        "window": (
            ("morning", "noon"),
            {"flowers": ("red geraniums", "white daisies"), "fruit": ("oranges", "apples")},
            "a pot of {flowers} and a plate of {fruit} on the sill of an open window, with a view of hills and sea",
        ),
    },
}
_LIGHT_WORDS = {
    "morning": "in pale morning light",
    "noon": "in bright midday light",
    "afternoon": "in warm afternoon light",
    "sunset": "at sunset, under an orange and violet sky",
    "dusk": "at dusk, in deep blue light",
    "evening": "in the evening, under a violet sky",
    "lamplight": "in the evening, by warm lamplight",
}


@dataclass(frozen=True)
class Scene:
    """One subject; `choices` are the variable things, as (what, which) pairs."""

    kind: str
    composition: str
    light: str
    choices: tuple[tuple[str, str], ...]
    seed: int

    def choice(self, what: str) -> str:
        return dict(self.choices)[what]

    def random(self, purpose: int = 0) -> np.random.Generator:
        """A generator of its own for each purpose, so that drawing and finishing never disturb each other."""
        return np.random.default_rng((self.seed, KINDS.index(self.kind), purpose))


def compositions(kind: str) -> tuple[str, ...]:
    """The compositions of a kind, in a fixed order."""
    return tuple(_COMPOSITIONS[_checked(kind)])


def scene(kind: str, seed: int) -> Scene:
    """The scene of this kind and seed; neighbouring seeds go through the compositions in turn.

    Raises:
        SettingsError: `kind` is not one of `KINDS`, or `seed` is negative.
    """
    table = _COMPOSITIONS[_checked(kind)]
    if seed < 0:
        raise SettingsError(f"The seed {seed} is negative. Use 0 or a positive whole number.")
    rng = np.random.default_rng((seed, KINDS.index(kind), 7))
    composition = tuple(table)[seed % len(table)]
    lights, variable, _ = table[composition]
    light = lights[int(rng.integers(len(lights)))]
    choices = tuple((what, options[int(rng.integers(len(options)))]) for what, options in variable.items())
    return Scene(kind, composition, light, choices, seed)


def caption(scene: Scene) -> str:
    """One sentence that is true of the picture: what is in it, its colours, and the light. It names no style."""
    words = _COMPOSITIONS[scene.kind][scene.composition][2].format(**dict(scene.choices))
    return f"{words[0].upper()}{words[1:]}, {_LIGHT_WORDS[scene.light]}."


def _checked(kind: str) -> str:
    if kind not in KINDS:
        raise SettingsError(f"There is no kind of scene called '{kind}'. Choose one of: {', '.join(KINDS)}.")
    return kind
