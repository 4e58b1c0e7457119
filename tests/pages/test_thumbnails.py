"""Small pictures of image files."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xmrank.pages.thumbnails import MAX_PIXELS, REMOTE, WIDE, ThumbnailAlbum, make_thumbnail


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


def test_pictures_look_as_encoders_see_them(tmp_path):
    grey = Image.fromarray(np.full((8, 8), 32768, np.uint16))
    transparent = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    for image, seen in ((grey, 128), (transparent, 255)):
        image.save(tmp_path / "x.png")
        made = make_thumbnail((tmp_path / "x.png").read_bytes(), 8)
        content = base64.b64decode(made.uri.partition(",")[2])
        assert Image.open(io.BytesIO(content)).getpixel((4, 4)) == pytest.approx((seen,) * 3, abs=2)
    Image.fromarray(np.full((8, 8), 9, np.int32)).save(tmp_path / "x.tif")
    album = ThumbnailAlbum(tmp_path, {"x": "x.tif"}, {})
    assert album.make_picture("x", 8) is None
    assert album.missing["x"].startswith("x.tif: grey of 32 bits, from 9 to 9")


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


@pytest.mark.parametrize(
    "location", ["../secret.png", "{root}/secret.png", "a/../../secret.png", "../s.tar::x.png@0+9", "\0"]
)
def test_a_location_that_leaves_the_folder_is_not_read(tmp_path, location, monkeypatch):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (40, 20), "red").save(tmp_path / "secret.png")
    monkeypatch.setattr("xmrank.pages.thumbnails.read_bytes", None)
    location = location.format(root=tmp_path)
    album = ThumbnailAlbum(tmp_path / "images", {"x": location}, {}, remote_images=True)
    assert album.make_picture("x", 10) is None
    assert album.missing == {"x": f"{location}: lies outside of the image folder"}


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_links_that_leave_the_folder_are_not_followed(tmp_path, scheme):
    images, elsewhere = tmp_path / "images", tmp_path / "elsewhere"
    for folder in (images, elsewhere):
        folder.mkdir()
        Image.new("RGB", (40, 20), "red").save(folder / "x.png")
    (elsewhere / "x.tar").write_bytes((elsewhere / "x.png").read_bytes())
    (images / "file.png").symlink_to(elsewhere / "x.png")
    (images / "folder").symlink_to(elsewhere)
    (images / "inside.png").symlink_to(images / "x.png")
    (tmp_path / "link").symlink_to(images)
    size = (elsewhere / "x.tar").stat().st_size
    outside = ["file.png", "folder/x.png", f"folder/x.tar::x@0+{size}"]
    for root in (images, tmp_path / "link"):
        locations = {name: name for name in ["x.png", "inside.png", *outside]}
        album = ThumbnailAlbum(f"{scheme}{root}" if scheme else root, locations, {}, remote_images=bool(scheme))
        assert [name for name in locations if album.make_picture(name, 10)] == ["x.png", "inside.png"]
        assert album.missing == {x: f"{x}: is outside the directory, through a symbolic link" for x in outside}


def test_a_folder_that_holds_the_home_directory_is_none_of_images(tmp_path, monkeypatch):
    home = tmp_path / "home"
    (home / "images").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    Image.new("RGB", (40, 20), "red").save(home / "images" / "x.png")
    location = str((home / "images" / "x.png").relative_to("/"))
    for root in (Path("/"), "file:///", tmp_path, home):
        album = ThumbnailAlbum(root, {"x": location}, {}, remote_images=True)
        assert (album.make_picture("x", 10), album.missing) == (None, {"x": WIDE})
    assert ThumbnailAlbum(home / "images", {"x": "x.png"}, {}).make_picture("x", 10).width == 10


@pytest.mark.parametrize("root", ["http://169.254.169.254/latest", "s3://bucket", "file:///etc", "memory://x"])
def test_a_root_with_a_scheme_is_not_read_without_the_flag(root, monkeypatch):
    read = []
    monkeypatch.setattr("xmrank.pages.thumbnails.read_bytes", lambda address: read.append(address) or b"")
    album = ThumbnailAlbum(root, {"x": "meta-data"}, {})
    assert album.make_picture("x", 10) is None
    assert (album.missing, read) == ({"x": REMOTE}, [])
    ThumbnailAlbum(root, {"x": "meta-data"}, {}, remote_images=True).make_picture("x", 10)
    assert read == [f"{root}/meta-data"]


def test_a_signed_location_is_shown_without_its_signature(tmp_path):
    locations = {"gone": "a.png?X-Amz-Signature=SECRET&size=2", "outside": "../b.png?sig=SECRET"}
    album = ThumbnailAlbum(tmp_path, locations, {})
    assert album.make_picture("gone", 32) is None
    assert album.make_picture("outside", 32) is None
    assert album.missing["gone"].startswith("a.png?X-Amz-Signature=***&size=2: ")
    assert album.missing["outside"] == "../b.png?sig=***: lies outside of the image folder"
