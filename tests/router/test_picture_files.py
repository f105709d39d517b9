"""Pictures are found by the path, the URL or the id that a row has for them, and nowhere but below the directory."""

import base64

import pytest

from r1vl_jax.router.picture_files import PictureFiles


@pytest.fixture
def files(tmp_path):
    for name in ("a.jpg", "deep/b.PNG", "deep/er/a.jpg", "q1.png"):
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    return PictureFiles(tmp_path / "root")


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("a.jpg", b"a.jpg"),
        ("deep/er/a.jpg", b"deep/er/a.jpg"),
        ("/home/x/deep/er/a.jpg", b"deep/er/a.jpg"),  # the longest end of the path
        ("/home/x/er/a.jpg", b"a.jpg"),
        ({"bytes": b"in memory"}, b"in memory"),
        ("data:image/png;base64," + base64.b64encode(b"encoded").decode(), b"encoded"),
        (base64.b64encode(b"long" * 300).decode(), b"long" * 300),
    ],
)
def test_a_cell_is_read(files, cell, expected):
    assert files.read(cell) == expected


@pytest.mark.parametrize("cell", ["c.jpg", "../secret.jpg", "", "/", "deep"])
def test_what_is_not_there_is_named(files, cell):
    with pytest.raises(ValueError, match=r"picture '.*': no such file below .*; set --images"):
        files.read(cell)


def test_a_picture_is_found_by_its_name_anywhere(files):
    assert files.read_named("q1") == b"q1.png"
    assert files.read_named("b") == b"deep/b.PNG"
    for name in ("c", "../secret", "deep/b"):
        with pytest.raises(ValueError, match="no such file"):
            files.read_named(name)


def test_a_url_is_found_by_the_questions_name_or_by_more_than_a_files_name(files):
    assert files.read_url("https://x.org/er/a.jpg", "q1") == b"q1.png"
    assert files.read_url("https://x.org/deep/er/a.jpg", "q2") == b"deep/er/a.jpg"
    with pytest.raises(ValueError, match=r"q2 of https://x.org/a.jpg"):
        files.read_url("https://x.org/a.jpg", "q2")
