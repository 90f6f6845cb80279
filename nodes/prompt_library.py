"""Nodes of the prompt library: save, find, write to files and read from them."""

from comfy_api.latest import io

from ..errors import SettingsError
from ..paths import child_of, choice, existing_child
from ..prompting.library import SavedPrompt, chosen, split_tags
from ..prompting.seed_book import SeedBook
from .host import execution, folders
from .inputs import anew
from .prompt_files import CATEGORY, prompt_library, prompts_folder

IMPORT, EXPORT, REPAIR = "import", "export", "repair"
LIBRARY, HISTORY = "library", "history"
SHOWN = 20  # found prompts in a report


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
        return prompt_library().fingerprint()

    @classmethod
    def execute(cls, text, name, tags, favourite, remove=False) -> io.NodeOutput:
        library = prompt_library()
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
        return prompt_library().fingerprint()

    @classmethod
    def execute(cls, source, words, tag, favourites, place) -> io.NodeOutput:
        library = prompt_library()
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
        return anew()  # the file or the library may have changed

    @classmethod
    def execute(cls, action, file) -> io.NodeOutput:
        told = cls._repaired() if action == REPAIR else cls._moved(action, file)
        execution.progress()(1, 1, told)
        return io.NodeOutput(told, ui={"text": (told,)})

    @staticmethod
    def _moved(action, file) -> str:
        if action == EXPORT:
            path = child_of(prompts_folder(), file, what="file name")
            prompts, queued = prompt_library().write_to(path)
            return f"{prompts:,} prompts and {queued:,} of the history written to {path}"
        path = existing_child(prompts_folder(), file, what="file name")
        if path is None:
            remedy = choice(prompts_folder(), [file], ".json", ".csv", otherwise="Put it there, or name another.")
            raise SettingsError(f"There is no file '{file.strip()}' in {prompts_folder()}. {remedy}")
        new, read, mended = prompt_library().read_from(path)
        told = f"{new:,} of {read:,} entries in {path} were new"
        return f"{told}; half characters or control characters were taken out of {mended:,}" if mended else told

    @staticmethod
    def _repaired() -> str:
        kept = {"Prompt library": prompt_library(), "Seed book": SeedBook(folders.seed_book_file())}
        return "\n".join(f"{name}: {each.repair() if each.path.exists() else 'none.'}" for name, each in kept.items())


NODES = [SavePrompt, FindPrompt, PromptLibraryFile]
