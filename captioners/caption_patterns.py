"""How captioners write of paintings instead of what is painted: names of artists, styles, lead-ins, as expressions."""

from __future__ import annotations

import re

# Surnames, or first names where they are the usual name, of huggan/wikiart's artists and a few more. Words that mean
# something else in English (West, Gray, Brown) count only with "by" or "of" before them, see `CREDIT`.
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
WORKS = (
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
ADJECTIVES = rf"(?:(?:{_PRAISE}|{STYLES}|{_MEDIUMS})(?:,\s*|\s+(?:and\s+)?)){{0,8}}"
SUBJECTS = (
    r"(?:(?:landscape|portrait|still[- ]life|seascape|cityscape|genre|religious|nature|marine|floral|figure)\s+)?"
)
_SHOWS = (
    r"shows?|depicts?|features?|portrays?|captures?|presents?|illustrates?|displays?|contains?|includes?|showcases?|"
    r"represents?|offers?|conveys?|renders?|is of|are of|is showing|is depicting|appears? to (?:be|show|depict)|"
    r"seems? to (?:be|show|depict)|consists? of|focuses on|is focused on|is dominated by|provides|has|have"
)
_A_WORK = rf"(?:{ADJECTIVES}{SUBJECTS}{ADJECTIVES}(?:{WORKS}|scene|artist|composition|work|piece))"

CHAT = re.compile(
    r"^(?:(?:sure|certainly|of course|okay|ok|absolutely|great)\b(?:[!,.:]\s*|\s+(?=here\b|below\b|this is\b)))?"
    r"(?:(?:here(?:'s| is| are)|below is|this is)\s+(?:a|an|the|my|your)?\s*[^:.]{0,60}"
    r"(?:caption|description|prompt)[^:.]{0,60}[:.]\s*)?"
    r"(?:\**(?:image |detailed |short )?(?:caption|description|prompt|answer|output|response|subject|content)\**"
    r"\s*:\**\s*)?",
    re.IGNORECASE,
)
SURE = re.compile(r"^(?:sure|certainly|of course|absolutely)[!,.]\s+", re.IGNORECASE)
AFTERWORD = re.compile(
    r"\s*(?:let me know if|i hope this|feel free to|would you like|is there anything else|note:|\(note:)[^\n]*$",
    re.IGNORECASE,
)
REFUSALS = re.compile(
    r"^(?:i['’]?m (?:sorry|unable|not able|afraid)|i am (?:sorry|unable|not able)|sorry\b|i (?:can['’]?t|cannot|"
    r"can not|won['’]?t|will not|do not|don['’]?t) (?:help|assist|describe|provide|fulfil|see|view|identify|create|"
    r"generate|comply|process|caption|discuss|analy[sz]e)|as an ai\b|unable to (?:process|describe|view|caption|see)|"
    r"my apologies|apologies\b|unfortunately,? i|no (?:image|picture) (?:was|has been|is)|"
    r"(?:this|the) (?:request|content|image) (?:violates|cannot be|can['’]t be|is not something i)|"
    r"please (?:provide|upload|share)|error\b|unanswerable|n/?a$|none$|null$)",
    re.IGNORECASE,
)
# "A print of a ship hangs over the fireplace": it is in the picture.
_HANGS = (
    rf"an?\s+{ADJECTIVES}(?:{WORKS})\s+of\s+(?:(?!\b(?:where|with|which|that|who|as|and|in)\b)[^,.;]){{1,60}}"
    r"\b(?:hangs|is (?:hung|pinned|propped))\b"
)
SENTENCE_LEAD_IN = re.compile(
    rf"^(?!{_HANGS})"
    r"(?:(?:in|within|at|across|throughout) (?:this|the|a|an) "
    rf"{_A_WORK},?\s*(?=[a-z])(?:(?:we|you|one|viewers?)\s+(?:can\s+)?(?:see|find|observe)s?\s+|there (?:is|are)\s+)?"
    rf"|(?:this|the|these|an?|it|here|there)\s+(?:is|are)\s+(?:an?\s+|the\s+)?{ADJECTIVES}{SUBJECTS}{ADJECTIVES}"
    rf"(?:{WORKS})\s+(?:of|showing|depicting|featuring|portraying|that (?:{_SHOWS}))\s+"
    rf"|(?:this|the|these)\s+{_A_WORK}\s+(?:(?:also|further|clearly|vividly|beautifully|primarily|likely)\s+)?"
    rf"(?:(?:is|are)\s+(?:an?\s+){ADJECTIVES}{SUBJECTS}{ADJECTIVES}(?:{WORKS})\s+"
    rf"(?:of|showing|depicting|featuring|portraying|that (?:{_SHOWS}))|(?:{_SHOWS}))\s+"
    r"|it (?:also )?(?:shows|depicts|features|portrays|captures|showcases|includes|contains|displays)\s+"
    rf"|(?:an?\s+|the\s+)?{ADJECTIVES}{ADJECTIVES}(?:{WORKS})\s+(?:(?:of|showing|depicting|featuring|portraying|"
    rf"capturing|illustrating|displaying|that (?:{_SHOWS}))\s+|(?:{_SHOWS})\s+)"
    rf"|(?:this|the) (?:{WORKS}) is (?=an?\s)"
    r"|(?:we|you) (?:can )?see\s+"
    r"|(?:the )?(?:main |primary |central )?(?:subject|focus|focal point) (?:of (?:this|the) "
    rf"(?:{WORKS}|scene|composition) )?is\s+"
    r"|depicted (?:here |in this \w+ )?(?:is|are)\s+|shown (?:here )?(?:is|are)\s+|pictured (?:here )?(?:is|are)\s+"
    r"|(?:here is|here's)\s+)",
    re.IGNORECASE,
)
# Of these names, what follows tells whether it is how something is painted, or a thing's ("a baroque church").
_OF_THINGS_TOO = (
    r"baroque|rococo|art[- ]deco|art[- ]nouveau|academic|naive|folk-art|artistic|romantic|symbolist|vintage-style"
)
# What a person does whom such a name may stand for: "a realist sits".
_PERSON_DOES = (
    r"(?:who|in an?|with an?|at (?:an?|the|his|her)|on an?|is|was|sits?|stands?|reads?|writes?|holds?|poses?|"
    r"walks?|sets?|looks?|"
    r"paints?|works?|talks?|speaks?|leans?|sleeps?|plays?|smiles?|wears?|carries|argues?|lies|rests?|waits?|mixes|"
    r"sketches|draws|stares?|gazes?|wearing|sitting|standing|holding|reading|talking|looking|walking)"
)
_OF_THE_WORK = (
    rf"(?:{STYLES}|{_MEDIUMS}|{_PRAISE}|{WORKS}|art|artists?|painters?|styles?|styled|works?|pieces?|scenes?|compositions?|manner|"
    r"movement|master|brush-?\s?(?:strokes?|work)|techniques?|palettes?|colou?rs?|rendition|landscapes?|portraits?|"
    r"still[- ]li(?:fe|ves)|seascapes?|cityscapes?|genre|elements?|qualit(?:y|ies)|feel|approach|treatment|influences?|"
    r"aesthetics?|look|effects?|tones?|in style|depictions?|representations?|views?|nudes?|studies|study|fashion|"
    r"details?)"
)
# "An expressionist dances", "argues with a realist.": one person, who does something or ends the sentence.
_A_PERSON = (
    r"(?:(?<=\ba )|(?<=\ban ))(?<!\bby a )(?<!\bby an )(?:\w+ist|academic)\s*"
    r"(?:[.,;!]|$|\s(?!canvas|series|christmas|oils|pastels|works)\w{2,}[^\Wsui]s\b)"
)
_THE_PERSON = r"(?<=\bthe )(?:academic|symbolist|surrealist|impressionist|expressionist|cubist|realist),"
_NAME_OF_STYLE = (
    rf"(?!{_A_PERSON}|{_THE_PERSON})"
    rf"(?:(?!(?:{_OF_THINGS_TOO})\b)(?:{STYLES})\b(?!\s+{_PERSON_DOES}\b|['’]s?\b)|"
    rf"(?:{_OF_THINGS_TOO})(?=[\s-]+(?:and\s+)?{_OF_THE_WORK}\b|[-,.;!]|$))"
)
_PAINTERS_OWN = (
    r"studios?|models?|easels?|palettes?|cameras?|hats?|smocks?|hands?|wife|husband|daughters?|sons?|mother|father|family|"
    r"workshops?|tables?|tools|brushes|aprons?|assistants?|house|garden|desk|stool|chair|coat|beret|face|dogs?|cats?|"
    r"friends?|rooms?|atelier|lamp|window|tripod|bag|box|shop|quarter|supplies|shoes|bed|child(?:ren)?|shoulder"
)
_PAINTS_AS_THINGS = (
    r"sets?|box(?:es)?|paints?|palettes?|tubes?|paper|kits?|trays?|pencils?|brush(?:es)?|pans?|cakes?|jars?"
)
# A material as a thing: "Oil paints and brushes lie on a table", "A watercolor hangs on the wall".
_DOES_AS_A_THING = r"(?:and \w+ )?(?:lies?|stands?|hangs?|rests?|leans?|dry|dries|spills?|is pinned|are spread)"
_OF_THINGS_MADE = (
    r"[^,.]{0,30}\b(?:tudor|gothic|victorian|edwardian|georgian|colonial|moorish|romanesque|palladian|regency|empire|"
    r"half-timbered|old-fashioned|rustic|country|western|bohemian|military|sailor|medieval|swiss|alpine|chalet|cottage|"
    r"neoclassical|roman|greek|turkish|persian|chinese|japanese|indian|folk|\d{4}s)\b"
)
_OF_AN_AGE = r"\s+of\s+the\s+(?:\d|time|period|day|age|era)"
STYLE_SENTENCE = re.compile(
    rf"\b(?:brush-?\s?(?:strokes?|work)|impasto|palette[- ]knife|chiaroscuro|sfumato|technique|oil on \w+|"
    rf"(?<!of )(?<!ys with )(?<!ing with )(?<!ws with )"
    r"(?<!paints a )(?<!painting a )(?<!paint a )(?<!holds a )(?<!holding a )(?<!sells )(?<!unfinished )"
    rf"(?:oil paints?|water-?colou?rs?|oils|acrylics|pastels)\b"
    rf"(?! (?:{_PAINTS_AS_THINGS}|{_DOES_AS_A_THING})\b)|"
    r"(?:paint|canvas) texture|texture of the (?:paint|canvas)|"
    rf"(?<!\ba )(?<!\ban )(?:artist|painter|photographer)(?:(?:'s|’s)(?! (?:{_PAINTERS_OWN})\b)|"
    r"\b(?!['’]|,? (?:at work|sit|stand|paint|hold|at an easel|in an? |with an? |wear|look|walk|lean|carr|mix)))|"
    r"art movement|"
    rf"(?:artistic|painting|visual|overall|distinct(?:ive)?) style|"
    rf"in (?:the|a|an) (?!{_OF_THINGS_MADE})[^,.]{{0,40}}\bstyle\b(?!{_OF_AN_AGE})|"
    rf"style (?:is|suggests|evokes|appears|of(?! the (?:\d|time|period|day|age|era)))|{_NAME_OF_STYLE}|"
    r"masterpiece(?! of an? )|(?<!\bher )(?<!\bhis )signature|"
    r"signed(?! (?:letter|document|treaty|contract|note|ball|photograph))|watermark|framed?\b"
    r"(?= in (?:a|an) (?:gold|ornate|wooden))|art historical|medium (?:is|appears))\b",
    re.IGNORECASE,
)
_NO_MATERIAL = "".join(
    rf"(?<!\b{word})"
    for word in (
        *("play", "plays", "playing", "works", "working", "box", "case", "tray", "draws", "drawing", "paints", "sits"),
        *(
            "filled",
            "covered",
            "smeared",
            "stained",
            "smudged",
            "black",
            "fried",
            "cooked",
            "soaked",
            "dipped",
            "slick",
        ),
        *("child", "girl", "boy", "man", "woman", "jar", "bottle", "jug", "lamp", "glistens", "shiny", "anointed"),
    )
)
STYLE_CLAUSES = [
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
        r"(?:style|manner|tradition|fashion|aesthetic)\b(?!\s+of\s+the\s+(?:\d|time|period|day|age|era))(?:\s+of\s+[^,.;]*|\s+(?:reminiscent|typical|characteristic)"
        r"[^,.;]*)?",
        # but not "plays with pastels", "fried in oil", "in pastel colours"
        rf"{_NO_MATERIAL},?\s+(?:in|with)\s+(?:oil|oils|acrylics?|water-?colou?rs?|gouache|pastels?|charcoal|tempera)"
        r"(?:\s+(?:paints?|on (?:canvas|panel|paper|board|wood)))?"
        r"(?=[,.;]|$|\s+(?:and|on|with|of|by|in|at|for|from)\b)",
        r",?\s+oil on (?:canvas|panel|paper|board|wood)\b",
        r",?\s+(?:evoking|reminiscent of|typical of|characteristic of|suggesting|suggestive of|recalling|echoing|"
        r"in keeping with)\s+(?:the\s+)?[^,.;]*?\b(?:style|art|painters?|paintings?|movement|tradition|masters?|works?|"
        rf"{STYLES}|{ARTISTS})\b[^,.;]*",
        rf"(?:,?\s+(?:giving|lending|creating|adding)\s+(?:it|the (?:{WORKS}|scene|work|piece))|"
        r",?\s+(?:lending|creating|adding)\s+an?|,\s+giving\s+an?)\s+[^,.;]*"
        rf"\b(?:{STYLES}|textured|style|brush-?\s?strokes?|impasto|handmade|dreamlike|feel|feeling|look|quality|"
        r"effect|appearance)\b[^,.;]*",
        # ", an ukiyo-e woodblock print"
        rf",\s+an?\s+(?=[^,.;]*\b(?:{STYLES}|{_MEDIUMS}|painting|masterpiece)\b){ADJECTIVES}(?:{WORKS})(?=[,.;]|$)",
    )
]
_MORE_ARTISTS = rf"(?:(?:,|,? and)\s+{_ARTIST}){{0,3}}"
# How it is painted, at the head of a sentence that goes on to say what: "In the style of Monet, a pond."
_BEGINS = r"(?:^|(?<=[.!?] ))(?:(?:painted|rendered|depicted|executed|done|drawn|made|created)\s+)?"
_PARTED = re.compile(
    rf"{_BEGINS}(?:(?:in|with|after|using)\s+(?:(?:the|an?|his|her|their|visible)\s+)?"
    r"(?:(?:signature|characteristic|typical|loose|visible|thick|bold|soft|short|broad|classic|traditional|distinctive|"
    rf"rich|\w+ly|{STYLES}|{_MEDIUMS}),?\s+(?:and\s+)?){{0,5}}"
    rf"(?:(?:style|manner)(?:\s+(?:of|reminiscent of)\s+[^,.;:]{{1,60}}{_MORE_ARTISTS})?|"
    rf"{_ARTIST}(?:['’]s?)?[\s-]+(?:style|manner)|"
    rf"brush-?\s?(?:strokes?|work)|oils?(?:\s+(?:paints?|on \w+))?|acrylics?|water-?colou?rs?|gouache|pastels?|"
    r"charcoal|tempera|impasto|ink wash|pen and ink|pencil)"
    r"|(?:after|inspired by|reminiscent of|an homage to|in homage to|à la)\s+(?:the (?:works?|paintings?|art) of\s+)?"
    rf"{_ARTIST}(?:['’]s?\s+\w+)?{_MORE_ARTISTS}"
    rf"|(?:the\s+)?(?:style|manner)\s+of\s+(?:the\s+)?{_ARTIST}{_MORE_ARTISTS})"
    r"(?:[,:]|\s+[-–—])\s+(?P<first>\w)",
    re.IGNORECASE,
)
# The same with no comma: "In the style of Monet a pond." Behind a name, any small word that does not go on about it
# begins the content; behind other words an article or a number does.
_THE_STYLE_OF = r"(?:in\s+)?(?:(?:the|an?)\s+)?(?:style|manner)\s+(?:of|reminiscent of)\s+|inspired by\s+"
_SHOWING = r"(?:(?:featuring|showing|depicting|portraying)\s+)?"
_GOES_ON = (
    r"and|or|with|in|by|at|from|but|as|is|was|are|were|has|had|who|whose|that|which|using|of|on|during|through|like|to|for|"
    r"style|painting|paintings|prints?|art|works?|school|early|late|later|typical|reminiscent"
)
_BEHIND_A_NAME = re.compile(
    rf"(?i:{_BEGINS}(?:{_THE_STYLE_OF})(?:the\s+)?){_NAME}(?:(?:,|,? and)\s+(?:the\s+)?{_NAME}){{0,3}}"
    rf"\s+{_SHOWING}(?!(?:{_GOES_ON})\b)(?P<first>[a-z])"
)
_BEHIND_WORDS = re.compile(
    rf"{_BEGINS}(?:(?:{_THE_STYLE_OF})(?:(?:the|an?)\s+)?"
    rf"(?:{_ARTIST}\s+|{_NAME}['’]s?\s+(?:[\w-]+\s+){{1,3}}?"
    rf"|(?:[\w-]+\s+){{0,3}}?(?:(?:masters?|painters?|artists?|paintings?|prints?|frescos?|frescoes|art|school)|(?:{STYLES})s?)\s+)"
    rf"|in\s+(?:(?:an?|the)\s+)?(?:\w+ly\s+)?(?:{STYLES}|{_ARTIST}(?:['’]s?)?)[\s-]+(?:style|manner)\s+"
    r"|in\s+(?:(?:soft|loose|thick|bold)\s+)?(?:oils?\s+on\s+\w+|oils|acrylics?|water-?colou?rs?|gouache|pastels|tempera)\s+"
    r"|with\s+(?:(?:visible|loose|thick|bold|soft|short|broad),?\s+(?:and\s+)?){0,3}(?:brush-?\s?(?:strokes?|work)|impasto)\s+)"
    rf"{_SHOWING}(?P<first>(?:an?|the|this|there|one|two|three|four|five|six|seven|some|several|many)\b)",
    re.IGNORECASE,
)
STYLES_IN_FRONT = (_BEHIND_WORDS, _BEHIND_A_NAME, _PARTED)
STYLE_WORDS = re.compile(
    rf"(?:\b{_NAME_OF_STYLE}[\s-]*(?:style[d]?\b\s*)?)|\b(?:{_MEDIUMS})[- ](?=(?:{WORKS})\b)", re.IGNORECASE
)
# In "paper, ink, pens, and quills" they are things.
LISTED_THINGS = re.compile(r",[^,.;]+,\s+(?:and|or)\s", re.IGNORECASE)
MATERIAL_COMMA = re.compile(r"^,?\s*(?:oil|charcoal|ink|pencil|crayon|pastel|digital)$", re.IGNORECASE)
STYLE_COMMA = re.compile(
    rf"(?:^|,)\s*(?:{STYLES}|{_MEDIUMS})(?:\s+(?:style|art|painting|on canvas))?\s*(?=,|\.?$)", re.IGNORECASE
)
SUBJECT_WORK = re.compile(
    r"\b(landscape|portrait|still[- ]life|seascape|cityscape|genre scene)\s+(?:painting|drawing|sketch|illustration|"
    r"artwork|image|picture|photograph|photo|print)\b",
    re.IGNORECASE,
)
THE_WORK = re.compile(
    r"(?<!\bfront )(?<!\bback )(?<!\bnext )(?<!\bclose )(?<!\bhand )"
    r"\b(?:of|in|to|from|for|within|throughout|across|behind)\s+(?:the|this)\s+(?:oil\s+)?"
    r"(?:painting|image|picture|artwork|canvas|photo|photograph|illustration|drawing|print)(?:'s|’s)?\b"
    r"(?!\s+(?:gallery|frames?|shop|book|rooms?|window|rail|board|tent|bag|sail|sack|awning|hanging|lying|being)\b)",
    re.IGNORECASE,
)
TITLE = re.compile(
    r",?\s*(?:\(?\b(?:en)?titled|\bcalled|\bknown as|\bnamed)\s*:?\s*[\"“'‘*_][^\"”'’*_]{1,80}[\"”'’*_]\)?,?"
    r"|,?\s*\b(?:en)?titled\s+[A-Z][\w'’]*(?:\s+(?:[A-Z][\w'’]*|of|the|in|at|on|and|with|by|a)){0,20},?",
)
CREDIT = re.compile(
    rf",?\s*\(?\b(?:(?:[Pp]ainted|[Cc]reated|[Mm]ade|[Dd]rawn|[Dd]one|attributed to|probably|possibly|likely|"
    r"seemingly|perhaps)\s+){0,8}"
    rf"(?:\bby\s+(?:the\s+)?(?:(?:{STYLES}|\w+ (?=master|painter|artist)|[A-Z]\w+ )?\s*(?:artist|painter|master),?\s+)?"
    rf"(?:{_ARTIST}|(?<=[a-z]ed by )(?!the\b){_NAME})|\b(?:attributed to|inspired by|in the (?:style|manner) of|"
    rf"reminiscent of|similar to|after|à la)\s+(?:the\s+)?(?:work|works|art|paintings?|style)?\s*(?:of\s+|by\s+)?"
    rf"(?:{_ARTIST}))(?:['’]s?\s+(?:\w+\s+)?(?:works?|paintings?|style|art|series))?\)?"
)
POSSESSIVE = re.compile(rf"\b{_ARTIST}['’]s?\s+(?:(?:famous|iconic|signature|well-known)\s+)?")
BARE_CREDIT = re.compile(rf"\b(?:of\s+|by\s+|like\s+)?{_ARTIST}(?:[\s-]+style(?=\s+\w))?\b")
BARE_ARTIST = re.compile(rf"\b{_ARTIST}\b")
QUOTED_TITLE = re.compile(r"\b(?:en)?titled\b|[\"“][A-Z][^\"”]{2,60}[\"”]")
ABBREVIATION = re.compile(r"\b(?:St|Mr|Mrs|Ms|Dr|c|ca|[A-Z])\.$")
