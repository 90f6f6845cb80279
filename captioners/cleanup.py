"""What is taken out of a captioner's answer before a style LoRA learns from it, and how.

A caption names what shall vary and leaves out what the trigger word shall own: lead-ins, medium, style, artist. Whole
sentences about style go; in a sentence about content only the words go. The ledger keeps the answer as it came.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import SettingsError
from ..files import parsed_json
from ..texts import one_line
from .caption_patterns import (
    ABBREVIATION,
    ADJECTIVES,
    AFTERWORD,
    BARE_CREDIT,
    CHAT,
    CREDIT,
    LISTED_THINGS,
    MATERIAL_COMMA,
    POSSESSIVE,
    REFUSALS,
    SENTENCE_LEAD_IN,
    STYLE_CLAUSES,
    STYLE_COMMA,
    STYLE_SENTENCE,
    STYLE_WORDS,
    STYLES_IN_FRONT,
    SUBJECT_WORK,
    SUBJECTS,
    SURE,
    THE_WORK,
    TITLE,
    WORKS,
)

LONGEST = 3_000  # characters of an answer that are looked at; T5 reads about 2,000
MAX_WORDS, MAX_WORD = 200, 100  # words of a person's own to take out, and the characters of each


@dataclass(frozen=True)
class Rules:
    """Which clean-up is done. As a text: its name for a report, "lead-ins, artists"."""

    lead_ins: bool = True  # "The image shows", "a painting of"
    style_words: bool = True  # style, medium, brushwork
    artists: bool = True  # names of artists, and titles
    refusals: bool = True  # "I'm sorry, I can't help with that" is no caption
    words: tuple[str, ...] = ()  # more words and phrases to take out

    def __str__(self) -> str:
        names = {"lead-ins": self.lead_ins, "style words": self.style_words, "artists": self.artists}
        names |= {"refusals": self.refusals, "your words": bool(self.words)}
        return ", ".join(name for name, on in names.items() if on) or "markup alone"


DEFAULT_RULES = Rules()


def read_words(text: str) -> tuple[str, ...]:
    """Words and phrases of a person's own to take out, separated by commas or lines.

    Raises:
        SettingsError: there are more than 200, or one has more than 100 characters.
    """
    words = tuple(dict.fromkeys(word.strip() for word in re.split(r"[,\n]", text) if word.strip()))
    if len(words) > MAX_WORDS:
        raise SettingsError(f"There are {len(words)} words to take out. Use at most {MAX_WORDS}.")
    for word in words:
        if len(word) > MAX_WORD:
            raise SettingsError(
                f"'{word[:40]}…', to be taken out, has {len(word)} characters. Use at most {MAX_WORD}, and commas "
                "between words."
            )
    return words


def clean(raw: str, rules: Rules = DEFAULT_RULES) -> str:
    """The caption in a captioner's answer, one line; "" where the answer is a refusal or says nothing but style."""
    text = _unwrapped(without_thinking(raw).strip()[:LONGEST])
    if rules.refusals and REFUSALS.match(text):
        return ""
    if rules.style_words:
        for in_front in STYLES_IN_FRONT:
            text = in_front.sub(lambda found: _capital(found["first"]), text)
    if rules.artists:
        text = _without_artists(text)
    sentences = []
    for sentence in _sentences(text):
        kept = _cleaned_sentence(sentence, rules)
        if kept:
            sentences.append(kept)
    return " ".join(sentences)


def without_thinking(text: str) -> str:
    """What follows the last `</think>`, whose beginning servers may have taken off; nothing of thinking without end."""
    said = re.split("</think>", text, flags=re.IGNORECASE)[-1]
    return re.split("<think>", said, maxsplit=1, flags=re.IGNORECASE)[0]


def _unwrapped(raw: str) -> str:
    """The answer without chat, JSON, markdown, special tokens and quotes around it."""
    text = re.sub(r"^\s*```\w*\s*|\s*```\s*$", "", raw)
    text = re.sub(r"</?s>|<pad>|<\|[^|>]{1,30}\|>|</?(?:MORE_|DETAILED_)*CAPTION>", " ", text)
    text = _from_json(text.strip())
    text = re.sub(r"^#+\s+[^\n]{0,60}\n+", "", text)  # a heading
    text = re.sub(r"(?m)^\s*(?:[-*•]|\d{1,2}[.)])\s+", "", text)
    text = re.sub(r"\*\*|__|`", "", text)
    text = AFTERWORD.sub("", one_line(text))
    text = SURE.sub("", CHAT.sub("", text, count=1), count=1).strip()
    if len(text) > 1 and text[0] in "\"'“‘" and text[-1] in "\"'”’" and text[0] not in text[1:-1]:
        text = text[1:-1].strip()
    return text


def _from_json(text: str) -> str:
    """The first string of a JSON object, in which captioners wrap a caption; other text as it is."""
    if not text.startswith("{"):
        return text
    try:
        parsed = parsed_json(text)
    except ValueError:
        return text
    return next((value for value in parsed.values() if isinstance(value, str)), "")


def _without_artists(text: str) -> str:
    text = TITLE.sub(" ", text)
    text = CREDIT.sub("", text)
    text = POSSESSIVE.sub("", text)
    return one_line(text)


def _sentences(text: str) -> list[str]:
    parts: list[str] = []
    for part in re.split(r"(?<=[.!?])\s+(?=[\"“(]?[A-Z0-9])", text):
        if parts and ABBREVIATION.search(parts[-1]):
            parts[-1] += f" {part}"
        else:
            parts.append(part)
    return parts


def _cleaned_sentence(sentence: str, rules: Rules) -> str:
    text = sentence
    if rules.style_words:
        for clause in STYLE_CLAUSES:
            text = clause.sub("", text)
        text = SUBJECT_WORK.sub(r"\1", text)
    if rules.lead_ins:
        text = _without_lead_in(text)
    if rules.style_words:
        text = _tidy(_without_style_between_commas(text))
        if STYLE_SENTENCE.search(text):
            text = _tidy(STYLE_WORDS.sub(" ", text))
            if STYLE_SENTENCE.search(text) or _is_about_the_work(text):
                return ""
        elif _is_about_the_work(text):
            return ""
        text = STYLE_WORDS.sub(" ", text)
    if rules.lead_ins:
        text = THE_WORK.sub("", _without_lead_in(_tidy(text)))
    if rules.artists:
        text = BARE_CREDIT.sub("", text)
    for word in rules.words:
        text = re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", "", text, flags=re.IGNORECASE)
    text = _tidy(text)
    return text if re.search(r"[^\W\d_]{2}", text) else ""


def _without_style_between_commas(text: str) -> str:
    things = LISTED_THINGS.search(text)
    return STYLE_COMMA.sub(lambda found: found[0] if things and MATERIAL_COMMA.match(found[0]) else "", text)


def _without_lead_in(text: str) -> str:
    shorter = SENTENCE_LEAD_IN.sub("", text, count=1)
    # "The image shows a painting of …" has two
    return shorter if shorter == text else SENTENCE_LEAD_IN.sub("", shorter, count=1)


def _is_about_the_work(text: str) -> bool:
    """Whether nothing is left but a painting as a thing: "This is a painting.", "The painting."."""
    return bool(
        re.fullmatch(
            rf"(?:(?:this|it|the|an?)\b\s*){{0,8}}(?:(?:{WORKS}|scene|subject|style|medium)\s*)?(?:(?:is|are|was|were)\b\s*)?"
            rf"(?:(?:this|the|an?)\s+)?{ADJECTIVES}{SUBJECTS}(?:{WORKS})?\s*[.!]?",
            text,
            re.IGNORECASE,
        )
    )


def _tidy(text: str) -> str:
    """Spaces, commas and articles put right after words were taken out, and a capital at the start."""
    text = one_line(text)
    text = re.sub(r"\(\s*\)", "", text)
    text = re.sub(r"\s+([,.;:!?])", r"\1", text)
    text = re.sub(r",(?:\s*,)+", ",", text)
    text = re.sub(r"[,;:]\s*([.!?])", r"\1", text)
    text = re.sub(r"\.{2}(?!\.)", ".", text)
    text = re.sub(r"^[\s,;:.–—-]+", "", text)
    text = re.sub(r"(?:,|\s+(?:and|with|in|of|by))\s*([.]?)$", r"\1", text)
    text = re.sub(r"\b(an)\s+(?=[bcdfgjklmnpqrstvwxyz])(?!hour|honest|heir)", "a ", text)
    text = re.sub(r"\bAn\s+(?=[bcdfgjklmnpqrstvwxyz])(?!hour|honest|heir)", "A ", text)
    text = re.sub(r"\b([Aa])\s+(?=[aeio])(?!one\b|once\b)", r"\1n ", text)
    return _capital(one_line(text))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
