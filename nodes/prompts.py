"""Prompts: fitted to FLUX's encoders, kept in a library, and fixed sets for samples, grids and evaluation."""

from pathlib import Path

from comfy_api.latest import io

from .. import token_limits
from ..errors import SettingsError
from ..files import content_hash
from ..paths import child_of
from ..prompting.dynamic import read_wildcards
from ..prompting.flux_prompt import AS_WRITTEN, EXPANSIONS, expanded, flux_prompt
from ..prompting.library import Library, SavedPrompt, chosen, split_tags
from ..prompting.prompt_set import EXPANSIONS as SET_EXPANSIONS
from ..prompting.prompt_set import expanded_set, held_out_prompts, prompt_set
from ..prompting.queued_graph import loras_with
from ..prompting.sample_formats import SampleSettings, write_sample_formats
from ..prompting.seed_book import SeedBook
from ..prompting.text_file import read_text
from ..prompting.tokens import flux_encoders
from . import sockets
from .host import encoders as host_encoders
from .host import execution, folders
from .inputs import seed_input

CATEGORY = "Impasto/Prompts"
IMPORT, EXPORT, REPAIR = "import", "export", "repair"
LIBRARY, HISTORY = "library", "history"
SHOWN = 20  # found prompts in a report


def _library() -> Library:
    return Library(folders.user_root() / "prompts.sqlite")


def _prompts_folder() -> Path:
    return folders.user_root() / "prompts"


def _wildcards() -> dict[str, tuple[str, ...]]:
    return read_wildcards(folders.user_root() / "wildcards")


def _wildcards_of(*texts: str | None) -> dict[str, tuple[str, ...]]:
    """The wildcards, where a text could name one; None is a text that is not known yet."""
    return _wildcards() if any(text is None or "__" in text for text in texts) else {}


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
            _library().record(prompt.t5xxl, seed, used)
        execution.progress()(1, 1, prompt.report)
        return io.NodeOutput(prompt.clip_l, prompt.t5xxl, prompt.negative, prompt.cfg, prompt.report)


class SavePrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImpastoSavePrompt",
            display_name="Save Prompt",
            category=CATEGORY,
            description="Keeps a prompt in the library under ComfyUI's user folder, with a name and tags. The same "
            "text is kept once; saving it again changes its name, tags and mark. Also takes one out.",
            search_aliases=["prompt library", "prompt bank", "favourite prompt", "store prompt", "prompt database"],
            is_output_node=True,
            inputs=[
                io.String.Input("text", multiline=True, dynamic_prompts=False, tooltip="The prompt to keep."),
                io.String.Input("name", default="", tooltip="A name to find it by; may be empty."),
                io.String.Input("tags", default="", tooltip="Tags with commas between them."),
                io.Boolean.Input("favourite", default=False, tooltip="Mark it as a favourite."),
                io.Boolean.Input(
                    "remove", default=False, optional=True, tooltip="Take the prompt out of the library instead."
                ),
            ],
            outputs=[io.String.Output("text", tooltip="The prompt, unchanged.")],
        )

    @classmethod
    def fingerprint_inputs(cls, **values):
        """Else what is asked for a second time, after something else, would come from the cache and not be done."""
        return _library().fingerprint()

    @classmethod
    def execute(cls, text, name, tags, favourite, remove=False) -> io.NodeOutput:
        library = _library()
        prompt = SavedPrompt(text, name, split_tags(tags), favourite)
        if remove:
            done = "Removed" if library.remove(text) else "Not there"
        elif library.holds(prompt):
            done = "Kept as it is"
        else:
            done = "Saved" if library.save([prompt]) else "Changed"
        told = f"{done}: {library.count():,} prompts in the library."
        execution.progress()(1, 1, told)
        return io.NodeOutput(text, ui={"text": (told,)})


class FindPrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImpastoFindPrompt",
            display_name="Find Prompt",
            category=CATEGORY,
            description="Finds prompts in the library by words, tag or mark, or in the history of what was queued, and "
            "gives the chosen one with its seed and LoRA.",
            search_aliases=["load prompt", "search prompts", "prompt history", "prompt library", "reuse prompt"],
            inputs=[
                io.Combo.Input(
                    "source",
                    options=[LIBRARY, HISTORY],
                    default=LIBRARY,
                    tooltip="The saved prompts, or what was queued.",
                ),
                io.String.Input("words", default="", tooltip="All of these words, or their beginnings. Empty: all."),
                io.String.Input("tag", default="", tooltip="Only prompts of the library with this tag."),
                io.Boolean.Input("favourites", default=False, tooltip="Only favourites of the library."),
                io.Int.Input(
                    "place",
                    default=0,
                    min=0,
                    max=100_000,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="Which of the found prompts: 0 is the newest.",
                ),
            ],
            outputs=[
                io.String.Output("text", tooltip="The prompt."),
                io.Int.Output("seed", tooltip="The seed that it was queued with; 0 from the library."),
                io.String.Output("lora", tooltip="The LoRA that it was queued with; empty from the library."),
                io.String.Output("report", tooltip="The found prompts around the chosen one."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, **values):
        return _library().fingerprint()

    @classmethod
    def execute(cls, source, words, tag, favourites, place) -> io.NodeOutput:
        library = _library()
        if source == HISTORY:
            prompt, report = chosen(library.queued(words, SHOWN, place), place, words)
        else:
            prompt, report = chosen(library.search(words, tag, favourites, SHOWN, place), place, words)
        execution.progress()(1, 1, report)
        seed, lora = (prompt.seed, prompt.lora) if source == HISTORY else (0, "")
        return io.NodeOutput(prompt.text, seed, lora, report)


class PromptLibraryFile(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImpastoPromptLibraryFile",
            display_name="Prompt Library File",
            category=CATEGORY,
            description="Writes the prompt library and its history to a JSON or CSV file, or adds what is in one, all "
            "or none. The files lie in user/impasto/prompts. Also repairs a damaged library or seed book.",
            search_aliases=["import prompts", "export prompts", "prompt csv", "prompt json", "backup prompts"],
            is_output_node=True,
            inputs=[
                io.Combo.Input(
                    "action",
                    options=[EXPORT, IMPORT, REPAIR],
                    default=EXPORT,
                    tooltip="Write the file, or read it. 'repair' needs no file: where library or seed book is "
                    "damaged, it puts the newest good daily copy in place and keeps the damaged file.",
                ),
                io.String.Input(
                    "file",
                    default="prompts.json",
                    tooltip="Name of the file; its ending, .json or .csv, says the format.",
                ),
            ],
            outputs=[io.String.Output("report", tooltip="How many prompts were written or added.")],
        )

    @classmethod
    def fingerprint_inputs(cls, **values):
        return float("nan")  # differs from itself: the file or the library may have changed

    @classmethod
    def execute(cls, action, file) -> io.NodeOutput:
        told = cls._repaired() if action == REPAIR else cls._moved(action, file)
        execution.progress()(1, 1, told)
        return io.NodeOutput(told, ui={"text": (told,)})

    @staticmethod
    def _moved(action, file) -> str:
        path = child_of(_prompts_folder(), file, what="file name")
        if action == EXPORT:
            prompts, queued = _library().write_to(path)
            return f"{prompts:,} prompts and {queued:,} of the history written to {path}"
        new, read = _library().read_from(path)
        return f"{new:,} of {read:,} entries in {path} were new"

    @staticmethod
    def _repaired() -> str:
        kept = {"Prompt library": _library(), "Seed book": SeedBook(folders.seed_book_file())}
        return "\n".join(f"{name}: {each.repair() if each.path.exists() else 'none.'}" for name, each in kept.items())


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
    def fingerprint_inputs(cls, file="", expand=SET_EXPANSIONS[0], **values):
        """What was read from files, which may have been edited since."""
        return content_hash([cls._lines_of(file), cls._wildcards_for(expand)])

    @classmethod
    def execute(
        cls, text, seed, file="", expand=SET_EXPANSIONS[0], held_out=0, trigger="", dataset=None
    ) -> io.NodeOutput:
        prompts = prompt_set(f"{text}\n{cls._lines_of(file)}", seed, may_be_empty=bool(held_out))
        prompts = expanded_set(prompts, expand, cls._wildcards_for(expand), execution.raise_if_cancelled)
        if held_out:
            prompts += cls._held_out(dataset, held_out, seed, trigger)
        return io.NodeOutput(prompts, [prompt.text for prompt in prompts], [prompt.seed for prompt in prompts])

    @staticmethod
    def _lines_of(file: str) -> str:
        return read_text(child_of(_prompts_folder(), file, what="prompt file")) if file.strip() else ""

    @staticmethod
    def _wildcards_for(expand: str) -> dict[str, tuple[str, ...]]:
        return {} if expand == SET_EXPANSIONS[0] else _wildcards()

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


NODES = [PromptManager, PromptSet, PromptSetExport, SavePrompt, FindPrompt, PromptLibraryFile]
