"""The ComfyUI faces: one V3 class per node, each thin over the pure packages. Only this folder knows ComfyUI."""

import importlib
import logging

from .. import installation
from ..errors import ImpastoError
from .host import version

try:
    from comfy_api.latest import ComfyExtension, io

    from . import admission, results, texts, words
except (ImportError, AttributeError) as error:
    version.check()
    raise ImpastoError(version.sentence(f"this one lacks something ({error})")) from error

logger = logging.getLogger(__name__)

MODULES = (
    "dataset",
    "dataset_by_name",
    "toml_writer",
    "sources",
    "composition",
    "statistics",
    "jobs",
    "exports",
    "captions",
    "gemini",
    "florence",
    "openai_compatible",
    "caption_editor",
    "encoding",
    "settings",
    "training",
    "sweep",
    "rendering",
    "animation",
    "comparison",
    "evaluation",
    "publishing",
    "loss_watch",
    "batches",
    "lora_workbench",
    "xy_grid",
    "sequence",
    "prompts",
    "prompt_library",
    "prompt_sets",
    "seeds",
    "memory",
    "embedded",
)


class ImpastoExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Every node of the pack. A module that cannot be imported costs its own nodes and a line in the log.

        Raises:
            ImpastoError: this ComfyUI is too old.
        """
        version.check()
        texts.keep_consoles_writing()
        self._add_routes()
        if lacking := installation.missing():
            logger.warning("Impasto: %s", installation.said(lacking))
        nodes: list[type[io.ComfyNode]] = []
        for name in MODULES:
            try:
                found = importlib.import_module(f".{name}", __package__).NODES
                for node in found:
                    words.name_inputs(node)
                    schema = node.GET_SCHEMA()  # ComfyUI would ask later, where one bad schema costs the whole pack
                    texts.guard(node, admission.checks(node, schema), results.completing(schema))
                nodes += found
            except Exception as error:
                library = error.name if isinstance(error, ModuleNotFoundError) else None
                if library in {package.name.replace("-", "_") for package in lacking}:
                    logger.error("Impasto's %s nodes are missing until %s is installed", name, library)
                else:
                    logger.exception("Impasto's %s nodes could not be imported and are missing", name)
        return nodes

    def _add_routes(self) -> None:
        try:
            importlib.import_module(".host.routes", __package__).register()
        except Exception:
            logger.exception("Impasto's routes under /impasto/ are missing; its nodes are there")
