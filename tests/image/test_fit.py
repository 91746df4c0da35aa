"""The optimisation loop: exact accumulation, exact resume, guards."""

import contextlib
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pcs_ext.errors import CheckpointError, ConfigError, DivergedError
from pcs_ext.image.checkpoint import CheckpointFolder
from pcs_ext.image.fit import AbstractRun, Fit, FitConfig, fit, lr_factor
from pcs_ext.image.types import LossTerms, ParameterGroup
from tests.support.problems import CONFIG, Images, Problem, everything, run


def test_the_loss_falls_and_terms_are_reported() -> None:
    states = run(Problem(), FitConfig(steps=200))
    assert states[-1].losses["error"] < 0.2 * states[0].losses["error"]
    assert states[0].losses["total"] == pytest.approx(states[0].losses["error"] + states[0].losses["size"])
    assert list(states[0].losses) == ["error", "size", "total"]
    assert [state.step for state in states] == list(range(1, 201))


def test_the_total_is_that_of_all_micro_batches_whatever_their_terms_are_called() -> None:
    problem = Problem()

    def loss(step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
        zero = sum(0.0 * parameter.sum() for group in problem.groups for parameter in group.parameters)
        return LossTerms({f"pass_{micro_step}": zero + 1.0 + micro_step})  # pyright: ignore[reportArgumentType]

    state = next(fit(loss, problem.groups, FitConfig(steps=1, gradient_accumulation=2)))
    assert state.losses == {"pass_0": 0.5, "pass_1": 1.0, "total": 1.5}


@pytest.mark.parametrize("kind", [Problem, Images])
@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
@pytest.mark.parametrize("cut", [1, 5, 11])
def test_resume_is_exact(tmp_path: Path, kind: type[Problem], optimizer: Any, cut: int) -> None:
    config = dataclasses.replace(CONFIG, optimizer=optimizer)
    straight: list[AbstractRun] = []
    expected = run(kind(), config, on_start=straight.append)
    folder = CheckpointFolder(tmp_path / "c", config_hash="a")
    first = kind()
    for state in fit(first, first.groups, config, checkpoints=folder):
        if state.step == cut:
            break
    torch.rand(17)  # whatever the process draws in between does not matter
    resumed: list[AbstractRun] = []
    rest = run(kind(), config, checkpoints=folder, on_start=resumed.append)
    assert [state.losses for state in rest] == [state.losses for state in expected[cut:]]
    ours, theirs = everything(resumed[0]), everything(straight[0])
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_global_generators_are_left_as_they_were() -> None:
    before = torch.get_rng_state()
    run(Images())
    assert torch.equal(before, torch.get_rng_state())


def test_extra_state_survives(tmp_path: Path) -> None:
    class Log:
        def __init__(self) -> None:
            self.seen: list[int] = []

        def state_dict(self) -> dict[str, Any]:
            return {"seen": self.seen, "last": torch.tensor(self.seen[-1:])}

        def load_state_dict(self, state: Mapping[str, Any]) -> None:
            self.seen = list(state["seen"])
            assert state["last"].tolist() == self.seen[-1:]

    folder, log = CheckpointFolder(tmp_path), Log()
    problem = Problem()
    for state in fit(problem, problem.groups, CONFIG, checkpoints=folder, extra_state={"log": log}):
        log.seen.append(state.step)
        if state.step == 4:
            break
    again = Log()
    with pytest.raises(CheckpointError, match=r"extra state \['log'\]; this run expects \[\]"):
        run(problem, checkpoints=folder)
    for state in fit(problem, problem.groups, CONFIG, checkpoints=folder, extra_state={"log": again}):
        again.seen.append(state.step)
    assert again.seen == list(range(1, 13))


class Fixed(Problem):
    """The same eight samples in every step, as one batch or in parts."""

    def __init__(self, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.x = torch.randn(8, 5, generator=torch.Generator().manual_seed(1))

    def __call__(self, step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
        rows = self.x.chunk(self.parts)[micro_step]
        return LossTerms({"error": (self.model(rows) - rows[:, :3]).square().mean(), "step": self.model.bias.sum()})


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_accumulation_equals_one_large_batch(parts: int) -> None:
    whole, split = Fixed(1), Fixed(parts)
    expected = run(whole, FitConfig(steps=5))
    found = run(split, FitConfig(steps=5, gradient_accumulation=parts))
    assert whole.model.weight.grad is not None
    torch.testing.assert_close(split.model.weight.grad, whole.model.weight.grad, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(split.model.weight, whole.model.weight, rtol=1e-5, atol=1e-6)
    for a, b in zip(found, expected, strict=True):
        assert a.losses == pytest.approx(b.losses, rel=1e-5)
        assert a.gradient_norm == pytest.approx(b.gradient_norm, rel=1e-5)


@pytest.mark.parametrize(("name", "kind"), [("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam)])
def test_steps_are_those_of_torch(name: Any, kind: Any) -> None:
    ours, theirs = Fixed(1), Fixed(1)
    run(ours, FitConfig(steps=4, optimizer=name, max_gradient_norm=None))
    settings = [{"params": g.parameters, "lr": g.learning_rate, "weight_decay": g.weight_decay} for g in theirs.groups]
    optimizer = kind(settings, foreach=False)
    for _ in range(4):
        optimizer.zero_grad()
        theirs(0, 0, torch.Generator()).total.backward()
        optimizer.step()
    torch.testing.assert_close(ours.model.weight, theirs.model.weight, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("optimizer", ["adamw", "adam"])
@pytest.mark.parametrize("problem", [Problem, Images])
def test_updates_in_the_backward_pass_are_the_same_numbers(problem: type[Problem], optimizer: Any) -> None:
    found = []
    for in_backward in (False, True):
        own = problem()
        config = FitConfig(steps=4, max_gradient_norm=None, optimizer=optimizer, ema_decay=0.9)
        fitting = Fit(own, own.groups, config, in_backward=in_backward)
        states = [fitting.advance() for _ in range(4)]
        assert all(parameter.grad is None for parameter in fitting.parameters) is in_backward
        found.append((everything(fitting), [(s.losses, pytest.approx(s.gradient_norm, rel=1e-5)) for s in states]))
    assert all(torch.equal(found[0][0][name], value) for name, value in found[1][0].items())
    assert [losses for losses, _ in found[0][1]] == [losses for losses, _ in found[1][1]]
    assert [norm.expected for _, norm in found[0][1]] == [norm for _, norm in found[1][1]]


def test_a_bad_step_in_the_backward_pass_changes_nothing_and_is_told() -> None:
    problem = Bad({1})
    fitting = Fit(problem, problem.groups, FitConfig(steps=3, max_gradient_norm=None), in_backward=True)
    assert not fitting.advance().skipped
    before = everything(fitting)
    assert fitting.advance().skipped
    assert all(torch.equal(before[name], value) for name, value in everything(fitting).items())
    assert not fitting.advance().skipped


def test_updates_in_the_backward_pass_need_plain_steps() -> None:
    problem = Problem()
    for config in (FitConfig(steps=1), FitConfig(steps=1, max_gradient_norm=None, gradient_accumulation=2),
                   FitConfig(steps=1, max_gradient_norm=None, optimizer="sgd")):  # fmt: skip
        with pytest.raises(ConfigError, match="in_backward needs adam or adamw"):
            Fit(problem, problem.groups, config, in_backward=True)


def test_clipping_by_hand() -> None:
    problem = Fixed(1)
    before = problem.model.bias.detach().clone()
    config = FitConfig(steps=1, optimizer="sgd", betas=(0.0, 0.0), max_gradient_norm=0.5)
    (state,) = run(problem, config)
    assert state.gradient_norm > 0.5
    gradients = [p.grad for p in problem.model.parameters() if p.grad is not None]
    assert torch.cat([g.flatten() for g in gradients]).norm().item() == pytest.approx(0.5, rel=1e-4)
    torch.testing.assert_close(problem.model.bias, before - 1e-3 * gradients[1])


class Bad(Problem):
    """Loss or gradient is not finite in some steps."""

    def __init__(self, steps: set[int], where: str = "loss", value: float = float("nan")) -> None:
        super().__init__()
        self.steps, self.where, self.value = steps, where, value

    def __call__(self, step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
        terms = super().__call__(step, micro_step, generator)
        if step not in self.steps:
            return terms
        if self.where == "loss":
            return terms.scaled(self.value)
        # A finite loss with an infinite gradient: the root of zero.
        return LossTerms({**terms.terms, "root": (self.model.bias - self.model.bias.detach()).square().sum().sqrt()})


@pytest.mark.parametrize("bad", [0, 2])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize(("where", "value"), [("loss", float("nan")), ("loss", float("inf")), ("gradient", 0.0)])
def test_a_bad_step_changes_nothing(bad: int, optimizer: Any, where: str, value: float) -> None:
    problem, captured, kept = Bad({bad}, where, value), [], {}
    config = FitConfig(steps=4, ema_decay=0.9, optimizer=optimizer)
    kept[0] = {}
    for state in fit(problem, problem.groups, config, on_start=captured.append):
        assert state.skipped == (state.step == bad + 1)
        kept[state.step] = everything(captured[0])
    before, after = kept[bad], kept[bad + 1]
    if bad == 0:
        assert (problem.model.weight != 0.1).any()  # later steps did happen
        assert (after["parameter/w/0"] == 0.1).all()
    else:
        assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(torch.isfinite(tensor).all() for tensor in kept[4].values())


def test_too_many_bad_steps_end_the_run() -> None:
    with pytest.raises(DivergedError, match="3 steps in a row, up to step 5.*Lower the learning rate"):
        run(Bad(set(range(2, 40))), FitConfig(steps=40, max_skipped_steps=2))
    states = run(Bad({2, 3, 5, 6}), FitConfig(steps=10, max_skipped_steps=2))  # never three in a row
    assert sum(state.skipped for state in states) == 4


def test_bad_steps_are_counted_across_a_resume(tmp_path: Path) -> None:
    folder, config = CheckpointFolder(tmp_path), FitConfig(steps=40, max_skipped_steps=2)
    bad = Bad(set(range(2, 40)))
    for state in fit(bad, bad.groups, config, checkpoints=folder):
        if state.step == 4:
            break
    with pytest.raises(DivergedError, match="3 steps in a row, up to step 5"):
        run(bad, config, checkpoints=folder)


def test_another_configuration_does_not_go_on_silently(tmp_path: Path) -> None:
    problem = Problem()
    run(problem, checkpoints=CheckpointFolder(tmp_path, config_hash="a"))
    with pytest.raises(CheckpointError, match="made by other settings"):
        run(problem, checkpoints=CheckpointFolder(tmp_path, config_hash="b"))
    with pytest.raises(CheckpointError, match="asked to start anew"):
        run(problem, checkpoints=CheckpointFolder(tmp_path, config_hash="a"), resume=False)


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    problem, folder = Problem(), CheckpointFolder(tmp_path)
    run(problem, checkpoints=folder)
    with pytest.raises(CheckpointError, match="averages are not this run's"):
        run(problem, dataclasses.replace(CONFIG, ema_decay=None), checkpoints=folder)
    with pytest.raises(CheckpointError, match=r"optimiser state of ./0 .* expected \['momentum_buffer'\]"):
        run(problem, dataclasses.replace(CONFIG, optimizer="sgd"), checkpoints=folder)
    problem.model.weight = nn.Parameter(torch.zeros(3, 4))
    with pytest.raises(CheckpointError, match=r"parameters are not .* \(1 differ: w/0: \(3, 5\), expected \(3, 4\)"):
        run(problem, checkpoints=folder)


def test_groups_that_cannot_train() -> None:
    def group(name: str, *tensors: Tensor) -> ParameterGroup:
        return ParameterGroup(name=name, parameters=tuple(nn.Parameter(t) for t in tensors), learning_rate=1.0)

    one = group("one", torch.ones(2))
    for groups, message in [
        ([], "nothing to train"),
        ([group("empty")], "hold no parameters"),
        ([one, group("one", torch.ones(2))], "distinct names"),
        ([one, dataclasses.replace(one, name="two")], "stands in two"),
        ([group("low", torch.ones(2, dtype=torch.bfloat16))], "expected float32"),
    ]:
        with pytest.raises(ConfigError, match=message):
            next(fit(Problem(), groups, CONFIG))
    with pytest.raises(ConfigError, match="no parameter of the groups .* got a gradient"):
        next(fit(Problem(), [one], CONFIG))
    with pytest.raises(ConfigError, match="fp16 needs CUDA"):
        run(Problem(), FitConfig(steps=1, autocast="fp16"))


@pytest.mark.parametrize(
    "wrong",
    [{"steps": 0}, {"gradient_accumulation": 0}, {"warmup_steps": -1}, {"max_gradient_norm": 0.0}, {"eps": 0.0},
     {"betas": (0.9, 1.0)}, {"ema_decay": 1.0}, {"checkpoint_every_steps": 0}, {"max_skipped_steps": -1}],
)  # fmt: skip
def test_settings_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"^{next(iter(wrong))} of the optimisation must be"):
        FitConfig(**{"steps": 1, **wrong})


def test_schedules_by_hand() -> None:
    config = FitConfig(steps=10, warmup_steps=2, lr_schedule="linear")
    assert [round(lr_factor(step, config), 3) for step in (0, 1, 2, 6, 9)] == [0.5, 1.0, 1.0, 0.5, 0.125]
    assert lr_factor(9, FitConfig(steps=10)) == 1.0
    assert lr_factor(5, FitConfig(steps=10, lr_schedule="cosine")) == pytest.approx(0.5)
    cooldown = FitConfig(steps=2000, lr_schedule="cooldown")
    factors = [lr_factor(step, cooldown) for step in (0, 1700, 1775, 2000)]
    assert factors == pytest.approx([1, 1, 0.5, 0])
    states = run(Problem(), FitConfig(steps=4, warmup_steps=2))
    assert [state.learning_rate for state in states] == pytest.approx([0.005, 0.01, 0.01, 0.01])


def test_averages_by_hand() -> None:
    problem, captured, average = Problem(), [], torch.full((3, 5), 0.1)
    for state in fit(problem, problem.groups, CONFIG, on_start=captured.append):
        decay = min(0.9, state.step / (9 + state.step))
        average = decay * average + (1 - decay) * problem.model.weight.detach()
    torch.testing.assert_close(captured[0].average.averages[0], average)
    last = problem.model.weight.detach().clone()
    with captured[0].averaged():
        assert torch.equal(problem.model.weight, captured[0].average.averages[0])
        assert not torch.equal(problem.model.weight, last)
    assert torch.equal(problem.model.weight, last)


def test_hooks_run_before_the_step_is_seen_or_averaged(tmp_path: Path) -> None:
    problem, steps = Problem(), []

    def project(step: int) -> None:
        steps.append(step)
        problem.model.weight.clamp_(max=0.05)

    config = FitConfig(steps=3, ema_decay=0.9)
    for _ in fit(problem, problem.groups, config, after_step=[project]):
        assert problem.model.weight.max() <= 0.05
    assert steps == [1, 2, 3]


def test_bf16_keeps_float32_masters() -> None:
    class Seen(Problem):
        def __call__(self, step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
            dtypes.add(self.model(torch.randn(2, 5, generator=generator)).dtype)
            return super().__call__(step, micro_step, generator)

    dtypes: set[torch.dtype] = set()
    problem = Seen()
    states = run(problem, FitConfig(steps=30, autocast="bf16"))
    assert dtypes == {torch.bfloat16}
    assert problem.model.weight.dtype == torch.float32
    assert states[-1].losses["error"] < states[0].losses["error"]


@pytest.mark.parametrize("by_averages", [False, True])
def test_bf16_trains_what_the_loss_has_asked_without_gradients_before(by_averages: bool) -> None:
    class Asked(Problem):
        def __call__(self, step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
            with torch.no_grad(), runs[0].averaged() if by_averages else contextlib.nullcontext():
                self.model(torch.ones(1, 5))
            return super().__call__(step, micro_step, generator)

    asked, plain, runs = Asked(), Problem(), []
    config = FitConfig(steps=3, autocast="bf16", ema_decay=0.9)
    for _ in fit(asked, asked.groups, config, on_start=runs.append):
        pass
    run(plain, config)
    assert torch.equal(asked.model.weight, plain.model.weight)


def test_the_total_may_have_terms_on_several_devices() -> None:
    terms = LossTerms({"score": torch.zeros((), device="meta"), "penalty": torch.ones(1)})
    assert terms.total.device.type == "meta"
