"""How long a trainer waits for rewards: a formula, and a discrete-event simulation with failures to check it.

A trainer samples its rollouts in batches and sends each batch when it is sampled; after the last batch it
waits until every rollout is scored, and updates. What it waits is lost; scoring beside sampling is free.
"""

import math
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What one rollout costs the service."""

    score_s: float
    """Mean seconds one scorer is busy with a rollout."""
    score_cv: float = 0.3
    """Standard deviation of that over its mean; scoring times are taken as log-normal."""
    ingress_s: float = 0.0
    """CPU seconds of the ingress per rollout."""
    upload_s: float = 0.0
    """Seconds a rollout is on its way from the trainer."""

    def __post_init__(self) -> None:
        if not 0 < self.score_s < math.inf:
            raise ValueError(f"score_s must be above 0 seconds and finite, got {self.score_s}")
        for name in ("score_cv", "ingress_s", "upload_s"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be finite and not negative, got {getattr(self, name)}")

    @property
    def log_mean_std(self) -> tuple[float, float]:
        """Mean and standard deviation of the logarithm of the scoring time."""
        variance = math.log1p(self.score_cv**2)
        return math.log(self.score_s) - variance / 2, math.sqrt(variance)


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """One training run, as the service sees it."""

    num_rollouts: int
    """Rollouts per iteration."""
    num_batches: int
    """Batches in which they are sampled and sent."""
    sample_s: float
    """Seconds of sampling per iteration."""
    update_s: float
    """Seconds from the last reward to the next iteration's sampling."""

    def __post_init__(self) -> None:
        if not 1 <= self.num_batches <= self.num_rollouts:
            raise ValueError(
                f"num_batches must be in [1, num_rollouts = {self.num_rollouts}], got {self.num_batches}"
            )
        if not (0 < self.sample_s < math.inf and 0 <= self.update_s < math.inf):
            raise ValueError(
                "sample_s must be above 0, update_s not negative, both finite, got "
                f"{self.sample_s}, {self.update_s}"
            )

    @property
    def cycle_s(self) -> float:
        """Seconds of an iteration that never waits."""
        return self.sample_s + self.update_s


@dataclass(frozen=True, kw_only=True)
class Pool:
    """The service: scorers, and how they fail."""

    num_replicas: int
    replicas_per_pod: int = 4
    """Replicas that a failing pod takes with it."""
    pod_mtbf_s: float = math.inf
    """Mean seconds between failures of one pod."""
    restart_s: float = 60.0
    """Seconds until a failed pod scores again."""
    backoff_s: float = 0.5
    """Seconds after which a client sends a rollout again that a failing scorer had under way."""
    num_ingress_cores: int = 4
    """Cores of all ingress pods together, which trainers share."""

    def __post_init__(self) -> None:
        for name in ("num_replicas", "replicas_per_pod", "pod_mtbf_s", "num_ingress_cores"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        for name in ("restart_s", "backoff_s"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be finite and not negative, got {getattr(self, name)}")

    @property
    def availability(self) -> float:
        """Share of the time that a pod is up."""
        return 1.0 if math.isinf(self.pod_mtbf_s) else self.pod_mtbf_s / (self.pod_mtbf_s + self.restart_s)


def predicted_wait_s(costs: Costs, trainer: Trainer, pool: Pool, num_trainers: int = 1) -> float:
    """Seconds that each of several trainers waits per iteration.

    Other trainers leave a share 1 - rho of the scorers, rho = (n - 1) R S / (N cycle). What of the R rollouts
    is not scored when the last batch of b is sent is B = max(b, R - N (1 - rho) / S * time since the first),
    and it drains in B S / (N (1 - rho)) plus the time of the slowest of the last ones, the quantile
    1 - 1 / (m + 1) of the scoring time with m = min(b, N). The ingress is shared in the same way.
    """
    up = pool.num_replicas * pool.availability
    batch = trainer.num_rollouts / trainer.num_batches
    unpacking_s = trainer.num_rollouts * costs.ingress_s / pool.num_ingress_cores
    sending_s = trainer.sample_s * (trainer.num_batches - 1) / trainer.num_batches
    log_mean, log_std = costs.log_mean_std
    quantile = 1.0 - 1.0 / (min(batch, up) + 1.0)
    slowest_s = math.exp(log_mean + log_std * NormalDist().inv_cdf(quantile))

    def wait_when(others_wait_s: float) -> float:
        cycle_s = trainer.cycle_s + others_wait_s
        others = (num_trainers - 1) * trainer.num_rollouts * costs.score_s / (up * cycle_s)
        free = up * max(1.0 / num_trainers, 1.0 - others)
        share_of_ingress = max(1.0 / num_trainers, 1.0 - (num_trainers - 1) * unpacking_s / cycle_s)
        delivery_s = batch * costs.upload_s + unpacking_s / trainer.num_batches / share_of_ingress
        backlog = max(batch, trainer.num_rollouts - free / costs.score_s * sending_s)
        # The last ones are scored side by side: one scoring time of the drain is that of the slowest.
        return delivery_s + max(0.0, backlog / free - 1.0) * costs.score_s + slowest_s

    # Waiting makes iterations longer and the load of the others lower: the more they wait, the less we do. So
    # there is one wait that is everybody's, and it lies between these.
    low, high = 0.0, wait_when(0.0)
    while high - low > 1e-9 * (1.0 + high):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if wait_when(middle) > middle else (low, middle)
    return high


def wait_share(wait_s: float, trainer: Trainer) -> float:
    """Share of an iteration that is waiting."""
    return wait_s / (trainer.cycle_s + wait_s)


def replicas_needed(
    costs: Costs,
    trainer: Trainer,
    pool: Pool,
    max_wait_share: float,
    num_trainers: int = 1,
    most: int = 1_000_000,
) -> int:
    """The fewest replicas with which trainers wait at most that share of their time.

    Raises:
        ValueError: no number of replicas does; says what would.
    """
    from dataclasses import replace

    def share(num_replicas: int) -> float:
        sized = replace(pool, num_replicas=num_replicas)
        return wait_share(predicted_wait_s(costs, trainer, sized, num_trainers), trainer)

    cores = num_trainers * trainer.num_rollouts * costs.ingress_s / trainer.cycle_s
    if cores > pool.num_ingress_cores:
        raise ValueError(
            f"num_ingress_cores is {pool.num_ingress_cores}, but unpacking keeps {cores:.1f} cores busy "
            "(num_trainers x num_rollouts x ingress_s / (sample_s + update_s)); "
            f"give {math.ceil(cores)} or more"
        )
    if share(most) > max_wait_share:
        raise ValueError(
            f"with any number of replicas trainers wait {share(most):.1%} of the time, more than "
            f"max_wait_share {max_wait_share:.1%}: sending and scoring the last batch takes so long; "
            "send smaller batches (num_batches), give more ingress cores, or score faster"
        )
    low, high = 0, 1
    while share(high) > max_wait_share:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if share(middle) <= max_wait_share else (middle, high)
    return high


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """What a simulation saw, its first iteration left out."""

    wait_s: float
    """Mean seconds waited per iteration."""
    wait_share: float
    """Share of all time that was waiting."""
    utilisation: float
    """Share of the time that scorers were busy."""
    num_scored: int
    num_failures: int
    """Pods that failed."""
    num_resent: int
    """Rollouts sent again because their scorer failed."""


def simulate(
    costs: Costs,
    trainer: Trainer,
    pool: Pool,
    *,
    num_trainers: int = 1,
    num_iterations: int = 8,
    seed: int = 0,
) -> Simulated:
    """Simulate trainers that share a pool, rollout by rollout, with failing pods."""
    if num_iterations < 2:
        raise ValueError(f"num_iterations must be at least 2 (the first is left out), got {num_iterations}")
    return _Simulation(costs, trainer, pool, num_trainers, num_iterations, seed).run()


def _first_come_first_served(env: Any) -> Any:
    """simpy's store with a deque: taking the first of a list of 100,000 would copy the rest."""
    import simpy

    class Queue(simpy.Store):
        def __init__(self) -> None:
            super().__init__(env)
            self.items: Any = deque()

        def _do_get(self, event: Any) -> None:
            if self.items:
                event.succeed(self.items.popleft())

    return Queue()


class _Iteration:
    """What one trainer has under way."""

    __slots__ = ("all_scored", "num_open")

    def __init__(self, num_open: int, all_scored: Any) -> None:
        self.num_open = num_open
        self.all_scored = all_scored


class _Simulation:
    def __init__(
        self, costs: Costs, trainer: Trainer, pool: Pool, num_trainers: int, num_iterations: int, seed: int
    ) -> None:
        import simpy

        self._costs, self._trainer, self._pool = costs, trainer, pool
        self._num_trainers, self._num_iterations = num_trainers, num_iterations
        self._rng = np.random.default_rng(seed)
        self._env = simpy.Environment()
        self._interrupt = simpy.Interrupt
        self._queue = _first_come_first_served(self._env)
        self._draws = iter(())
        self._waits_s: list[float] = []
        self._cycles_s: list[float] = []
        self._busy_s = self._ingress_free_at = 0.0
        self._num_scored = self._num_failures = self._num_resent = 0

    def run(self) -> Simulated:
        env, pool = self._env, self._pool
        for first in range(0, pool.num_replicas, pool.replicas_per_pod):
            here = range(first, min(first + pool.replicas_per_pod, pool.num_replicas))
            replicas = [env.process(self._replica()) for _ in here]
            if math.isfinite(pool.pod_mtbf_s):
                env.process(self._failures(replicas))
        runs = [env.process(self._train()) for _ in range(self._num_trainers)]
        env.run(until=env.all_of(runs))
        wait_s, cycle_s = float(np.sum(self._waits_s)), float(np.sum(self._cycles_s))
        return Simulated(
            wait_s=wait_s / len(self._waits_s),
            wait_share=wait_s / cycle_s,
            utilisation=self._busy_s / (pool.num_replicas * env.now),
            num_scored=self._num_scored,
            num_failures=self._num_failures,
            num_resent=self._num_resent,
        )

    def _train(self) -> Generator[Any, Any, None]:
        env, trainer = self._env, self._trainer
        # Runs are not in step with one another.
        yield env.timeout(self._rng.uniform(0.0, trainer.cycle_s))
        sizes = np.diff(np.linspace(0, trainer.num_rollouts, trainer.num_batches + 1).round().astype(int))
        for number in range(self._num_iterations):
            begun = env.now
            state = _Iteration(trainer.num_rollouts, env.event())
            for size in sizes:
                yield env.timeout(trainer.sample_s / trainer.num_batches)
                env.process(self._deliver(state, int(size)))
            sampled = env.now
            yield state.all_scored
            waited_s = env.now - sampled
            yield env.timeout(trainer.update_s)
            if number > 0:
                self._waits_s.append(waited_s)
                self._cycles_s.append(env.now - begun)

    def _deliver(self, state: _Iteration, size: int) -> Generator[Any, Any, None]:
        env, costs = self._env, self._costs
        yield env.timeout(size * costs.upload_s)
        # Batches are unpacked one after the other, each by all cores.
        unpacking_s = size * costs.ingress_s / self._pool.num_ingress_cores
        self._ingress_free_at = max(env.now, self._ingress_free_at) + unpacking_s
        yield env.timeout(self._ingress_free_at - env.now)
        for _ in range(size):
            self._queue.put(state)

    def _replica(self) -> Generator[Any, Any, None]:
        env, queue = self._env, self._queue
        while True:
            asked, state, begun = queue.get(), None, 0.0
            try:
                state = yield asked
                begun = env.now
                yield env.timeout(self._scoring_s())
            except self._interrupt:
                asked.cancel()
                if state is None and asked.triggered:
                    state = asked.value
                if state is not None:
                    self._busy_s += env.now - begun if begun else 0.0
                    self._num_resent += 1
                    env.process(self._resend(state))
                yield env.timeout(self._pool.restart_s)
                continue
            self._busy_s += env.now - begun
            self._num_scored += 1
            state.num_open -= 1
            if state.num_open == 0:
                state.all_scored.succeed()

    def _resend(self, state: _Iteration) -> Generator[Any, Any, None]:
        yield self._env.timeout(self._pool.backoff_s)
        self._queue.put(state)

    def _failures(self, replicas: list[Any]) -> Generator[Any, Any, None]:
        while True:
            yield self._env.timeout(self._rng.exponential(self._pool.pod_mtbf_s))
            self._num_failures += 1
            for replica in replicas:
                replica.interrupt()
            # A pod that is down cannot fail again.
            yield self._env.timeout(self._pool.restart_s + 1e-6)

    def _scoring_s(self) -> float:
        for drawn in self._draws:
            return drawn
        log_mean, log_std = self._costs.log_mean_std
        self._draws = iter(np.exp(log_mean + log_std * self._rng.standard_normal(4096)).tolist())
        return next(self._draws)
