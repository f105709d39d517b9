"""The data pipeline runs where neither PyTorch nor TensorFlow is installed."""

import subprocess
import sys

# Import finders that hide these packages, as if they were not installed.
PROGRAM = """
import sys

class Hiding:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, *arguments):
        hidden = name.split(".")[0] in ("torch", "torchvision", "tensorflow")
        return None if hidden else self.finder.find_spec(name, *arguments)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]

from r1vl_jax.data import images, pipeline, processor, records
from r1vl_jax.data.digits import task
from r1vl_jax.data.tokenizer import train_tokenizer

directory = sys.argv[1]
task.write(directory, difficulty=1, warmup_records=10, train_records=10, eval_records=5, seed=0)
warmup = records.open_split(directory, "warmup")
tokenizer = train_tokenizer(task.texts(warmup))
inputs = processor.Processor(tokenizer, images.load_image_processor(min_pixels=784, max_pixels=400_000))
encoder = pipeline.Encoder(inputs, max_prompt_length=128, prompt_bucket=64, patch_bucket=64)
batch = next(pipeline.supervised_stream(warmup, encoder, batch_size=4, seed=0, max_completion_length=128))
assert batch.prompts.token_PS.shape[0] == 4
assert not {"torch", "torchvision", "tensorflow"} & set(sys.modules)
"""


def test_data_need_neither_torch_nor_tensorflow(tmp_path):
    result = subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path / "data")], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
