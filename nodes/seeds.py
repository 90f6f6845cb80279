"""Seeds that can be found again."""

from comfy_api.latest import io

from ..prompting.saved_graph import write_value
from ..prompting.seed_book import SeedBook
from ..prompting.seeds import (
    CHANGING,
    INCREMENT,
    MAX_COUNT,
    MAX_SEED,
    PROFILES,
    SeedSettings,
    further_seed,
    replayed,
    seeds_at,
    written,
)
from .host import execution, folders
from .inputs import anew, over_links

HISTORY_SHOWN = 10  # entries in the report


class SeedManager(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImpastoSeedManager",
            display_name="Seed Manager",
            category="Impasto/Prompts",
            description="Seeds by a rule, over the full 64 bits: fixed, random, stepping, from a text, the date or a "
            "list. Remembers what it gave and what came of it, and writes its seeds into every saved picture, so that "
            "the picture's own graph gives it again.",
            search_aliases=["seed", "random seed", "seed generator", "noise seed", "rgthree seed", "global seed"],
            inputs=[
                io.Combo.Input(
                    "profile",
                    options=list(PROFILES),
                    default=INCREMENT,
                    tooltip="How the next seeds are found. Increment, decrement, golden-ratio walk, list and "
                    "neighbourhood go on with each queueing, in the browser and over the API alike.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=MAX_SEED,
                    control_after_generate=False,
                    tooltip="Where fixed, stepping and neighbourhood profiles begin. A browser rounds numbers above "
                    "9,007,199,254,740,992; write such a one into 'text' and choose the profile list.",
                ),
                io.String.Input(
                    "text",
                    multiline=True,
                    default="",
                    tooltip="For 'from text' any words; for 'list' seeds and ranges (100-120, 100-120:5) with commas "
                    "or line ends between them, and notes after #; for 'favourite' its name.",
                ),
                io.Int.Input("count", default=1, min=1, max=MAX_COUNT, tooltip="How many seeds each queueing takes."),
                io.String.Input(
                    "sequence",
                    default="default",
                    tooltip="A name for where stepping profiles stand and for the history. Nodes with the same name "
                    "go on from each other.",
                ),
                io.String.Input(
                    "replay",
                    default="",
                    tooltip="The seeds of a saved picture: the node writes them here in the picture's own graph, and "
                    "gives exactly these as long as they stand here. Clear it for new ones.",
                ),
                io.String.Input(
                    "save_as", default="", tooltip="Keep the first seed as a favourite of this name. Empty: don't."
                ),
                io.String.Input(
                    "note", default="", tooltip="Something to remember about the first seed, shown whenever it is used."
                ),
            ],
            outputs=[
                io.Int.Output("seed", tooltip="The first seed."),
                io.Int.Output("seed_2", tooltip="A companion of the first seed, for a second sampler."),
                io.Int.Output("seed_3", tooltip="Another companion, different from both."),
                io.Int.Output("seed_4", tooltip="A third companion."),
                io.Int.Output(
                    "seeds", is_output_list=True, tooltip="All seeds, as a list: what follows runs once for each."
                ),
                io.String.Output("seed_list", tooltip="All seeds as text with commas, for Batch Generator."),
                io.String.Output("report", tooltip="The seeds, notes, and the last ones with what they made."),
                io.String.Output(
                    "statistics", tooltip="How many seeds were used, how many different ones, and their span."
                ),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo, io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(
        cls, profile=None, seed=None, text=None, count=None, replay=None, save_as=None, note=None, **others
    ):
        """Not a number differs from itself: ComfyUI then runs the node at each queueing.

        Where the seeds stay the same, it runs as long as name or note are not in the book. None is not known yet.
        """
        again = (replay or "").strip()
        if (profile in CHANGING or over_links(profile)) and not again:
            return anew()
        if not (save_as or note) and not over_links(save_as, note):
            return ""
        if over_links(profile, seed, text, count, replay, save_as, note):
            return anew()
        first = replayed(again, count)[0] if again else seeds_at(SeedSettings(profile, seed, text, count), 0)[0]
        return "" if SeedBook(folders.seed_book_file()).knows(first, save_as or "", note or "") else anew()

    @classmethod
    def execute(cls, profile, seed, text, count, sequence, replay, save_as, note) -> io.NodeOutput:
        settings = SeedSettings(profile, seed, text, count)
        book = SeedBook(folders.seed_book_file())
        book.complete(sequence, execution.saved_files)
        again = replay.strip()
        seeds = replayed(again, count) if again else book.take(settings, sequence, execution.prompt_id())
        if profile in CHANGING:
            cls._write_into_saved_graphs(written(seeds))
        if save_as.strip():
            book.keep(save_as, seeds[0])
        if note.strip():
            book.write_note(seeds[0], note)
        report = book.report(seeds, sequence, HISTORY_SHOWN)
        statistics = book.statistics(sequence)
        execution.progress()(1, 1, f"{report}\n{statistics}")
        companions = [further_seed(seeds[0], index) for index in (1, 2, 3)]
        return io.NodeOutput(seeds[0], *companions, list(seeds), written(seeds), report, statistics)

    @classmethod
    def _write_into_saved_graphs(cls, seeds: str) -> None:
        place = [widget.id for widget in cls.define_schema().inputs].index("replay")
        workflow = (cls.hidden.extra_pnginfo or {}).get("workflow")
        write_value(cls.hidden.prompt, workflow, str(cls.hidden.unique_id), "replay", place, seeds)


NODES = [SeedManager]
