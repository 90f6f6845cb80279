from impasto.drawing.palette import BLUE
from impasto.rendering.lora_weights import lora_weights
from PIL import ImageColor

NORMS = {("double", number, part): 1.0 for number in range(19) for part in ("attention", "feed-forward")} | {
    ("single", number, "attention"): 0.5 for number in range(38)
}
INK_OF_BARS = ImageColor.getrgb(BLUE)


def blue(picture) -> int:
    return sum(count for count, colour in picture.getcolors(picture.width * picture.height) if colour == INK_OF_BARS)


def test_bars_are_as_high_as_what_is_added_to_their_blocks():
    whole = blue(lora_weights("monet", "", NORMS))
    half = blue(lora_weights("monet", "", NORMS | {("single", 0, "attention"): 0.25}))
    assert 0 < whole - half < whole / 50
    stronger = {key: 1000 * norm for key, norm in NORMS.items()}  # all bars have one scale
    assert blue(lora_weights("monet", "", stronger)) == whole


def test_it_is_drawn_for_one_layer_none_of_any_weight_and_any_script():
    assert lora_weights("絵 🎨 " * 40, "note " * 200, {("single", 3, "modulation"): 0.0}).width >= 900
    assert lora_weights("nothing in any block", "", {}).height > 0
