"""The node that combines, scales and resizes LoRAs, shows them on a model, and saves them."""

from __future__ import annotations

from comfy_api.latest import io

from ..files import content_hash
from ..rendering.lora_weights import lora_weights
from ..trainers.lora import file_formats, workbench
from ..trainers.lora.arithmetic import FIRST_LATE, GroupScales, block_norms
from ..trainers.lora.targets import MAX_RANK
from ..trainers.run.publish import CHECKPOINT_FORMAT
from .host import execution, folders, models, sampling
from .inputs import anew, over_links

NO_LORA = "the lines alone"
MOST_SCALE = 10.0


def _scale(name: str, of: str) -> io.Float.Input:
    return io.Float.Input(
        name, default=1.0, min=-MOST_SCALE, max=MOST_SCALE, step=0.05, tooltip=f"Strength of {of}. 0 takes them out."
    )


class LoraWorkbench(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImpastoLoraWorkbench",
            display_name="LoRA Workbench",
            category="Impasto/LoRA",
            description="Adds up or averages FLUX.1 LoRAs, sets the strength of groups of blocks, brings them to "
            "another rank and says what that cost; shows the result on a model and saves it as a LoRA.",
            search_aliases=["merge LoRA", "LoRA block weight", "resize LoRA", "average checkpoints", "extract", "SVD"],
            is_output_node=True,
            inputs=[
                io.Combo.Input(
                    "lora",
                    options=[NO_LORA, *folders.lora_names()],
                    default=NO_LORA,
                    tooltip="The LoRA to work on: one that ComfyUI lists, or the name that a trainer gives.",
                ),
                io.Float.Input(
                    "weight",
                    default=1.0,
                    min=-workbench.MOST_WEIGHT,
                    max=workbench.MOST_WEIGHT,
                    step=0.05,
                    tooltip="What it is multiplied by.",
                ),
                io.String.Input(
                    "more",
                    multiline=True,
                    default="",
                    tooltip="Further LoRAs by the names in ComfyUI's list, one a line; behind a colon their weight: "
                    "'monet.safetensors: 0.5'. At most 32.",
                ),
                io.Combo.Input(
                    "combine",
                    options=list(workbench.COMBINATIONS),
                    default=workbench.ADD,
                    tooltip="add: the sum, each times its weight. average: the weights are made to add up to 1, as for "
                    "several checkpoints of one run.",
                ),
                _scale("double", "the double blocks"),
                _scale("single_early", "the single blocks before 'first_late'"),
                _scale("single_late", "the single blocks from 'first_late' on"),
                _scale("attention", "the attention layers, on top of their block's"),
                _scale("feed_forward", "the feed-forward layers, on top of their block's"),
                io.Int.Input(
                    "first_late",
                    default=FIRST_LATE,
                    min=0,
                    max=200,
                    advanced=True,
                    tooltip="The single block, counted from 0, from which on they count as late; FLUX.1 has 38.",
                ),
                io.Int.Input(
                    "rank",
                    default=0,
                    min=0,
                    max=MAX_RANK,
                    tooltip="The highest rank of a layer; what is higher is cut to the nearest of that rank, and the "
                    "report says what was lost. 0: leave it, so that LoRAs added up have the sum of their ranks.",
                ),
                io.String.Input(
                    "name",
                    default="",
                    tooltip="Name to save the result by in output/loras, which ComfyUI lists; another file of that "
                    "name stays, and this one gets a number. Empty: save nothing.",
                ),
                io.Combo.Input(
                    "lora_format",
                    options=list(file_formats.FORMATS),
                    default=CHECKPOINT_FORMAT,
                    advanced=True,
                    tooltip="Names of the keys in the file. ComfyUI loads all; diffusers is the most widely read.",
                ),
                io.Model.Input(
                    "model", optional=True, tooltip="The model to show the result on, as trained from. May be left out."
                ),
            ],
            outputs=[
                io.Model.Output("patched", tooltip="The model with the result on it; empty without a model."),
                io.Image.Output("weights", tooltip="What the result adds to each block, as a picture."),
                io.AnyType.Output("lora_name", tooltip="The saved file's name, for Load LoRA; empty if not saved."),
                io.String.Output("report", tooltip="Layers, ranks, what resizing lost, and where the file lies."),
            ],
        )

    @classmethod
    def validate_inputs(cls, lora: str | None = None) -> bool | str:
        """Accept a LoRA that was made after the list was; `execute` names one that is not there."""
        return True

    @classmethod
    def fingerprint_inputs(cls, lora=None, more=None, **values) -> str | float:
        """Another file under the same name is another LoRA."""
        if over_links(lora, more):
            return anew()
        return content_hash([folders.lora_state(name) for name, _ in cls._named(lora, 1.0, more)])

    @classmethod
    def execute(
        cls,
        lora,
        weight=1.0,
        more="",
        combine=workbench.ADD,
        double=1.0,
        single_early=1.0,
        single_late=1.0,
        attention=1.0,
        feed_forward=1.0,
        first_late=FIRST_LATE,
        rank=0,
        name="",
        lora_format=CHECKPOINT_FORMAT,
        model=None,
    ) -> io.NodeOutput:
        named = cls._named(lora, weight, more)
        scales = GroupScales(double, single_early, single_late, attention, feed_forward, first_late)
        piece = workbench.Workpiece(
            tuple(workbench.Ingredient(one, folders.lora_path(one), each) for one, each in named), combine, scales, rank
        )
        made = workbench.work(piece, execution.progress())
        tensors = file_formats.convert(made.state, lora_format)
        called = " + ".join(one for one, _ in named)
        patched = execution.blocked()
        if model is not None:
            patched = models.with_lora_weights(model, tensors, 1.0, called)
        report, saved = made.report(), execution.blocked()
        if name.strip():
            file = workbench.save(tensors, made, piece, folders.loras_root(), name)
            saved, report = file.name, f"{report}\nSaved as {file}"
        picture = lora_weights(name.strip() or called, made.report(), block_norms(made.norms))
        return io.NodeOutput(patched, sampling.image_batch([picture]), saved, report, ui={"text": (report,)})

    @staticmethod
    def _named(lora: str, weight: float, more: str) -> list[tuple[str, float]]:
        first = [] if lora == NO_LORA else [(lora, weight)]
        return first + workbench.parse_lines(more)


NODES = [LoraWorkbench]
