"""Nodes of fixed prompts with their seeds, for samples, grids and evaluation."""

from comfy_api.latest import io

from ..errors import SettingsError
from ..files import content_hash
from ..paths import child_of, choice, existing_child
from ..prompting import categories
from ..prompting.prompt_set import EXPANSIONS as SET_EXPANSIONS
from ..prompting.prompt_set import expanded_set, held_out_prompts, prompt_set
from ..prompting.sample_formats import SampleSettings, write_sample_formats
from ..prompting.text_file import read_text
from . import results, sockets
from .host import execution, folders
from .inputs import anew, over_links, refused, seed_input
from .prompt_files import CATEGORY, categories_folder, prompts_folder, wildcards

NO_CATEGORY = "none"


class PromptSet(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImpastoPromptSet",
            display_name="Prompt Set",
            category=CATEGORY,
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
                seed_input(
                    "Seed of the noise of every prompt without its own. Kept fixed, so that pictures of different "
                    "steps can be compared.",
                    default=42,
                ),
                io.String.Input(
                    "file",
                    default="",
                    optional=True,
                    tooltip="A text file in user/impasto/prompts, whose lines are added to the text's. Empty: none.",
                ),
                io.Combo.Input(
                    "expand",
                    options=list(SET_EXPANSIONS),
                    default=SET_EXPANSIONS[0],
                    optional=True,
                    tooltip="Take {choices} and __wildcards__ as written, one of each line by its seed, or every one.",
                ),
                io.Int.Input(
                    "held_out",
                    default=0,
                    min=0,
                    max=100,
                    optional=True,
                    tooltip="Add so many prompts in the genres of the dataset that are none of its captions.",
                ),
                io.String.Input(
                    "trigger", default="", optional=True, tooltip="Trigger word before each held-out prompt."
                ),
                sockets.Dataset.Input("dataset", optional=True, tooltip="Whose genres the held-out prompts are from."),
                io.Combo.Input(
                    "category",
                    options=[NO_CATEGORY, *categories.names(categories_folder())],
                    default=NO_CATEGORY,
                    optional=True,
                    tooltip="Add the prompts of a category, from user/impasto/prompts/categories: text files that are "
                    "yours to edit, put there at the first use.",
                ),
                io.Int.Input(
                    "of_category",
                    default=0,
                    min=0,
                    max=1000,
                    optional=True,
                    tooltip="At most so many of the category, chosen by the seed; 0 for all.",
                ),
            ],
            outputs=[
                sockets.Prompts.Output("prompts", tooltip="The prompts with their seeds, in the order of the lines."),
                io.String.Output(
                    "texts", is_output_list=True, tooltip="Their texts as a list, one run of what follows each."
                ),
                io.Int.Output("seeds", is_output_list=True, tooltip="Their seeds as a list."),
            ],
        )

    @classmethod
    def validate_inputs(
        cls,
        text: str | None = None,
        file: str | None = "",
        held_out: int | None = 0,
        category: str | None = NO_CATEGORY,
    ) -> bool | str:
        """Accept categories whose files came after the list was made; `execute` looks for them. None: over a link."""
        if not isinstance(category, str | None):
            return f"category takes a text, and got a value of type {type(category).__name__}."
        if not isinstance(file, str | None):
            return f"file takes a text, and got a value of type {type(file).__name__}."
        if over_links(text, file, held_out, category):
            return True
        enough = bool(held_out) or category != NO_CATEGORY
        return refused(("text", text, lambda lines: prompt_set(f"{lines}\n{cls._lines_of(file)}", 0, enough)))

    @classmethod
    def fingerprint_inputs(cls, file="", expand=SET_EXPANSIONS[0], category=NO_CATEGORY, **values):
        """What was read from files, which may have been edited since."""
        if over_links(file, expand, category):
            return anew()
        read = [cls._lines_of(file), cls._wildcards_for(expand)]
        if category != NO_CATEGORY:
            read.append(categories.fingerprint(categories_folder(), category))
        return content_hash(read)

    @classmethod
    def execute(
        cls,
        text,
        seed,
        file="",
        expand=SET_EXPANSIONS[0],
        held_out=0,
        trigger="",
        dataset=None,
        category=NO_CATEGORY,
        of_category=0,
    ) -> io.NodeOutput:
        lines = [text, cls._lines_of(file)]
        if category != NO_CATEGORY:
            lines.append(categories.prompts_of(categories_folder(), category, of_category, seed))
        prompts = prompt_set("\n".join(lines), seed, may_be_empty=bool(held_out))
        prompts = expanded_set(prompts, expand, cls._wildcards_for(expand), execution.raise_if_cancelled)
        if held_out:
            prompts += cls._held_out(dataset, held_out, seed, trigger)
        told = f"{len(prompts)} {'prompt' if len(prompts) == 1 else 'prompts'}"
        texts, seeds = [prompt.text for prompt in prompts], [prompt.seed for prompt in prompts]
        return io.NodeOutput(prompts, texts, seeds, ui=results.said(told))

    @staticmethod
    def _lines_of(file: str) -> str:
        if not file.strip():
            return ""
        path = existing_child(prompts_folder(), file, what="prompt file")
        if path is None:
            remedy = choice(prompts_folder(), [file], ".txt", otherwise="Put it there, or name another.")
            raise SettingsError(f"There is no file '{file.strip()}' in {prompts_folder()}. {remedy}")
        return read_text(path)

    @staticmethod
    def _wildcards_for(expand: str) -> dict[str, tuple[str, ...]]:
        return {} if expand == SET_EXPANSIONS[0] else wildcards()

    @staticmethod
    def _held_out(dataset, count: int, seed: int, trigger: str) -> tuple:
        if dataset is None:
            raise SettingsError(
                "Held-out prompts are made from a dataset's genres. Connect 'dataset', or set them to 0."
            )
        records = dataset.records()
        captions = [record.text for record in records]
        return held_out_prompts([record.genre for record in records], captions, count, seed, trigger)


class PromptSetExport(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImpastoPromptSetExport",
            display_name="Prompt Set Export",
            category=CATEGORY,
            description="Writes a prompt set as sample prompts of kohya sd-scripts, ai-toolkit and SimpleTuner, so "
            "that the same pictures can be asked of them. The files lie in output/impasto/prompts.",
            search_aliases=["sample prompts", "kohya", "ai-toolkit", "SimpleTuner", "validation prompts"],
            is_output_node=True,
            inputs=[
                sockets.Prompts.Input("prompts", tooltip="The set to write."),
                io.String.Input("name", default="samples", tooltip="Name of the folder that the files are written to."),
                io.Int.Input("width", default=1024, min=64, max=4096, step=16, tooltip="Of each sample, in pixels."),
                io.Int.Input("height", default=1024, min=64, max=4096, step=16, tooltip="Of each sample, in pixels."),
                io.Int.Input("steps", default=20, min=1, max=200, tooltip="Sampling steps of each sample."),
                io.Float.Input(
                    "guidance", default=3.5, min=0.0, max=100.0, step=0.1, tooltip="FLUX guidance while sampling."
                ),
            ],
            outputs=[io.String.Output("report", tooltip="The files that were written.")],
        )

    @classmethod
    def execute(cls, prompts, name, width, height, steps, guidance) -> io.NodeOutput:
        folder = child_of(folders.prompts_output_root(), name, what="name of the export")
        files = write_sample_formats(folder, prompts, SampleSettings(width, height, steps, guidance))
        told = "\n".join(map(str, files))
        return io.NodeOutput(told, ui={"text": (told,)})


NODES = [PromptSet, PromptSetExport]
