"""The replay of searches counts fewer tokens with reuse, and fewest with the picture in front."""

import base64
import io

from helpers.chat_model import write_chat_model
from PIL import Image

import r1vl_jax
from benchmarks.prefix_reuse import measure


def search(color: str, num_lookups: int) -> dict:
    file = io.BytesIO()
    Image.new("RGB", (28, 28), color).save(file, "png")
    lookup = {"sub_question": "Which item is it?", "documents": ["ter-1: The item is D883."], "answer": "D883"}
    return {
        "question": f"Which shop sells the {color} one?",
        "image": base64.b64encode(file.getvalue()).decode(),
        "lookups": [lookup] * num_lookups,
    }


def test_it_counts_what_is_read(tmp_path):
    write_chat_model(tmp_path)
    table = measure(r1vl_jax.load(str(tmp_path)), [search("red", 2), search("blue", 1)], side=448, width=2048)
    columns = {column.header: [cell.replace(",", "") for cell in column.cells] for column in table.columns}
    assert columns["picture"] == ["last (the original)", "first"]
    last, first = map(int, columns["read with reuse"])
    assert max(last, first) < 0.9 * min(map(int, columns["tokens"]))
    assert first < last
    assert columns["pictures"] == ["10", "10"]  # 5 routing prompts, 3 of reading, 2 of answers
    assert columns["seen with reuse"] == ["2", "2"]
