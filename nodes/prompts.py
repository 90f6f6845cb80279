"""A prompt made ready for FLUX's encoders."""

from comfy_api.latest import io

from .. import token_limits
from ..files import content_hash
from ..prompting.flux_prompt import AS_WRITTEN, EXPANSIONS, expanded, flux_prompt
from ..prompting.queued_graph import loras_with
from ..prompting.tokens import flux_encoders
from .host import encoders as host_encoders
from .host import execution
from .inputs import seed_input
from .prompt_files import CATEGORY, prompt_library, wildcards


def _wildcards_of(*texts: str | None) -> dict[str, tuple[str, ...]]:
    """The wildcards, where a text could name one; None is a text that is not known yet."""
    return wildcards() if any(text is None or "__" in text for text in texts) else {}


class PromptManager(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImpastoPromptManager",
            display_name="Prompt Manager",
            category=CATEGORY,
            description="A prompt made ready for FLUX: choices and wildcards taken, counted with the encoders' own "
            "tokenizers, and shortened where it is too long, the least important words first. Everything that was cut "
            "is told.",
            search_aliases=["prompt", "dynamic prompts", "wildcards", "token counter", "negative prompt", "text"],
            inputs=[
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=False,
                    default="a quiet harbour at {dawn|dusk}, oil painting with thick brushstrokes",
                    tooltip="The prompt. {a|b} chooses, __name__ takes a line of user/impasto/wildcards/name.txt, "
                    "${x=…} sets a variable. A part after a comma that begins with ! is never shortened, with ~ goes "
                    "first, with [light] belongs to that group.",
                ),
                seed_input("Decides the choices, or which combination's turn it is."),
                io.Combo.Input(
                    "expansion",
                    options=list(EXPANSIONS),
                    default=EXPANSIONS[0],
                    tooltip="How choices are taken. With 'every combination in turn', let the seed count up by one.",
                ),
                io.Combo.Input(
                    "t5_limit",
                    options=[str(limit) for limit in (token_limits.T5_DEV, token_limits.T5_SCHNELL)],
                    default=str(token_limits.T5_DEV),
                    tooltip="Tokens that T5 is used with: 512 for FLUX.1-dev, 256 for FLUX.1-schnell.",
                ),
                io.Boolean.Input(
                    "shorten",
                    default=True,
                    tooltip="Shorten what is too long for an encoder. Off: it is passed on whole, and told.",
                ),
                io.String.Input(
                    "clip_l_text",
                    multiline=True,
                    dynamic_prompts=False,
                    default="",
                    tooltip="Something else for CLIP-L, for example only subject and style. Empty: the same prompt.",
                ),
                io.String.Input(
                    "negative",
                    multiline=True,
                    dynamic_prompts=False,
                    default="",
                    tooltip="What is not wanted. FLUX ignores it at cfg 1; the outputs 'negative' and 'cfg' help.",
                ),
                io.Float.Input(
                    "true_cfg",
                    default=3.5,
                    min=1.0,
                    max=20.0,
                    step=0.1,
                    tooltip="The cfg that is given out when there is a negative prompt; each step then costs double.",
                    advanced=True,
                ),
                io.Boolean.Input(
                    "remember", default=True, tooltip="Write prompt, seed and LoRA into the library's history."
                ),
                io.String.Input(
                    "lora",
                    default="",
                    tooltip="The LoRA in use, only for the history. Empty: read from the graph's LoRA loaders.",
                    advanced=True,
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="Count with this CLIP's tokenizers and embeddings. Without it FLUX's own are used.",
                ),
            ],
            outputs=[
                io.String.Output("clip_l", tooltip="The text for CLIP-L, for core's CLIPTextEncodeFlux."),
                io.String.Output("t5xxl", tooltip="The text for T5, for core's CLIPTextEncodeFlux."),
                io.String.Output("negative", tooltip="The negative prompt, for a CLIPTextEncodeFlux of its own."),
                io.Float.Output("cfg", tooltip="For the KSampler: 1 without a negative prompt, else the true cfg."),
                io.String.Output("report", tooltip="Tokens for each encoder, what lies past a limit, what was cut."),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, **values):
        if values.get("expansion") == AS_WRITTEN:
            return ""
        # They may have been edited since.
        return content_hash(_wildcards_of(*(values.get(name) for name in ("text", "clip_l_text", "negative"))))

    @classmethod
    def execute(
        cls, text, seed, expansion, t5_limit, shorten, clip_l_text, negative, true_cfg, remember, lora, clip=None
    ) -> io.NodeOutput:
        wildcards = {} if expansion == AS_WRITTEN else _wildcards_of(text, clip_l_text, negative)
        check = execution.raise_if_cancelled
        written = [expanded(each, expansion, seed, wildcards, check) for each in (text, clip_l_text, negative)]
        encoders = flux_encoders(*host_encoders.token_counters(clip), int(t5_limit))
        prompt = flux_prompt(*written, true_cfg, encoders, shorten)
        if remember and prompt.t5xxl:
            used = lora.strip() or loras_with(cls.hidden.prompt, str(cls.hidden.unique_id))
            prompt_library().record(prompt.t5xxl, seed, used)
        execution.progress()(1, 1, prompt.report)
        return io.NodeOutput(prompt.clip_l, prompt.t5xxl, prompt.negative, prompt.cfg, prompt.report)


NODES = [PromptManager]
