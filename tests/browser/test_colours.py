"""The pack's own sockets have colours of their own in ComfyUI's page, and keep them when its theme changes."""

from __future__ import annotations

import pytest

from .conftest import Page

OURS = {
    f"IMPASTO_{name}"
    for name in ("DATASET", "DATASET_CONFIG", "PROMPTS", "FEATURES", "TRAINING", "RUN", "CAPTIONER", "PICTURE_GRID")
}
SHOWN = """vue => Object.fromEntries([...new Set(Object.values(LiteGraph.registered_node_types)
    .flatMap(type => [...Object.values(type.nodeData?.input?.required ?? {}).map(input => input[0]),
                      ...(type.nodeData?.output ?? [])])
    .filter(type => typeof type === 'string' && type.startsWith('IMPASTO_')))].map(type => [type, vue
        ? getComputedStyle(document.documentElement).getPropertyValue('--color-datatype-' + type).trim()
        : app.canvas.default_connection_color_byType[type] === app.canvas.constructor.link_type_colors[type]
            && app.canvas.default_connection_color_byType[type]]))"""
LETTERS = {"dark": "#fff", "light": "#222"}  # of ComfyUI's themes: how it is seen that one is on
CORES = ("MODEL", "CLIP", "VAE", "IMAGE", "LATENT", "CONDITIONING")


def luminance(colour: str) -> float:
    """Relative luminance of `#rrggbb` (WCAG 2.1)."""
    parts = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("theme", LETTERS)
def test_every_socket_of_ours_has_a_colour_of_its_own_in_each_theme(page: Page, theme: str):
    page.tab.evaluate("name => app.extensionManager.setting.set('Comfy.ColorPalette', name)", theme)
    wanted = "letters => getComputedStyle(document.documentElement).getPropertyValue('--fg-color').trim() === letters"
    page.tab.wait_for_function(wanted, arg=LETTERS[theme])
    shown = page.tab.evaluate(SHOWN, page.vue)
    cores = page.tab.evaluate("types => types.map(type => app.canvas.default_connection_color_byType[type])", CORES)
    assert shown.keys() >= OURS and all(shown.values())
    assert len(set(shown.values()) | {colour.lower() for colour in cores}) == len(shown) + len(set(cores))
    on_a_dark_node = [(luminance(colour) + 0.05) / (luminance("#353535") + 0.05) for colour in shown.values()]
    assert min(on_a_dark_node) > 3 and not page.faults


def test_a_theme_that_has_a_colour_for_a_socket_of_ours_is_followed_until_another_has_none(page: Page):
    """The two writes of ComfyUI's `loadLinkColorPalette` and `loadLinkColorPaletteForVueNodes`."""
    written = """([vue, colour]) => {
        const name = '--color-datatype-IMPASTO_RUN', style = document.documentElement.style;
        if (vue) colour ? style.setProperty(name, colour) : style.removeProperty(name);
        const {canvas} = app;
        if (!vue) for (const colours of [canvas.default_connection_color_byType, canvas.constructor.link_type_colors])
            Object.assign(colours, {IMPASTO_RUN: colour});
    }"""
    page.tab.evaluate(written, [page.vue, "#123456"])
    assert page.tab.evaluate(SHOWN, page.vue)["IMPASTO_RUN"] == "#123456"
    page.tab.evaluate(written, [page.vue, ""])
    assert page.tab.evaluate(SHOWN, page.vue)["IMPASTO_RUN"] == "#ff6f4d" and not page.faults
