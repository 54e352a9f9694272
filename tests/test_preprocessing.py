"""Images become the data's counts: bitmaps, rendered print, and bundled rows made large again."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from image_cases import counts_or_why
from PIL import Image, ImageDraw, ImageFont
from sklearn.neighbors import KNeighborsClassifier

from digits_jax import load_digits
from digits_jax.data import DataError
from digits_jax.preprocessing import PreprocessingError, block_counts, digit_from_image

STIX = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "STIXGeneral.ttf"
CASES = [(k, size, stroke) for k in range(10) for size in (20, 32, 64, 128) for stroke in (0, 1)]


def rendered(
    digit: int, size: int = 64, stroke: int = 0, *, light: bool = False, font: Path | None = None
) -> np.ndarray:
    """A printed digit uint8 [2 size, 2 size], black on white, or the reverse if light."""
    face = ImageFont.load_default(size) if font is None else ImageFont.truetype(font, size)
    paper, pen = (0, 255) if light else (255, 0)
    image = Image.new("L", (2 * size, 2 * size), paper)
    draw = ImageDraw.Draw(image)
    draw.text((size, size), str(digit), pen, face, anchor="mm", stroke_width=stroke)
    return np.asarray(image)


def handwritten(counts: np.ndarray, width: float = 1, slant: float = 0) -> np.ndarray:
    """A row of the data as a scan [96, 160], light on dark, squeezed and slanted."""
    image = Image.fromarray((counts * (255 / 16)).astype(np.uint8))
    image = image.resize((64, 64), Image.Resampling.BICUBIC).point(lambda v: 255 * (v > 127))
    image = image.resize((round(64 * width), 64), Image.Resampling.BILINEAR)
    page = Image.new("L", (160, 96))
    page.paste(image, (80 - image.width // 2, 16))
    shear = (1, slant, -48 * slant, 0, 1, 0)
    smooth = Image.Resampling.BILINEAR
    return np.asarray(page.transform(page.size, Image.Transform.AFFINE, shear, smooth))


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    bundled = load_digits("bundled")
    return bundled.images, bundled.labels


def test_a_bitmap_made_from_counts_gives_them_back(digits: tuple[np.ndarray, np.ndarray]) -> None:
    """Each block's ink lies anywhere in it."""
    rng = np.random.default_rng(0)
    for counts in digits[0][:20]:
        bitmap = np.zeros((32, 32), bool)
        for i, j in np.ndindex(8, 8):
            block = rng.permutation(16) < counts[i, j]
            bitmap[4 * i : 4 * i + 4, 4 * j : 4 * j + 4] = block.reshape(4, 4)
        found = block_counts(bitmap)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, counts)


def test_blocks_keep_their_places() -> None:
    bitmap = np.zeros((32, 32), bool)
    bitmap[9, 30] = True  # block row 2, block column 7
    assert np.argwhere(block_counts(bitmap)).tolist() == [[2, 7]]


@pytest.mark.parametrize("bitmap", [np.zeros((32, 32)), np.zeros((16, 64), bool), [True]])
def test_other_bitmaps_are_refused(bitmap: object) -> None:
    with pytest.raises(PreprocessingError, match=r"bool \[32, 32\], not "):
        block_counts(bitmap)  # type: ignore[arg-type]


def test_counts_of_8x8_are_taken_as_they_are(
    digits: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    for counts in digits[0]:
        np.testing.assert_array_equal(digit_from_image(counts), counts)
    Image.fromarray(digits[0][7]).save(tmp_path / "seven.png")
    np.testing.assert_array_equal(digit_from_image(tmp_path / "seven.png"), digits[0][7])
    found = digit_from_image(digits[0][7].astype(float))  # as scikit-learn gives them
    np.testing.assert_array_equal(found, digits[0][7])
    assert found.dtype == np.uint8 and not np.shares_memory(found, digits[0])


def test_grey_8x8_is_scaled_and_turned_to_light_ink(digits: tuple[np.ndarray, np.ndarray]) -> None:
    for counts in digits[0]:
        grey = np.round(counts * (255 / 16)).astype(np.uint8)
        np.testing.assert_array_equal(digit_from_image(grey), counts)
        np.testing.assert_array_equal(digit_from_image(255 - grey), counts)


def test_print_is_read_back(digits: tuple[np.ndarray, np.ndarray]) -> None:
    """By the nearest row. Print is not handwriting: Pillow's 6 and 9 curl as no row's do."""
    reader = KNeighborsClassifier(1).fit(digits[0].reshape(-1, 64), digits[1])
    expected = np.array([digit for digit, _, _ in CASES])
    for font, bound in ((None, 0.57), (STIX, 0.9)):  # measured: 0.638, 0.962; by chance 0.1
        found = [digit_from_image(rendered(*case, font=font)).ravel() for case in CASES]
        right = reader.predict(found) == expected
        assert right.mean() >= bound, f"{font or 'default'}: {right.mean():.3f}"


def test_handwriting_is_read_back(digits: tuple[np.ndarray, np.ndarray]) -> None:
    """Rows that the reader doesn't know, at another size, in other proportions, and slanted."""
    images, labels = digits
    reader = KNeighborsClassifier(1).fit(images[1::2].reshape(-1, 64), labels[1::2])
    cases = (  # measured
        ((1, 0), 0.978),
        ((0.7, 0), 0.973),
        ((1.4, 0), 0.973),
        ((1, 0.3), 0.964),
        ((1, -0.3), 0.889),
        ((0.8, 0.2), 0.960),
    )
    for distortion, measured in cases:
        seen = [counts_or_why(handwritten(row, *distortion)) for row in images[::8]]
        read = [not isinstance(each, str) for each in seen]  # at this contrast, some are in pieces
        assert np.mean(read) > 0.97, f"{distortion}: {np.mean(read):.3f}"
        right = reader.predict([s.ravel() for s in seen if not isinstance(s, str)])
        right = right == labels[::8][read]
        assert right.mean() >= measured - 0.025, f"{distortion}: {right.mean():.3f}"


@pytest.mark.parametrize("size", [16, 20, 48, 128])
@pytest.mark.parametrize("digit", range(10))
def test_polarity_does_not_matter(digit: int, size: int) -> None:
    dark = digit_from_image(rendered(digit, size))
    np.testing.assert_array_equal(dark, digit_from_image(rendered(digit, size, light=True)))
    assert dark[0].any() and dark[7].any()  # stretched to the full height, as the data are


def test_place_and_shades_do_not_matter() -> None:
    page = rendered(3)
    expected = digit_from_image(page)
    moved = np.pad(page, ((5, 60), (0, 9)), constant_values=255)
    np.testing.assert_array_equal(digit_from_image(moved), expected)
    pale = np.round(100 + page * (60 / 255)).astype(np.uint8)
    assert np.abs(digit_from_image(pale).astype(int) - expected).max() <= 1  # rounding


def test_every_mode_of_pillow_is_read() -> None:
    page = Image.fromarray(rendered(2))
    expected = digit_from_image(page)
    clear = Image.new("RGBA", page.size)
    clear.putalpha(Image.fromarray(255 - rendered(2)))  # black ink on nothing
    palette = page.convert("P")
    deep = Image.fromarray(rendered(2).astype(np.uint16) * 257)
    assert deep.mode == "I;16"
    for image in (page.convert("RGB"), clear, clear.convert("LA"), palette, deep):
        np.testing.assert_array_equal(digit_from_image(image), expected, err_msg=image.mode)
    one_bit = digit_from_image(page.convert("1", dither=Image.Dither.NONE)).astype(int)
    assert np.abs(one_bit - expected).mean() < 0.5
    red = Image.merge("RGB", [Image.new("L", page.size, 255), page, page])
    np.testing.assert_array_equal(digit_from_image(red), expected)


def test_every_depth_and_layout_of_an_array_is_read() -> None:
    page = rendered(2)
    expected = digit_from_image(page)
    for other in (
        page == 255,
        (page / 255).astype(np.float32),
        page.astype(">u2") * 257,
        page.astype(np.uint16) * 16,  # 12 bits
        np.asfortranarray(page.astype(np.int64)),
        page[..., None],
        np.stack([page] * 3, axis=2),
        np.stack([page] * 3 + [np.full_like(page, 255)], axis=2),
    ):
        found = digit_from_image(other).astype(int)
        most = 0.6 if other.dtype == bool else 0.25  # without its soft edge
        assert np.abs(found - expected).mean() < most, (other.dtype, other.shape)
    for mode in ("CMYK", "YCbCr", "LAB", "HSV", "I", "F"):
        image = Image.fromarray(page)
        if mode == "LAB":
            flat = Image.new("L", image.size, 128)
            image = Image.merge("LAB", [image, flat, flat])
        else:
            image = (image.convert("RGB") if mode == "HSV" else image).convert(mode)
        found = digit_from_image(image).astype(int)
        assert np.abs(found - expected).mean() < 0.25, mode


def test_a_canvas_in_dark_colours_is_read() -> None:
    """White ink on nothing."""
    clear = Image.new("RGBA", (128, 128), "white")
    clear.putalpha(Image.fromarray(255 - rendered(2)))
    np.testing.assert_array_equal(digit_from_image(clear), digit_from_image(rendered(2)))


def test_8x8_in_another_coding_is_stretched(digits: tuple[np.ndarray, np.ndarray]) -> None:
    for counts in digits[0][:50]:
        bits = counts > 7
        for coded in (bits, bits.astype(np.uint8), bits.astype(float), 255 * bits.astype(np.uint8)):
            np.testing.assert_array_equal(digit_from_image(coded), 16 * bits)
        for pale in (counts * 2 + 100, 132 - 2 * counts, counts.astype(np.uint16) * 1000 + 30000):
            found = digit_from_image(pale).astype(int)
            assert np.abs(found - counts).max() <= 2, "a row's largest count is 14 to 16"
        np.testing.assert_array_equal(digit_from_image(counts / 16), counts)


def test_several_images_in_a_file_are_refused(tmp_path: Path) -> None:
    pages = [Image.fromarray(rendered(k)) for k in range(3)]
    for name in ("moving.gif", "moving.png", "pages.tif"):
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
        with pytest.raises(PreprocessingError, match=rf"{name}: it holds 3 images; give one of"):
            digit_from_image(tmp_path / name)
    pages[0].save(tmp_path / "phone.mpo", save_all=True, append_images=pages[1:])
    found = digit_from_image(tmp_path / "phone.mpo").astype(int)
    assert np.abs(found - digit_from_image(rendered(0))).mean() < 0.25


def test_a_cameras_orientation_is_heeded(tmp_path: Path) -> None:
    page = Image.fromarray(rendered(7))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it by 90 degrees clockwise to see it upright
    page.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(digit_from_image(tmp_path / "turned.png"), digit_from_image(page))


def test_a_noisy_photograph_is_as_good_as_a_scan(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    page = 60 + rendered(5, 400, 8).astype(float) * 0.6
    dots = np.zeros_like(page)
    dots[40:46, 40:46] = dots[700:705, 90:95] = 1  # dirt
    photograph = np.clip(np.where(dots, 60, page) + rng.normal(0, 8, page.shape), 0, 255)
    Image.fromarray(photograph.astype(np.uint8)).save(tmp_path / "photo.jpg", quality=70)
    scan, found = digit_from_image(rendered(5, 400, 8)), digit_from_image(tmp_path / "photo.jpg")
    assert np.abs(found.astype(int) - scan).mean() < 0.25


def test_large_images_are_reduced_first() -> None:
    large = np.kron(rendered(4, 128), np.ones((16, 16), np.uint8))  # 4096x4096
    expected = digit_from_image(rendered(4, 128))
    assert np.abs(digit_from_image(large).astype(int) - expected).mean() < 0.25


def test_strokes_are_brought_to_the_datas_width() -> None:
    for width in range(1, 40, 4):  # of an oval's line, in an image of 200 pixels
        image = Image.new("L", (300, 300), 255)
        ImageDraw.Draw(image).ellipse((80, 50, 220, 250), outline=0, width=width)
        found = digit_from_image(image)
        assert 200 <= found.sum() <= 460, width  # the bundled rows: 185 to 433
        assert found[1:7, [2, 5]].any(axis=1).all(), width  # no gap in a thin line


def test_a_slanted_stroke_stands_upright() -> None:
    image = Image.new("L", (200, 200), 255)
    ImageDraw.Draw(image).line((140, 20, 60, 180), 0, width=16)
    found = digit_from_image(image)
    assert np.ptp(found[1:7].astype(int), axis=0).max() <= 4
    assert (found[4] > 0).sum() <= 4
    np.testing.assert_allclose(found[4] @ np.arange(8) / found[4].sum(), 3.5, atol=0.5)


def _dots() -> np.ndarray:
    page = np.zeros((120, 200), np.uint8)
    page[[12, 106], [110, 8]] = 255
    return page


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.full((8, 8), 5, np.uint8), "blank"),
        (np.full((8, 8), 200, np.uint8), "blank"),
        (np.full((50, 60), 255, np.uint8), "blank"),
        (np.zeros((50, 60), np.uint8), "blank"),
        (np.random.default_rng(0).integers(240, 250, (50, 60)), "too faint"),
        (np.zeros((7, 60), np.uint8), "60x7 pixels are too small"),
        (np.zeros((0, 8), np.uint8), "empty"),
        (np.zeros((9, 9, 3)), r"uint8 \[H, W, 3\], not float64\[9, 9, 3\]"),
        (np.zeros((2, 9, 9), np.uint8), r"numbers \[H, W\] or"),
        (np.full((9, 9), 256), "blank"),
        (np.full((9, 9), 2.0**40), r"it holds the value 1.09951e\+12; give grey values"),
        (np.full((9, 9), np.nan), "negative or not finite; give 0..255"),
        (np.full((9, 9), -1), "negative or not finite"),
        (np.full((9, 9), 1j), r"numbers \[H, W\]"),
        (np.full((9, 9), "a"), r"numbers \[H, W\]"),
        (_dots(), "scattered dots"),
        (Image.new("F", (9, 9)), "blank"),
        (Image.fromarray(np.full((9, 9), np.inf, np.float32)), "not finite"),
        (Image.new("RGBA", (40, 40)), "blank"),
    ],
)
def test_what_is_no_digit_is_refused(image: np.ndarray, message: str) -> None:
    with pytest.raises(PreprocessingError, match=message) as caught:
        digit_from_image(image)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, DataError)


def test_what_is_no_image_file_is_refused(tmp_path: Path) -> None:
    text, cut = tmp_path / "text.png", tmp_path / "cut.png"
    text.write_text("hello")
    Image.fromarray(rendered(1)).save(cut)
    cut.write_bytes(cut.read_bytes()[:200])
    cases = {
        text: "not an image",
        cut: "damaged",
        tmp_path: "Is a directory",
        tmp_path / "none.png": "No such file",
    }
    for path, message in cases.items():
        with pytest.raises(PreprocessingError, match=message) as caught:
            digit_from_image(str(path))
        assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
