"""Training, adaptation, resume and agreement with the CPU, on CUDA."""

import copy
import json

import pytest
import torch

from sfdabench.core import registry
from sfdabench.core.errors import Incompatible
from sfdabench.core.progress import Progress
from sfdabench.core.seeding import seed_all
from sfdabench.models.segmenter import Segmenter
from sfdabench.models.weights import sha256
from sfdabench.run.plan import resolve

pytestmark = pytest.mark.gpu


def plan(out, device, method="cbmt", **changes):
    values = {"settings": ["epochs=2"]} if method == "cbmt" else {}
    values |= {"task": "tiny"}
    return resolve(
        method=method,
        seed=0,
        data=None,
        out=out,
        profile=None,
        device=device,
        **(values | changes),
    )


def go(run, **changes):
    from sfdabench.run.runner import execute

    record = execute(run, Progress(quiet=True), **changes)
    assert record.done, record.traceback
    return record


def test_auto_finds_the_gpu_and_the_record_says_so(tmp_path):
    record = go(plan(tmp_path, "auto"))
    assert record.device == "cuda"
    assert record.device_name == torch.cuda.get_device_name()
    assert record.peak_device_bytes > 0


@pytest.fixture
def cache_in(monkeypatch, tmp_path):
    """cache_in(name): nothing that another cache holds is found from now on."""
    return lambda name: monkeypatch.setenv("SFDABENCH_CACHE", str(tmp_path / name))


def test_the_same_run_twice_is_the_same_bit_for_bit(tmp_path, cache_in):
    """Each with a source model of its own, trained on the GPU."""
    cache_in("cache-a")
    one = go(plan(tmp_path / "a", "cuda"))
    cache_in("cache-b")
    other = go(plan(tmp_path / "b", "cuda"))
    assert one.source_sha256 == other.source_sha256
    assert one.deployed_sha256 == other.deployed_sha256
    assert one.scores == other.scores
    assert one.audit == other.audit


def test_what_is_scored_is_what_the_stored_weights_predict(tmp_path):
    """Scored again from the cache, where nothing is made: the same scores."""
    one, other = go(plan(tmp_path / "a", "cuda")), go(plan(tmp_path / "b", "cuda"))
    assert (one.scores, one.deployed_sha256) == (other.scores, other.deployed_sha256)


def test_a_source_model_is_shared_by_all_devices_and_an_adapted_one_is_not(tmp_path):
    cpu, gpu = plan(tmp_path, "cpu"), plan(tmp_path, "cuda")
    assert cpu.source.key == gpu.source.key
    assert cpu.final.key != gpu.final.key


def test_resume_is_bit_exact(tmp_path, monkeypatch, cache_in):
    from sfdabench.core import checkpoint

    cache_in("cache-whole")
    whole = go(plan(tmp_path / "whole", "cuda"))
    cache_in("cache-killed")
    save = checkpoint.CheckpointKeeper.end_of_epoch

    def die(self, *arguments, **named):
        save(self, *arguments, **named)
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.CheckpointKeeper, "end_of_epoch", die)
    run = plan(tmp_path / "killed", "cuda")
    with pytest.raises(KeyboardInterrupt):  # in the source training
        go(run)
    monkeypatch.setattr(checkpoint.CheckpointKeeper, "end_of_epoch", save)
    go(plan(tmp_path / "killed", "cuda", "source_only"))
    monkeypatch.setattr(checkpoint.CheckpointKeeper, "end_of_epoch", die)
    with pytest.raises(KeyboardInterrupt):  # in the adaptation
        go(run)
    monkeypatch.setattr(checkpoint.CheckpointKeeper, "end_of_epoch", save)
    record = go(run)
    assert record.source_sha256 == whole.source_sha256
    assert record.deployed_sha256 == whole.deployed_sha256


@pytest.mark.parametrize("name", registry.names("networks"))
def test_a_forward_pass_agrees_with_the_cpu(name):
    seed_all(0)
    model = Segmenter(registry.load("networks", name)().build(channels=3, outputs=2)).eval()
    images = torch.rand(2, 3, 128, 128) * 2 - 1
    with torch.no_grad():
        on_cpu = model(images)
        on_gpu = copy.deepcopy(model).cuda()(images.cuda()).cpu()
    assert torch.allclose(on_cpu, on_gpu, atol=1e-2)


@pytest.mark.parametrize("name", registry.names("networks"))
def test_a_step_twice_is_the_same_bit_for_bit(name):
    images = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0)).cuda()
    weights = []
    for _ in range(2):
        seed_all(0)
        model = Segmenter(registry.load("networks", name)().build(channels=3, outputs=2)).cuda()
        optimiser = torch.optim.SGD(model.train().parameters(), 0.1)
        model(images).square().mean().backward()
        optimiser.step()
        weights.append(sha256(model.weights()))
    assert weights[0] == weights[1]


def test_volumes_run(tmp_path):
    record = go(plan(tmp_path, "cuda", "mean_teacher", task="tiny_volume", settings=["epochs=2"]))
    assert set(record.scores["strict"]) == {"whole", "enhancing", "core_osuda", "core_brats"}


def test_scores_agree_with_the_cpu(tmp_path):
    """Same source steps on both devices; digits differ, scores do not by much."""
    for method in ("source_only", "adabn", "cbmt"):
        cpu = go(plan(tmp_path / "cpu", "cpu", method)).scores["strict"]
        gpu = go(plan(tmp_path / "gpu", "cuda", method)).scores["strict"]
        for name in cpu:
            assert cpu[name]["dice"].mean == pytest.approx(gpu[name]["dice"].mean, abs=0.1)


def test_out_of_memory_names_the_field_to_lower(tmp_path, monkeypatch):
    from sfdabench.methods.cbmt import CBMT
    from sfdabench.run.runner import execute

    def greedy(self, context):
        torch.empty(2**50, device="cuda")

    monkeypatch.setattr(CBMT, "adapt", greedy)
    never_run = plan(tmp_path, "cuda", settings=["epochs=2", "ema=0.5"])
    record = execute(never_run, Progress(quiet=True))
    assert record.status == "failed"
    assert "batch_size" in record.reason


@pytest.mark.parametrize("precision", ["bfloat16"])
def test_lower_precision_is_recorded(tmp_path, precision):
    record = go(plan(tmp_path, "cuda", "adabn", precision=precision))
    assert record.precision == precision


@pytest.mark.parametrize("name", registry.names("methods"))
def test_every_method_adapts(tmp_path, name):
    """At its smoke values, on the small task, under deterministic algorithms."""
    entry = registry.load("methods", name)
    settings = [f"{field}={json.dumps(value)}" for field, value in entry.smoke.items()]
    try:
        run = plan(tmp_path, "cuda", name, settings=settings)
    except Incompatible as error:
        pytest.skip(str(error))
    go(run)
