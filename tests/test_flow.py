"""The flow-matching training: its phases, its optimizers, and that a resumed run is the undisturbed one."""

import json
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from mmdit_probe.tiny.denoiser import token_ids
from mmdit_probe.tiny.export import save_half
from mmdit_probe.tiny.flow import FlowTrainer
from mmdit_probe.tiny.kinds import make_pipeline, make_tokenizers
from mmdit_probe.tiny.muon import Muon, orthogonalized
from mmdit_probe.tiny.parts import make_autoencoder
from mmdit_probe.tiny.recipe import Recipe
from mmdit_probe.tiny.residuals import ResidualPrecision

SMALL = replace(
    Recipe(), layers=2, batch=4, samples=24, decay_samples=8, warmup_steps=2, autoencoder_channels=(8, 8, 8, 8)
)
CPU = torch.device("cpu")


def trainer(work, recipe=SMALL, start=None):
    work.mkdir(exist_ok=True)
    ids = token_ids(np.array([["a red star", "", "star sand"]] * 6), make_tokenizers(recipe))
    latents = torch.randn(6, 16, 8, 8, generator=torch.Generator().manual_seed(0)).half()
    return FlowTrainer(latents, ids, recipe, work, CPU, start)


def assert_same(one, other):
    for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(one.ema, other.ema, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("optimizer", "loss", "precision"), [("adamw", "mse", "float32"), ("muon", "whitened", "bfloat16")]
)
@pytest.mark.parametrize("killed_at", [2, 5])  # at the constant rate, and in the decay
def test_a_resumed_training_is_the_undisturbed_one(tmp_path, optimizer, loss, precision, killed_at):
    recipe = replace(SMALL, optimizer=optimizer, loss=loss, precision=precision)
    whole = trainer(tmp_path / "whole", recipe)
    assert list(whole.run(save_every=1, log_every=1)) == [1, 2, 3, 4, 5, 6]
    killed = trainer(tmp_path / "killed", recipe).run(save_every=1, log_every=1)
    while next(killed) < killed_at:
        pass
    killed.close()
    resumed = trainer(tmp_path / "killed", recipe)
    assert resumed.step == killed_at
    assert list(resumed.run(save_every=1, log_every=1)) == list(range(killed_at + 1, 7))
    assert_same(whole, resumed)
    logs = [(tmp_path / n / "flow.jsonl").read_text().splitlines() for n in ("whole", "killed")]
    losses = [[json.loads(line)["loss"] for line in log] for log in logs]
    assert losses[0] == losses[1]


def test_the_rate_warms_up_stays_and_falls_to_zero(tmp_path):
    t = trainer(tmp_path)
    t.steps, t.decay_from = 1000, 700
    assert t.rate(0) == SMALL.rate / 2
    assert t.rate(1) == t.rate(700) == SMALL.rate
    assert t.rate(850) == pytest.approx(SMALL.rate / 2)
    assert t.rate(1000) == pytest.approx(0)
    t.decay_from = 1000
    assert t.rate(999) == SMALL.rate


def test_a_decay_leaves_the_constant_phase_to_be_gone_on_with(tmp_path):
    """An endless run is ended at any step by a decay, and afterwards gone on with as if there had been none."""
    endless = replace(SMALL, samples=4000, decay_samples=0)
    run = trainer(tmp_path / "a", endless).run(save_every=1, log_every=1)
    assert [next(run) for _ in range(3)] == [1, 2, 3]
    run.close()
    ended = trainer(tmp_path / "a", replace(SMALL, samples=20, decay_samples=8))
    assert (ended.step, ended.decay_from, ended.steps) == (3, 3, 5)
    assert list(ended.run(save_every=1, log_every=1)) == [4, 5]
    assert ended.rate(5) == 0
    assert trainer(tmp_path / "a", replace(SMALL, samples=20, decay_samples=8)).step == 5  # it is done
    gone_on = trainer(tmp_path / "a", replace(SMALL, samples=20, decay_samples=0))
    assert gone_on.step == 3
    list(gone_on.run(save_every=1, log_every=1))
    undisturbed = trainer(tmp_path / "b", replace(SMALL, samples=20, decay_samples=0))
    list(undisturbed.run(save_every=1, log_every=1))
    assert_same(gone_on, undisturbed)


def test_a_decay_cannot_start_before_the_checkpoint(tmp_path):
    list(trainer(tmp_path, replace(SMALL, decay_samples=0)).run(save_every=1))
    with pytest.raises(ValueError, match=r"has seen 24 samples at the constant rate.*at least --samples 32"):
        trainer(tmp_path, replace(SMALL, decay_samples=8))


def test_averaging_forgets_the_past_when_the_decay_starts(tmp_path):
    t = trainer(tmp_path)
    t.decay_from = 100_000
    assert t.averaging(0) == t.averaging(100_000) == 0.1
    assert t.averaging(99_999) == SMALL.ema


def test_it_starts_from_the_weights_of_a_pipeline_folder(tmp_path):
    first = trainer(tmp_path / "first")
    list(first.run())
    folder = tmp_path / "pipe"
    save_half(make_pipeline(first.averaged(), make_autoencoder(SMALL).eval(), SMALL), folder)
    second = trainer(tmp_path / "second", start=folder)
    assert second.step == 0
    for a, b, average in zip(first.averaged().parameters(), second.model.parameters(), second.ema, strict=True):
        assert torch.equal(a.half(), b.half())
        assert torch.equal(b, average)


def test_the_checkpoint_wins_over_the_weights_to_start_from(tmp_path):
    first = trainer(tmp_path / "first")
    list(first.run())
    again = trainer(tmp_path / "first", start=tmp_path / "there is no such folder")
    assert_same(first, again)


def test_bfloat16_is_of_the_arithmetic_alone(tmp_path):
    """The same weights predict the same up to rounding (8 bits: 1 in 256); weights and averages stay in float32."""
    exact = trainer(tmp_path / "exact", replace(SMALL, rate=1e-2))
    list(exact.run())  # so that it predicts something
    rounded = trainer(tmp_path / "rounded", replace(SMALL, precision="bfloat16"))
    rounded.model.load_state_dict(exact.model.state_dict())
    noisy, _, sigma, ids, text = exact.batch(0)
    with torch.no_grad():
        velocity, coarse = (t._velocity(noisy, sigma, ids, *text) for t in (exact, rounded))
    assert velocity.abs().max() > 0.1
    assert coarse.dtype == torch.float32
    assert 1e-4 * velocity.norm() < (coarse - velocity).norm() < 0.03 * velocity.norm()
    next(rounded.run(save_every=1))
    assert all(weight.dtype == torch.float32 for weight in (*rounded.model.parameters(), *rounded.ema))


def residuals(count=400, channels=3, seed=3):
    """(count, channels, 2, 2) with a known covariance."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.1, 0.0], [0.0, 0.2, 3.0]])[:channels, :channels]
    return torch.einsum("dc,ncxy->ndxy", mix, torch.randn(count, channels, 2, 2, generator=generator)), mix @ mix.T


def test_the_whitened_loss_counts_each_direction_alike():
    """It is 1 whatever the covariance is, and so is the share of each direction: the mean of r^T C^-1 r, as in a slow twin."""
    seen, covariance = residuals()
    precision = ResidualPrecision(3)
    loss = precision(seen)
    rows = seen.movedim(1, -1).reshape(-1, 3)
    torch.testing.assert_close(precision.covariance, covariance, atol=0.4, rtol=0.1)
    own = rows.T @ rows / len(rows) + 1e-3 * torch.eye(3)
    twin = sum(float(row @ torch.linalg.solve(own, row)) for row in rows) / rows.numel()
    assert float(loss) == pytest.approx(twin, rel=1e-4) == pytest.approx(1, abs=0.05)
    assert precision(10 * seen) < 100 * loss  # the covariance follows


def test_the_whitened_loss_has_the_minimum_of_the_plain_one():
    """Of a constant prediction: the mean of the targets, in every direction."""
    targets, _ = residuals(seed=4)
    targets = targets + torch.tensor([1.0, -2.0, 0.5])[:, None, None]
    constant, precision = torch.zeros(3, requires_grad=True), ResidualPrecision(3)
    optimizer = torch.optim.LBFGS([constant], max_iter=20)
    precision(targets)

    def closure():
        optimizer.zero_grad()
        loss = deepcopy(precision)(targets - constant[:, None, None])
        loss.backward()
        return loss

    for _ in range(20):
        optimizer.step(closure)
    torch.testing.assert_close(constant.detach(), targets.mean((0, 2, 3)), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 6, 20), (2, 20, 6)])
def test_muon_keeps_the_singular_vectors_and_evens_out_the_values(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    found = orthogonalized(matrices, 12)
    for matrix, made in zip(matrices, found, strict=True):
        u, values, vt = torch.linalg.svd(matrix, full_matrices=False)
        assert values.max() / values.min() > 1.5
        inner = u.T @ made @ vt.T  # diagonal, its values near 1
        assert (inner - inner.diag().diag()).abs().max() < 1e-3
        assert inner.diag().min() > 0.6
        assert inner.diag().max() < 1.3


def test_muon_updates_as_its_slow_twin():
    generator = torch.Generator().manual_seed(2)
    weights = [torch.randn(4, 6, generator=generator), torch.randn(3, 3, generator=generator)]
    parameters = [torch.nn.Parameter(w.clone()) for w in weights]
    optimizer = Muon(parameters, lr=0.1, momentum=0.9, weight_decay=0.5)
    buffers = [torch.zeros_like(w) for w in weights]
    for _ in range(3):
        for i, parameter in enumerate(parameters):
            parameter.grad = torch.randn(parameter.shape, generator=generator)
            buffers[i] = 0.9 * buffers[i] + 0.1 * parameter.grad
            step = orthogonalized((0.1 * parameter.grad + 0.9 * buffers[i])[None])[0]
            weights[i] = weights[i] * (1 - 0.1 * 0.5) - 0.1 * 0.2 * max(step.shape) ** 0.5 * step
        optimizer.step()
    for weight, parameter in zip(weights, parameters, strict=True):
        torch.testing.assert_close(weight, parameter.data)


def test_muon_computes_the_loss_if_it_is_told_how():
    weight = torch.nn.Parameter(torch.ones(2, 3))
    optimizer = Muon([weight], lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == 6
    assert weight.square().sum() < 6


def test_muon_refuses_what_is_no_matrix():
    with pytest.raises(ValueError, match="must be matrices, got one of shape"):
        Muon([torch.nn.Parameter(torch.zeros(3))], lr=0.1)
