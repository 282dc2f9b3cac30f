"""ScienceWorld (Wang et al., EMNLP 2022): elementary-school science in a simulated house.

The simulator is the real one, from the package ``scienceworld`` on PyPI; it runs in Java.
"""

from multiturn.envs.scienceworld.environment import ScienceWorld, scienceworld
from multiturn.envs.scienceworld.paper import PAPER_SPLITS, paper_overlap, paper_tasks
from multiturn.envs.scienceworld.tasks import TASK_TYPES, TURN_LIMITS, task_type_name

__all__ = [
    "PAPER_SPLITS",
    "TASK_TYPES",
    "TURN_LIMITS",
    "ScienceWorld",
    "paper_overlap",
    "paper_tasks",
    "scienceworld",
    "task_type_name",
]
