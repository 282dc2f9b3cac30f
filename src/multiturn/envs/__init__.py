"""Environments: the protocol, the registry and those that ship with multiturn."""

from multiturn.envs.base import Environment, ExpertAction, Step, Task
from multiturn.envs.registry import available, make, options_of, register

__all__ = ["Environment", "ExpertAction", "Step", "Task", "available", "make", "options_of", "register"]
