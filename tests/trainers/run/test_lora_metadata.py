"""What a LoRA file says of itself."""

import pytest
from impasto.trainers.run.lora_metadata import trigger_phrase


@pytest.mark.parametrize(
    ("captions", "trigger"),
    [
        (["m0net style, a pond", "m0net style, a bridge, fog"], "m0net style"),
        (["m0net, a pond", "a bridge, fog"], ""),
        (["a pond", "a pond"], ""),
        ([], ""),
    ],
)
def test_the_trigger_phrase_is_what_every_caption_begins_with(captions, trigger):
    assert trigger_phrase(captions) == trigger
