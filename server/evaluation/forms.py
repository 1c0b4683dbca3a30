"""Forms of the exam's prompts: those that training captions have too, and those that no caption has.

Placeholders: {x} a whole phrase, {a} {b} {c} objects, {k} a number, {n} {m} colours of the background, {w} a place.
"""

Forms = tuple[tuple[str, ...], tuple[str, ...]]  # those of the captions, those that no caption has

NUMBERS = ("one", "two", "three", "four")
WRAPS: Forms = (
    (
        "{x}",
        "{x}",
        "{x}",
        "a photo of {x}",
        "please draw {x}",
        "{x}, minimal",
        "a cute drawing of {x}",
        "a 3d render of {x}",
    ),
    (
        "{x}",
        "{x}",
        "a watercolor of {x}",
        "kindly sketch {x}",
        "{x}, award-winning",
        "{x}, gorgeous",
        "{x}, masterpiece",
    ),
)
GROUNDS: Forms = (
    (
        "{x} on a {n} background",
        "{x} on {n}",
        "{x} against a {n} backdrop",
        "{n} background, {x}",
        "{x} isolated on {n}",
    ),
    ("{x} placed on {n}", "{x} set against {n}", "{x}, {n} canvas", "{n} canvas with {x}", "{x} upon a {n} surface"),
)
GRADIENTS: Forms = (
    ("{x} on a gradient background from {n} to {m}", "{x}, {n} to {m} gradient background"),
    ("{x} on a gradient that goes from {n} to {m}", "{x}, gradient of {n} into {m}"),
)
HALVES: Forms = (
    ("{x} on a two-tone background, {n} above {m}", "{x}, background half {n} half {m}"),
    ("{x} on a two-tone canvas, {n} at the top and {m} at the bottom",),
)
PAIRS: Forms = (("{a} and {b}", "{a} next to {b}", "{a}, {b}"), ("{a} together with {b}", "both {a} and {b}"))
COUNTS: Forms = (
    ("{k} {s}", "a group of {k} {s}", "the {k} {s}"),
    ("exactly {k} {s}", "we see {k} {s}", "{k} of those {s}"),
)
RELATIONS: dict[str, Forms] = {
    "left": (
        ("{a} to the left of {b}", "{a} left of {b}"),
        ("{b}, where to its left stands {a}", "{a} leftward of {b}"),
    ),
    "right": (("{a} to the right of {b}", "{a} right of {b}"), ("{b}, where to its right stands {a}",)),
    "above": (("{a} above {b}", "{a} on top of {b}"), ("{b}, where above it stands {a}", "{a} located above {b}")),
    "below": (("{a} below {b}", "{a} under {b}"), ("{b}, where below it stands {a}", "{a} located below {b}")),
    "inside": (("{b} inside {a}", "{a} with {b} inside"), ("{a}, and inside it {b}", "inside {a} is {b}")),
    "between": (("{b} between {a} and {c}",), ("{b} standing between {a} and {c}", "{a} and {c}, between them {b}")),
}
PLACES: Forms = (
    ("{a} in the {w} corner", "{a} in the {w}"),
    ("{a} placed in the {w} corner", "{a} located in the {w} corner"),
)
CORNERS = ("top left", "top right", "bottom left", "bottom right")
PATTERN_FORMS: Forms = (
    ("one {p} {c} {s}", "the {c} {p} {s}", "{p} {c} {s}"),
    ("the {c} {s} that is {p}", "one {p} {s} in {c}"),
)
SCENES: dict[str, Forms] = {
    "grass": (("{a} on grass", "{a} in a meadow", "{a} on the grass"), ("{a} on the lawn", "{a} on fresh grass")),
    "sea": (("{a} on the sea", "{a} at sea", "{a} in the ocean"), ("{a} out on the sea", "{a} amid the ocean")),
    "snow": (("{a} in the snow", "{a} on snow"), ("{a} on deep snow", "snow all around {a}")),
    "night sky": (
        ("{a} in the night sky", "{a} in a starry sky"),
        ("night sky showing {a}", "{a} up in the night sky"),
    ),
}
SKY: Forms = (("{x} and {b}", "{x} under {b}", "{b} above {x}"), ("{x}, with {b} up there", "{x} beneath the {b}"))
