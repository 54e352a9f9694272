"""Images of digits as cameras, forms and canvases bring them, and of what is no digit.

    python tests/image_cases.py CHECKPOINT DIGITS.csv

prints how often the networks of a checkpoint read an image as they read the plain one, how often it
is refused, and how often what is no digit is answered at 90 % or more. DIGITS.csv is all of UCI's
rows: handwriting is of its rows 1912 to 3822, the second half of optdigits.tra.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from digits_jax.preprocessing import PreprocessingError, digit_from_image

FONTS = (
    "STIXGeneral STIXGeneralItalic cmr10 cmss10 cmtt10 DejaVuSans-Bold DejaVuSans-Oblique"
    " DejaVuSerif Pillow"
).split()
_FOLDER = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
_SMOOTH = Image.Resampling.BICUBIC

Rng = np.random.Generator
Change = Callable[[Image.Image, Rng], Image.Image]


def printed(text: str, font: str, size: int = 64, stroke: int = 0) -> Image.Image:
    """Black print in the middle of a white page."""
    if font == "Pillow":
        face = ImageFont.load_default(size)
    else:
        face = ImageFont.truetype(str(_FOLDER / f"{font}.ttf"), size)
    page = Image.new("L", ((len(text) + 1) * size, 2 * size), 255)
    middle = (page.width // 2, page.height // 2)
    ImageDraw.Draw(page).text(middle, text, 0, face, anchor="mm", stroke_width=stroke)
    return page


def written(counts: np.ndarray, side: int = 64, margin: int = 16) -> Image.Image:
    """Counts [8, 8] as handwriting, dark on light."""
    image = Image.fromarray((counts * (255 / 16)).astype(np.uint8)).resize((64, 64), _SMOOTH)
    image = image.point(lambda v: 255 * (v > 110)).resize((side, side), Image.Resampling.BILINEAR)
    return _image(255 - np.pad(np.asarray(image), margin))


def _image(values: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def _values(image: Image.Image) -> np.ndarray:
    return np.asarray(image, np.float64)


def _drawn(
    image: Image.Image, draw: Callable[[ImageDraw.ImageDraw, int, int], object]
) -> Image.Image:
    image = image.copy()
    draw(ImageDraw.Draw(image), image.width - 1, image.height - 1)
    return image


def box(image: Image.Image, inset: int, width: int, radius: int = 0) -> Image.Image:
    """A box around it."""
    return _drawn(
        image,
        lambda pen, x, y: pen.rounded_rectangle(
            (inset, inset, x - inset, y - inset), radius, outline=0, width=width
        ),
    )


def _lines(image: Image.Image, sides: str, inset: int, width: int) -> Image.Image:
    def draw(pen: ImageDraw.ImageDraw, x: int, y: int) -> None:
        ends = {
            "top": (inset, inset, x - inset, inset),
            "bottom": (inset, y - inset, x - inset, y - inset),
            "left": (inset, inset, inset, y - inset),
            "right": (x - inset, inset, x - inset, y - inset),
        }
        for side in sides.split():
            pen.line(ends[side], 0, width)

    return _drawn(image, draw)


def _ruled(image: Image.Image, tone: int, squares: bool) -> Image.Image:
    def draw(pen: ImageDraw.ImageDraw, x: int, y: int) -> None:
        for at in range(y // 10, y, y // 5):
            pen.line((0, at, x, at), tone)
        for at in range(x // 10, x, x // 5) if squares else ():
            pen.line((at, 0, at, y), tone)

    return _drawn(image, draw)


def moved(image: Image.Image, rng: Rng) -> Image.Image:
    """More paper on each side."""
    top, bottom, left, right = rng.integers(0, 60, 4)
    return _image(np.pad(_values(image), ((top, bottom), (left, right)), constant_values=255))


def scaled(image: Image.Image, rng: Rng) -> Image.Image:
    """0.4 to 3 times as large."""
    factor = rng.uniform(0.4, 3)
    return image.resize((int(image.width * factor), int(image.height * factor)), _SMOOTH)


def inverted(image: Image.Image, rng: Rng) -> Image.Image:
    """Light on dark."""
    return _image(255 - _values(image))


def lit(image: Image.Image, darkest: float, kind: str) -> Image.Image:
    """Under a light that falls off to `darkest`."""
    y, x = np.mgrid[0 : 1 : image.height * 1j, 0 : 1 : image.width * 1j]
    way = {"x": x, "xy": (x + y) / 2, "spot": np.hypot(x - 0.5, y - 0.5) / 0.71}[kind]
    return _image(_values(image) * (darkest + (1 - darkest) * way))


def _shadowed(image: Image.Image, rng: Rng) -> Image.Image:
    values = _values(image)
    values[:, : int(image.width * rng.uniform(0.3, 0.7))] *= 0.6
    return _image(values)


def _noisy(image: Image.Image, rng: Rng, spread: float) -> Image.Image:
    return _image(40 + 0.7 * _values(image) + rng.normal(0, spread, (image.height, image.width)))


def tight(image: Image.Image, rng: Rng) -> Image.Image:
    """Cropped to its ink."""
    return image.crop(image.point(lambda v: 255 * (v < 128)).getbbox())


def _framed(image: Image.Image, rng: Rng) -> Image.Image:
    width = int(rng.integers(3, 12))
    return _image(np.pad(255 - _values(image), width, constant_values=255))


# What is done to a digit: it is to be read as before, or refused.
CHANGES: dict[str, Change] = {
    "moved": moved,
    "scaled": scaled,
    "light on dark": inverted,
    "cropped to its ink": tight,
    "dark photograph with a white edge": _framed,
    "in a box at the edge": lambda image, rng: box(image, 0, int(rng.integers(1, 6))),
    "in a box": lambda image, rng: box(image, int(rng.integers(2, 8)), int(rng.integers(1, 4))),
    "in a round box": lambda image, rng: box(image, 2, 3, 16),
    "in a circle": lambda image, rng: _drawn(
        image, lambda pen, x, y: pen.ellipse((2, 2, x - 2, y - 2), outline=0, width=3)
    ),
    "lines at two sides": lambda image, rng: _lines(image, "top left", 0, 3),
    "a line below": lambda image, rng: _lines(image, "bottom", 4, 3),
    "a line at the left edge": lambda image, rng: _lines(image, "left", 0, 4),
    "ruled paper": lambda image, rng: _ruled(image, int(rng.choice([0, 190])), False),
    "squared paper": lambda image, rng: _ruled(image, int(rng.choice([0, 200, 230])), True),
    "light from the right": lambda image, rng: lit(image, 0.35, "x"),
    "light from a corner": lambda image, rng: lit(image, 0.3, "xy"),
    "light at the edges": lambda image, rng: lit(image, 0.4, "spot"),
    "a shadow": _shadowed,
    "noise": lambda image, rng: _noisy(image, rng, 15),
    "much noise": lambda image, rng: _noisy(image, rng, 40),
    "out of focus": lambda image, rng: image.filter(ImageFilter.GaussianBlur(2)),
    "faint": lambda image, rng: _image(180 + 0.1 * _values(image)),
    "pixels 0 and 1": lambda image, rng: _image(_values(image) < 128),
    "12 bits in 16": lambda image, rng: Image.fromarray(np.asarray(image, np.uint16) * 16),
    "cut off in the middle": lambda image, rng: image.crop(
        (image.width // 2, 0, image.width, image.height)
    ),
}


def _page() -> Image.Image:
    return Image.new("L", (128, 128), 255)


def _shape(draw: Callable[[ImageDraw.ImageDraw, tuple[int, ...], int, Rng], object]) -> Callable:
    def make(rng: Rng, digit: Callable[[Rng], Image.Image]) -> Image.Image:
        left, right = sorted(rng.integers(10, 98, 2))
        top, bottom = sorted(rng.integers(10, 98, 2))
        corners = (int(left), int(top), int(right) + 20, int(bottom) + 20)
        return _drawn(_page(), lambda pen, *_: draw(pen, corners, int(rng.integers(1, 8)), rng))

    return make


def _beside(first: Image.Image, second: Image.Image, gap: int) -> Image.Image:
    page = np.full(
        (max(first.height, second.height) + 20, first.width + second.width + gap + 20), 255
    )
    page[10 : 10 + first.height, 10 : 10 + first.width] = first
    page[10 : 10 + second.height, 10 + first.width + gap : -10] = second
    return _image(page)


def _two(rng: Rng, digit: Callable[[Rng], Image.Image]) -> Image.Image:
    first, second, gap = tight(digit(rng), rng), tight(digit(rng), rng), int(rng.integers(2, 20))
    if rng.random() < 0.7:
        return _beside(first, second, gap)
    turned = [image.transpose(Image.Transpose.TRANSPOSE) for image in (first, second)]
    return _beside(*turned, gap).transpose(Image.Transpose.TRANSPOSE)


def _scribble(pen: ImageDraw.ImageDraw, corners: tuple[int, ...], width: int, rng: Rng) -> None:
    pen.line(
        [tuple(map(int, p)) for p in rng.integers(10, 118, (int(rng.integers(4, 14)), 2))], 0, width
    )


def _dots(pen: ImageDraw.ImageDraw, corners: tuple[int, ...], width: int, rng: Rng) -> None:
    for x, y, r in rng.integers((5, 5, 1), (120, 120, 5), (int(rng.integers(3, 40)), 3)).tolist():
        pen.ellipse((x - r, y - r, x + r, y + r), fill=0)


def _table(pen: ImageDraw.ImageDraw, corners: tuple[int, ...], width: int, rng: Rng) -> None:
    for at in range(0, 128, 31):
        pen.line((at, 0, at, 127), 0, 2)
        pen.line((0, at, 127, at), 0, 2)


def _face(pen: ImageDraw.ImageDraw, corners: tuple[int, ...], width: int, rng: Rng) -> None:
    pen.ellipse((14, 14, 114, 114), outline=0, width=width)
    pen.ellipse((40, 40, 52, 52), fill=0)
    pen.ellipse((76, 40, 88, 52), fill=0)
    pen.arc((35, 45, 93, 95), 20, 160, 0, width)


@functools.cache
def _photographs() -> list[Image.Image]:
    from sklearn.datasets import load_sample_images

    return [Image.fromarray(image).convert("L") for image in load_sample_images().images]


def _photograph(rng: Rng, digit: object) -> Image.Image:
    whole, side = _photographs()[int(rng.integers(2))], int(rng.choice([40, 80, 160, 320]))
    x, y = int(rng.integers(whole.width - side)), int(rng.integers(whole.height - side))
    return whole.crop((x, y, x + side, y + side))


def _clouds(rng: Rng, digit: object) -> Image.Image:
    return _image(rng.integers(0, 256, rng.integers(3, 12, 2))).resize((128, 128), _SMOOTH)


# What is no digit: it is to be refused, or not to be answered at 90 %.
NO_DIGITS: dict[str, Callable[[Rng, Callable[[Rng], Image.Image]], Image.Image]] = {
    "two digits": _two,
    "a number": lambda rng, digit: printed(str(rng.integers(10, 9999)), str(rng.choice(FONTS)), 48),
    "light alone": lambda rng, digit: lit(_page(), 0.2, str(rng.choice(["x", "xy", "spot"]))),
    "noise alone": lambda rng, digit: _image(rng.integers(0, 256, (100, 100))),
    "clouds": _clouds,
    "a photograph": _photograph,
    "a box alone": _shape(lambda pen, at, width, rng: pen.rectangle(at, outline=0, width=width)),
    "a filled box": _shape(lambda pen, at, width, rng: pen.rectangle(at, fill=0)),
    "a disc": _shape(lambda pen, at, width, rng: pen.ellipse(at, fill=0)),
    "a line": _shape(lambda pen, at, width, rng: pen.line((*at[:3], at[1] + 3), 0, width)),
    "a table": _shape(_table),
    "dots": _shape(_dots),
    "a face": _shape(_face),
    "a cross": _shape(
        lambda pen, at, width, rng: [
            pen.line(at, 0, width),
            pen.line((at[0], at[3], at[2], at[1]), 0, width),
        ]
    ),
    "a scribble": _shape(_scribble),
    "a letter": lambda rng, digit: printed(
        str(rng.choice(list("ACEFGHJKMNPRTUVWXYadefhkmnrtuwy&@#%?"))), str(rng.choice(FONTS))
    ),
}


def counts_or_why(image: Image.Image) -> np.ndarray | str:
    """What is read, or why nothing is."""
    try:
        return digit_from_image(image)
    except PreprocessingError as error:
        return str(error)


def _main(checkpoint: str, data: str, each: int = 200) -> None:
    import jax

    import digits_jax as dj
    from digits_jax.familiarity import FAMILIAR, distances
    from digits_jax.metrics import probabilities

    rows, rng = dj.load_digits(data).images[1912:3823], np.random.default_rng(0)
    saved = dj.load_states(Path(checkpoint) / "checkpoints")
    voters = [i for i, name in enumerate(saved.names) if name != "refit"]
    states = jax.tree.map(lambda leaf: leaf[np.array(voters)], saved.states)
    one = functools.partial(dj.predict, recipe=saved.recipe)
    predict = jax.jit(jax.vmap(one, (0, None)))

    def digit(rng: Rng) -> Image.Image:
        if rng.random() < 0.5:
            return written(rows[rng.integers(len(rows))])
        size, stroke = int(rng.choice([32, 48, 64, 96])), int(rng.integers(2))
        return printed(str(rng.integers(10)), str(rng.choice(FONTS)), size, stroke)

    def answers(images: list[Image.Image]) -> list[tuple[int, float] | None]:
        """The digit and its probability; None where it is refused."""
        seen = [counts_or_why(image) for image in images]
        counts = np.stack([np.zeros((8, 8), np.uint8) if isinstance(s, str) else s for s in seen])
        mean = probabilities(np.asarray(predict(states, counts))).mean(axis=0)
        far = distances(counts, mean.argmax(1)) > FAMILIAR
        refused = [isinstance(s, str) or bool(f) for s, f in zip(seen, far, strict=True)]
        return [
            None if no else (int(p.argmax()), float(p.max()))
            for no, p in zip(refused, mean, strict=True)
        ]

    print("| a digit, and then | read alike | refused | otherwise | of these at 90 % |")
    print("|---|---|---|---|---|")
    for name, change in {"as it is": lambda image, rng: image, **CHANGES}.items():
        plain = [digit(rng) for _ in range(each)]
        before, after = answers(plain), answers([change(image, rng) for image in plain])
        read = [(a, b) for a, b in zip(before, after, strict=True) if b is not None]
        other = [b[1] for a, b in read if a is not None and a[0] != b[0]]
        refused, sure = 1 - len(read) / each, sum(p >= 0.9 for p in other)
        alike = 1 - refused - len(other) / each
        print(f"| {name} | {alike:.1%} | {refused:.1%} | {len(other) / each:.1%} | {sure} |")
    print("\n| no digit | refused | answered below 90 % | at 90 % or more |\n|---|---|---|---|")
    for name, make in NO_DIGITS.items():
        said = answers([make(rng, digit) for _ in range(each)])
        sure = sum(a is not None and a[1] >= 0.9 for a in said)
        refused = sum(a is None for a in said)
        rest = each - refused - sure
        print(f"| {name} | {refused / each:.1%} | {rest / each:.1%} | {sure / each:.1%} |")


if __name__ == "__main__":
    _main(*sys.argv[1:])
