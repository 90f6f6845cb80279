"""The node that captions datasets with Google's Gemini."""

from __future__ import annotations

from comfy_api.latest import io

from ..captioners.cleanup import DEFAULT_RULES
from ..captioners.gemini import (
    DEFAULT_MODEL,
    DEFAULT_PROJECTS,
    MEDIA_RESOLUTIONS,
    SYSTEM_PROMPT,
    GeminiCaptioner,
    GeminiSettings,
)
from ..captioners.keys import names_in
from ..captioners.quota import Limits
from ..captioners.runner import caption_dataset, unanswered
from ..captioners.unfinished import fingerprint, leave_open
from . import host, sockets


class ImpastoGeminiCaptioner(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        limits = Limits()
        return io.Schema(
            node_id="ImpastoGeminiCaptioner",
            display_name="Gemini Captioner",
            category="Impasto/Captions",
            description=(
                "Captions pictures with Google's Gemini, within the limits of any number of projects. Every answer is "
                "kept at once: a stopped run goes on where it was and pays for nothing twice. Pictures leave this "
                "machine."
            ),
            search_aliases=["caption", "gemini", "google", "vlm", "describe image", "captioner", "auto caption"],
            inputs=[
                sockets.Dataset.Input(
                    "dataset",
                    optional=True,
                    tooltip="The dataset to caption. It stays as it is. Leave it out to use only the captioner output.",
                ),
                io.String.Input(
                    "projects",
                    default=DEFAULT_PROJECTS,
                    tooltip=(
                        "Names of keys, separated by commas: environment variables (GEMINI_API_KEY, "
                        "GEMINI_API_KEY_2 …) or projects in the server's user/impasto/gemini.toml. Never keys."
                    ),
                ),
                io.String.Input("model", default=DEFAULT_MODEL, tooltip="A Gemini model that looks at pictures."),
                io.String.Input(
                    "trigger_word",
                    default="",
                    placeholder="a rare word, for example mntgrdn",
                    tooltip="Put in front of every caption; changing it captions nothing again. Empty for none.",
                ),
                io.Boolean.Input(
                    "clean_up",
                    default=True,
                    tooltip="Take off lead-ins ('The image shows'), style and medium words and artist names.",
                ),
                io.Boolean.Input(
                    "estimate_only",
                    default=False,
                    tooltip="Only report what captioning the open pictures would take in tokens, money and time.",
                ),
                io.Boolean.Input(
                    "ask_again",
                    default=False,
                    advanced=True,
                    tooltip="Ask also about pictures that were refused for good in an earlier run.",
                ),
                io.String.Input(
                    "system_prompt",
                    default=SYSTEM_PROMPT,
                    multiline=True,
                    advanced=True,
                    tooltip="What a caption shall describe and leave out. Another text asks about every picture anew.",
                ),
                io.Combo.Input(
                    "media_resolution",
                    options=list(MEDIA_RESOLUTIONS),
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
                sockets.Captioner.Input(
                    "fallback",
                    optional=True,
                    tooltip="Another captioner, asked about pictures that Gemini refuses, for example Florence-2.",
                ),
            ],
            outputs=[
                sockets.Dataset.Output("dataset", tooltip="The dataset with a caption for every picture it could say."),
                io.String.Output(
                    "report", tooltip="Estimate, tokens used, what was captioned, what was refused, what to look at."
                ),
                sockets.Captioner.Output("captioner", tooltip="This captioner, as the fallback of another."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, **values: object) -> str:
        """Go on where the last run left pictures open."""
        return fingerprint(host.owner_folder(), GeminiCaptioner.name)

    @classmethod
    async def execute(
        cls,
        projects: str,
        model: str,
        trigger_word: str,
        clean_up: bool,
        estimate_only: bool,
        ask_again: bool,
        system_prompt: str,
        media_resolution: str,
        requests_per_minute: int,
        requests_per_day: int,
        tokens_per_minute: int,
        dataset=None,
        fallback=None,
    ) -> io.NodeOutput:
        limits = Limits(requests_per_minute, tokens_per_minute, requests_per_day)
        settings = GeminiSettings(names_in(projects), model.strip(), system_prompt, media_resolution, limits)
        captioner = GeminiCaptioner(settings, host.owner_folder())
        if dataset is None:
            return io.NodeOutput(None, "", captioner)
        progress = host.progress()
        count = len(unanswered(dataset, captioner, ask_again))
        estimate = captioner.estimate(count) if count else "Every picture has been asked about already."
        progress(0, 1, estimate)
        if estimate_only:
            return io.NodeOutput(dataset, estimate, captioner)
        captioned = await caption_dataset(
            dataset,
            captioner,
            progress,
            trigger_word=trigger_word,
            rules=DEFAULT_RULES if clean_up else None,
            fallback=fallback,
            ask_again=ask_again,
        )
        if captioned.open:
            leave_open(host.owner_folder(), captioner.name)
        report = f"{estimate}\n{captioned.report}"
        progress(1, 1, report)
        return io.NodeOutput(captioned.dataset, report, captioner)


NODES = [ImpastoGeminiCaptioner]
