"""DMPO and DPO: worked by hand, at the corners, and by their properties."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from objective_pairs import pair_batch, random_logps, swapped, widened
from torch import Tensor

from multiturn.objective import (
    PAIR_OBJECTIVES,
    ObjectiveOutput,
    PairLogps,
    PairObjective,
    dmpo,
    dpo,
    turn_weights,
)

PAIR_METRICS = {
    "rewards/chosen",
    "rewards/rejected",
    "rewards/margins",
    "rewards/accuracies",
    "logps/chosen",
    "logps/rejected",
    "logratios/chosen",
    "logratios/rejected",
}


@pytest.fixture
def worked() -> PairLogps:
    """One pair with T_w = 3 and T_l = 2; see `test_dmpo_by_hand`. The last rejected turn is padding."""
    return PairLogps(
        policy_chosen=torch.tensor([[-1.3, -3.4, -0.9]], dtype=torch.float64),
        reference_chosen=torch.tensor([[-2.0, -2.0, -3.0]], dtype=torch.float64),
        policy_rejected=torch.tensor([[-2.5, -0.8, -7.0]], dtype=torch.float64),
        reference_rejected=torch.tensor([[-2.0, -2.0, -5.0]], dtype=torch.float64),
        num_turns_chosen=torch.tensor([3]),
        num_turns_rejected=torch.tensor([2]),
    )


def value(output: ObjectiveOutput, name: str) -> float:
    return output.metrics[name].item()


def test_dmpo_by_hand(worked: PairLogps) -> None:
    """g = 1/2, beta = 1/2.

    rho_w = (-1.3 + 2, -3.4 + 2, -.9 + 3) = (.7, -1.4, 2.1);  rho_l = (-2.5 + 2, -.8 + 2) = (-.5, 1.2)
    phi(., 3) = (1 - 1/8, 1/2 - 1/8, 1/4 - 1/8) / (7/8) = (1, 3/7, 1/7)
    phi(., 2) = (1 - 1/4, 1/2 - 1/4) / (3/4)            = (1, 1/3)
    Phi_w = 1/2 (.7 - 1.4 * 3/7 + 2.1 / 7) = 1/2 (.7 - .6 + .3) = .2
    Phi_l = 1/2 (-.5 + 1.2 / 3)            = 1/2 (-.5 + .4)     = -.05
    loss = -log sigmoid(.2 + .05) = log(1 + exp(-.25)) = log 1.7788008 = .5759394
    """
    output = dmpo(worked, beta=0.5, gamma=0.5)
    assert output.losses.tolist() == pytest.approx([0.5759394], abs=5e-8)
    assert output.losses.dtype is torch.float64
    assert value(output, "rewards/chosen") == pytest.approx(0.2)
    assert value(output, "rewards/rejected") == pytest.approx(-0.05)
    assert value(output, "rewards/margins") == pytest.approx(0.25)
    assert value(output, "rewards/accuracies") == 1.0
    assert value(output, "logps/chosen") == pytest.approx(-5.6)
    assert value(output, "logps/rejected") == pytest.approx(-3.3)
    assert value(output, "logratios/chosen") == pytest.approx(1.4)
    assert value(output, "logratios/rejected") == pytest.approx(0.7)
    assert output.turn_rewards_chosen is not None
    assert output.turn_rewards_rejected is not None
    assert output.turn_rewards_chosen.tolist()[0] == pytest.approx([0.35, -0.3, 0.15])
    assert output.turn_rewards_rejected.tolist()[0] == pytest.approx([-0.25, 0.2, 0.0])


def test_dpo_by_hand(worked: PairLogps) -> None:
    """Every turn counts 1.

    Phi_w = (.7 - 1.4 + 2.1) / 2 = .7, Phi_l = (-.5 + 1.2) / 2 = .35, loss = log(1 + exp(-.35)) = .533383
    """
    output = dpo(worked, beta=0.5)
    assert output.losses.tolist() == pytest.approx([math.log1p(math.exp(-0.35))], rel=1e-14)
    assert value(output, "rewards/margins") == pytest.approx(0.35)


def test_the_misprint_would_give_another_margin(worked: PairLogps) -> None:
    """Without g^t, phi(., 3) = (1, 6/7, 4/7) and phi(., 2) = (1, 2/3).

    Then Phi_w = 1/2 (.7 - 1.2 + 1.2) = .35, Phi_l = 1/2 (-.5 + .8) = .15, and the margin is .20, not .25.
    """
    assert value(dmpo(worked, beta=0.5, gamma=0.5), "rewards/margins") == pytest.approx(0.25)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.7, 1.0])
def test_a_policy_that_is_its_reference_has_a_loss_of_exactly_ln_2(gamma: float) -> None:
    logps = random_logps([1, 4, 3], [2, 1, 5])
    logps = dataclasses.replace(
        logps, reference_chosen=logps.policy_chosen, reference_rejected=logps.policy_rejected
    )
    for output in (dmpo(logps, beta=0.3, gamma=gamma), dpo(logps, beta=0.3)):
        assert output.losses.tolist() == [math.log(2)] * 3
        assert output.metrics["rewards/margins"].tolist() == [0.0] * 3
        assert output.metrics["rewards/accuracies"].tolist() == [0.0] * 3
        assert output.loss.item() == pytest.approx(math.log(2), rel=1e-15)


@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.7, 1.0 - 1e-12, 1.0])
def test_single_turns_are_dpo_for_every_gamma(gamma: float) -> None:
    logps = random_logps([1, 1], [1, 1])
    assert torch.equal(dmpo(logps, beta=0.2, gamma=gamma).losses, dpo(logps, beta=0.2).losses)


def test_gamma_zero_is_dpo_on_the_first_turn() -> None:
    logps = random_logps([3, 2, 5], [4, 4, 1])
    assert logps.reference_chosen is not None
    assert logps.reference_rejected is not None
    first = PairLogps(
        policy_chosen=logps.policy_chosen[:, :1],
        policy_rejected=logps.policy_rejected[:, :1],
        reference_chosen=logps.reference_chosen[:, :1],
        reference_rejected=logps.reference_rejected[:, :1],
        num_turns_chosen=torch.ones(3, dtype=torch.int64),
        num_turns_rejected=torch.ones(3, dtype=torch.int64),
    )
    torch.testing.assert_close(dmpo(logps, beta=0.2, gamma=0.0).losses, dpo(first, beta=0.2).losses)


@pytest.mark.parametrize("num_turns_rejected", [3, 2])
@pytest.mark.parametrize("gamma", [0.3, 1.0])
def test_a_shared_turn_cancels_only_between_trajectories_of_one_length(
    num_turns_rejected: int, gamma: float
) -> None:
    """Both sides begin with the same two actions. Turn 0 always cancels, since phi(0, T) = 1.

    The weight of turn 1 depends on T, so its log-ratio stays in the margin of T_w = 3 against T_l = 2.
    """

    def margin(shared_first: float, shared_second: float) -> float:
        reference = torch.zeros(1, 3, dtype=torch.float64)
        logps = PairLogps(
            policy_chosen=torch.tensor([[shared_first, shared_second, -1.0]], dtype=torch.float64),
            policy_rejected=torch.tensor([[shared_first, shared_second, -2.0]], dtype=torch.float64),
            reference_chosen=reference,
            reference_rejected=reference,
            num_turns_chosen=torch.tensor([3]),
            num_turns_rejected=torch.tensor([num_turns_rejected]),
        )
        return value(dmpo(logps, beta=0.5, gamma=gamma), "rewards/margins")

    assert margin(-1.0, -1.0) == pytest.approx(margin(-4.0, -1.0))
    cancels = margin(-1.0, -1.0) == pytest.approx(margin(-1.0, -4.0))
    assert cancels == (num_turns_rejected == 3)


@given(batch=pair_batch(), beta=st.floats(0.01, 2.0), gamma=st.floats(0.0, 1.0))
@settings(deadline=None)
def test_swapping_the_sides_flips_the_margin(batch: PairLogps, beta: float, gamma: float) -> None:
    ours, theirs = (dmpo(logps, beta=beta, gamma=gamma) for logps in (batch, swapped(batch)))
    margins = ours.metrics["rewards/margins"]
    assert torch.equal(theirs.metrics["rewards/margins"], -margins)
    # -log sigmoid(m) - (-log sigmoid(-m)) = -m
    torch.testing.assert_close(ours.losses - theirs.losses, -margins, rtol=1e-9, atol=1e-12)


@given(batch=pair_batch(), beta=st.floats(0.01, 2.0), gamma=st.floats(0.0, 1.0))
@settings(deadline=None)
def test_metrics_fit_each_other(batch: PairLogps, beta: float, gamma: float) -> None:
    for output in (dmpo(batch, beta=beta, gamma=gamma), dpo(batch, beta=beta)):
        metrics = output.metrics
        assert set(metrics) == PAIR_METRICS
        assert all(values.shape == output.losses.shape for values in metrics.values())
        assert output.turn_rewards_chosen is not None
        assert output.turn_rewards_rejected is not None
        torch.testing.assert_close(metrics["rewards/chosen"], output.turn_rewards_chosen.sum(-1))
        torch.testing.assert_close(metrics["rewards/rejected"], output.turn_rewards_rejected.sum(-1))
        margins = metrics["rewards/chosen"] - metrics["rewards/rejected"]
        assert torch.equal(metrics["rewards/margins"], margins)
        assert torch.equal(metrics["rewards/accuracies"], (margins > 0).double())
        assert bool((output.losses > 0).all())
        assert output.counts.tolist() == [1.0] * len(margins)
        assert output.loss.item() == pytest.approx(output.losses.mean().item())


@given(
    batch=pair_batch(),
    gamma=st.floats(0.0, 1.0),
    extra=st.integers(1, 3),
    garbage=st.sampled_from([math.nan, math.inf, -math.inf, 1e30]),
)
@settings(deadline=None)
def test_padding_is_never_looked_at(batch: PairLogps, gamma: float, extra: int, garbage: float) -> None:
    """Neither the losses nor the gradients change, whatever stands beyond a row's turns."""

    def run(logps: PairLogps) -> tuple[ObjectiveOutput, Tensor, Tensor]:
        chosen = logps.policy_chosen.clone().requires_grad_()
        rejected = logps.policy_rejected.clone().requires_grad_()
        logps = dataclasses.replace(logps, policy_chosen=chosen, policy_rejected=rejected)
        output = dmpo(logps, beta=0.1, gamma=gamma)
        grad_chosen, grad_rejected = torch.autograd.grad(output.losses.sum(), [chosen, rejected])
        return output, grad_chosen, grad_rejected

    plain, chosen, rejected = run(widened(batch, 0, 0.0))
    padded, padded_chosen, padded_rejected = run(widened(batch, extra, garbage))
    torch.testing.assert_close(padded.losses, plain.losses, rtol=1e-13, atol=0)
    for name, values in plain.metrics.items():
        torch.testing.assert_close(padded.metrics[name], values, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(padded_chosen[:, :-extra], chosen)
    torch.testing.assert_close(padded_rejected[:, :-extra], rejected)
    assert not padded_chosen[:, -extra:].any()
    assert not padded_rejected[:, -extra:].any()


@pytest.mark.parametrize(
    ("given_dtype", "expected"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_losses_come_in_the_inputs_dtype_but_float32_at_least(
    given_dtype: torch.dtype, expected: torch.dtype
) -> None:
    logps = random_logps([2, 3], [4, 1], dtype=given_dtype)
    for output in (dmpo(logps, beta=0.1, gamma=0.7), dpo(logps, beta=0.1)):
        assert output.losses.dtype is expected
        assert {values.dtype for values in output.metrics.values()} == {expected}


def test_mixed_dtypes_are_promoted_before_the_difference() -> None:
    """A float32 reference out of a cache beside a bfloat16 policy loses nothing."""
    logps = random_logps([2], [3])
    mixed = dataclasses.replace(
        logps,
        policy_chosen=logps.policy_chosen.bfloat16(),
        policy_rejected=logps.policy_rejected.bfloat16(),
        reference_chosen=logps.policy_chosen.bfloat16().float(),
        reference_rejected=logps.policy_rejected.bfloat16().float(),
    )
    assert dmpo(mixed, beta=1.0, gamma=0.5).metrics["rewards/margins"].tolist() == [0.0]


def test_extreme_margins_stay_finite() -> None:
    logps = random_logps([2], [2], dtype=torch.float32)
    for shift in (-1e4, 1e4):
        far = dataclasses.replace(logps, policy_chosen=logps.policy_chosen + shift)
        far.policy_chosen.requires_grad_()
        loss = dmpo(far, beta=0.5, gamma=0.9).loss
        (gradient,) = torch.autograd.grad(loss, far.policy_chosen)
        assert math.isfinite(loss.item())
        assert bool(gradient.isfinite().all())


def test_a_non_finite_log_probability_of_a_real_turn_shows_in_its_own_loss_only() -> None:
    logps = random_logps([2, 3], [1, 2])
    logps.policy_chosen[1, 0] = math.nan
    losses = dmpo(logps, beta=0.1, gamma=0.7).losses
    assert losses.isnan().tolist() == [False, True]


def test_metrics_carry_no_gradient_and_nothing_is_written_to() -> None:
    logps = random_logps([2, 3], [1, 2])
    before = {name: tensor for name, tensor in dataclasses.asdict(logps).items() if tensor is not None}
    logps.policy_chosen.requires_grad_()
    state = torch.random.get_rng_state()
    output = dmpo(logps, beta=0.1, gamma=0.7)
    assert output.losses.requires_grad
    assert not any(values.requires_grad for values in output.metrics.values())
    assert output.turn_rewards_chosen is not None
    assert not output.turn_rewards_chosen.requires_grad
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, tensor in before.items():
        assert torch.equal(getattr(logps, name), tensor)


def test_another_objective_is_a_weighting_and_a_link(worked: PairLogps) -> None:
    """A hinge on the margin of `test_dmpo_by_hand`, whose margin is .25: the loss is 1 - .25."""
    hinge = PairObjective(turn_weights, lambda margins, settings: torch.relu(1 - margins))
    assert hinge(worked, beta=0.5, gamma=0.5).losses.tolist() == pytest.approx([0.75])


def test_objectives_by_name_are_the_functions(worked: PairLogps) -> None:
    assert list(PAIR_OBJECTIVES)[:2] == ["dmpo", "dpo"]
    by_name = PAIR_OBJECTIVES["dmpo"](worked, beta=0.5, gamma=0.3)
    assert torch.equal(by_name.losses, dmpo(worked, beta=0.5, gamma=0.3).losses)
    by_name = PAIR_OBJECTIVES["dpo"](worked, beta=0.5, gamma=0.3)
    assert torch.equal(by_name.losses, dpo(worked, beta=0.5).losses)


@pytest.mark.parametrize("beta", [0.0, -0.1, math.nan, math.inf])
def test_an_unusable_beta_is_refused(beta: float, worked: PairLogps) -> None:
    with pytest.raises(ValueError, match="beta is"):
        dmpo(worked, beta=beta, gamma=0.5)
    with pytest.raises(ValueError, match="beta is"):
        dpo(worked, beta=beta)


def test_an_unusable_gamma_is_refused(worked: PairLogps) -> None:
    with pytest.raises(ValueError, match="gamma is 2"):
        dmpo(worked, beta=0.1, gamma=2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policy_chosen": torch.zeros(1, 2)}, r"policy_chosen has shape \[1, 2\] and reference_chosen"),
        ({"policy_rejected": torch.zeros(3)}, "policy_rejected has shape"),
        ({"policy_rejected": torch.zeros(1, 3, dtype=torch.int64)}, "floating-point"),
        ({"num_turns_chosen": torch.tensor([3, 3])}, "policy_chosen has 1 rows"),
        (
            {
                "policy_rejected": torch.zeros(2, 3),
                "reference_rejected": torch.zeros(2, 3),
                "num_turns_rejected": torch.tensor([1, 1]),
            },
            "1 chosen trajectories and 2 rejected",
        ),
    ],
)
def test_shapes_that_do_not_agree_are_refused(
    worked: PairLogps, changes: dict[str, Tensor], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(worked, **changes)


@pytest.mark.parametrize(("num_turns", "message"), [(0, "is 0"), (4, "only 3 columns")])
def test_a_row_without_turns_or_with_too_many_is_refused(
    worked: PairLogps, num_turns: int, message: str
) -> None:
    logps = dataclasses.replace(worked, num_turns_rejected=torch.tensor([num_turns]))
    with pytest.raises(ValueError, match=message):
        dmpo(logps, beta=0.1, gamma=0.7)


@pytest.mark.gpu
def test_an_accelerator_gives_what_the_cpu_gives() -> None:
    logps = random_logps([2, 3], [4, 1])
    device = {field.name: getattr(logps, field.name).cuda() for field in dataclasses.fields(logps)}
    for moved in (device, device | {"num_turns_chosen": logps.num_turns_chosen}):
        output = dmpo(PairLogps(**moved), beta=0.1, gamma=0.7)
        assert output.losses.is_cuda
        torch.testing.assert_close(output.losses.cpu(), dmpo(logps, beta=0.1, gamma=0.7).losses)
