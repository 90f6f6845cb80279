"""The node that captions datasets with a local server that speaks OpenAI's protocol."""

from __future__ import annotations

from comfy_api.latest import io

from ..captioners import openai
from ..captioners.unfinished import fingerprint
from .captions import ask_again_input, captioned, captioner_schema, system_prompt_input
from .host import folders


class OpenAICaptioner(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return captioner_schema(
            node_id="ImpastoOpenAICaptioner",
            display_name="OpenAI-compatible Captioner",
            description=(
                "Captions pictures with a model in Ollama, LM Studio, vLLM or llama.cpp's server. Every answer is kept "
                "at once, so a stopped run goes on where it was."
            ),
            search_aliases=["caption", "ollama", "lm studio", "vllm", "llama.cpp", "qwen", "joycaption", "vlm"],
            which=[
                io.String.Input(
                    "server",
                    default="ollama",
                    tooltip=(
                        "A server by name: ollama, lm-studio, vllm, llama.cpp (at their usual ports on this machine), "
                        "or one from the owner's user/impasto/openai.toml."
                    ),
                ),
                io.String.Input(
                    "model", default="qwen3-vl:8b", tooltip="A model that looks at pictures, as the server lists it."
                ),
            ],
            how=[
                ask_again_input(),
                system_prompt_input(),
                io.Int.Input(
                    "concurrency",
                    default=2,
                    min=1,
                    max=64,
                    advanced=True,
                    tooltip="Pictures asked about at the same time; as many as the server answers side by side.",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, **values: object) -> str:
        """Go on where the last run left pictures open."""
        return fingerprint(folders.user_root(), openai.OpenAICaptioner.name)

    @classmethod
    async def execute(
        cls, server: str, model: str, system_prompt: str, concurrency: int, dataset=None, **common
    ) -> io.NodeOutput:
        settings = openai.OpenAISettings(server.strip(), model.strip(), system_prompt, concurrency)
        return await captioned(openai.OpenAICaptioner(settings, folders.user_root()), dataset, **common)


NODES = [OpenAICaptioner]
