"""What a reward is, and how a service loads one by name."""

import ast
import importlib
from typing import Any, Protocol, runtime_checkable

from phys4d.types import Rollout, Score


class DataError(Exception):
    """A rollout that cannot be scored, now or later; it becomes a failure of class DATA.

    Args:
        reason: stable upper-case word, e.g. `NON_FINITE_DEPTH`.
        message: for people: what, which value, which rule.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(reason, message)
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


@runtime_checkable
class Reward(Protocol):
    """Anything with a name, a version and `score`.

    `score` is deterministic and raises `DataError` for a rollout it cannot score. Any other exception is
    taken for a fault of the reward: the rollout gets a failure of class INFRA, never a number. A service
    may call it from several threads.
    """

    name: str
    """Unique within a service, e.g. `motion_smoothness`."""
    version: str
    """Changes whenever scores change."""

    def score(self, rollout: Rollout) -> Score:
        """Score one rollout; higher is better."""
        ...


def load_reward(target: str) -> Reward:
    """Make the reward that `package.module:Class` or `package.module:Class(option=1.5)` names.

    Options are literals and are passed to the class by keyword; nothing is evaluated.

    Raises:
        ValueError: the target is malformed, cannot be imported, or makes no `Reward`.
    """
    reward_class, options = find_reward_class(target)
    try:
        reward = reward_class(**options)
    except TypeError as error:
        raise ValueError(f"reward {target!r}: {error}") from error
    if not isinstance(reward, Reward) or not reward.name:
        raise ValueError(f"reward {target!r} lacks name, version or score; see phys4d.reward.plugin.Reward")
    return reward


def find_reward_class(target: str) -> tuple[type, dict[str, Any]]:
    """Import the class that a target names, and read its options, without making the reward.

    Raises:
        ValueError: the target is malformed or cannot be imported.
    """
    module_name, separator, call = target.partition(":")
    if not (separator and module_name and call):
        raise ValueError(f"a reward is named package.module:Class, got {target!r}")
    class_name, options = _parse_call(call, target)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ValueError(f"reward {target!r}: {error}; is it installed or in the working folder?") from error
    reward_class = getattr(module, class_name, None)
    if not isinstance(reward_class, type):
        raise ValueError(f"reward {target!r}: module {module_name} has no class {class_name}")
    return reward_class, options


def _parse_call(call: str, target: str) -> tuple[str, dict[str, Any]]:
    """Split `Class(a=1)` into the class name and its literal options."""
    rule = f"reward {target!r}: after the colon comes Class or Class(option=literal, ...)"
    try:
        node = ast.parse(call, mode="eval").body
    except SyntaxError:
        raise ValueError(rule) from None
    if isinstance(node, ast.Name):
        return node.id, {}
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.args:
        raise ValueError(rule)
    options = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            raise ValueError(rule)
        try:
            options[keyword.arg] = ast.literal_eval(keyword.value)
        except ValueError:
            raise ValueError(rule) from None
    return node.func.id, options
