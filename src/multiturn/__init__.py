"""Preference optimization of language agents over multi-turn trajectories."""

from multiturn.trajectory import Message, Outcome, PreferencePair, Trajectory, Turn

__all__ = ["Message", "Outcome", "PreferencePair", "Trajectory", "Turn"]

__version__ = "0.1.0"
