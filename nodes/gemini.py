"""The node that captions datasets with Google's Gemini."""

from __future__ import annotations

from comfy_api.latest import io

from ..captioners import gemini, gemini_answers
from ..captioners.keys import names_in
from ..captioners.quota import ProjectLimits
from ..captioners.runner import unanswered
from ..captioners.unfinished import fingerprint
from .captions import ask_again_input, captioned, captioner_schema, system_prompt_input
from .host import execution, folders
from .inputs import anew, over_links, refused


class GeminiCaptioner(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        limits = ProjectLimits()
        return captioner_schema(
            node_id="ImpastoGeminiCaptioner",
            display_name="Gemini Captioner",
            description=(
                "Captions pictures with Google's Gemini, within the limits of any number of projects. Every answer is "
                "kept at once: a stopped run goes on where it was and pays for nothing twice. Pictures leave this "
                "machine."
            ),
            search_aliases=["caption", "gemini", "google", "vlm", "describe image", "captioner", "auto caption"],
            which=[
                io.String.Input(
                    "projects",
                    default=gemini.DEFAULT_PROJECTS,
                    tooltip=(
                        "Names of keys, separated by commas: environment variables (GEMINI_API_KEY, "
                        "GEMINI_API_KEY_2 …) or projects in the server's user/impasto/gemini.toml. Never keys."
                    ),
                ),
                io.String.Input(
                    "model", default=gemini_answers.DEFAULT_MODEL, tooltip="A Gemini model that looks at pictures."
                ),
            ],
            how=[
                io.Boolean.Input(
                    "estimate_only",
                    default=False,
                    tooltip="Only report what captioning the open pictures would take in tokens, money and time.",
                ),
                ask_again_input(),
                system_prompt_input(),
                io.Combo.Input(
                    "media_resolution",
                    options=list(gemini.MEDIA_RESOLUTIONS),
                    default="high",
                    advanced=True,
                    tooltip="How closely Gemini looks: 280, 560 or 1,120 tokens for a picture.",
                ),
                io.Int.Input(
                    "requests_per_minute",
                    default=limits.requests_per_minute,
                    min=1,
                    max=100_000,
                    advanced=True,
                    tooltip="Of each project; AI Studio shows yours. The file may give each project its own.",
                ),
                io.Int.Input(
                    "requests_per_day",
                    default=limits.requests_per_day,
                    min=1,
                    max=100_000_000,
                    advanced=True,
                    tooltip="Of each project. Days end at midnight in California.",
                ),
                io.Int.Input(
                    "tokens_per_minute",
                    default=limits.tokens_per_minute,
                    min=1_000,
                    max=1_000_000_000,
                    advanced=True,
                    tooltip="Input tokens of each project.",
                ),
            ],
            fallback="Another captioner, asked about pictures that Gemini refuses, for example Florence-2.",
            report="Estimate, tokens used, what was captioned, what was refused, what to look at.",
        )

    @classmethod
    def validate_inputs(cls, projects: str | None = None) -> bool | str:
        """The keys themselves are looked for when a picture is asked about: not every queueing asks about one."""
        return refused(("projects", projects, names_in))

    @classmethod
    def fingerprint_inputs(cls, estimate_only: bool | None = False, **values: object) -> str | float:
        """Go on where the last run left pictures open, and estimate what is open now."""
        if estimate_only or over_links(estimate_only):
            return anew()
        return fingerprint(folders.user_root(), gemini.GeminiCaptioner.name)

    @classmethod
    async def execute(
        cls,
        projects: str,
        model: str,
        estimate_only: bool,
        system_prompt: str,
        media_resolution: str,
        requests_per_minute: int,
        requests_per_day: int,
        tokens_per_minute: int,
        ask_again: bool,
        dataset=None,
        **common,
    ) -> io.NodeOutput:
        limits = ProjectLimits(requests_per_minute, tokens_per_minute, requests_per_day)
        settings = gemini.GeminiSettings(names_in(projects), model.strip(), system_prompt, media_resolution, limits)
        captioner = gemini.GeminiCaptioner(settings, folders.user_root())
        estimate = ""
        if dataset is not None:
            count = len(unanswered(dataset, captioner, ask_again))
            estimate = captioner.estimate(count) if count else "Every picture has been asked about already."
            execution.progress()(0, 1, estimate)
        if estimate_only:
            return io.NodeOutput(dataset, estimate, captioner)
        return await captioned(captioner, dataset, ask_again=ask_again, before=estimate, **common)


NODES = [GeminiCaptioner]
