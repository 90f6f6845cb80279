"""Clean-up takes out how something is painted, and nothing of what is painted, though the words be the same."""

import pytest
from impasto.captioners.cleanup import clean

# What stays as it is: things and people that bear a style's, a medium's or a work's name.
STAYS = """
An academic reads a book.
The academic stands at a lectern.
An academic in a black gown holds a scroll.
Two academics argue over a map.
A realist sits at his desk.
A surrealist poses with a lobster.
A symbolist reads poetry to a crowd.
An impressionist sets up an easel in a field.
A naive girl looks up.
A romantic couple dances.
A woman in a baroque dress sits by a window.
A baroque church stands on a hill.
A rococo mirror hangs above a mantel.
An art deco lamp stands on a table.
A watercolor set lies on a desk.
A box of watercolors lies on a table.
A child plays with pastels on the floor.
A charcoal fire glows in the hearth.
A girl smudged with charcoal laughs.
An ink bottle stands beside a quill.
A desk with paper, ink, pens, and quills.
An oil lamp burns on the table.
Fish fried in oil lie on a plate.
A wall in pastel colors.
A street with pastel houses.
A canvas tent stands in a field.
A picture book lies open on a chair.
A table with a vase, a candle, a photograph.
A drawing board leans against the wall.
A painting hangs on the wall above the bed.
A man stands in front of the painting.
A man sits in the picture gallery.
Visitors look at the painting in a gallery.
An artist sits at an easel and paints.
The artist's studio is full of light.
A photographer's camera stands on a tripod.
A signed letter lies on the table.
A woman signs a letter with her signature.
A masterpiece of a cake stands on a table.
A house in the Tudor style stands by a road.
A man in an old-fashioned style hat.
A girl in a dress in the style of the 1920s dances.
A frame by a wooden door.
A woman giving a child a stern look.
Great waves crash against the rocks.
An expressionist dances on a stage.
A cubist argues with a realist.
A realist argues with an academic.
The academic, in a black gown, holds a book.
An old master's house stands by a canal.
Oil paints and brushes lie on a table.
A watercolor hangs on the wall.
A woman paints a watercolor of the sea.
An easel with an unfinished watercolor stands in a field.
A print of a ship hangs over the fireplace.
A picture of the Madonna hangs on the wall.
A photograph of a soldier is propped against a clock.
"""

# What is painted stays where a sentence begins with how.
BEGINS_WITH_STYLE = """
In the style of Monet, a pond. => A pond.
In the style of Claude Monet, a pond with lilies. => A pond with lilies.
In the manner of Rembrandt, an old man reads. => An old man reads.
In the manner of the old masters, a goblet and a lemon. => A goblet and a lemon.
In the style of Monet, Renoir and Degas, dancers by a pond. => Dancers by a pond.
Inspired by Monet and Sisley, a flooded road. => A flooded road.
In watercolor, boats. => Boats.
After Vermeer, a maid pours milk. => A maid pours milk.
Inspired by Van Gogh, a wheat field under a starry sky. => A wheat field under a starry sky.
In an impressionist style, a woman with a parasol walks. => A woman with a parasol walks.
In a cubist style, three musicians play. => Three musicians play.
In a painterly manner, boats lie in a harbour. => Boats lie in a harbour.
Painted in the style of Klimt, a couple embraces. => A couple embraces.
In watercolor, a cottage by a stream. => A cottage by a stream.
In soft watercolors, two swans glide over a lake. => Two swans glide over a lake.
In oil on canvas, a bowl of pears. => A bowl of pears.
Oil on canvas, a bowl of pears. => A bowl of pears.
With loose brushstrokes, a garden in bloom. => A garden in bloom.
With thick impasto, waves break on a reef. => Waves break on a reef.
Rendered in soft pastels, a ballerina bows. => A ballerina bows.
In the style of Claude Monet: a pond with lilies. => A pond with lilies.
In the style of Monet - a pond with lilies. => A pond with lilies.
In a Monet style, a pond with lilies. => A pond with lilies.
Style of Monet, a pond. => A pond.
In the manner of Vermeer – a maid pours milk. => A maid pours milk.
"""

# No comma parts the two.
GOES_ON_UNPARTED = """
In the style of Monet a pond lies beneath willows. => A pond lies beneath willows.
In the style of Monet a pond lies beneath willows, a boat rests. => A pond lies beneath willows, a boat rests.
In the style of Claude Monet water lilies float on a pond. => Water lilies float on a pond.
In the style of Vincent van Gogh the wheat field sways. => The wheat field sways.
In the style of van Gogh a cafe at night. => A cafe at night.
In the style of Jane Doe a pond lies under trees. => A pond lies under trees.
In the style of Monet and Renoir two women walk. => Two women walk.
In the style of Monet and the Impressionists a bridge. => A bridge.
In the style of Monet's late work a pond. => A pond.
In the style of Monet this painting shows a pond. => A pond.
In the style of Monet featuring a pond with lilies. => A pond with lilies.
In the style of Monet a painter stands at his easel. => A painter stands at his easel.
In the style of Dutch old masters a lemon lies on a plate. => A lemon lies on a plate.
In the style of Japanese woodblock prints a wave breaks. => A wave breaks.
In the style of French impressionism a garden in bloom. => A garden in bloom.
In the manner of Rembrandt an old man reads. => An old man reads.
In a style reminiscent of Monet a pond lies. => A pond lies.
In Monet's style a pond lies. => A pond lies.
In an impressionist style a woman walks. => A woman walks.
Painted in the style of Klimt a couple embraces. => A couple embraces.
Inspired by Van Gogh a wheat field under a starry sky. => A wheat field under a starry sky.
In watercolor a cottage by a stream. => A cottage by a stream.
In oil on canvas a bowl of pears. => A bowl of pears.
With loose brushstrokes a garden in bloom. => A garden in bloom.
In the style of the 1920s a girl dances. => In the style of the 1920s a girl dances.
In the Tudor style a house stands by a road. => In the Tudor style a house stands by a road.
"""

# What was taken out before is taken out still.
GOES = """
In the style of Monet. =>
In the style of Monet and the Impressionists. =>
In the style of Monet with a soft palette. =>
In the style of Monet late in his life. =>
In the style of Monet this is an oil painting. =>
In the style of Monet the brushstrokes are loose. =>
In the style of Monet featuring loose brushwork. =>
In watercolor. =>
A boat in the style of Monet. => A boat.
This is an impressionist painting of a river. => A river.
An impressionist garden in summer. => A garden in summer.
A realistic portrait of a man. => A portrait of a man.
The artist uses loose brushstrokes. =>
The artist's technique is bold. =>
A masterpiece of impressionism. =>
The painting is a watercolor. =>
A boat, painted in oils. => A boat.
A boat in watercolor. => A boat.
A bridge, an ukiyo-e woodblock print. => A bridge.
Monet style pond with a bridge. => Pond with a bridge.
A painting of a ship. => A ship.
An impressionist canvas of a pond. => A pond.
A painting of a kitchen in which a pan hangs on a hook. => A kitchen in which a pan hangs on a hook.
"""


def cases(table: str) -> list[tuple[str, str]]:
    parts = (line.partition("=>") for line in table.strip().splitlines())
    return [(raw.strip(), expected.strip() if arrow else raw.strip()) for raw, arrow, expected in parts]


BEGINS = BEGINS_WITH_STYLE.rstrip() + GOES_ON_UNPARTED


@pytest.mark.parametrize(("raw", "expected"), cases(STAYS) + cases(BEGINS) + cases(GOES))
def test_content_stays_and_style_goes(raw, expected):
    assert clean(raw) == expected


@pytest.mark.parametrize(("raw", "expected"), cases(STAYS) + cases(BEGINS))
def test_a_sentence_keeps_its_content_beside_another(raw, expected):
    assert clean(f"A dog sleeps. {raw} A cat wakes.") == f"A dog sleeps. {expected} A cat wakes."
