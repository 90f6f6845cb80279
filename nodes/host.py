"""Every call into ComfyUI: folders, progress and Cancel, memory, pictures. Nodes import from here, not from comfy.*."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sample
import comfy.samplers
import comfy.sd
import comfy.text_encoders.flux
import comfy.utils
import comfy.weight_adapter
import folder_paths
import torch
from comfy_execution.graph_utils import ExecutionBlocker, GraphBuilder, is_link
from comfy_execution.utils import get_executing_context
from PIL.Image import fromarray
from server import PromptServer

from ..captioners.florence import Florence, activation_bytes, load_florence
from ..curation.style_similarity import PictureEncoder
from ..errors import ModelError
from ..files import ABANDONED, appearing, remove_partials
from ..hardware.cleanup import DeviceMemory, HeldModel, MemoryState
from ..hardware.device_memory import empty_cache, reserved_memory
from ..hardware.host_memory import host_memory, resident_memory
from ..trainers.features.encoding import Encoder
from ..trainers.features.feature_set import LATENT_CHANNELS

if TYPE_CHECKING:
    import numpy
    from comfy.clip_vision import ClipVisionModel
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP, VAE
    from PIL.Image import Image

    from ..captioners.florence import Florence2Captioner
    from ..progress import Progress
    from ..rendering.cells import Sampling

PREVIEW_SIZE = 512  # pixels of the longer side of a live preview
NOT_MODELS = {"custom_nodes", "datasets", "configs"}  # folder keys of ComfyUI under which no weights lie
FINGERPRINT_VALUES = 256  # of each weight; a fine-tune changes nearly all values


def datasets_root() -> Path:
    """ComfyUI's first "datasets" folder; every dataset and every local source lies directly under it."""
    return Path(folder_paths.get_folder_paths("datasets")[0])


def batches_root() -> Path:
    return Path(folder_paths.get_output_directory()) / "impasto" / "batches"


def runs_root() -> Path:
    return Path(folder_paths.get_output_directory()) / "impasto" / "runs"


def loras_root() -> Path:
    """`output/loras`, which ComfyUI lists among its LoRA folders."""
    return Path(folder_paths.get_output_directory()) / "loras"


def prompts_output_root() -> Path:
    return Path(folder_paths.get_output_directory()) / "impasto" / "prompts"


def user_root() -> Path:
    """What outlives an update of the pack: prompts, seeds and wildcards, and what was sent to services; of the server's
    owner, and written by no node: keys and addresses of services, allowed hosts, launch profiles.
    """
    return Path(folder_paths.get_user_directory()) / "impasto"


def seed_book_file() -> Path:
    return user_root() / "seeds.sqlite"


def pack_models_root() -> Path:
    """Models that the pack makes for itself; no ComfyUI loader lists them."""
    return Path(folder_paths.models_dir) / "impasto"


def input_root() -> Path:
    """ComfyUI's input folder, where people upload files."""
    return Path(folder_paths.get_input_directory())


def allowed_hosts_file() -> Path:
    """The list of hosts that the owner of the server may have put under `user`; no request can write there."""
    return user_root() / "allowed_hosts.txt"


def thumbnails_folder() -> Path:
    """Under ComfyUI's temp folder, from where its page gets pictures: /view?type=temp&subfolder=impasto/thumbnails."""
    return Path(folder_paths.get_temp_directory()) / "impasto" / "thumbnails"


def models_root() -> Path:
    """ComfyUI's own models folder."""
    return Path(folder_paths.models_dir)


def model_folders() -> list[Path]:
    """Every folder that ComfyUI looks for models in, those of extra_model_paths.yaml included."""
    listed = {key: paths for key, (paths, _) in folder_paths.folder_names_and_paths.items()}
    return [Path(path) for key in sorted(listed.keys() - NOT_MODELS) for path in listed[key]]


def raise_if_cancelled() -> None:
    """Raise ComfyUI's `InterruptProcessingException` (a BaseException) if Cancel was pressed, and clear the flag."""
    comfy.model_management.throw_exception_if_processing_interrupted()


def progress() -> Progress:
    """A `Progress` that fills the executing node's bar, text and preview, and raises when Cancel was pressed.

    To be made inside `execute`: the node it belongs to is taken from ComfyUI's executing context.
    """
    context = get_executing_context()
    node_id = context.node_id if context else None
    bar = comfy.utils.ProgressBar(1, node_id=node_id)
    shown = ""

    def report(done: int, total: int, text: str = "", preview: Image | None = None) -> None:
        nonlocal shown
        raise_if_cancelled()
        bar.update_absolute(done, max(total, 1), ("JPEG", preview, PREVIEW_SIZE) if preview else None)
        if text and text != shown and node_id is not None:
            shown = text
            server = PromptServer.instance
            server.send_progress_text(text, node_id, server.client_id)

    return report


def blocked() -> ExecutionBlocker:
    """An output that keeps every node connected to it from running, without an error."""
    return ExecutionBlocker(None)


@dataclass(frozen=True)
class Expansion:
    """Nodes to run in place of one that has already run, the last of them with its outputs."""

    graph: dict[str, Any]
    node_id: str

    def outputs(self, number: int) -> list[list[Any]]:
        return [[self.node_id, index] for index in range(number)]


def run_again(
    dynprompt, node_id: str, source: str, change: Callable[[str, dict[str, Any]], dict[str, Any]]
) -> Expansion | None:
    """The nodes from `source` on that lead to this one, and this one, to be run a second time with other inputs.

    Args:
        dynprompt: the graph, from the hidden input of that name.
        node_id: the node that asks.
        source: class name of the nodes where the second run begins; what only leads to these is not run again.
        change: given a node's class name and inputs, those of its inputs that are different the second time.

    Returns:
        None where no such node leads to this one.
    """
    builder = GraphBuilder()
    copies: dict[str, Any] = {}

    def copied(original: str):
        if original not in copies:
            node = dynprompt.get_node(original)
            inputs = dict(node["inputs"])
            if node["class_type"] != source:
                links = {name: value for name, value in inputs.items() if is_link(value)}
                again = {name: (copied(value[0]), value[1]) for name, value in links.items()}
                inputs |= {name: copy.out(index) for name, (copy, index) in again.items() if copy is not None}
                if all(copy is None for copy, _ in again.values()):
                    copies[original] = None
                    return None
            copies[original] = builder.node(node["class_type"], original, **inputs | change(node["class_type"], inputs))
        return copies[original]

    last = copied(node_id)
    return last and Expansion(builder.finalize(), last.id)


def unload_models() -> None:
    """Give back all device memory that ComfyUI's models hold, before another process needs it."""
    comfy.model_management.unload_all_models()
    comfy.model_management.cleanup_models_gc()
    comfy.model_management.soft_empty_cache()


class _Movable(torch.nn.Module):
    """A transformers model as ModelPatcher wants one: with a `device` that can be set."""

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.transformer = model


class FlorencePlace:
    """Where ComfyUI computes, in bf16 on a GPU that has it, else in float32; in the care of its memory management.

    Other models make room for it and its batch. They take the room back when they need it, between batches too.
    """

    def __init__(self) -> None:
        self._held: tuple[ModelPatcher, Florence] | None = None

    def open(self, captioner: Florence2Captioner) -> Florence:
        patcher, florence = self._held = self._held or self._load(captioner)
        room = captioner.fitting * activation_bytes(florence, captioner.settings.num_beams)
        # Whole: ComfyUI streams single weights only into layers of its own.
        comfy.model_management.load_models_gpu([patcher], memory_required=room, force_full_load=True)
        return florence

    def free(self) -> None:
        comfy.model_management.soft_empty_cache()

    def close(self) -> None:
        """Let go of it in device and host memory: training may come next, and reading it again takes a second."""
        self._held = None
        self.free()

    def _load(self, captioner: Florence2Captioner) -> tuple[ModelPatcher, Florence]:
        device = comfy.model_management.text_encoder_device()
        dtype = torch.bfloat16 if comfy.model_management.should_use_bf16(device) else torch.float32
        florence = load_florence(captioner.checkpoint.folder, dtype)
        # Said here because ComfyUI would count the embeddings, which Florence-2 uses in four places, four times.
        size = sum(weight.nbytes for weight in florence.model.parameters())
        offload = comfy.model_management.text_encoder_offload_device()
        return comfy.model_patcher.ModelPatcher(_Movable(florence.model), device, offload, size), florence


def drop_outputs_afterwards() -> None:
    """Have ComfyUI forget all cached outputs once the running prompt has ended, as its POST /free does."""
    queue = PromptServer.instance.prompt_queue
    queue.set_flag("free_memory", True)
    if not queue.get_flags(reset=False).get("unload_models"):
        queue.set_flag("unload_models", False)  # else free_memory unloads the models as well


def empty_device_caches() -> None:
    """Give memory that torch keeps for later back to the device."""
    comfy.model_management.soft_empty_cache(force=True)
    empty_cache()  # on the kinds of device that ComfyUI does not know


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the host had no memory left for what was asked."""
    on_host = isinstance(error, MemoryError) or "can't allocate memory" in str(error)  # torch's own on the CPU
    return on_host or comfy.model_management.is_oom(error)


def memory_state() -> MemoryState:
    """What this process and its models hold on the host and on every accelerator."""
    total, free = host_memory()
    devices = [device for device in comfy.model_management.get_all_torch_devices() if device.type != "cpu"]
    return MemoryState(tuple(map(_device_memory, devices)), resident_memory(), total, free, _held_models())


def device_options() -> list[str]:
    """The names by which ComfyUI's own nodes choose a device: "default" (the loader's), "cpu", "gpu:0" …"""
    return comfy.model_management.get_gpu_device_options()


def place_clip(clip: CLIP, device: str) -> CLIP:
    """The text encoders on a device, by core's Select CLIP Device; what comes in is left where it is.

    Raises:
        ModelError: the device is not there, or the loader of this CLIP cannot load it a second time.
    """
    from comfy_extras.nodes_multigpu import SelectCLIPDeviceNode  # here: a core without it costs only this node

    placed = SelectCLIPDeviceNode.execute(clip, device).args[0]
    _refuse_left_behind("CLIP", device, placed.patcher)
    return placed


def place_vae(vae: VAE, device: str) -> VAE:
    """The autoencoder on a device, by core's Select VAE Device; what comes in is left where it is.

    Raises:
        ModelError: the device is not there, or the loader of this VAE cannot load it a second time.
    """
    from comfy_extras.nodes_multigpu import SelectVAEDeviceNode

    placed = SelectVAEDeviceNode.execute(vae, device).args[0]
    _refuse_left_behind("VAE", device, placed.patcher)
    return placed


def _refuse_left_behind(socket: str, device: str, patcher: ModelPatcher) -> None:
    """Core's nodes pass on unchanged what they cannot place."""
    wanted = comfy.model_management.resolve_gpu_device_option(device)
    if device == "default" or patcher.load_device == wanted:
        return
    if wanted is None:
        raise ModelError(f"There is no device {device}. Choose one of: {', '.join(device_options())}.")
    raise ModelError(
        f"The {socket} could not be placed on {device}: its loader cannot load it a second time, or core keeps it off "
        "that device. Load it with core's DualCLIPLoader or Load VAE."
    )


def _device_memory(device: torch.device) -> DeviceMemory:
    management = comfy.model_management
    return DeviceMemory(
        management.get_torch_device_name(device),
        management.get_total_memory(device),
        management.get_free_memory(device),
        reserved_memory(device),
    )


def _held_models() -> tuple[HeldModel, ...]:
    held = [loaded for loaded in comfy.model_management.current_loaded_models if loaded.model is not None]
    return tuple(
        HeldModel(
            type(loaded.model.model).__name__,
            str(loaded.device),
            loaded.model_loaded_memory(),
            loaded.model_memory(),
        )
        for loaded in held
    )


def prompt_id() -> str:
    """ComfyUI's id of the prompt that is being executed; empty outside of one."""
    context = get_executing_context()
    return context.prompt_id if context else ""


def saved_files(prompt: str) -> list[str]:
    """Files that an ended prompt saved to the output folder, as far as this server remembers it."""
    entry = PromptServer.instance.prompt_queue.get_history(prompt_id=prompt).get(prompt, {})
    shown = [item for node in entry.get("outputs", {}).values() for items in node.values() for item in items]
    return [
        "/".join(filter(None, (item["subfolder"], item["filename"])))
        for item in shown
        if isinstance(item, dict) and item.get("type") == "output"
    ]


def on_cpu() -> bool:
    """Whether ComfyUI computes on the CPU, by choice or for want of an accelerator."""
    return comfy.model_management.get_torch_device().type == "cpu"


def launch_profiles_folder() -> Path:
    """Where the owner of the server keeps accelerate configurations (several GPUs or machines)."""
    return user_root() / "accelerate"


def lora_names() -> list[str]:
    return folder_paths.get_filename_list("loras")


def lora_path(name: str) -> Path:
    """
    Raises:
        ModelError: ComfyUI lists no LoRA of that name.
    """
    if name not in lora_names():
        raise ModelError(f"ComfyUI knows no LoRA '{name}'. Choose one of its list, or put the file into models/loras.")
    return Path(folder_paths.get_full_path_or_raise("loras", name))


def flux_weights_file(model) -> Path:
    """The file behind a MODEL socket. A model without one, or with patches on it (a LoRA), is written out first.

    Raises:
        ModelError: the model is not FLUX.1.
    """
    if type(model.model) is not comfy.model_base.Flux:
        raise ModelError(
            f"The model is {type(model.model).__name__}, not FLUX.1. Load a FLUX.1 model (dev, schnell, Krea or "
            "Kontext) with Load Diffusion Model and connect it."
        )
    loader, arguments = (model.cached_patcher_init or (None, ()))[:2]
    if loader in (comfy.sd.load_diffusion_model, comfy.sd.load_checkpoint_guess_config) and not model.patches:
        return Path(arguments[0])
    target = pack_models_root() / "baked" / f"{model_identity(model)}.safetensors"
    remove_partials(target.parent, ABANDONED)  # of the size of the model; other servers may have the same models folder
    if not target.exists():
        with appearing(target) as temporary:
            comfy.sd.save_checkpoint(str(temporary), model)
    return target


def load_diffusion_model(path: Path) -> ModelPatcher:
    """A MODEL from one file, as core's UNETLoader gives it; it remembers the file it came from."""
    return comfy.sd.load_diffusion_model(str(path))


def load_flux_clip(clip_l: Path, t5: Path, clip_config: dict[str, Any], t5_config: dict[str, Any]) -> CLIP:
    """A CLIP of ComfyUI's own FLUX class from a CLIP-L and a T5 file whose sizes differ from the real ones.

    In float32 on every device, so that a prompt has the same embedding everywhere.
    """
    # "model_config" is the CLIP-L's: comfy/text_encoders/long_clipl.py adds the token count and hands it on.
    options = {"model_config": dict(clip_config), "t5xxl_model_config": dict(t5_config), "dtype": torch.float32}
    return comfy.sd.load_clip(
        [str(clip_l), str(t5)], folder_paths.get_folder_paths("embeddings"), comfy.sd.CLIPType.FLUX, options
    )


def load_vae(path: Path) -> VAE:
    """A VAE from one file, in float32 on every device; it remembers the file it came from."""
    weights, metadata = comfy.utils.load_torch_file(str(path), return_metadata=True)
    vae = comfy.sd.VAE(sd=weights, metadata=metadata, dtype=torch.float32)
    vae.throw_exception_if_invalid()
    vae.patcher.cached_patcher_init = (comfy.sd.load_vae_patcher, (str(path), metadata, None))
    return vae


def load_lora(path: Path) -> dict[str, torch.Tensor]:
    return comfy.utils.load_torch_file(str(path), safe_load=True)


def latents_preview(path: Path) -> Image:
    """Small pictures of scaled FLUX latents in a safetensors file, side by side, by ComfyUI's latent-to-RGB factors."""
    import comfy.latent_formats
    import numpy
    from latent_preview import Latent2RGBPreviewer

    latents = comfy.utils.load_torch_file(str(path))["latents"]
    flux = comfy.latent_formats.Flux()
    previewer = Latent2RGBPreviewer(flux.latent_rgb_factors, flux.latent_rgb_factors_bias)
    pictures = [previewer.decode_latent_to_preview(latent[None]) for latent in latents]
    sheet = fromarray(numpy.concatenate([numpy.asarray(picture) for picture in pictures], axis=1))
    return sheet.resize((sheet.width * 4, sheet.height * 4))


def model_identity(patcher: ModelPatcher) -> str:
    """A hash of the weights behind `patcher` and the patches on them: the same after a restart, and nothing is loaded.

    Of every weight the name, shape, dtype and about 256 evenly spaced values are taken, so that T5-XXL costs well under
    a second.
    """
    digest = hashlib.sha256()
    for name, weight in sorted(patcher.model.state_dict().items()):
        # Where a patch has been worked into the weight, the weight before it is in the backup.
        original = patcher.backup[name].weight if name in patcher.backup else weight
        _digest([name, original, patcher.patches.get(name, [])], digest)
    return digest.hexdigest()[:32]


def _digest(value: Any, digest: hashlib._Hash) -> None:
    if isinstance(value, torch.Tensor):
        stored = getattr(value, "_qdata", value).detach()  # of a quantised weight, without dequantising it
        flat = stored.reshape(-1)
        sample = flat[:: max(1, flat.numel() // FINGERPRINT_VALUES)].cpu().contiguous()
        digest.update(f"{tuple(stored.shape)} {stored.dtype}".encode())
        digest.update(sample.view(torch.uint8).numpy().tobytes())
    elif isinstance(value, (list, tuple)):
        digest.update(f"[{len(value)}".encode())
        for part in value:
            _digest(part, digest)
    elif isinstance(value, comfy.weight_adapter.WeightAdapterBase):
        digest.update(value.name.encode())
        _digest(value.weights, digest)
    else:
        digest.update(repr(value).encode())


def _refuse_attachments(patcher: ModelPatcher, socket: str) -> None:
    """What changes a model's results by running code has no content to recognise it by after a restart."""
    for what in ("injections", "forced_hooks", "weight_wrapper_patches"):
        if getattr(patcher, what):
            raise ModelError(
                f"The {socket} carries {what.replace('_', ' ')} from another node (hooks, a bypass LoRA), which "
                "cannot be recognised again later. Connect it without that node; Load LoRA can be used."
            )


def text_encoder(clip: CLIP) -> Encoder:
    """FLUX's text encoders on a CLIP socket, giving what CLIPTextEncode gives: T5 unmasked, padded by ComfyUI.

    Raises:
        ModelError: the CLIP is another model's, or carries hooks.
    """
    tokenizers = set(clip.tokenize(""))
    if tokenizers != {"l", "t5xxl"}:
        raise ModelError(
            f"The CLIP has the text encoders {', '.join(sorted(tokenizers))}, but FLUX has l and t5xxl. "
            "Load both with DualCLIPLoader, type flux."
        )

    _refuse_attachments(clip.patcher, "CLIP")

    def encode(text: str) -> tuple[torch.Tensor, torch.Tensor]:
        hidden_states, pooled = clip.encode_from_tokens(clip.tokenize(text), return_pooled=True)
        return hidden_states[0], pooled[0]

    options = f"{clip.layer_idx} {sorted(clip.tokenizer_options.items())}"
    return Encoder(f"{model_identity(clip.patcher)} {options}", encode)


def token_counters(clip: CLIP | None) -> tuple[Callable[[str], int], Callable[[str], int]]:
    """Count the tokens of a text for CLIP-L and for T5, without start, end and padding.

    By the tokenizers of a FLUX CLIP, or without one by those that ComfyUI ships: FLUX's are the same.

    Raises:
        ModelError: the CLIP is another model's.
    """
    tokenizer = clip.tokenizer if clip else _flux_tokenizer()
    if not (hasattr(tokenizer, "clip_l") and hasattr(tokenizer, "t5xxl")):
        raise ModelError(
            f"The CLIP has the tokenizer {type(tokenizer).__name__}, which is not FLUX.1's. Load it with "
            "DualCLIPLoader, type flux, or leave 'clip' unconnected."
        )
    return _counter(tokenizer.clip_l), _counter(tokenizer.t5xxl)


def _counter(tokenizer: Any) -> Callable[[str], int]:
    def count(text: str) -> int:
        raise_if_cancelled()  # a long prompt is counted some twenty times before it fits
        # ComfyUI numbers words from 1; start, end and padding have 0.
        chunks = tokenizer.tokenize_with_weights(text, return_word_ids=True)
        return sum(word > 0 for chunk in chunks for _, _, word in chunk)

    return count


@functools.cache
def _flux_tokenizer() -> Any:
    return comfy.text_encoders.flux.FluxTokenizer(folder_paths.get_folder_paths("embeddings"))


def autoencoder(vae: VAE) -> Encoder:
    """FLUX's autoencoder on a VAE socket, giving raw latents (not yet scaled).

    Raises:
        ModelError: the VAE is another model's, or carries hooks.
    """
    vae.throw_exception_if_invalid()
    if (vae.latent_channels, vae.latent_dim) != (LATENT_CHANNELS, 2):
        raise ModelError(
            f"The VAE has {vae.latent_channels} latent channels in {vae.latent_dim} dimensions, but FLUX.1's has "
            f"{LATENT_CHANNELS} in 2. Load FLUX's autoencoder (ae.safetensors) with Load VAE."
        )
    _refuse_attachments(vae.patcher, "VAE")
    return Encoder(model_identity(vae.patcher), lambda pixels: vae.encode(pixels[None])[0])


def picture_encoder(clip_vision: ClipVisionModel) -> PictureEncoder:
    """The image encoder on a CLIP_VISION socket, giving the image embeddings of core's CLIP Vision Encode.

    Raises:
        ModelError: it carries hooks.
    """
    _refuse_attachments(clip_vision.patcher, "CLIP_VISION")

    def encode(pictures: Sequence[Image]) -> numpy.ndarray:
        embeds = clip_vision.encode_image(image_batch(list(pictures)))["image_embeds"].float().cpu()
        # ComfyUI gives one embedding a patch for SigLIP, whose own pooling it leaves out.
        return (embeds.mean(dim=1) if embeds.ndim == 3 else embeds).numpy()

    return PictureEncoder(model_identity(clip_vision.patcher), clip_vision.image_size, encode)


def image_batch(pictures: list[Image]) -> torch.Tensor:
    """PIL pictures of one size as a ComfyUI IMAGE: `(batch, height, width, 3)`, float32 in 0…1."""
    import numpy

    return torch.from_numpy(numpy.stack([numpy.asarray(picture.convert("RGB")) for picture in pictures])).float() / 255


def sampler_names() -> list[str]:
    return list(comfy.samplers.SAMPLER_NAMES)


def scheduler_names() -> list[str]:
    return list(comfy.samplers.SCHEDULER_NAMES)


def with_lora(model: ModelPatcher, file: Path, strength: float) -> ModelPatcher:
    """`model` with a LoRA file applied, as core's LoraLoaderModelOnly does it, but never only in part.

    Raises:
        ModelError: some of the LoRA's layers do not exist in the model, or have other sizes there.
    """
    weights = comfy.utils.load_torch_file(str(file), safe_load=True)
    patched, _ = comfy.sd.load_lora_for_models(model, None, weights, strength, 0)
    layers = sum(key.endswith(".lora_A.weight") for key in weights)
    applied = [
        (key, patch[1])
        for key, patches in patched.patches.items()
        for patch in patches[len(model.patches.get(key, ())) :]
    ]
    fitting = sum(
        adapter.weights[1].shape[1] == comfy.utils.get_attr(model.model, key).shape[-1] for key, adapter in applied
    )
    if fitting < layers or not layers:
        raise ModelError(
            f"{file} has {layers} LoRA layers, and only {fitting} of them fit this {type(model.model).__name__} model. "
            "Connect the model that the LoRA was trained on."
        )
    return patched


def sampling_identity(model: ModelPatcher, clip: CLIP, vae: VAE) -> str:
    """A hash of all that decides a sampled picture but its own settings: weights, patches, noise schedule, options.

    Code attached to the model (hooks, attention patches) is told apart only while this server runs.
    """
    digest = hashlib.sha256()
    _digest([model_identity(patcher) for patcher in (model, clip.patcher, vae.patcher)], digest)
    _digest(model.get_model_object("model_sampling").sigmas, digest)
    attached = [model.model_options, sorted(model.object_patches), model.injections, model.forced_hooks]
    _digest([*attached, model.weight_wrapper_patches, clip.layer_idx, clip.tokenizer_options], digest)
    return digest.hexdigest()[:32]


class Painter:
    """Samples pictures as core's KSampler does at cfg 1.0: one model pass a step, guided by FLUX's own guidance.

    Keeps the encoded prompts and the model with the present LoRA, so that neither is made once a picture.
    """

    def __init__(self, model: ModelPatcher, clip: CLIP, vae: VAE, sampling: Sampling, strength: float):
        self._base, self._clip, self._vae = model, clip, vae
        self._sampling, self._strength = sampling, strength
        self._model = model
        self._conditioning: dict[str, list] = {}

    def encode(self, texts: Sequence[str]) -> None:
        for text in texts:
            raise_if_cancelled()
            self._conditioning[text] = self._clip.encode_from_tokens_scheduled(
                self._clip.tokenize(text), add_dict={"guidance": self._sampling.guidance}
            )

    def use(self, adapter: Path | None) -> None:
        self._model = with_lora(self._base, adapter, self._strength) if adapter else self._base

    def paint(self, text: str, seed: int, on_step: Callable[[int], None]) -> Image | None:
        return self.paint_batch(text, [seed], on_step)[0]

    def paint_batch(self, text: str, seeds: Sequence[int], on_step: Callable[[int], None]) -> list[Image | None]:
        """One picture a seed, sampled together; each has the noise that it has alone."""
        sampling, conditioning = self._sampling, self._conditioning[text]
        channels = self._model.get_model_object("latent_format").latent_channels
        latent = torch.zeros([1, channels, sampling.height // 8, sampling.width // 8])
        noise = torch.cat([comfy.sample.prepare_noise(latent, seed) for seed in seeds])
        latent = latent.repeat(len(seeds), 1, 1, 1)
        samples = comfy.sample.sample(
            self._model,
            noise,
            sampling.steps,
            1.0,
            sampling.sampler_name,
            sampling.scheduler,
            conditioning,
            conditioning,  # the negative: not computed at cfg 1.0
            latent,
            callback=lambda step, x0, x, total: on_step(step + 1),
            disable_pbar=True,
            seed=seeds[0],
        )
        return [_picture(pixels) for pixels in self._vae.decode(samples).float().cpu()]


def _picture(pixels: torch.Tensor) -> Image | None:
    """`(height, width, 3)` in 0…1 as a picture; None where it is not finite."""
    if not torch.isfinite(pixels).all():
        return None
    # Cut, not rounded, as core's SaveImage does it.
    return fromarray((pixels * 255).clamp(0, 255).to(torch.uint8).numpy())
