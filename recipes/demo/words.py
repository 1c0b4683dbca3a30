"""The words of the captions: names of what the world contains, and words that mean nothing in it."""

NUMBERS = {2: ("two", "2", "a pair of", "a couple of"), 3: ("three", "3", "a trio of"), 4: ("four", "4")}
RELATIONS = {
    "left": ("to the left of", "left of", "on the left of", "on the left side of"),
    "right": ("to the right of", "right of", "on the right of", "on the right side of"),
    "above": ("above", "on top of", "over", "higher than"),
    "below": ("below", "under", "beneath", "underneath"),
}
BESIDE = ("and", "next to", "beside", "with", "by", "near")
TO_THE_SIDE = {"left": "to its left", "right": "to its right", "above": "above it", "below": "below it"}
SIDES = {
    "left": ("on the left", "on the left side", "at the left"),
    "right": ("on the right", "on the right side", "at the right"),
    "above": ("at the top", "on top", "in the upper half"),
    "below": ("at the bottom", "below", "in the lower half"),
}
LABELS = {"left": "left", "right": "right", "above": "top", "below": "bottom"}
INVERSE = {"left": "right", "right": "left", "above": "below", "below": "above"}
PLACES = {
    **{
        f"{a} {b}": (f"{a} {b}", f"{c} {b}")
        for a, c in (("top", "upper"), ("bottom", "lower"))
        for b in ("left", "right")
    },
    **{"top": ("top",), "bottom": ("bottom",), "left": ("left",), "right": ("right",)},
    "center": ("center", "centre", "middle"),
}
SYNONYMS: dict[str, tuple[str, ...]] = {
    "gray": ("grey",),
    "purple": ("violet",),
    "circle": ("disc", "dot", "ball"),
    "square": ("box", "block"),
    "ring": ("donut", "hoop"),
    "small": ("little", "tiny"),
    "large": ("big", "huge"),
    "house": ("home", "cottage", "hut"),
    "flower": ("daisy", "blossom"),
    "boat": ("ship", "sailboat"),
    "moon": ("crescent moon", "crescent"),
    "car": ("automobile",),
    "cat": ("kitten", "kitty"),
    "cream": ("beige",),
    "light blue": ("pale blue",),
    "light green": ("pale green",),
    "light pink": ("pale pink",),
    "light gray": ("light grey", "pale gray"),
    "lavender": ("lilac", "light purple"),
    "teal": ("turquoise",),
    "navy": ("dark blue", "navy blue"),
}
OPENINGS = (
    *(
        "a picture of",
        "an image of",
        "a drawing of",
        "there is",
        "i see",
        "draw",
        "a photo of",
        "draw me",
        "please draw",
    ),
    *(
        "show me",
        "make",
        "paint",
        "an illustration of",
        "a simple drawing of",
        "a photograph of",
        "an icon of",
        "create",
    ),
    *(
        "a painting of",
        "i want",
        "can you draw",
        "here is",
        "a flat picture of",
        "generate",
        "a 3d render of",
        "a sketch of",
    ),
    *("give me", "a cute drawing of", "a minimal image of", "a cartoon of", "please make", "a logo with", "clipart of"),
)
STYLES = (
    *("minimal", "minimalist", "3d render", "high quality", "flat design", "vector art", "cartoon", "clean", "simple"),
    *("best quality", "highly detailed", "4k", "digital art", "flat style", "realistic", "cute", "illustration", "8k"),
    *(
        "sharp",
        "icon",
        "sticker",
        "beautiful",
        "detailed",
        "professional",
        "please",
        "nothing else",
        "trending",
        "logo",
    ),
)
ADJECTIVES = (
    *("nice", "cute", "simple", "bright", "pretty", "clean", "lovely", "beautiful", "plain", "neat", "flat", "funny"),
    *("cool", "perfect", "happy", "shiny", "minimal", "single", "modern", "little old", "sweet", "good", "fancy"),
)
FILLERS = (
    *("please", "simple", "style", "flat", "vector", "clean", "minimal", "image", "picture", "scene", "shown", "drawn"),
    *("visible", "only", "some", "this", "that", "my", "very", "really", "also", "then", "looks", "like", "something"),
    *("good", "high", "quality", "clear", "sharp", "detailed", "art", "design", "logo", "sticker", "poster", "cartoon"),
)
