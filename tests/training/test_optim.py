import torch

from training.optim import Mixed, orthogonalise


def test_singular_values_come_near_one():
    values = torch.linalg.svdvals(orthogonalise(torch.randn(3, 24, 64)))
    assert float(values.min()) > 0.5
    assert float(values.max()) < 1.4


def test_what_is_not_finite_does_not_reach_the_weights():
    stack = torch.randn(2, 8, 8)
    stack[1, 0, 0] = float("inf")
    assert bool(torch.isfinite(orthogonalise(stack)).all())


def test_it_learns_a_linear_map():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.Tanh(), torch.nn.Linear(32, 8))
    optimizer = Mixed(model, 0.02, 1e-2, ("2.",))
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
