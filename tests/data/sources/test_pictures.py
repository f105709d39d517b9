"""Cells of pictures in every form, and those that are refused by name."""

import base64
import pickle

import pytest

from r1vl_jax.data.sources.pictures import list_pictures, read_picture


@pytest.mark.parametrize(
    "form",
    [
        lambda png: "pictures/a.png",
        lambda png: "./pictures/../pictures/a.png",
        lambda png: png,
        lambda png: base64.b64encode(png).decode(),
        lambda png: base64.urlsafe_b64encode(png).decode().rstrip("="),
        lambda png: "data:image/png;base64," + base64.b64encode(png).decode(),
        lambda png: {"bytes": png, "path": "elsewhere.png"},
        lambda png: {"bytes": None, "path": "pictures/a.png"},
        lambda png: {"url": "data:image/png;base64," + base64.encodebytes(png).decode()},
    ],
    ids=["path", "dots", "bytes", "base64", "url-safe", "data URL", "object", "object with path", "image_url"],
)
def test_every_form_is_the_same_picture(form, root, png):
    assert read_picture(form(png), root) == png


def test_an_absolute_path_below_the_root_is_read(root, png):
    assert read_picture(str(root / "pictures" / "a.png"), root) == png
    assert read_picture("link/a.png", _with_link(root)) == png


def _with_link(root):
    (root / "data").mkdir()
    (root / "data" / "link").symlink_to(root / "pictures")
    return root / "data"


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("https://example.com/a.png", "a picture is a URL, 'https://example.com/a.png'; download it"),
        ("s3://bucket/a.png", "a picture is a URL"),
        ({"url": "http://example.com/a"}, "a picture is a URL"),
        ("../a.png", "picture '../a.png' leads out of data.images="),
        ("/etc/passwd", "picture '/etc/passwd' leads out of data.images="),
        (
            "pictures/b.png",
            "picture 'pictures/b.png' cannot be read below data.images=.*No such file.*; set data.images",
        ),
        ("a.pkl", "picture 'a.pkl' is pickled"),
        ("a.png\0", r"picture 'a.png\\x00': a path has no null character"),
        ("\ud800.png", r"picture '\\ud800.png': a path has no .* half of a surrogate pair"),
        (pickle.dumps([1]), "a picture is pickled, and reading that may run any program"),
        ({"width": 3}, r"expected one of bytes, path, .* got the keys \['width'\]"),
        (7, r"a picture: expected a path, bytes or base64, got 7 \(int\)"),
        ("data:image/png;base64,%%%", "a picture: expected base64, got '%%%'"),
    ],
)
def test_what_is_no_picture_of_ones_own_is_refused_by_name(cell, message, root):
    with pytest.raises(ValueError, match=message):
        read_picture(cell, root)


def test_a_cell_holds_one_several_or_none():
    assert list_pictures("a.png") == ["a.png"]
    assert list_pictures(["a.png", None, b"b"]) == ["a.png", b"b"]
    assert list_pictures('["a.png", "b.png"]') == list_pictures("['a.png', 'b.png']") == ["a.png", "b.png"]
    assert list_pictures("[a].png") == ["[a].png"]
    assert list_pictures("[a]") == ["[a]"]
    assert list_pictures(None) == list_pictures("") == list_pictures([]) == list_pictures(float("nan")) == []
