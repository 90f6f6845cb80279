"""The node that captions datasets with a local server that speaks OpenAI's protocol."""

from __future__ import annotations

from comfy_api.latest import io

from ..captioners.cleanup import DEFAULT_RULES
from ..captioners.gemini import SYSTEM_PROMPT
from ..captioners.openai import OpenAICaptioner, OpenAISettings
from ..captioners.runner import caption_dataset
from ..captioners.unfinished import fingerprint, leave_open
from . import host, sockets


class ImpastoOpenAICaptioner(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImpastoOpenAICaptioner",
            display_name="OpenAI-compatible Captioner",
            category="Impasto/Captions",
            description=(
                "Captions pictures with a model in Ollama, LM Studio, vLLM or llama.cpp's server. Every answer is kept "
                "at once, so a stopped run goes on where it was."
            ),
            search_aliases=["caption", "ollama", "lm studio", "vllm", "llama.cpp", "qwen", "joycaption", "vlm"],
            inputs=[
                sockets.Dataset.Input(
                    "dataset",
                    optional=True,
                    tooltip="The dataset to caption. It stays as it is. Leave it out to use only the captioner output.",
                ),
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
                io.String.Input(
                    "trigger_word",
                    default="",
                    placeholder="a rare word, for example mntgrdn",
                    tooltip="Put in front of every caption; changing it captions nothing again. Empty for none.",
                ),
                io.Boolean.Input(
                    "clean_up",
                    default=True,
                    tooltip="Take off lead-ins ('The image shows'), style and medium words and artist names.",
                ),
                io.Boolean.Input(
                    "ask_again",
                    default=False,
                    advanced=True,
                    tooltip="Ask also about pictures that were refused for good in an earlier run.",
                ),
                io.String.Input(
                    "system_prompt",
                    default=SYSTEM_PROMPT,
                    multiline=True,
                    advanced=True,
                    tooltip="What a caption shall describe and leave out. Another text asks about every picture anew.",
                ),
                io.Int.Input(
                    "concurrency",
                    default=2,
                    min=1,
                    max=64,
                    advanced=True,
                    tooltip="Pictures asked about at the same time; as many as the server answers side by side.",
                ),
                sockets.Captioner.Input(
                    "fallback",
                    optional=True,
                    tooltip="Another captioner, asked about pictures that this one gives no caption for.",
                ),
            ],
            outputs=[
                sockets.Dataset.Output("dataset", tooltip="The dataset with a caption for every picture it could say."),
                io.String.Output("report", tooltip="How many were captioned, what was refused and what to look at."),
                sockets.Captioner.Output("captioner", tooltip="This captioner, as the fallback of another."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, **values: object) -> str:
        """Go on where the last run left pictures open."""
        return fingerprint(host.owner_folder(), OpenAICaptioner.name)

    @classmethod
    async def execute(
        cls,
        server: str,
        model: str,
        trigger_word: str,
        clean_up: bool,
        ask_again: bool,
        system_prompt: str,
        concurrency: int,
        dataset=None,
        fallback=None,
    ) -> io.NodeOutput:
        settings = OpenAISettings(server.strip(), model.strip(), system_prompt, concurrency)
        captioner = OpenAICaptioner(settings, host.owner_folder())
        if dataset is None:
            return io.NodeOutput(None, "", captioner)
        progress = host.progress()
        captioned = await caption_dataset(
            dataset,
            captioner,
            progress,
            trigger_word=trigger_word,
            rules=DEFAULT_RULES if clean_up else None,
            fallback=fallback,
            ask_again=ask_again,
        )
        if captioned.open:
            leave_open(host.owner_folder(), captioner.name)
        progress(1, 1, captioned.report)
        return io.NodeOutput(captioned.dataset, captioned.report, captioner)


NODES = [ImpastoOpenAICaptioner]
