import pytest
from impasto.dataset.labels import artist_name, label_key
from impasto.dataset.wikiart_labels import ARTISTS, GENRES, STYLES


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("claude-monet", "Claude Monet"),
        ("vincent-van-gogh", "Vincent van Gogh"),
        ("hans-holbein-the-younger", "Hans Holbein the Younger"),
        ("el-greco", "El Greco"),
        ("m.c.-escher", "M.C. Escher"),
        ("raphael", "Raphael"),
        ("joaqu\u00e3\u00adn-sorolla", "Joaqu\u00edn Sorolla"),
        ("Katsushika Hokusai", "Katsushika Hokusai"),
        ("Unknown Artist", ""),
        ("", ""),
    ],
)
def test_artists_are_written_as_people_write_them(label, name):
    assert artist_name(label) == name


def test_spellings_of_one_label_have_one_key():
    assert label_key("claude-monet") == label_key("Claude Monet") == label_key("CLAUDE_MONET ")
    assert (
        label_key("joaqu\u00e3\u00adn-sorolla")
        == label_key("Joaqu\u00edn Sorolla")
        == label_key("Joaqui\u0301n Sorolla")
    )
    assert label_key("m.c.-escher") == label_key("M.C. Escher")


def test_no_two_labels_of_wikiart_share_a_key():
    assert len({label_key(style) for style in STYLES}) == 27
    assert len({label_key(genre) for genre in GENRES}) == 11


def test_each_of_wikiarts_artists_has_a_key_and_a_name_of_its_own():
    assert len({label_key(artist) for artist in ARTISTS}) == 129
    names = {artist_name(artist) for artist in ARTISTS}
    assert len(names) == 129
    assert all(name == name.strip() and "-" not in name for name in names)
