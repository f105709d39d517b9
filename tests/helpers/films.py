"""Video files, written by PyAV."""

from pathlib import Path

import pytest
from PIL import Image


def write_film(path: Path, *, num_frames: int, rate: int, step: int, size: tuple[int, int]) -> Path:
    """Writes frames of one grey, brighter by `step` each; skips the test where PyAV is not installed."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        (stream.width, stream.height), stream.bit_rate = size, 10**6
        for number in range(num_frames):
            container.mux(stream.encode(av.VideoFrame.from_image(Image.new("RGB", size, (step * number,) * 3))))
        container.mux(stream.encode())
    return path
