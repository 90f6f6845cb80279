"""What is taken out of a captioner's answer before a style LoRA learns from it, and what a person should look at.

A caption names what shall vary and leaves out what the trigger word shall own: lead-ins, medium, style, artist. Whole
sentences about style go; in a sentence about content only the words go. The ledger keeps the answer as it came.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from .. import token_limits
from ..errors import SettingsError
from ..files import parsed_json
from ..texts import one_line

LONGEST = 3_000  # characters of an answer that are looked at; T5 reads about 2,000
LISTED = 5  # captions that the lint report lists under each heading
MAX_WORDS, MAX_WORD = 200, 100  # words of a person's own to take out, and the characters of each

CountTokens = Callable[[str], tuple[int, int]]  # tokens of a text for CLIP-L and for T5, start and end included


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

# Surnames, or first names where they are the usual name, of huggan/wikiart's artists and a few more. Words that mean
# something else in English (West, Gray, Brown) count only with "by" or "of" before them, see `_CREDIT`.
ARTISTS = (
    "Aivazovsky|Alma-Tadema|Beardsley|Boldini|Bonnard|Botero|Botticelli|Boudin|Braque|Bruegel|Brueghel|Bryullov|"
    "Burne-Jones|Caillebotte|Canaletto|Caravaggio|Cassatt|C[eé]zanne|Chagall|Corot|Cort[eè]s|Courbet|Cranach|"
    "Dal[ií]|Degas|Delacroix|D[uü]rer|El Greco|Fantin-Latour|Fragonard|Gainsborough|Gauguin|Gogh|Goya|Hiroshige|"
    "Hokusai|Holbein|Kandinsky|Klimt|Konchalovsky|Korovin|Kuindzhi|Kuniyoshi|Levitan|Loiseau|Magritte|Manet|Matisse|"
    "Maufra|Michelangelo|Modigliani|Mondrian|Monet|Morisot|Mucha|Munch|Murillo|Picasso|Pirosmani|Pissarro|Pollock|"
    "Prendergast|Raphael|Redon|Rembrandt|Renoir|Repin|Rubens|Sargent|Schiele|Seurat|Shishkin|Signac|Sisley|Sorolla|"
    "Tintoretto|Tissot|Titian|Toulouse-Lautrec|Twachtman|Vasnetsov|Vel[aá]zquez|Vermeer|Veronese|Vinci|Vrubel|Warhol|"
    "Whistler"
)
_FIRST_NAMES = r"(?:(?:[A-Z][\w.'’-]*|van|von|de|da|di|la|le|del|der)\s+){0,4}?"
_ARTIST = rf"{_FIRST_NAMES}(?:{ARTISTS})"
_NAME = r"[A-Z][\w.'’-]+(?:\s+(?:(?:van|von|de|da|di|la|le|del|der|the)\s+){0,4}[A-Z][\w.'’-]+){0,4}"

STYLES = (
    r"(?:post|neo)?-?\s?impressionis(?:t|tic|m)|(?:neo-?)?expressionis(?:t|tic|m)|cubis(?:t|m)|fauvis(?:t|m)|"
    r"pointillis(?:t|tic|m)|surrealis(?:t|tic|m)|(?:photo|hyper)?-?realis(?:t|tic|m)|romanticism|baroque|rococo|"
    r"art[- ]nouveau|art[- ]deco|ukiyo-?e|pop[- ]art|pre-raphaelite|plein[- ]air|symbolis(?:t|m)|mannerist|"
    r"neo-?classicis(?:t|m)|academic|old[- ]master|renaissance-style|van gogh-(?:like|esque)|monet-(?:like|esque)|"
    r"painterly|stylized|stylised|artistic|abstract expressionist|naive|folk-art|hand-painted|vintage-style|"
    r"anime-style|cartoon-style|cartoonish"
)
_MEDIUMS = (
    r"oil(?:[- ]on[- ]canvas)?|acrylic|water-?colou?r|gouache|pastel|charcoal|tempera|fresco|ink(?: wash)?|"
    r"pen[- ]and[- ]ink|pencil|crayon|impasto|digital|mixed[- ]media|woodblock|lithograph(?:ic)?|etched"
)
_WORKS = (
    r"images?|pictures?|paintings?|artworks?|photos?|photographs?|photography|illustrations?|drawings?|sketch(?:es)?|"
    r"prints?|renderings?|depictions?|canvas|artistic representations?|(?:pieces?|works?) of art|visuals?|snapshots?"
)
_PRAISE = (
    r"beautiful(?:ly)?|stunning(?:ly)?|vibrant|colou?rful|detailed|highly|classic(?:al)?|traditional|vintage|"
    r"famous|lovely|striking|captivating|serene|picturesque|close-?up|black[- ]and[- ]white|monochrome|large|small|"
    r"old|antique|historical|19th[- ]century|18th[- ]century|17th[- ]century|20th[- ]century|well-known|"
    r"masterful|exquisite|evocative|atmospheric|expressive|loose|textured|soft|muted|somber|"
    r"japanese|chinese|dutch|flemish|french|italian|german|spanish|russian|english|american|european"
)
_ADJECTIVES = rf"(?:(?:{_PRAISE}|{STYLES}|{_MEDIUMS})(?:,\s*|\s+(?:and\s+)?)){{0,8}}"
_SUBJECTS = (
    r"(?:(?:landscape|portrait|still[- ]life|seascape|cityscape|genre|religious|nature|marine|floral|figure)\s+)?"
)
_SHOWS = (
    r"shows?|depicts?|features?|portrays?|captures?|presents?|illustrates?|displays?|contains?|includes?|showcases?|"
    r"represents?|offers?|conveys?|renders?|is of|are of|is showing|is depicting|appears? to (?:be|show|depict)|"
    r"seems? to (?:be|show|depict)|consists? of|focuses on|is focused on|is dominated by|provides|has|have"
)
_A_WORK = rf"(?:{_ADJECTIVES}{_SUBJECTS}{_ADJECTIVES}(?:{_WORKS}|scene|artist|composition|work|piece))"

_CHAT = re.compile(
    r"^(?:(?:sure|certainly|of course|okay|ok|absolutely|great)\b[!,.]?\s*)?"
    r"(?:(?:here(?:'s| is| are)|below is|this is)\s+(?:a|an|the|my|your)?\s*[^:.]{0,60}"
    r"(?:caption|description|prompt)[^:.]{0,60}[:.]\s*)?"
    r"(?:\**(?:image |detailed |short )?(?:caption|description|prompt|answer|output|response|subject|content)\**"
    r"\s*:\**\s*)?",
    re.IGNORECASE,
)
_SURE = re.compile(r"^(?:sure|certainly|of course|absolutely)[!,.]\s+", re.IGNORECASE)
_AFTERWORD = re.compile(
    r"\s*(?:let me know if|i hope this|feel free to|would you like|is there anything else|note:|\(note:)[^\n]*$",
    re.IGNORECASE,
)
_REFUSALS = re.compile(
    r"^(?:i['’]?m (?:sorry|unable|not able|afraid)|i am (?:sorry|unable|not able)|sorry\b|i (?:can['’]?t|cannot|"
    r"can not|won['’]?t|will not|do not|don['’]?t) (?:help|assist|describe|provide|fulfil|see|view|identify|create|"
    r"generate|comply|process|caption|discuss|analy[sz]e)|as an ai\b|unable to (?:process|describe|view|caption|see)|"
    r"my apologies|apologies\b|unfortunately,? i|no (?:image|picture) (?:was|has been|is)|"
    r"(?:this|the) (?:request|content|image) (?:violates|cannot be|can['’]t be|is not something i)|"
    r"please (?:provide|upload|share)|error\b|unanswerable|n/?a$|none$|null$)",
    re.IGNORECASE,
)
_SENTENCE_LEAD_IN = re.compile(
    r"^(?:(?:in|within|at|across|throughout) (?:this|the|a|an) "
    rf"{_A_WORK},?\s*(?=[a-z])(?:(?:we|you|one|viewers?)\s+(?:can\s+)?(?:see|find|observe)s?\s+|there (?:is|are)\s+)?"
    rf"|(?:this|the|these|an?|it|here|there)\s+(?:is|are)\s+(?:an?\s+|the\s+)?{_ADJECTIVES}{_SUBJECTS}{_ADJECTIVES}"
    rf"(?:{_WORKS})\s+(?:of|showing|depicting|featuring|portraying|that (?:{_SHOWS}))\s+"
    rf"|(?:this|the|these)\s+{_A_WORK}\s+(?:(?:also|further|clearly|vividly|beautifully|primarily|likely)\s+)?"
    rf"(?:(?:is|are)\s+(?:an?\s+){_ADJECTIVES}{_SUBJECTS}{_ADJECTIVES}(?:{_WORKS})\s+"
    rf"(?:of|showing|depicting|featuring|portraying|that (?:{_SHOWS}))|(?:{_SHOWS}))\s+"
    r"|it (?:also )?(?:shows|depicts|features|portrays|captures|showcases|includes|contains|displays)\s+"
    rf"|(?:an?\s+|the\s+)?{_ADJECTIVES}{_ADJECTIVES}(?:{_WORKS})\s+(?:(?:of|showing|depicting|featuring|portraying|"
    rf"capturing|illustrating|displaying|that (?:{_SHOWS}))\s+|(?:{_SHOWS})\s+)"
    rf"|(?:this|the) (?:{_WORKS}) is (?=an?\s)"
    r"|(?:we|you) (?:can )?see\s+"
    r"|(?:the )?(?:main |primary |central )?(?:subject|focus|focal point) (?:of (?:this|the) "
    rf"(?:{_WORKS}|scene|composition) )?is\s+"
    r"|depicted (?:here |in this \w+ )?(?:is|are)\s+|shown (?:here )?(?:is|are)\s+|pictured (?:here )?(?:is|are)\s+"
    r"|(?:here is|here's)\s+)",
    re.IGNORECASE,
)
_STYLE_SENTENCE = re.compile(
    rf"\b(?:brush-?\s?(?:strokes?|work)|impasto|palette[- ]knife|chiaroscuro|sfumato|technique|oil on \w+|"
    r"oil paints?|water-?colou?rs?|oils|acrylics|pastels|(?:paint|canvas) texture|texture of the (?:paint|canvas)|"
    r"(?:artist|painter|photographer)(?:'s|’s)?\b(?! (?:at work|sits|stands|paints|holds|at an easel))|art movement|"
    rf"(?:artistic|painting|visual|overall|distinct(?:ive)?) style|in (?:the|a|an) [^,.]{{0,40}}\bstyle|"
    rf"style (?:is|of|suggests|evokes|appears)|(?:{STYLES})|masterpiece|signature|signed|watermark|framed?\b"
    r"(?= (?:by|in) (?:a|an) (?:gold|ornate|wooden))|art historical|medium (?:is|appears))\b",
    re.IGNORECASE,
)
_STYLE_CLAUSES = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        # ", painted in thick oils", ", rendered with loose brushstrokes and a soft palette"
        rf",?\s+(?:(?:is|are|was|were|appears? to be|seems? to be)\s+)?(?:all\s+)?"
        r"(?:(?:loosely|softly|boldly|delicately|thickly|beautifully|expressively)\s+)?"
        r"(?:painted|rendered|depicted|executed|done|created|drawn|portrayed|presented|captured|composed|made)\s+"
        r"(?:in|with|using|on|through)\s+(?:[\w-]+,\s+){0,2}[^,.;]*?\b(?:style|manner|brush-?\s?strokes?|brush-?work|technique|strokes|"
        rf"oils?|water-?colou?rs?|gouache|pastels?|charcoal|acrylics?|ink|canvas|dabs|paint|palette|impasto|{STYLES})\b"
        r"[^,.;]*",
        # ", with visible brushstrokes", " featuring loose, expressive brushwork"
        r",?\s+(?:with|featuring|using|showing|through|in|and|displaying|employing|characterized by|characterised by)"
        r"\s+(?:(?:a|an|the)\s+)?(?:(?:loose|visible|thick|bold|soft|short|broad|quick|rapid|fluid|swirling|expressive|"
        r"textured|heavy|delicate|fine|energetic|gestural|dappled|distinct|rough|light|smooth|vigorous|impressionistic|"
        r"feathery|choppy|painterly)(?:,\s+|\s+(?:and\s+)?)){0,8}"
        r"(?:brush-?\s?strokes?|brush-?work|impasto|strokes of paint|dabs of (?:paint|colou?r)|paint texture|"
        r"texture of the (?:paint|canvas)|chiaroscuro|palette[- ]knife)\b[^,.;]*",
        # " in an impressionist style", " in the style of …", " in a painterly manner", " in oil on canvas"
        r",?\s+in\s+(?:the|a|an|his|her|their)\s+(?:(?:signature|characteristic|typical|loose|classic|traditional|"
        rf"distinctive|soft|bold|\w+ly|\w+ic|\w+ist|{STYLES}|{_MEDIUMS})[\s,]+(?:and\s+)?){{0,8}}"
        r"(?:style|manner|tradition|fashion|aesthetic)\b(?:\s+of\s+[^,.;]*|\s+(?:reminiscent|typical|characteristic)"
        r"[^,.;]*)?",
        r",?\s+(?:in|with)\s+(?:oil|oils|acrylics?|water-?colou?rs?|gouache|pastels?|charcoal|tempera)"
        r"(?:\s+(?:paints?|on (?:canvas|panel|paper|board|wood)))?(?=[\s,.;]|$)",
        r",?\s+oil on (?:canvas|panel|paper|board|wood)\b",
        r",?\s+(?:evoking|reminiscent of|typical of|characteristic of|suggesting|suggestive of|recalling|echoing|"
        r"in keeping with)\s+(?:the\s+)?[^,.;]*?\b(?:style|art|painters?|paintings?|movement|tradition|masters?|works?|"
        rf"{STYLES}|{ARTISTS})\b[^,.;]*",
        rf",?\s+(?:giving|lending|creating|adding)\s+(?:it|the (?:{_WORKS}|scene|work|piece)|a|an)\s+[^,.;]*"
        rf"\b(?:{STYLES}|textured|style|brush-?\s?strokes?|impasto|handmade|dreamlike|feel|feeling|look|quality|"
        r"effect|appearance)\b[^,.;]*",
        # ", an ukiyo-e woodblock print"
        rf",\s+an?\s+{_ADJECTIVES}(?:{_WORKS})(?=[,.;]|$)",
    )
]
_STYLE_WORDS = re.compile(
    rf"(?:\b(?:{STYLES})\b[\s-]*(?:style[d]?\b\s*)?)|\b(?:{_MEDIUMS})[- ](?=(?:{_WORKS})\b)", re.IGNORECASE
)
_STYLE_COMMA = re.compile(
    rf"(?:^|,)\s*(?:{STYLES}|{_MEDIUMS})(?:\s+(?:style|art|painting|on canvas))?\s*(?=,|\.?$)", re.IGNORECASE
)
_SUBJECT_WORK = re.compile(
    r"\b(landscape|portrait|still[- ]life|seascape|cityscape|genre scene)\s+(?:painting|drawing|sketch|illustration|"
    r"artwork|image|picture|photograph|photo|print)\b",
    re.IGNORECASE,
)
_THE_WORK = re.compile(
    r"\b(?:of|in|to|from|for|within|throughout|across|behind)\s+(?:the|this)\s+(?:oil\s+)?"
    r"(?:painting|image|picture|artwork|canvas|photo|photograph|illustration|drawing|print)(?:'s|’s)?\b",
    re.IGNORECASE,
)
_TITLE = re.compile(
    r",?\s*(?:\(?\b(?:en)?titled|\bcalled|\bknown as|\bnamed)\s*:?\s*[\"“'‘*_][^\"”'’*_]{1,80}[\"”'’*_]\)?,?"
    r"|,?\s*\b(?:en)?titled\s+[A-Z][\w'’]*(?:\s+(?:[A-Z][\w'’]*|of|the|in|at|on|and|with|by|a)){0,20},?",
)
_CREDIT = re.compile(
    rf",?\s*\(?\b(?:(?:[Pp]ainted|[Cc]reated|[Mm]ade|[Dd]rawn|[Dd]one|attributed to|probably|possibly|likely|"
    r"seemingly|perhaps)\s+){0,8}"
    rf"(?:\bby\s+(?:the\s+)?(?:(?:{STYLES}|\w+ (?=master|painter|artist)|[A-Z]\w+ )?\s*(?:artist|painter|master),?\s+)?"
    rf"(?:{_ARTIST}|(?<=[a-z]ed by )(?!the\b){_NAME})|\b(?:attributed to|inspired by|in the (?:style|manner) of|"
    rf"reminiscent of|similar to|after|à la)\s+(?:the\s+)?(?:work|works|art|paintings?|style)?\s*(?:of\s+|by\s+)?"
    rf"(?:{_ARTIST}))(?:['’]s?\s+(?:\w+\s+)?(?:works?|paintings?|style|art|series))?\)?"
)
_POSSESSIVE = re.compile(rf"\b{_ARTIST}['’]s?\s+(?:(?:famous|iconic|signature|well-known)\s+)?")
_BARE_CREDIT = re.compile(rf"\b(?:of\s+|by\s+|like\s+)?{_ARTIST}\b")
_BARE_ARTIST = re.compile(rf"\b{_ARTIST}\b")
_QUOTED_TITLE = re.compile(r"\b(?:en)?titled\b|[\"“][A-Z][^\"”]{2,60}[\"”]")
_ABBREVIATION = re.compile(r"\b(?:St|Mr|Mrs|Ms|Dr|c|ca|[A-Z])\.$")
# CLIP's own first cut of a text (openai/CLIP simple_tokenizer.py): each piece is at least one token.
_PIECES = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|[^\s\w]+")


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
    if rules.refusals and _REFUSALS.match(text):
        return ""
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
    text = re.sub(r"(?m)^\s*(?:[-*•]|\d+[.)])\s+", "", text)
    text = re.sub(r"\*\*|__|`", "", text)
    text = _AFTERWORD.sub("", one_line(text))
    text = _SURE.sub("", _CHAT.sub("", text, count=1), count=1).strip()
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
    text = _TITLE.sub(" ", text)
    text = _CREDIT.sub("", text)
    text = _POSSESSIVE.sub("", text)
    return one_line(text)


def _sentences(text: str) -> list[str]:
    parts: list[str] = []
    for part in re.split(r"(?<=[.!?])\s+(?=[\"“(]?[A-Z0-9])", text):
        if parts and _ABBREVIATION.search(parts[-1]):
            parts[-1] += f" {part}"
        else:
            parts.append(part)
    return parts


def _cleaned_sentence(sentence: str, rules: Rules) -> str:
    text = sentence
    if rules.style_words:
        for clause in _STYLE_CLAUSES:
            text = clause.sub("", text)
        text = _SUBJECT_WORK.sub(r"\1", text)
    if rules.lead_ins:
        text = _without_lead_in(text)
    if rules.style_words:
        text = _tidy(_STYLE_COMMA.sub("", text))
        if _STYLE_SENTENCE.search(text):
            text = _tidy(_STYLE_WORDS.sub(" ", text))
            if _STYLE_SENTENCE.search(text) or _is_about_the_work(text):
                return ""
        elif _is_about_the_work(text):
            return ""
        text = _STYLE_WORDS.sub(" ", text)
    if rules.lead_ins:
        text = _THE_WORK.sub("", _without_lead_in(_tidy(text)))
    if rules.artists:
        text = _BARE_CREDIT.sub("", text)
    for word in rules.words:
        text = re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", "", text, flags=re.IGNORECASE)
    text = _tidy(text)
    return text if re.search(r"[^\W\d_]{2}", text) else ""


def _without_lead_in(text: str) -> str:
    shorter = _SENTENCE_LEAD_IN.sub("", text, count=1)
    # "The image shows a painting of …" has two
    return shorter if shorter == text else _SENTENCE_LEAD_IN.sub("", shorter, count=1)


def _is_about_the_work(text: str) -> bool:
    """Whether nothing is left but a painting as a thing: "This is a painting.", "The painting."."""
    return bool(
        re.fullmatch(
            rf"(?:(?:this|it|the|an?)\b\s*){{0,8}}(?:(?:{_WORKS}|scene|subject|style|medium)\s*)?(?:(?:is|are|was|were)\b\s*)?"
            rf"(?:(?:this|the|an?)\s+)?{_ADJECTIVES}{_SUBJECTS}(?:{_WORKS})?\s*[.!]?",
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
    text = one_line(text)
    return text[:1].upper() + text[1:]


@dataclass(frozen=True)
class Lint:
    """What a person should look at, as sha256s."""

    count: int
    empty: tuple[str, ...] = ()
    duplicates: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # by caption
    style_words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # by sha256: the words
    artists: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    titles: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # quoted: captioners make them up
    refusals: tuple[str, ...] = ()
    too_long_for_clip: tuple[str, ...] = ()
    too_long_for_t5: tuple[str, ...] = ()


def least_tokens(text: str) -> tuple[int, int]:
    """At least so many tokens has a text, where no tokenizer is at hand: a piece or a word is never less than one."""
    return len(_PIECES.findall(text)) + 2, len(text.split()) + 1


def flags(text: str, count_tokens: CountTokens = least_tokens) -> dict[str, tuple[str, ...]]:
    """What is doubtful about one caption, by kind; an empty dictionary where nothing is."""
    clip, t5 = count_tokens(text)
    found = {
        "empty": () if text.strip() else ("no caption",),
        "style words": _matches(_STYLE_SENTENCE, text) + _matches(re.compile(r"\b(?:oil )?paintings?\b", re.I), text),
        "artists": _matches(_BARE_ARTIST, text),
        "titles": _matches(_QUOTED_TITLE, text),
        "refusal": _matches(_REFUSALS, text),
        "too long for CLIP": (f"{clip} tokens",) if clip > token_limits.CLIP_L else (),
        "too long for T5": (f"{t5} tokens",) if t5 > token_limits.T5_DEV else (),
    }
    return {kind: words for kind, words in found.items() if words}


def _matches(pattern: re.Pattern[str], text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(match.group().strip() for match in pattern.finditer(text)))


def lint(
    captions: Mapping[str, str],
    count_tokens: CountTokens = least_tokens,
    check: Callable[[], None] = lambda: None,
) -> Lint:
    """Look over captions by sha256.

    Args:
        count_tokens: by default the least number there can be, so that "too long" is never a false alarm.
        check: called before each caption; ends this by raising.
    """
    by_kind: dict[str, dict[str, tuple[str, ...]]] = {}
    alike: dict[str, list[str]] = {}
    for sha256, text in captions.items():
        check()
        alike.setdefault(text, []).append(sha256)
        for kind, words in flags(text, count_tokens).items():
            by_kind.setdefault(kind, {})[sha256] = words
    return Lint(
        count=len(captions),
        empty=tuple(by_kind.get("empty", ())),
        duplicates={text: tuple(sha256s) for text, sha256s in alike.items() if len(sha256s) > 1},
        style_words=by_kind.get("style words", {}),
        artists=by_kind.get("artists", {}),
        titles=by_kind.get("titles", {}),
        refusals=tuple(by_kind.get("refusal", ())),
        too_long_for_clip=tuple(by_kind.get("too long for CLIP", ())),
        too_long_for_t5=tuple(by_kind.get("too long for T5", ())),
    )


def lint_report(found: Lint) -> str:
    """The findings as text, a line for each kind that has any."""
    lines = []
    if found.empty:
        lines.append(f"  {len(found.empty)} empty")
    repeated = sorted(found.duplicates.items(), key=lambda item: -len(item[1]))
    if repeated:
        pictures = sum(len(sha256s) for _, sha256s in repeated)
        lines.append(f"  {pictures} pictures share {len(repeated)} captions:")
        lines += [f"    {len(sha256s)} × {text[:80]}" for text, sha256s in repeated[:LISTED]]
    for kind, by_picture in (
        ("style words", found.style_words),
        ("artist names", found.artists),
        ("titles in quotes", found.titles),
    ):
        if by_picture:
            words = Counter(word for words in by_picture.values() for word in words)
            listed = ", ".join(f"{word} ({count})" for word, count in words.most_common(LISTED))
            lines.append(f"  {len(by_picture)} with {kind}: {listed}")
    for what, sha256s in (
        ("that read like a refusal", found.refusals),
        (f"longer than CLIP's {token_limits.CLIP_L} tokens; T5 reads them whole", found.too_long_for_clip),
        (f"longer than T5's {token_limits.T5_DEV} tokens: training cuts them", found.too_long_for_t5),
    ):
        if sha256s:
            lines.append(f"  {len(sha256s)} {what}")
    if not lines:
        return f"{found.count} captions, nothing doubtful in them."
    return "\n".join([f"{found.count} captions. To look at:", *lines])
