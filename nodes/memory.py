"""Memory that comes back, and who holds it."""

import gc
import sys

from comfy_api.latest import io

from ..hardware.cleanup import Step, clean, report, roomiest
from ..hardware.host_memory import return_freed_heap, tensors_held
from .host import execution, memory
from .inputs import anew

CATEGORY = "Impasto/Memory"
TENSORS_SHOWN = 10
MOST_ROOM = "most room"


def _drop_outputs() -> str:
    execution.drop_outputs_afterwards()
    return "when this prompt has ended, because until then the graph needs them"


def _collect_garbage() -> None:
    gc.collect()


def _return_heap() -> str | None:
    return None if return_freed_heap() else "not possible on this system, nothing done"


class MemoryCleanup(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        template = io.MatchType.Template("value")
        return io.Schema(
            node_id="ImpastoMemoryCleanup",
            display_name="Memory Cleanup",
            category=CATEGORY,
            description="Passes anything through and frees memory on the way, with figures before and after each "
            "action. Put it where memory gets tight, for example between encoding and sampling. It touches only "
            "ComfyUI's own process.",
            search_aliases=["vram cleanup", "ram cleanup", "purge vram", "unload models", "free memory", "clear cache"],
            inputs=[
                io.MatchType.Input(
                    "value",
                    template=template,
                    tooltip="Anything. When it arrives, memory is cleaned; it is not changed.",
                ),
                io.Boolean.Input(
                    "unload_models",
                    default=True,
                    tooltip="Take ComfyUI's models off the devices; they are loaded again when needed.",
                ),
                io.Boolean.Input(
                    "drop_outputs",
                    default=False,
                    tooltip="Forget the results of all nodes once this prompt has ended; the next one computes anew.",
                ),
                io.Boolean.Input(
                    "empty_caches",
                    default=True,
                    tooltip="Give device memory that torch keeps for later back to the device.",
                ),
                io.Boolean.Input("collect_garbage", default=True, tooltip="Free Python objects that nobody holds."),
                io.Boolean.Input(
                    "return_heap",
                    default=True,
                    tooltip="Give freed host memory back to the system. Linux with glibc; elsewhere nothing is done.",
                ),
                io.Int.Input(
                    "only_above",
                    default=0,
                    min=0,
                    max=100,
                    tooltip="Act only where host or device memory is fuller than so many percent. 0: always.",
                ),
            ],
            outputs=[
                io.MatchType.Output(template=template, display_name="value", tooltip="What came in."),
                io.String.Output("report", tooltip="Each action with the memory held before and after it."),
            ],
        )

    @classmethod
    def execute(
        cls, value, unload_models, drop_outputs, empty_caches, collect_garbage, return_heap, only_above
    ) -> io.NodeOutput:
        chosen = (
            (unload_models, Step("Unload models", memory.unload_models)),
            (drop_outputs, Step("Drop cached outputs", _drop_outputs)),
            (collect_garbage, Step("Collect garbage", _collect_garbage)),
            (empty_caches, Step("Empty device caches", memory.empty_device_caches)),
            (return_heap, Step("Return freed heap", _return_heap)),
        )
        told = clean([step for wanted, step in chosen if wanted], memory.memory_state, only_above / 100)
        execution.progress()(1, 1, told)
        return io.NodeOutput(value, told)


class MemoryReport(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        template = io.MatchType.Template("value")
        return io.Schema(
            node_id="ImpastoMemoryReport",
            display_name="Memory Report",
            category=CATEGORY,
            description="Who holds memory just now: devices, ComfyUI's models, the largest tensors of this process. "
            "Warns when Windows spills to system memory, and says where the next model has most room.",
            search_aliases=["vram usage", "memory usage", "gpu memory", "ram monitor", "vram debug"],
            is_output_node=True,
            inputs=[
                io.MatchType.Input(
                    "value", template=template, optional=True, tooltip="Anything: memory is looked at when it arrives."
                ),
                io.Boolean.Input(
                    "tensors", default=True, tooltip="Also list the largest tensors; looks through all Python objects."
                ),
            ],
            outputs=[
                io.MatchType.Output(template=template, display_name="value", tooltip="What came in."),
                io.String.Output("report", tooltip="The report, as text."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, **values):
        return anew()  # memory is another at each queueing

    @classmethod
    def execute(cls, tensors, value=None) -> io.NodeOutput:
        held = tensors_held(TENSORS_SHOWN) if tensors else ()
        told = report(memory.memory_state(), held, sys.platform == "win32")
        execution.progress()(1, 1, told)
        return io.NodeOutput(value, told, ui={"text": (told,)})


class EncoderPlacement(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        devices = [MOST_ROOM, *memory.device_options()]
        return io.Schema(
            node_id="ImpastoEncoderPlacement",
            display_name="Encoder Placement",
            category=CATEGORY,
            description="Places text encoders and VAE on a device of their own, so that the diffusion model has its "
            "own card whole. Done by ComfyUI's own device selection, before anything is loaded.",
            search_aliases=["device", "multi gpu", "clip device", "vae device", "cpu offload", "second gpu"],
            inputs=[
                io.Clip.Input("clip", optional=True, tooltip="Text encoders to place, straight from their loader."),
                io.Vae.Input("vae", optional=True, tooltip="Autoencoder to place, straight from its loader."),
                io.Combo.Input(
                    "clip_device",
                    options=devices,
                    default="default",
                    tooltip="'default' is where the loader puts it; 'most room' the card with most memory free when "
                    "this node runs, and 'default' where there are not several.",
                ),
                io.Combo.Input(
                    "vae_device",
                    options=[device for device in devices if device != "cpu"],
                    default="default",
                    tooltip="As for CLIP. ComfyUI places no VAE on the CPU this way; its option --cpu-vae does.",
                ),
            ],
            outputs=[
                io.Clip.Output("clip", tooltip="The text encoders on their device."),
                io.Vae.Output("vae", tooltip="The autoencoder on its device."),
                io.String.Output("report", tooltip="What was placed where."),
            ],
        )

    @classmethod
    def execute(cls, clip_device, vae_device, clip=None, vae=None) -> io.NodeOutput:
        told = []
        if clip is not None:
            clip = memory.place_clip(clip, cls._chosen(clip_device))
            told.append(f"CLIP on {clip.patcher.load_device}")
        if vae is not None:
            vae = memory.place_vae(vae, cls._chosen(vae_device))
            told.append(f"VAE on {vae.patcher.load_device}")
        report = ", ".join(told) or "Nothing is connected to be placed."
        execution.progress()(1, 1, report)
        return io.NodeOutput(clip, vae, report)

    @staticmethod
    def _chosen(device: str) -> str:
        if device != MOST_ROOM:
            return device
        place = roomiest(memory.memory_state().devices)
        return "default" if place is None else f"gpu:{place}"


NODES = [MemoryCleanup, MemoryReport, EncoderPlacement]
