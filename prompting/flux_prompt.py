"""One prompt made ready for FLUX: a text for each encoder, the negative that works, and a report of what was done."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import check_finite
from .dynamic import Check, Wildcards, combinations, expand, never
from .fitting import Fitted, fit, unmarked
from .tokens import TextEncoder, token_count

AT_RANDOM, IN_TURN, AS_WRITTEN = "at random", "every combination in turn", "as written"
EXPANSIONS = (AT_RANDOM, IN_TURN, AS_WRITTEN)

NEGATIVE_IGNORED = (
    "FLUX-dev and schnell are guidance-distilled and sampled at cfg 1, where a negative prompt is never read. "
    "It acts only with true CFG: connect 'negative' to a CLIPTextEncodeFlux of its own (guidance 1 to 3.5) and 'cfg' "
    "to the KSampler, which then needs two model passes a step."
)


@dataclass(frozen=True)
class FluxPrompt:
    """Texts for CLIP-L and T5 (core's CLIPTextEncodeFlux), a negative and the cfg with which it acts, and a report."""

    clip_l: str
    t5xxl: str
    negative: str
    cfg: float
    report: str


def expanded(text: str, expansion: str, seed: int, wildcards: Wildcards, check: Check = never) -> str:
    """A dynamic prompt as one of its prompts: by the seed, or the seed-th combination, over and over.

    Args:
        check: called many times a second; ends this by raising.

    Raises:
        SettingsError: the text cannot be read, or has too many combinations.
    """
    if expansion == AS_WRITTEN:
        return text
    if expansion == AT_RANDOM:
        return expand(text, seed, wildcards, check)
    prompts = combinations(text, wildcards, check)
    return prompts[seed % len(prompts)]


def flux_prompt(
    text: str,
    clip_l_text: str,
    negative: str,
    true_cfg: float,
    encoders: tuple[TextEncoder, TextEncoder],
    shorten: bool,
) -> FluxPrompt:
    """Fit a text to both encoders and say what it costs.

    Args:
        text: the prompt, for both encoders unless `clip_l_text` says something else to CLIP-L.
        clip_l_text: empty, or CLIP-L's own text.
        negative: what is not wanted; it costs nothing and does nothing at cfg 1.
        true_cfg: the cfg to use when there is a negative.
        encoders: CLIP-L and T5.
        shorten: whether a text beyond a limit is shortened; else it is passed on whole, and told.

    Raises:
        SettingsError: true_cfg is no finite number, what is marked with '!' is too long, or a mark names a group that
            there is not.
    """
    check_finite(true_cfg=true_cfg)
    clip_l, t5 = encoders
    texts, lines = [], []
    for encoder, written in ((clip_l, clip_l_text.strip() or text), (t5, text)):
        fitted = fit(written, encoder) if shorten else Fitted(unmarked(written), ())
        texts.append(fitted.text)
        lines.append(str(token_count(fitted.text, encoder)))
        lines += [f"  shortened {cut}" for cut in fitted.cuts]
    if token_count(texts[0], clip_l).past:
        lines.append("  Only the first 77 tokens reach CLIP-L's pooled vector, the one that FLUX uses.")
    if negative.strip():
        lines += [f"Negative, {token_count(negative, t5)}", NEGATIVE_IGNORED]
    return FluxPrompt(*texts, negative.strip(), true_cfg if negative.strip() else 1.0, "\n".join(lines))
