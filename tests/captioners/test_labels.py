"""Each picture's own labels in the instructions of a captioner."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from impasto.captioners.captioner import Picture
from impasto.captioners.gemini import GeminiCaptioner, GeminiSettings
from impasto.captioners.labels import filled
from impasto.captioners.openai import OpenAICaptioner, OpenAISettings
from impasto.captioners.runner import caption_dataset
from impasto.dataset.records import write_manifest

from .gemini_server import GeminiServer, serving

KNOWN = Picture(
    "0" * 64, Path("0.jpg"), 64, 64, "still_life", "Apples_{artist}", "Paul Cezanne", "", "Post_Impressionism", "1890"
)
UNKNOWN = Picture("1" * 64, Path("1.jpg"), 64, 64)


def test_labels_are_filled_in_as_words_and_are_no_templates_themselves():
    said = filled("A {style} {genre} by {artist}, '{title}' of {date}.", KNOWN)
    assert said == "A Post Impressionism still life by Paul Cezanne, 'Apples {artist}' of 1890."


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("This is a {genre} by {artist}. Describe it.", "This is. Describe it."),
        ('This is a painting titled "{title}" by {artist}.', "This is a painting."),
        ("A {style} painting, made in {date}, of a river.", "A painting, of a river."),
        ("Artist: {artist}, genre: {genre}, describe the picture.", "describe the picture."),
        ("{title}\nDescribe it.", "Describe it."),
    ],
)
def test_where_labels_are_unknown_what_leads_to_them_goes_too(template, said):
    assert filled(template, UNKNOWN) == said
    assert filled(template, replace(UNKNOWN, artist="Unknown Artist", genre="Unknown Genre")) == said


def test_doubled_braces_are_braces_and_a_prompt_without_placeholders_is_sent_as_it_is():
    assert filled("{{genre}} is {genre}, {other}", KNOWN) == "{genre} is still life, {other}"
    assert filled("{{{genre}}}", KNOWN) == "{still life}"
    for verbatim in ('Answer {"a": {"caption": "…"}}', "{{x}}", "{name}", "{Genre}"):
        assert filled(verbatim, KNOWN) == verbatim


@pytest.mark.parametrize(
    "captioner",
    [
        lambda told: OpenAICaptioner(OpenAISettings("mine", "m", told), Path("."), {}),
        lambda told: GeminiCaptioner(GeminiSettings(system_prompt=told), Path("."), environment={}),
    ],
)
def test_only_a_label_that_the_prompt_carries_makes_another_question(captioner):
    plain, labelled = captioner("Describe {{genre}}."), captioner("Describe this {{{genre}}}.")
    assert plain.prompt(KNOWN) == plain.prompt(UNKNOWN)
    assert labelled.prompt(KNOWN) != labelled.prompt(UNKNOWN)
    assert labelled.prompt(KNOWN) == labelled.prompt(replace(KNOWN, artist="Another"))


def test_each_picture_is_asked_about_with_its_labels_and_again_when_its_own_change(make_dataset, tmp_path):
    dataset, folder = make_dataset(2), tmp_path / "user"
    first, second = dataset.records()
    dataset = write_manifest(dataset.folder, [replace(first, genre="portrait"), second])
    told = "Describe this {genre} picture."
    key = "AIza-key-of-one-0001"
    folder.mkdir()

    def run(dataset):
        gemini = GeminiCaptioner(GeminiSettings(("one",), system_prompt=told), folder, environment={})
        assert not asyncio.run(caption_dataset(dataset, gemini)).refused

    with serving(GeminiServer({key: GeminiSettings().limits})) as server:
        (folder / "gemini.toml").write_text(f'base_url = "{server.url}"\n[projects.one]\nkey = "{key}"\n')
        run(dataset)
        run(write_manifest(dataset.folder, [replace(first, genre="portrait"), replace(second, genre="cityscape")]))
    said = [request.body["systemInstruction"]["parts"][0]["text"] for request in server.requests]
    assert sorted(said) == [
        "Describe this cityscape picture.",
        "Describe this picture.",
        "Describe this portrait picture.",
    ]
