"""The optimisation loop: exact accumulation, exact resume, guards, interruption."""

import dataclasses
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pcs_ext.errors import CheckpointError, ConfigError, DivergedError, Interrupted, ResourceError
from pcs_ext.image.checkpoint import CheckpointFolder
from pcs_ext.image.fit import Fit, FitConfig, fit, lr_factor
from pcs_ext.image.types import FitState, LossTerms, ParameterGroup


class Problem:
    """Least squares with its own random batches."""

    def __init__(self, batch: int = 4) -> None:
        self.model: Any = nn.Linear(5, 3)
        with torch.no_grad():
            self.model.weight.fill_(0.1)
            self.model.bias.zero_()
        self.batch = batch

    @property
    def groups(self) -> list[ParameterGroup]:
        """Two groups of different settings."""
        return [
            ParameterGroup(name="w", parameters=(self.model.weight,), learning_rate=1e-2, weight_decay=0.1),
            ParameterGroup(name="b", parameters=(self.model.bias,), learning_rate=1e-3),
        ]

    def __call__(self, step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
        """Two terms."""
        x = torch.randn(self.batch, 5, generator=generator)
        error = self.model(x) - x[:, :3]
        return LossTerms({"error": error.square().mean(), "size": 1e-3 * self.model.weight.square().sum()})


class Images(Problem):
    """A convolution in channels_last with dropout: memory layouts and global randomness must survive a resume."""

    def __init__(self) -> None:
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            self.model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Dropout(0.3), nn.Conv2d(4, 3, 3, padding=1))
        self.model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    @property
    def groups(self) -> list[ParameterGroup]:
        """One."""
        return [ParameterGroup(name="all", parameters=tuple(self.model.parameters()), learning_rate=1e-2)]

    def __call__(self, step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
        """Reproduce the input."""
        x = torch.randn(2, 3, 6, 6, generator=generator).contiguous(memory_format=torch.channels_last)
        return LossTerms({"error": (self.model(x) - x).square().mean()})


CONFIG = FitConfig(steps=12, gradient_accumulation=2, lr_schedule="cosine", warmup_steps=3, ema_decay=0.9)


def run(problem: Problem, config: FitConfig = CONFIG, **options: Any) -> list[FitState]:
    """All steps."""
    return list(fit(problem, problem.groups, config, **options))


def everything(run: Fit) -> dict[str, Tensor]:
    """Copies of all that a checkpoint would hold."""
    return {name: tensor.clone() for name, tensor in run.tensors().items()}


def test_the_loss_falls_and_terms_are_reported() -> None:
    states = run(Problem(), FitConfig(steps=200))
    assert states[-1].losses["error"] < 0.2 * states[0].losses["error"]
    assert states[0].losses["total"] == pytest.approx(states[0].losses["error"] + states[0].losses["size"])
    assert list(states[0].losses) == ["error", "size", "total"]
    assert [state.step for state in states] == list(range(1, 201))


@pytest.mark.parametrize("kind", [Problem, Images])
@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
@pytest.mark.parametrize("cut", [1, 5, 11])
def test_resume_is_exact(tmp_path: Path, kind: type[Problem], optimizer: Any, cut: int) -> None:
    config = dataclasses.replace(CONFIG, optimizer=optimizer)
    straight: list[Fit] = []
    expected = run(kind(), config, on_start=straight.append)
    folder = CheckpointFolder(tmp_path / "c", config_hash="a")
    first = kind()
    for state in fit(first, first.groups, config, checkpoints=folder):
        if state.step == cut:
            break
    torch.rand(17)  # whatever the process draws in between does not matter
    resumed: list[Fit] = []
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


@pytest.fixture
def terminal() -> Iterator[None]:
    """Signals as in a terminal: a shell that runs its jobs in the background starts them with SIGINT ignored."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_step_finish_and_is_saved(tmp_path: Path, number: int) -> None:
    class Stopped(Problem):
        def __call__(self, step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
            if step == 5 and micro_step == 0 and first:
                os.kill(os.getpid(), number)
            return super().__call__(step, micro_step, generator)

    straight, first = Problem(), True
    run(straight)
    folder = CheckpointFolder(tmp_path / "c")
    with pytest.raises(Interrupted, match=r"after step 6 of 12; step 6 is saved in .*/c\. The same command goes on"):
        run(Stopped(), checkpoints=folder)
    with pytest.raises(Interrupted, match="nothing is saved"):
        run(Stopped())
    first, resumed = False, Stopped()
    assert run(resumed, checkpoints=folder)[0].step == 7
    assert torch.equal(straight.model.weight, resumed.model.weight)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("terminal")
def test_an_ignored_signal_stays_ignored() -> None:
    class Signalled(Problem):
        def __call__(self, step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
            os.kill(os.getpid(), signal.SIGINT)
            return super().__call__(step, micro_step, generator)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert run(Signalled())[-1].step == CONFIG.steps


@pytest.mark.usefixtures("terminal")
def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    class Stopped(Problem):
        def __call__(self, step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
            if step == 5:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)
                raise AssertionError("the second signal did not end the step")
            return super().__call__(step, micro_step, generator)

    with pytest.raises(Interrupted, match="after step 5 of 12; step 5 is saved"):
        run(Stopped(), checkpoints=CheckpointFolder(tmp_path))


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_errors_in_the_callers_loop_save_and_pass_through(tmp_path: Path, error: type[BaseException]) -> None:
    def body(problem: Problem) -> None:
        for state in fit(problem, problem.groups, CONFIG, checkpoints=folder):
            if state.step == 5:
                raise error

    folder = CheckpointFolder(tmp_path)
    with pytest.raises(error):
        body(Problem())
    found = folder.latest()
    assert found is not None
    assert found.step == 5


def test_a_step_cut_in_half_is_never_saved(tmp_path: Path) -> None:
    def fail(step: int) -> None:
        if step == 4:
            raise KeyboardInterrupt

    folder = CheckpointFolder(tmp_path)
    config = dataclasses.replace(CONFIG, checkpoint_every_steps=2)
    with pytest.raises(Interrupted, match="step 2 is saved"):
        run(Problem(), config, checkpoints=folder, after_step=[fail])
    found = folder.latest()
    assert found is not None
    assert found.step == 2


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(),
                                   RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 bytes")])  # fmt: skip
def test_out_of_memory(tmp_path: Path, error: Exception) -> None:
    class Huge(Problem):
        def __call__(self, step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
            if step == 3:
                raise error
            return super().__call__(step, micro_step, generator)

    folder = CheckpointFolder(tmp_path)
    with pytest.raises(ResourceError, match="out of memory in step 3 .*raise gradient_accumulation"):
        run(Huge(), checkpoints=folder)
    found = folder.latest()
    assert found is not None
    assert found.step == 3


def test_saves_by_steps_and_at_the_end(tmp_path: Path) -> None:
    class Recording(CheckpointFolder):
        def save(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
            saved.append(step)
            return super().save(step, tensors, state)

    saved: list[int] = []
    config = dataclasses.replace(CONFIG, checkpoint_every_seconds=None, checkpoint_every_steps=5)
    run(Problem(), config, checkpoints=Recording(tmp_path))
    assert saved == [5, 10, 12]
    assert run(Problem(), config, checkpoints=Recording(tmp_path)) == []
    assert saved == [5, 10, 12]
