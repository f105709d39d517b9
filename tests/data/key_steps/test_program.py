"""`python -m r1vl_jax.data.key_steps` on files of a data set, and the page that it makes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from etils import epath
from PIL import Image

from r1vl_jax.data.key_steps import __main__ as program
from r1vl_jax.data.key_steps import over_files
from r1vl_jax.data.key_steps.file import KeyStepsFile, only_writer
from r1vl_jax.data.key_steps.found import KeySteps
from r1vl_jax.data.key_steps.over_files import by_rule, find_key_steps, read_records, read_spread
from r1vl_jax.data.sources.files import find_files
from r1vl_jax.data.sources.preparation import Preparation, split_parts
from r1vl_jax.report.key_steps import write_page

GSM = "In each month she sold {n}, so {n} * 40 = <<{n}*40={m}>>{m} clips.\n#### {m}"


def rows(num_rows):
    return [{"question": "How many clips?", "answer": GSM.format(n=n, m=40 * n)} for n in range(20, 20 + num_rows)]


def run(*arguments):
    command = [sys.executable, "-m", "r1vl_jax.data.key_steps", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def items(source):
    parts = split_parts(Preparation(str(source), key_steps="none"), find_files(source))
    return read_records(list(parts), drop=lambda error: None)


def find(records):
    return [KeySteps(((record.answer,),)) if record.answer != "840" else "no reply" for record in records]


def test_the_program_writes_a_line_a_record_and_a_page_and_keeps_what_is_there(write_json, tmp_path):
    bad = [{"question": ["How many?"], "answer": "It is 5."}] * 4
    source, out, page = write_json("gsm.json", [*rows(5), *bad]), tmp_path / "out.jsonl", tmp_path / "page.html"
    out.write_text('{"split": "train", "id": "gsm/train/3", "key_steps": [["by <hand>"]]}\n')
    done = run(f"--data={source}", f"--out={out}", f"--page={page}", "--page_records=3")
    assert done.returncode == 0, done.stderr
    assert "4 records: with key steps\n1 records: in the file already" in done.stdout
    assert "4 records: cannot be used: column 'question': expected " in done.stdout
    assert "(gsm/train/5, gsm/train/6, gsm/train/7, ...)\n" in done.stdout
    file, records = KeyStepsFile(out), {record.id: record for _, record in items(source)}

    def found(record_id):
        return file.find("train", records[record_id]).found

    assert found("gsm/train/0").groups[0][0] == "20*40=800"
    assert found("gsm/train/0").reasons == {"20*40=800": "a computation with its value"}
    assert found("gsm/train/3").groups == (("by <hand>",),)
    text = page.read_text()
    assert "by &lt;hand&gt;" in text
    assert "written by hand" in text
    assert "out.jsonl, line 2" in text
    assert "<mark" in text
    assert [row for row in range(5) if f"gsm/train/{row}" in text] == [0, 3]  # and row 6, which cannot be used


def test_pictures_are_read_for_the_page_alone(write_json, tmp_path):
    Image.new("RGB", (28, 28)).save(tmp_path / "a.png")
    each = {"problem": "How many?", "answer": "4", "solution": "So 2 * 20 = 40.", "images": ["a.png"]}
    twice = [each | {"id": "twice", "solution": f"So {n} * 20 = {20 * n}."} for n in (3, 4)]
    source = write_json("rows.json", [*twice, each | {"images": ["absent.png"], "videos": ["absent.mp4"]}, *[each] * 7])
    parts = list(split_parts(Preparation(str(source), key_steps="none"), find_files(source)))
    assert [record.images for _, record in items(source)] == [(b"unread",)] * 10
    shown = list(read_spread(parts, 4, limit=8))
    assert [(record.id, row) for _, record, row in shown] == [
        *(("twice", 0), ("rows/train/4", 4), ("rows/train/6", 6)),
    ]
    assert {record.images for _, record, _ in shown} == {((tmp_path / "a.png").read_bytes(),)}
    assert len(list(read_spread(parts, 50))) == 9
    out, page = tmp_path / "out.jsonl", tmp_path / "page.html"
    find_key_steps(items(source), out, lambda found: [KeySteps()] * len(found), by="m", advance=lambda number: None)
    write_page(epath.Path(page), read_spread(parts, 50), KeyStepsFile(out))
    assert "out.jsonl, line 2" in page.read_text()  # of the second row with this id


def test_a_second_program_that_writes_the_same_file_is_refused(write_json, tmp_path):
    out = tmp_path / "below" / "out.jsonl"
    with only_writer(out):
        done = run(f"--data={write_json('gsm.json', rows(1))}", f"--out={out}")
    assert done.returncode == 1
    assert done.stderr.strip() == f"{out}: another program is writing it; wait for its end, or name another --out"
    with only_writer(out):  # it is free again
        assert not out.exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("out.json", "", "", ""), r"--out=out\.json: expected a file that ends in \.jsonl"),
        (("a.jsonl", "", "", ""), r"--out=a\.jsonl: expected a file, got a directory"),
        (
            ("out.jsonl", "b/../out.jsonl", "", ""),
            r"--page=b/\.\./out\.jsonl: .*another file than --out, such as out\.html",
        ),
        (("out.jsonl", "b", "", ""), "--page=b: expected a file, got a directory"),
        (("out.jsonl", "", "", "http://a/v1"), "--endpoint: expected the model's name there, too: --model=NAME"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.jsonl", "b"):
        (tmp_path / name).mkdir()
    out, page, model, endpoint = settings
    with pytest.raises(ValueError, match=message):
        program._check(Path(out), page, model, endpoint)


def test_records_that_failed_are_tried_again_in_the_next_call(write_json, tmp_path):
    source, out = write_json("gsm.json", rows(3)), tmp_path / "out.jsonl"
    account = find_key_steps(items(source), out, find, by="m", advance=lambda number: None)
    failed = tmp_path / "out.failed.jsonl"
    assert account == [
        "2 records: with key steps",
        f"1 records: failed, and are tried again in the next call; named in {failed}",
        "    train gsm/train/1: no reply",
    ]
    assert json.loads(failed.read_text()) == {"split": "train", "id": "gsm/train/1", "error": "no reply"}
    asked = []

    def find_all(records):
        asked.extend(record.id for record in records)
        return [KeySteps()] * len(records)

    account = find_key_steps(items(source), out, find_all, by="m", advance=lambda number: None)
    assert asked == ["gsm/train/1"]
    assert account == ["2 records: in the file already", "1 records: without a key step in them"]
    assert not failed.exists()
    with pytest.raises(ValueError, match="has key steps by m; name another --out for those by rule"):
        find_key_steps(items(source), out, find_all, by="rule", advance=lambda number: None)


def test_records_with_key_steps_of_their_own_keep_them(write_json, tmp_path):
    row = {"problem": "Q?", "answer": "5", "solution": "2 * 20 = 40.", "key_steps": [["own"]]}
    source = write_json("own.json", [row])
    account = find_key_steps(items(source), tmp_path / "out.jsonl", find, by="rule", advance=lambda number: None)
    assert account == ["1 records: with key steps of their own"]


def test_processes_find_what_one_finds(write_json):
    records = [record for _, record in items(write_json("gsm.json", rows(40)))]
    with by_rule(2) as find_by_rule:
        found = find_by_rule(records)
    assert [each.groups[0][0] for each in found] == [f"{n}*40={40 * n}" for n in range(20, 60)]


def test_a_killed_process_ends_the_program_with_a_sentence(write_json, monkeypatch):
    records = [record for _, record in items(write_json("gsm.json", rows(1)))]
    monkeypatch.setattr(over_files, "explain_record", os._exit)  # as a process ends for which there is no memory
    monkeypatch.setattr(over_files, "_without_pictures", lambda record: 1)
    with by_rule(1) as find_by_rule, pytest.raises(ValueError, match="a process was killed"):
        find_by_rule(records)


def test_the_page_shows_the_text_that_has_the_key_steps(tmp_path, write_json):
    row = {"problem": "Q?", "answer": "40", "solution": "It is plain to see.", "response": "So 2 * 20 = 40.\n#### 40"}
    (item,) = items(write_json("rows.json", [row]))
    out = tmp_path / "out.jsonl"
    find_key_steps(iter([item]), out, lambda records: [KeySteps((("2 * 20 = 40",),))], by="m", advance=lambda n: None)
    write_page(epath.Path(tmp_path / "page.html"), [(*item, 0)], KeyStepsFile(out))
    text = (tmp_path / "page.html").read_text()
    assert "<mark" in text
    assert "not in the solution" not in text
