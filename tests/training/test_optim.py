import torch

from training.loop.optim import MuonAdamW, orthogonalize


def test_orthogonalize_brings_singular_values_near_one() -> None:
    values = torch.linalg.svdvals(orthogonalize(torch.randn(3, 24, 64)))
    assert float(values.min()) > 0.5
    assert float(values.max()) < 1.4


def test_orthogonalize_drops_values_that_are_not_finite() -> None:
    stack = torch.randn(2, 8, 8)
    stack[1, 0, 0] = float("inf")
    assert bool(torch.isfinite(orthogonalize(stack)).all())


def test_the_optimizer_fits_a_linear_map() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.Tanh(), torch.nn.Linear(32, 8))
    optimizer = MuonAdamW(model, 0.02, 1e-2, ("2.",))
    inputs = torch.randn(256, 8)
    target = inputs @ torch.randn(8, 8) / 3
    losses = []
    for _ in range(200):
        loss = (model(inputs) - target).square().mean()
        loss.backward()
        optimizer.step(1.0)
        losses.append(float(loss.detach()))
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
    assert losses[-1] < 0.1 * losses[0]
