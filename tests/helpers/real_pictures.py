"""A data set of real pictures, whose questions have exact answers: photographs and coins of scikit-image, and charts
drawn from the tables of vega-datasets."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import skimage
from PIL import Image, ImageDraw
from vega_datasets import local_data

_PHOTOGRAPHS = Path(skimage.__file__).parent / "data"
_ROWS_OF_COINS = {85: 6, 152: 12, 228: 18, 303: 24}  # pixels from the top -> coins above
_SUBJECTS = {
    "chelsea.png": "cat",
    "rocket.jpg": "rocket",
    "coffee.png": "cup of coffee",
    "motorcycle_left.png": "motorcycle",
    "horse.png": "horse",
    "moon.png": "moon",
}


def write_real_pictures(directory: Path) -> Path:
    """Writes `questions.jsonl` and its pictures, of their own sizes and modes; returns the file."""
    directory.mkdir(parents=True)
    rows = []
    for number, (encoded, suffix, row) in enumerate([*_photographs(), *_coins(), *_charts()]):
        picture = f"{number}.{suffix}"
        (directory / picture).write_bytes(encoded)
        rows.append(json.dumps(row | {"image": picture}))
    (directory / "questions.jsonl").write_text("\n".join(rows))
    return directory / "questions.jsonl"


def _photographs() -> Iterator[tuple[bytes, str, dict]]:
    """As the files are: PNG and JPEG, grey, RGB and RGBA."""
    choices = list(_SUBJECTS.values())
    for name, subject in _SUBJECTS.items():
        row = {
            "problem": "What does the picture show?",
            "choices": choices,
            "answer": subject,
            "category": "photograph",
        }
        yield (_PHOTOGRAPHS / name).read_bytes(), name.rpartition(".")[2], row


def _coins() -> Iterator[tuple[bytes, str, dict]]:
    with Image.open(_PHOTOGRAPHS / "coins.png") as coins:
        for height, number in _ROWS_OF_COINS.items():
            num_rows = number // 6
            solution = f"There are {num_rows} rows of 6 coins. {num_rows} * 6 = {number}"
            row = {"problem": "How many coins are there?", "answer": number, "solution": solution, "category": "coins"}
            yield _encode(coins.crop((0, 0, coins.width, height)), "PNG"), "png", row


def _charts() -> Iterator[tuple[bytes, str, dict]]:
    """Net generation of electricity in Iowa by source, a chart a year, with the values above the bars."""
    for year, table in local_data.iowa_electricity().groupby("year"):
        values = dict(zip(table["source"], table["net_generation"].tolist(), strict=True))
        (least, low), *_, (most, high) = sorted(values.items(), key=lambda item: item[1])
        row = {
            "problem": f"How many GWh more did {most} give than {least}?",
            "solution": f"{most} gave {high} GWh and {least} {low} GWh.\n{high} - {low} = {high - low}",
            "answer": high - low,
            "category": "chart",
        }
        yield _encode(_bar_chart(str(year)[:4], values), "JPEG"), "jpg", row


def _bar_chart(title: str, values: dict[str, int]) -> Image.Image:
    chart = Image.new("RGB", (100 * len(values) + 40, 260), "white")
    draw = ImageDraw.Draw(chart)
    draw.text((10, 5), f"Iowa {title}, GWh", fill="black")
    for number, (name, value) in enumerate(values.items()):
        left, top = 30 + 100 * number, 230 - round(180 * value / max(values.values()))
        draw.rectangle((left, top, left + 60, 230), fill="steelblue")
        draw.text((left, top - 14), str(value), fill="black")
        draw.text((left, 236), name, fill="black")
    return chart


def _encode(image: Image.Image, file_format: str) -> bytes:
    image.save(file := io.BytesIO(), format=file_format)
    return file.getvalue()
