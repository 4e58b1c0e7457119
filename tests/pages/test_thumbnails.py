"""Small pictures of image files."""

import io

import pytest
from PIL import Image

from xmrank.pages.thumbnails import MAX_PIXELS, ThumbnailAlbum, make_thumbnail


def test_pictures_are_small_upright_and_limited(tmp_path):
    tall = Image.new("RGB", (400, 800), "red")
    exif = Image.Exif()
    exif[0x0112] = 6
    tall.save(tmp_path / "tall.jpg", exif=exif)
    made = make_thumbnail((tmp_path / "tall.jpg").read_bytes(), 100)
    assert (made.width, made.height) == (100, 50)
    side = int(MAX_PIXELS**0.5) + 1
    Image.new("1", (side, side)).save(tmp_path / "huge.png")
    with pytest.raises(ValueError, match="pixels"):
        make_thumbnail((tmp_path / "huge.png").read_bytes(), 100)


def test_pictures_are_read_from_archives(tmp_path):
    file = io.BytesIO()
    Image.new("RGB", (40, 20), "red").save(file, "PNG")
    content = file.getvalue()
    (tmp_path / "a.tar").write_bytes(bytes(512) + content)  # a header, then the member
    locations = {"there": f"a.tar::x.png@512+{len(content)}", "gone": "b.tar::x.png@512+9"}
    album = ThumbnailAlbum(tmp_path, locations, {})
    assert album.make_picture("there", 10).width == 10
    assert album.make_picture("gone", 10) is None
    assert album.missing == {"gone": "b.tar::x.png@512+9: the file is gone"}
