"""The node in which a person has the last word on captions."""

from __future__ import annotations

import json

from comfy_api.latest import io

from ..captioners.editing import EditRules, edit_captions, read_overrides, read_replacements, table
from ..dataset import watch_list
from . import sockets
from .captions import CATEGORY, token_counts
from .host import execution, folders
from .inputs import refused, watched_input


class CaptionEditor(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImpastoCaptionEditor",
            display_name="Caption Editor",
            category=CATEGORY,
            description=(
                "Edits captions by rule and by hand: find and replace, tags taken out, prefix and suffix, trigger "
                "word, and single captions that stay as you wrote them whatever is captioned again."
            ),
            search_aliases=["edit captions", "trigger word", "find replace", "regex", "tags", "prefix", "lock caption"],
            inputs=[
                sockets.Dataset.Input("dataset", tooltip="A captioned dataset. It stays as it is."),
                io.String.Input(
                    "trigger_word",
                    default="",
                    placeholder="a rare word, for example mntgrdn",
                    tooltip="Put in front of every caption that has it not yet. Empty for none.",
                ),
                io.String.Input("prefix", default="", tooltip="Put before every caption, behind the trigger word."),
                io.String.Input("suffix", default="", tooltip="Put behind every caption."),
                io.String.Input(
                    "replacements",
                    default="",
                    multiline=True,
                    placeholder="a dog => a puppy",
                    tooltip="One rule a line: 'find => replace'. Find is a regular expression; \\1 is its first group.",
                ),
                io.String.Input(
                    "remove_tags",
                    default="",
                    tooltip="Parts between commas to take out of every caption, separated by commas.",
                ),
                io.String.Input(
                    "overrides",
                    default="",
                    multiline=True,
                    placeholder="3fa94c: a woman with a parasol",
                    tooltip=(
                        "One picture a line: the first digits of its file name, a colon, its caption. '!' before the "
                        "caption locks it, '!' alone locks it as it is, nothing gives it back to the captioner."
                    ),
                ),
                watched_input("They are marked in the table, so that you caption them anew."),
            ],
            outputs=[
                sockets.Dataset.Output("dataset", tooltip="The dataset with edited captions."),
                io.String.Output("report", tooltip="How many captions changed, and which a person should look at."),
                io.String.Output(
                    "table", tooltip="Every caption with its picture, marks and doubts, as JSON: one object a picture."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, replacements: str | None = None, overrides: str | None = None) -> bool | str:
        return refused(
            ("replacements", replacements, read_replacements),
            ("overrides", overrides, read_overrides),
        )

    @classmethod
    def execute(
        cls,
        dataset,
        trigger_word: str,
        prefix: str,
        suffix: str,
        replacements: str,
        remove_tags: str,
        overrides: str,
        watched: str = "",
    ) -> io.NodeOutput:
        rules = EditRules(trigger_word, prefix, suffix, read_replacements(replacements), tuple(remove_tags.split(",")))
        edited, report, rows = edit_captions(
            dataset,
            rules,
            read_overrides(overrides),
            execution.progress(),
            folders.thumbnails_folder(),
            token_counts,
            watch_list.read(watched),
        )
        shown = table(rows)
        shown_by_page = {"impasto_captions": shown, "impasto_dataset": [edited.name]}  # web/caption_editor.js
        return io.NodeOutput(edited, report, json.dumps(shown, ensure_ascii=False), ui=shown_by_page)


NODES = [CaptionEditor]
