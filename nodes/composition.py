"""The node that composes a dataset, and goes back to the loader where a filter left too little."""

from __future__ import annotations

from comfy_api.latest import io

from ..curation.composition import Composition, compose
from ..sources.quotas import KINDS, parse_quotas
from . import sockets
from .host import execution
from .inputs import max_per_artist_input, refused, seed_input
from .jobs import logged

LOADER = "ImpastoWikiArtLoader"


class DatasetComposition(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImpastoDatasetComposition",
            display_name="Dataset Composition",
            category="Impasto/Dataset",
            description=(
                "Takes exactly as many pictures of each kind as wanted from those that passed, spread over artists. "
                "Where a filter left too few, it goes back to WikiArt Loader for more."
            ),
            search_aliases=["quota", "balance dataset", "per genre", "sample dataset", "curate", "mix"],
            inputs=[
                sockets.Dataset.Input("dataset", tooltip="The dataset to choose from, best after a Quality Filter."),
                io.String.Input(
                    "quotas",
                    multiline=True,
                    default="landscape: 300\nportrait: 300\ncityscape: 200\nstill_life: 200",
                    tooltip="One 'label: count' per line. 'artist=Claude Monet: 40' asks by something else than 'by'.",
                ),
                io.Combo.Input(
                    "by",
                    options=list(KINDS),
                    default="genre",
                    tooltip="What the labels are. With caption, a picture counts whose caption has the label's words.",
                ),
                max_per_artist_input(
                    "At most this many pictures of one artist in the whole dataset; 0 for any number."
                ),
                seed_input("Another seed, another choice. The same seed and pictures give the same choice."),
                io.Int.Input(
                    "top_up",
                    default=2,
                    min=0,
                    max=5,
                    tooltip="How many times to load more through the nodes before this one while a quota is not full.",
                ),
            ],
            outputs=[
                sockets.Dataset.Output("dataset", tooltip="The pictures chosen."),
                io.String.Output("report", tooltip="Available, asked, passed and taken for each quota."),
            ],
            hidden=[io.Hidden.dynprompt, io.Hidden.unique_id],
            enable_expand=True,
        )

    @classmethod
    def validate_inputs(cls, quotas: str | None = None) -> bool | str:
        return refused(("quotas", quotas, parse_quotas))

    @classmethod
    def execute(cls, dataset, quotas: str, by: str, max_per_artist: int, seed: int, top_up: int = 0) -> io.NodeOutput:
        with logged("Dataset Composition", dataset.folder):
            composed = compose(dataset, Composition(quotas, by, max_per_artist, seed))
        if composed.may_gain and top_up:
            graph = cls.hidden.dynprompt, cls.hidden.unique_id
            again = execution.run_again(*graph, {"top_up": top_up - 1}, LOADER, cls._more)
            if again:
                execution.progress()(0, 1, f"{composed.missing} short: loading more")
                return io.NodeOutput(*again.outputs(2), expand=again.graph)
        return io.NodeOutput(composed.write(), composed.report())

    @staticmethod
    def _more(loader: dict) -> dict:
        """What is different in the loader's next run. It knows how many are spare; here that may be a link."""
        turns = loader.get("top_ups", 0)
        return {"top_ups": (turns if isinstance(turns, int) else 0) + 1}


NODES = [DatasetComposition]
