"""The map of the items on the diagnosis page: its text, its key of colours and its points."""

from recvae.files import Document
from recvae.reports.svg import Point
from recvae.reports.text import in_html as escape

_COLOURS = ("c0", "c1", "c2", "c3", "c4")  # of the tags, the most frequent first
_OTHER = "off"


def about(items: Document) -> str:
    """Return the paragraph above the map."""
    left_out = items["items_in_all"] - len(items["points"])
    cut = f" The {left_out:,} least clicked items are left out." if left_out else ""
    named = min(items["labelled"], len(items["points"]))
    first, second = items["explained"]
    if items["tags"]:
        colours = f"A colour is a tag, the rarest of the {len(items['tags'])} below that the item has"
    else:
        colours = "The items have no tags to colour them by"
    return (
        "<p>Each item's row of the decoder's last layer at unit length, without the part that its number of clicks "
        f"explains ({items['popularity']:.1%} of the variance), on the two principal axes of what is left ({first:.1%} "
        f"and {second:.1%} of that): items near each other tend to be ranked alike for another reason than their "
        f"popularity. {colours}. Larger dots have more clicks; the {named} with the most have a ring and, where there "
        f"is room, their titles. Point at any for its title.{cut}</p>"
    )


def key(items: Document) -> str:
    """Return the key of the colours, empty where no item has a tag."""
    names = [*zip(_COLOURS, items["tags"], strict=False), (_OTHER, "none of these")]
    marks = (
        f'<span><svg class="dot" viewBox="0 0 10 10" aria-hidden="true"><circle class="{style}" cx="5" cy="5" r="4.5"/>'
        f"</svg> {escape(name)}</span>"
        for style, name in names
    )
    return f'<p class="key">{" ".join(marks)}</p>' if items["tags"] else ""


def points(items: Document) -> list[Point]:
    """Return the points of the map, the most clicked first."""
    most = max(1, items["points"][0]["clicks"])
    colours = dict(zip(items["tags"], _COLOURS, strict=False))
    drawn = []
    for place, point in enumerate(items["points"]):
        name, tag = point["title"] or point["item_id"], point["tag"]
        style = colours.get(tag, _OTHER if items["tags"] else "c0")
        drawn.append(
            Point(
                point["x"],
                point["y"],
                1.5 + 4.5 * (point["clicks"] / most) ** 0.5,
                f"{name}, {point['clicks']:,} clicks{f', {tag}' if tag else ''}",
                short(name) if place < items["labelled"] else "",
                style,
            )
        )
    return drawn


def short(title: str, most: int = 28) -> str:
    """Return a title of at most so many characters."""
    return title if len(title) <= most else title[: most - 1] + "…"
