"""Prompts: fixed sets for samples, grids and evaluation."""

from comfy_api.latest import io

from ..prompting.prompt_set import MAX_SEED, prompt_set
from . import sockets


class PromptSet(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImpastoPromptSet",
            display_name="Prompt Set",
            category="Impasto/Prompts",
            description="Fixed prompts with their seeds, one per line, for training samples and progress grids.",
            search_aliases=["sample prompts", "validation prompts", "prompt list", "prompt lines", "impasto"],
            inputs=[
                io.String.Input(
                    "text",
                    multiline=True,
                    default="a quiet harbour at dawn\na portrait of a woman in a green dress",
                    tooltip="One prompt per line. Lines starting with # are left out. "
                    "A line ending in '--d 123' has its own seed.",
                ),
                io.Int.Input(
                    "seed",
                    default=42,
                    min=0,
                    max=MAX_SEED,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="Seed of the noise of every prompt without its own. "
                    "Kept fixed, so that pictures of different steps can be compared.",
                ),
            ],
            outputs=[
                sockets.Prompts.Output("prompts", tooltip="The prompts with their seeds, in the order of the lines.")
            ],
        )

    @classmethod
    def execute(cls, text, seed) -> io.NodeOutput:
        return io.NodeOutput(prompt_set(text, seed))


NODES = [PromptSet]
