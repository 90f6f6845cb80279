"""How many pictures the batches of encoded training data really have, and why they are fewer than were asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from math import ceil
from typing import TYPE_CHECKING

from ... import token_limits
from .feature_set import epoch_batches

if TYPE_CHECKING:
    from .feature_set import Example


def told(examples: Sequence[Example], empty_tokens: int) -> str:
    """One sentence with the batches of an epoch; more where captions keep them small, or are too long.

    Args:
        examples: to train on.
        empty_tokens: length of the empty caption's T5 embedding, to which ComfyUI fills up shorter ones.
    """
    batches = epoch_batches(examples, seed=0, epoch=0)
    counts = sorted(Counter(map(len, batches)).items(), reverse=True)
    sizes = ", ".join(f"{count:,} of {size}" for size, count in counts)
    sentences = [f"{len(batches):,} batches per epoch, by pictures in them: {sizes}"]
    with_equal_texts = _batches(examples, lambda example: (*example.shape[:3], example.shape[4]))
    if with_equal_texts < len(batches):
        lengths = {text.tokens for example in examples for text in example.all_texts}
        sentences.append(
            f"With captions of one length there would be {with_equal_texts:,}: captions of over {empty_tokens} T5 "
            f"tokens share a batch only with those of their own length, and there are {len(lengths)} lengths up to "
            f"{max(lengths)}. Shorten them to {empty_tokens} tokens for fuller batches"
        )
    return ". ".join([*sentences, *_too_long(examples)])


def _batches(examples: Iterable[Example], shape: Callable[[Example], Hashable]) -> int:
    pictures: Counter[Hashable] = Counter()
    sizes = {}
    for example in examples:
        pictures[shape(example)] += example.repeats
        sizes[shape(example)] = example.batch_size
    return sum(ceil(count / sizes[kind]) for kind, count in pictures.items())


def _too_long(examples: Sequence[Example]) -> list[str]:
    limit = token_limits.T5_DEV
    longest = [max(text.tokens for text in example.all_texts) for example in examples]
    count = sum(tokens > limit for tokens in longest)
    if not count:
        return []
    return [
        f"{count} of {len(examples)} captions are longer than the {limit} T5 tokens that FLUX.1-dev was trained with, "
        f"the longest has {max(longest)}: what comes after them is learned badly, and every step takes longer"
    ]
