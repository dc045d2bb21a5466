"""The rewards of a run: from one service, from several, from functions; also through outages."""

from __future__ import annotations

import math
import re
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Self

import torch
from jaxtyping import Float64
from torch import Tensor

from phys4d.reward.callables import CallableReward
from phys4d.reward.client import RewardClient
from phys4d.runtime.errors import UserError
from phys4d.types import Failure, Outcome, Rollout
from policy.config import RewardConfig
from policy.service import connect

GONE = {"UNAVAILABLE", "INTERNAL", "UNKNOWN", "CANCELLED", "NO_OUTCOME"}
"""Reasons that a service in the middle of its death gives; what failed so is sent again once it is back."""

PATIENCE_S = 2.0
"""A service that does not answer for so long is gone."""

NO_LABELS = {"mean", "group_std", "outages"}
"""What `reward_...` means otherwise in a run's metrics."""

RESENDS = 3
"""Times that rollouts are sent again to a service that answers and still fails them."""


@dataclass(frozen=True)
class Source:
    """One of the rewards of a run."""

    name: str
    """Of the reward on its service; empty is the service's first."""
    weight: float
    endpoint: str = ""
    """host:port; empty is the run's."""
    function: str = ""
    """package.module:function, called in this process."""

    @property
    def place(self) -> str:
        """Where it is, as far as the name does not say."""
        return self.function or f"{self.name or 'first'}@{self.endpoint or 'endpoint'}"


def parse_sources(config: RewardConfig) -> list[Source]:
    """The sources that a configuration names.

    Raises:
        ValueError: a name that fits none of the forms, a weight that is 0 or not finite, or two of one label.
    """
    if not config.sources:
        return [Source(config.name, 1.0)]
    sources = []
    for text, weight in config.sources.items():
        if not (math.isfinite(weight) and weight != 0.0):
            raise ValueError(f"the weight of reward {text!r} must be finite and not 0, got {weight}")
        if re.fullmatch(r"[\w.-]*", text):
            sources.append(Source(text or config.name, weight))
        elif match := re.fullmatch(r"([\w.-]*)@([^@\s]+:\d+)", text):
            sources.append(Source(match[1], weight, endpoint=match[2]))
        elif match := re.fullmatch(r"[\w.]+:(\w+)", text):
            sources.append(Source(match[1], weight, function=text))
        else:
            raise ValueError(
                f"a reward is NAME, NAME@HOST:PORT or package.module:function, got {text!r} in reward.sources"
            )
    labels = labels_of(sources)
    for label in labels:
        if labels.count(label) > 1:
            raise ValueError(f"two of reward.sources would both be logged as {label!r}; leave one out")
        if label in NO_LABELS:
            raise ValueError(f"a reward cannot be called {label!r}, as something else is logged; rename it")
    return sources


def labels_of(sources: Sequence[Source]) -> list[str]:
    """One for each source: its name, and where it is if two have the same name."""
    names = [source.name or "first" for source in sources]
    return [s.place if names.count(name) > 1 else name for s, name in zip(sources, names, strict=True)]


def needs_rgb(config: RewardConfig) -> bool:
    """Whether videos are decoded for rewards: for services that are sent pixels, and for functions."""
    return config.send_rgb or any(source.function for source in parse_sources(config))


class ServiceReward:
    """One reward of a service that may go away and come back.

    Rollouts under way when it goes are sent again under their ids once it answers: scoring is deterministic,
    so that it does not matter whether the first sending arrived.
    """

    def __init__(self, client: RewardClient, *, outage_s: float) -> None:
        self.client = client
        self.outage_s = outage_s
        self.num_outages = 0
        self.num_resent = 0
        self._gone_since: float | None = None
        self._closing = threading.Event()

    def score(self, rollouts: Sequence[Rollout]) -> list[Outcome]:
        """Outcomes in order; those of a service that stays away for longer than `outage_s` are failures.

        That time is one of the service: a second batch does not wait for it all over again.
        """
        outcomes = {o.sample_id: o for o in self.client.score(rollouts)}
        resends = 0
        while lost := [r for r in rollouts if _failed(outcomes[r.sample_id])]:
            answers = self._answers()
            sudden = [r for r in lost if _failed(outcomes[r.sample_id]) in GONE]
            if answers and (not sudden or resends >= RESENDS):
                break
            if not answers and not self._wait(len(lost)):
                break
            again = sudden if answers else lost
            resends += 1
            self.num_resent += len(again)
            outcomes |= {o.sample_id: o for o in self.client.score(again)}
        return [outcomes[r.sample_id] for r in rollouts]

    def _answers(self) -> bool:
        try:
            self.client.server_info(timeout_s=2.0)
        except ConnectionError:
            return False
        self._gone_since = None
        return True

    def _wait(self, num_lost: int) -> bool:
        """Until the service answers again; False if it does not in time."""
        if self._gone_since is None:
            self._gone_since = time.monotonic()
            self.num_outages += 1
            print(
                f"the reward service at {self.client.endpoint} is gone with {num_lost} rollouts under way; "
                f"waiting up to {self.outage_s:.0f} s for it",
                flush=True,
            )
        give_up = self._gone_since + self.outage_s
        while time.monotonic() < give_up and not self._closing.is_set():
            if self._answers():
                print(f"the reward service at {self.client.endpoint} is back", flush=True)
                return True
            self._closing.wait(0.2)
        return False

    def version(self) -> str:
        """Name and version of the reward.

        Raises:
            ConnectionError: the service does not answer.
            UserError: it does not offer the reward.
        """
        offered = {reward.name: reward.version for reward in self.client.server_info().rewards}
        name = self.client.reward or next(iter(offered), "")
        if name not in offered:
            raise UserError(
                f"{self.client.endpoint} offers {', '.join(offered) or 'no reward'}, not {name!r}; name one "
                "of those in reward.name or reward.sources, or serve it"
            )
        return f"{name} {offered[name]}"

    def close(self) -> None:
        self._closing.set()
        self.client.close()


class FunctionReward:
    """A reward function in this process."""

    num_outages = 0
    num_resent = 0

    def __init__(self, function: str) -> None:
        self._reward = CallableReward(function)

    @property
    def takes_geometry(self) -> bool:
        return self._reward.takes_geometry

    def version(self) -> str:
        return f"{self._reward.name} {self._reward.version}"

    def score(self, rollouts: Sequence[Rollout]) -> list[Outcome]:
        return self._reward.score_all(rollouts)

    def close(self) -> None:
        pass


class Rewards:
    """All rewards of a run, each scoring in a thread of its own."""

    def __init__(self, config: RewardConfig, endpoint: str) -> None:
        """
        Args:
            endpoint: the run's service.

        Raises:
            ConnectionError: a service does not answer.
            ValueError: see `parse_sources`.
        """
        self.sources = parse_sources(config)
        self.needs_rgb = needs_rgb(config)
        self._send_rgb = config.send_rgb
        self._rewards: list[ServiceReward | FunctionReward] = []
        for source in self.sources:
            if source.function:
                self._rewards.append(FunctionReward(source.function))
                continue
            given = source.endpoint or config.endpoint
            # An outage is waited for here, where rollouts are kept.
            client = connect(
                given or endpoint,
                config,
                reward=source.name,
                timeout_s=10.0 if given else 30.0,
                patience_s=PATIENCE_S,
            )
            self._rewards.append(ServiceReward(client, outage_s=config.outage_s))
        self._threads = [ThreadPoolExecutor(1, thread_name_prefix=f"reward-{s.name}") for s in self.sources]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for reward in self._rewards:
            reward.close()
        for thread in self._threads:
            thread.shutdown(wait=True, cancel_futures=True)

    @property
    def labels(self) -> list[str]:
        """One for each source, all different; see `labels_of`."""
        return labels_of(self.sources)

    @property
    def weights(self) -> list[float]:
        return [source.weight for source in self.sources]

    @property
    def takes_geometry(self) -> list[bool]:
        """Of each source, whether depth and motion go to it; a function may take pixels alone."""
        return [not isinstance(r, FunctionReward) or r.takes_geometry for r in self._rewards]

    def versions(self) -> dict[str, str]:
        """Of each source, by its label, name and version of the reward.

        Raises:
            ConnectionError: a service does not answer.
        """
        labels = zip(self.labels, self._rewards, strict=True)
        return {f"reward {label}": reward.version() for label, reward in labels}

    @property
    def num_outages(self) -> int:
        """Times that a service went away, over the whole run."""
        return sum(num_outages for num_outages, _ in self.outages())

    @property
    def num_resent(self) -> int:
        """Rollouts sent again after an outage, over the whole run."""
        return sum(num_resent for _, num_resent in self.outages())

    def outages(self) -> list[tuple[int, int]]:
        """Of each source, how often it went away and how many rollouts were sent again."""
        return [(reward.num_outages, reward.num_resent) for reward in self._rewards]

    def count_on(self, outages: Sequence[tuple[int, int]]) -> None:
        """Add to what the run that is resumed had counted, source by source."""
        for reward, (num_outages, num_resent) in zip(self._rewards, outages, strict=True):
            reward.num_outages, reward.num_resent = num_outages, num_resent

    def submit(self, rollouts: Sequence[Rollout]) -> Pending:
        """Score in the background, so that sampling goes on."""
        plain = rollouts if self._send_rgb else [replace(r, rgb=None) for r in rollouts]
        return Pending(
            [
                thread.submit(reward.score, rollouts if isinstance(reward, FunctionReward) else plain)
                for reward, thread in zip(self._rewards, self._threads, strict=True)
            ]
        )

    def score(self, rollouts: Sequence[Rollout]) -> list[list[Outcome]]:
        """Outcomes of each source."""
        return self.submit(rollouts).result()


@dataclass(frozen=True)
class Pending:
    """Rollouts being scored."""

    futures: list[Future[list[Outcome]]]

    def result(self) -> list[list[Outcome]]:
        """Outcomes of each source, in the order of the rollouts."""
        return [future.result() for future in self.futures]


def values(outcomes: Sequence[Sequence[Outcome]]) -> Float64[Tensor, "samples sources"]:
    """Scores as numbers; NaN where there is none."""
    columns = [[math.nan if o.score is None else o.score.value for o in column] for column in outcomes]
    return torch.tensor(columns, dtype=torch.float64).T


def failure_reasons(failures: Sequence[Failure]) -> str:
    """The three most common classes and reasons, and the first message."""
    reasons = Counter(f"{f.error_class} {f.reason}" for f in failures).most_common(3)
    listed = ", ".join(f"{count}x {reason}" for reason, count in reasons)
    return f"{listed}; first: {failures[0].message}"


def _failed(outcome: Outcome) -> str:
    """The reason of a failure that may pass; empty for scores and lasting failures."""
    failure = outcome.result
    return failure.reason if isinstance(failure, Failure) and failure.error_class == "INFRA" else ""
