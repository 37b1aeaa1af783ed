from __future__ import annotations

import io
import os
import pickle
import struct
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from datasets_files import encoded
from PIL import Image

from port.data.datasets.base import BadImageError
from port.data.datasets.decode import FORMATS, decode_image, is_image_name, read_image_file


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    """Return an image as a file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def official(data: bytes) -> Image.Image:
    """Decode as official dinov2/data/datasets/decoders.py:25 does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Image.open(io.BytesIO(data)).convert(mode="RGB")


def noise(mode: str, channels: int) -> Image.Image:
    """Return a noisy image of 8 bits."""
    shape = (6, 5, channels) if channels > 1 else (6, 5)
    values = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    image = Image.fromarray(values)
    return image if image.mode == mode else Image.frombytes(mode, (5, 6), values.tobytes())


def palette_with_transparency() -> bytes:
    """Return a PNG about which Pillow warns when it is converted."""
    image = noise("RGB", 3).quantize(8)
    return saved(image, "PNG", transparency=bytes([0, 128, 255]))


ORDINARY = {
    "rgb.png": saved(noise("RGB", 3), "PNG"),
    "grey.png": saved(noise("L", 1), "PNG"),
    "rgba.png": saved(noise("RGBA", 4), "PNG"),
    "grey-alpha.png": saved(noise("LA", 2), "PNG"),
    "black-white.png": saved(noise("L", 1).convert("1"), "PNG"),
    "palette.png": saved(noise("RGB", 3).quantize(8), "PNG"),
    "palette-transparent.png": palette_with_transparency(),
    "rgb.jpg": saved(noise("RGB", 3), "JPEG"),
    "cmyk.jpg": saved(noise("CMYK", 4), "JPEG"),
    "progressive.jpg": saved(noise("RGB", 3), "JPEG", progressive=True),
    "rgb.webp": saved(noise("RGB", 3), "WEBP", lossless=True),
    "rgb.bmp": saved(noise("RGB", 3), "BMP"),
    "rgb.tif": saved(noise("RGB", 3), "TIFF"),
    "rgb.ppm": saved(noise("RGB", 3), "PPM"),
    "animated.gif": saved(noise("L", 1), "GIF", save_all=True, append_images=[Image.new("L", (5, 6), 9)]),
}


@pytest.mark.parametrize("name", sorted(ORDINARY))
def test_ordinary_images_are_decoded_as_official_does(name: str) -> None:
    """Pixels equal official's for every mode of 8 bits, and the result is RGB."""
    image = decode_image(ORDINARY[name], name)
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image), np.asarray(official(ORDINARY[name])))


def test_exif_orientation_is_not_applied() -> None:
    """An image that asks to be turned stays as it is stored, as in official code."""
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    data = saved(Image.new("RGB", (7, 3)), "JPEG", exif=exif)
    assert decode_image(data, "turned.jpg").size == (7, 3)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_grey_of_sixteen_bits_is_scaled(kind: str) -> None:
    """65535 is white and 32768 the middle grey; Pillow's own conversion makes white of all above 255."""
    values = np.array([[0, 257, 32768, 65535]], dtype=np.uint16)
    image = decode_image(saved(Image.fromarray(values), kind), "deep")
    assert np.asarray(image)[0, :, 0].tolist() == [0, 1, 128, 255]
    assert image.mode == "RGB"


@pytest.mark.parametrize(("dtype", "words"), [(np.float32, "floating point"), (np.int32, "integers")])
def test_pixels_of_32_bits_are_refused(dtype: type, words: str) -> None:
    """No white level is guessed for 32-bit pixels."""
    data = saved(Image.fromarray(np.ones((2, 2), dtype=dtype)), "TIFF")
    with pytest.raises(BadImageError, match=f"32-bit {words}.*convert it to 8 or 16 bits"):
        decode_image(data, "raw.tif")


def bomb() -> bytes:
    """Return the start of a PNG that announces 60,000 by 60,000 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return start + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"<html>not found</html>", "not an image.*b'<html>no'"),
        (encoded(kind="JPEG", side=64)[:-200], "truncated"),
        (encoded(side=64)[:60], "truncated"),
        (encoded()[:12], "not an image|truncated"),
        (encoded()[:20] + b"\xff" * 40, "not an image|truncated or damaged"),
        (b"\xff\xd8\xff\xe0" + bytes(100), "not an image|truncated or damaged"),
        (bomb(), "too many pixels"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "not an image"),
    ],
    ids=["empty", "html", "half-jpeg", "half-png", "png-signature", "png-garbage", "jpeg-garbage", "bomb", "eps"],
)
def test_bad_data_is_one_error_with_a_reason(data: bytes, reason: str) -> None:
    """Whatever is wrong with the bytes, the error names the file and says what."""
    with pytest.raises(BadImageError, match=reason) as caught:
        decode_image(data, "a/b.png")
    assert caught.value.name == "a/b.png"
    assert str(caught.value) == f"a/b.png: {caught.value.reason}"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_no_damage_escapes_as_another_error(kind: str) -> None:
    """200 randomly damaged files either decode or raise BadImageError."""
    good = bytearray(encoded(kind=kind, side=16))
    generator = np.random.default_rng(len(good))
    outcomes = set()
    for _ in range(200):
        damaged = bytearray(good)
        for place in generator.integers(0, len(good), 3):
            damaged[place] = generator.integers(0, 256)
        try:
            outcomes.add(decode_image(bytes(damaged[: generator.integers(1, len(good) + 1)]), "x").mode)
        except BadImageError as error:
            outcomes.add(type(error).__name__)
    assert outcomes <= {"RGB", "BadImageError"}
    assert "BadImageError" in outcomes


def test_a_large_image_is_loaded_without_pillows_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between once and twice Pillow's limit it warns, which would be an error in these tests."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 12)
    assert decode_image(encoded(side=4), "large.png").size == (4, 4)
    with pytest.raises(BadImageError, match="too many pixels"):
        decode_image(encoded(side=5), "larger.png")


def test_warning_filters_are_left_alone_by_threads() -> None:
    """Many threads that decode at once leave the warnings' filters as they were."""
    before = list(warnings.filters)
    data = palette_with_transparency()
    threads = [threading.Thread(target=lambda: [decode_image(data, "x") for _ in range(20)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before


def test_a_missing_file_and_a_folder_are_bad_images(tmp_path: Path) -> None:
    """What vanished since it was listed, or is no file, is a bad image like any other."""
    with pytest.raises(BadImageError, match="vanished"):
        read_image_file(str(tmp_path / "gone.png"))
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(BadImageError, match="cannot be read"):
        read_image_file(str(tmp_path / "folder.png"))


def test_a_file_without_permission_is_a_bad_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that may not be read is named with that reason (root may read everything, so the error is planted)."""

    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied", os.fspath(self))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(BadImageError, match="permission denied"):
        read_image_file(str(tmp_path / "secret.png"))


def test_the_error_survives_pickling() -> None:
    """A loader process sends the error back with name and reason."""
    error = pickle.loads(pickle.dumps(BadImageError("a.png", "empty")))  # noqa: S301 - made on the same line
    assert (error.name, error.reason, str(error)) == ("a.png", "empty", "a.png: empty")


def test_extensions_are_known_in_any_case_and_formats_to_pillow() -> None:
    """JPEG files are images whatever their case; each format is one that Pillow has heard of."""
    assert all(is_image_name(name) for name in ("a.JPEG", "b.Png", "c.d.webp"))
    assert not any(is_image_name(name) for name in ("a.tar", "png", "b.jpg.txt", ".jpg"))
    Image.init()
    assert set(FORMATS) - set(Image.OPEN) <= {"AVIF"}
