"""A run starts from what the libraries write: model, tokenizer and image processor of transformers, in every layout."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.twins import ARCHITECTURES
from transformers import PreTrainedTokenizerBase, ProcessorMixin, Qwen2VLImageProcessorPil

from r1vl_jax.chat.pretrained import load
from r1vl_jax.checkpoint.hf.config import to_hf
from r1vl_jax.checkpoint.model_config import model_config
from r1vl_jax.config import Config, Model, default, resolve
from r1vl_jax.data.digits import task
from r1vl_jax.data.tokenizer import CHAT_TEMPLATE, load_tokenizer, train_tokenizer
from r1vl_jax.training import components
from r1vl_jax.training.components import build_components, conventions
from r1vl_jax.training.inputs import preflight

PRESETS = {"qwen2_vl": "tiny", "qwen2_5_vl": "2.5-tiny"}


class TextAndImages(ProcessorMixin):
    """What `Qwen2VLProcessor` saves, without the video processor, which needs torchvision."""

    def __init__(self, image_processor=None, tokenizer=None, chat_template=None, **kwargs):
        super().__init__(image_processor, tokenizer, chat_template=chat_template)


def save_apart(tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """As transformers 4: `preprocessor_config.json`, and the chat template in a file of its own."""
    tokenizer.save_pretrained(directory)
    Qwen2VLImageProcessorPil(min_pixels=3136, max_pixels=12845056).save_pretrained(directory)


def save_as_processor(tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """As transformers 5: `processor_config.json` alone."""
    TextAndImages(Qwen2VLImageProcessorPil(), tokenizer, tokenizer.chat_template).save_pretrained(directory)
    assert not (directory / "preprocessor_config.json").exists()


def save_as_published(tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """As `Qwen2_5_VLProcessor.save_pretrained` with a video processor, and the chat template in the older file."""
    tokenizer.save_pretrained(directory)
    (directory / "chat_template.jinja").rename(directory / "chat_template.json")
    (directory / "chat_template.json").write_text(json.dumps({"chat_template": tokenizer.chat_template}))
    common = {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "merge_size": 2,
        "patch_size": 14,
        "resample": 3,
        "rescale_factor": 0.00392156862745098,
        "size": {"longest_edge": 12845056, "shortest_edge": 3136},
        "temporal_patch_size": 2,
    }
    image = {
        "crop_size": None,
        "data_format": "channels_first",
        "device": None,
        "disable_grouping": None,
        "do_center_crop": None,
        "do_pad": None,
        "image_processor_type": "Qwen2VLImageProcessorFast",
        "input_data_format": None,
        "max_pixels": 12845056,
        "min_pixels": 3136,
        "pad_size": None,
        "return_tensors": None,
    }
    video = {
        "do_sample_frames": False,
        "fps": 2,
        "max_frames": 768,
        "min_frames": 4,
        "num_frames": None,
        "return_metadata": False,
        "video_metadata": None,
        "video_processor_type": "Qwen2VLVideoProcessor",
    }
    content = {
        "image_processor": common | image,
        "processor_class": "Qwen2_5_VLProcessor",
        "video_processor": common | video,
    }
    (directory / "processor_config.json").write_text(json.dumps(content, indent=2))


LAYOUTS = (save_apart, save_as_processor, save_as_published)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("published") / "data"
    task.write(directory, difficulty=1, warmup_records=8, train_records=8, eval_records=8, seed=0)
    return directory


@pytest.fixture(scope="module")
def make_weights(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Writes the weights of an architecture once: config.json, generation_config.json, safetensors and a tokenizer."""
    written = {}

    def make(architecture: str) -> Path:
        if architecture not in written:
            tokenizer = train_tokenizer(["some text to learn from"], vocab_size=300)
            sizes = to_hf(model_config(Model(preset=PRESETS[architecture]), tokenizer))
            family = ARCHITECTURES[architecture]
            ends = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
            torch_model = family.model(family.config(**sizes, **ends))
            torch_model.generation_config.eos_token_id = tokenizer.pad_token_id  # <|endoftext|> alone
            torch_model.save_pretrained(written.setdefault(architecture, tmp_path_factory.mktemp(architecture)))
            tokenizer.save_pretrained(written[architecture] / "tokenizer")
        return written[architecture]

    torch.manual_seed(0)
    return make


@pytest.fixture
def make_model(make_weights, tmp_path: Path) -> Callable[..., Path]:
    """Writes a whole model in a layout."""

    def make(architecture: str = "qwen2_vl", save: Callable = save_as_processor) -> Path:
        directory = tmp_path / "model"
        shutil.copytree(make_weights(architecture), directory)
        save(load_tokenizer(directory / "tokenizer"), directory)
        shutil.rmtree(directory / "tokenizer")
        return directory

    return make


@pytest.fixture
def make_config(data: Path, tmp_path: Path) -> Callable[[Path], Config]:
    def make(model: Path) -> Config:
        config = default()
        config.workdir, config.data.source, config.model.path = str(tmp_path / "run"), str(data), str(model)
        config.warmup.max_steps = 1
        return resolve(config)

    return make


def rewrite(path: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("save", LAYOUTS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_run_starts_from_a_model_in_every_layout(architecture: str, save: Callable, make_model, make_config):
    model = make_model(architecture, save)
    config = make_config(model)
    built = build_components(config)
    tokenizer = built.inputs.tokenizer
    assert to_hf(built.definition.config)["model_type"] == architecture
    assert tokenizer.chat_template == CHAT_TEMPLATE
    prompt = built.loader.encoder.prompt(built.inputs.splits["train"][0])
    assert tokenizer.decode(prompt.token_S).endswith("<|im_end|>\n<|im_start|>assistant\n")
    ends = [tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", "<|endoftext|>")]
    assert built.sampler.eos_token_ids == tuple(ends)
    assert conventions(config, built).splitlines() == [
        "images: 784 to 400,000 pixels (data.min_pixels, data.max_pixels), so at most 510 tokens each",
        f"completions end at <|im_end|> ({ends[0]}) or <|endoftext|> ({ends[1]}); supervised stages teach <|im_end|>"
        f" ({ends[0]})",
    ]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_config_of_transformers_4_52_is_read(architecture: str, make_model, make_config):
    """Its text_config has the token ids of the model as null."""
    model = make_model(architecture)
    nulls = dict.fromkeys(["image_token_id", "video_token_id", "pad_token_id", "sliding_window", "layer_types"])
    rewrite(model / "config.json", lambda content: content["text_config"].update(nulls))
    inputs = preflight(make_config(model))
    sizes = model_config(inputs.model, inputs.tokenizer)
    assert sizes.image_token_id == inputs.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    assert load(str(model)).definition.config == sizes


@pytest.fixture
def no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(components, "make_mesh", lambda *args, **settings: pytest.fail("a device was touched"))


@pytest.mark.usefixtures("no_device")
@pytest.mark.parametrize(
    ("template", "fault"),
    [
        ("{{ messages[0].role + messages[0].content }}", "it fails on a turn with pictures (TypeError: can only"),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "it knows no pictures: a turn with two of them has 0"),
    ],
)
def test_a_template_without_pictures_is_refused_by_its_file(template: str, fault: str, make_model, make_config):
    model = make_model()
    (model / "chat_template.jinja").write_text(template)
    with pytest.raises(ValueError, match="chat_template.jinja: the chat template: ") as error:
        build_components(make_config(model))
    assert fault in str(error.value)
    assert str(error.value).endswith("; replace it by that of a Qwen2-VL")
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.usefixtures("no_device")
def test_a_model_without_a_template_is_refused_by_its_directory(make_model, make_config):
    model = make_model()
    (model / "chat_template.jinja").unlink()
    match = f"{model}: the chat template: there is none; put chat_template.jinja there, that of a Qwen2-VL"
    with pytest.raises(ValueError, match=match):
        build_components(make_config(model))


@pytest.mark.usefixtures("no_device")
def test_an_image_processor_of_other_patches_is_refused_by_name(make_model, make_config):
    model = make_model()
    rewrite(model / "processor_config.json", lambda content: content["image_processor"].update(patch_size=16))
    with pytest.raises(ValueError, match=f"{model}: .*the image processor is not the model's.*") as error:
        build_components(make_config(model))
    assert str(error.value).splitlines()[1:] == ["  patch_size: expected 14, got 16"]


@pytest.mark.usefixtures("no_device")
def test_a_processor_config_without_an_image_processor_is_no_whole_model(make_model, make_config):
    model = make_model()
    rewrite(model / "processor_config.json", lambda content: content.pop("image_processor"))
    match = "has no preprocessor_config.json or image_processor in processor_config.json; put a whole model there"
    with pytest.raises(FileNotFoundError, match=match):
        build_components(make_config(model))
