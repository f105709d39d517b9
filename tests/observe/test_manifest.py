"""The manifest: what it records, and what a resumed run may change."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

from r1vl_jax import config, observe
from r1vl_jax.observe import manifest


@pytest.fixture
def settings(tmp_path) -> config.Config:
    return config.Config(workdir=str(tmp_path), seed=3)


def test_manifest_records_configuration_seed_data_and_versions(tmp_path, settings):
    observe.write_manifest(tmp_path, settings, data_fingerprint="abc")
    written = json.loads((tmp_path / "manifest.json").read_text())
    assert written["configuration"]["train"]["stages"] == ["warmup", "step_grpo"]
    assert (written["seed"], written["data_fingerprint"]) == (3, "abc")
    assert written["versions"]["jax"].count(".") >= 2
    assert written["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))


def test_manifest_records_the_commit_and_whether_files_changed(tmp_path, monkeypatch):
    module = tmp_path / "manifest.py"
    monkeypatch.setattr(manifest, "__file__", str(module))
    git = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@t"]
    subprocess.run([*git, "init", "-q"], check=True)
    module.write_text("a")
    assert manifest._git_revision() is None  # in a checkout, but not of it
    subprocess.run([*git, "add", "manifest.py"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "m"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert manifest._git_revision() == head
    module.write_text("b")
    assert manifest._git_revision() == f"{head}-dirty"


def test_a_resumed_run_keeps_its_manifest_and_may_change_what_is_observed(tmp_path, settings, caplog):
    observe.write_manifest(tmp_path, settings, data_fingerprint="abc")
    before = (tmp_path / "manifest.json").read_bytes()
    changeable = {"eval": config.Eval(num_problems=5), "observe": config.Observe(tensorboard=False), "workdir": "moved"}
    observe.write_manifest(tmp_path, dataclasses.replace(settings, **changeable), data_fingerprint="abc")
    assert (tmp_path / "manifest.json").read_bytes() == before
    assert not caplog.records


def test_a_resumed_run_may_change_memory_settings_with_a_warning(tmp_path, settings, caplog):
    observe.write_manifest(tmp_path, settings, data_fingerprint="abc")
    smaller = dataclasses.replace(
        settings,
        train=dataclasses.replace(settings.train, micro_batches=4, gradient_cosine=True, compile_cache="elsewhere"),
        model=dataclasses.replace(settings.model, remat="dots"),
    )
    with caplog.at_level("WARNING"):
        observe.write_manifest(tmp_path, smaller, data_fingerprint="abc")
    (record,) = caplog.records
    assert (
        "so results are not bit-exact: model.remat: 'block' -> 'dots'; train.gradient_cosine: False -> True;"
        " train.micro_batches: 1 -> 4" in record.getMessage()
    )
    assert "compile_cache" not in record.getMessage()


def test_a_workdir_of_another_configuration_is_rejected(tmp_path, settings):
    observe.check_workdir(tmp_path, settings)  # nothing there yet
    observe.write_manifest(tmp_path, settings, data_fingerprint="abc")
    other = dataclasses.replace(settings, seed=4, loss=config.Loss(beta=0.0), eval=config.Eval(steps=9))
    with pytest.raises(
        ValueError, match="holds a run of another configuration; set config.workdir to another"
    ) as error:
        observe.check_workdir(tmp_path, other)
    assert str(error.value).split("\n  ")[1:] == ["loss.beta: 0.04 -> 0.0", "seed: 3 -> 4"]


def test_a_manifest_without_a_weights_fingerprint_is_accepted(tmp_path, settings):
    observe.write_manifest(tmp_path, settings, data_fingerprint="abc")
    path = tmp_path / "manifest.json"
    before = json.loads(path.read_text())
    del before["weights_fingerprint"]
    path.write_text(json.dumps(before))
    observe.write_manifest(tmp_path, settings, data_fingerprint="abc", weights_fingerprint="xyz")


@pytest.mark.parametrize("what", ["data", "weights", "adapter"])
def test_changed_inputs_are_rejected(tmp_path, settings, what):
    fingerprints = {f"{name}_fingerprint": "abc" for name in ("data", "weights", "adapter")}
    observe.write_manifest(tmp_path, settings, **fingerprints)
    observe.write_manifest(tmp_path, settings, **fingerprints)
    with pytest.raises(ValueError, match=rf"the {what} changed .*abc -> xyz\); restore the {what}, or choose another"):
        observe.write_manifest(tmp_path, settings, **fingerprints | {f"{what}_fingerprint": "xyz"})


def test_changed_versions_are_logged(tmp_path, settings, caplog, monkeypatch):
    observe.write_manifest(tmp_path, settings, data_fingerprint="abc")
    before = manifest._versions
    monkeypatch.setattr(manifest, "_versions", lambda: {**dict(before()), "numpy": "0.1"}.items())
    observe.write_manifest(tmp_path, settings, data_fingerprint="abc")
    assert f"numpy: {np.__version__!r} -> '0.1'" in caplog.text
