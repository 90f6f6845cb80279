"""Which pictures of a run to look at."""

from comfy_api.latest import io

from ..drawing.palette import theme_of
from ..evaluation.watched_run import watch_run
from . import sockets
from .host import execution, identity, sampling
from .inputs import anew, theme_input
from .jobs import logged


class LossWatch(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImpastoLossWatch",
            display_name="Loss Watch",
            category="Impasto/Rendering",
            description="Names the pictures of a run that spoil it: wrong captions, pictures foreign to the set, "
            "damaged ones, each with the reason. Their list goes to Quality Filter, Caption Editor or Dataset TOML "
            "Writer.",
            search_aliases=[
                "bad pictures",
                "outliers",
                "wrong captions",
                "mislabeled",
                "loss per image",
                "clean dataset",
            ],
            inputs=[
                sockets.Run.Input("run", tooltip="The training run, finished or not."),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="The base model that the run was trained on, without the LoRA: every picture is measured "
                    "with its caption and with none, 14 passes each, which finds wrong captions. Without it only "
                    "training's own losses are looked at.",
                ),
                theme_input(),
            ],
            outputs=[
                io.String.Output(
                    "watched",
                    tooltip="The list: a line for each picture, its hash and why. For the input watched of Quality "
                    "Filter, Caption Editor and Dataset TOML Writer.",
                ),
                io.Image.Output("sheet", tooltip="Contact sheet of the pictures with the reason under each."),
                io.String.Output("report", tooltip="How many were named, which, and how far that can be believed."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, **inputs) -> float:
        """The run may have gone on."""
        return anew()

    @classmethod
    def execute(cls, run, model=None, theme="light") -> io.NodeOutput:
        measured_by = {}
        if model is not None:
            measured_by = {"velocity": sampling.velocity_of(model), "model": identity.model_identity(model)}
        with logged("Loss Watch", run.path):
            found = watch_run(run, **measured_by, progress=execution.progress())
        return io.NodeOutput(found.listed, sampling.image_batch([found.sheet(theme_of(theme))]), found.report)


NODES = [LossWatch]
