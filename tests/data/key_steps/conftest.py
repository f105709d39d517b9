"""Data sets of rows without pictures."""

import json

import pytest


@pytest.fixture
def write_json(tmp_path):
    def write(name, rows):
        path = tmp_path / name
        path.write_text(json.dumps(rows))
        return path

    return write
