"""Experiment trackers: their names, the packages they need, and where each keeps what it is told."""

from __future__ import annotations

import contextlib
import difflib
import importlib.metadata
import importlib.util
import json
import os
import re
import sys
import uuid
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations.integration_utils import TensorBoardCallback
from typing_extensions import override

from multiturn.errors import ConfigError, MissingExtraError
from multiturn.files import whole_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

__all__ = ["PROJECT", "TRACKERS", "Tracking", "require_trackers", "run_name", "tracker_names"]

TRACKERS: Final[Mapping[str, tuple[tuple[str, ...], str]]] = MappingProxyType(
    {
        "tensorboard": (("tensorboard", "tensorboardX"), "tensorboard"),
        "trackio": (("trackio",), "trackio"),
        "wandb": (("wandb",), "wandb"),
        "mlflow": (("mlflow",), "mlflow"),
        "azure_ml": (("azureml",), "azureml-core"),
        "clearml": (("clearml",), "clearml"),
        "codecarbon": (("codecarbon",), "codecarbon"),
        "comet_ml": (("comet_ml",), "comet-ml"),
        "dagshub": (("dagshub",), "dagshub"),
        "dvclive": (("dvclive",), "dvclive"),
        "flyte": (("flytekit",), "flytekit"),
        "kubeflow": ((), ""),
        "neptune": (("neptune",), "neptune"),
        "swanlab": (("swanlab",), "swanlab"),
    }
)
"""The trackers that transformers reports to: the modules of which one must be there, and what to install."""

IN_EXTRA: Final = ("tensorboard",)
"""Those that come with ``multiturn[trackers]``."""
FOLDER: Final = "trackers"
"""What the folder of a training calls that of its trackers."""
PROJECT: Final = "multiturn"
"""The project, or experiment, that runs belong to where nothing else is said."""


def tracker_names(report_to: str | Sequence[str] | None) -> list[str]:
    """What ``report_to`` names.

    Args:
        report_to: None or ``"none"``, ``"all"`` (every tracker that is installed), a name, several separated
            by commas, or a sequence of names.

    Raises:
        ConfigError: It names something that is no tracker.
    """
    given = report_to.split(",") if isinstance(report_to, str) else report_to or ()
    names = list(dict.fromkeys(str(name).strip() for name in given))
    if names == ["none"]:
        return []
    for name in names:
        if name in TRACKERS or names == ["all"]:
            continue
        near = difflib.get_close_matches(name, TRACKERS, n=1)
        meant = f" (did you mean {near[0]!r}?)" if near else ""
        raise ConfigError(
            f"report_to: there is no tracker {name!r}{meant}; use none or {', '.join(TRACKERS)}"
        )
    return names


def require_trackers(names: Iterable[str]) -> None:
    """Refuse trackers whose packages are missing, before any work.

    Args:
        names: As `tracker_names` gives them.

    Raises:
        MissingExtraError: One of `IN_EXTRA` is not installed.
        ConfigError: Another one is not; or mlflow is, without what its database needs.
    """
    for name in names:
        modules, package = TRACKERS.get(name, ((), ""))
        if not modules or any(_installed(module, package) for module in modules):
            if name == "mlflow":
                _require_a_store_for_mlflow()
            continue
        if name in IN_EXTRA:
            raise MissingExtraError(f"report_to {name}", extra="trackers", missing=modules[0])
        raise ConfigError(
            f"report_to {name} needs the Python package {package!r}, which is not installed; "
            f"run: pip install {package}"
        )


def _require_a_store_for_mlflow() -> None:
    """Refuse an mlflow that has nowhere to write to: ``mlflow-skinny`` knows servers, and no database."""
    if "MLFLOW_TRACKING_URI" not in os.environ and not _installed("sqlalchemy", "sqlalchemy"):
        raise ConfigError(
            "report_to mlflow writes into a database, for which it needs the Python package 'sqlalchemy', "
            "which is not installed; run: pip install mlflow, or set MLFLOW_TRACKING_URI"
        )


def _installed(module: str, package: str) -> bool:
    """Whether a module of a package can be imported; a folder of files such as ``./wandb`` is none."""
    found = importlib.util.find_spec(module)
    if found is None or found.origin is not None:
        return found is not None
    try:  # a package may spread over several folders and have no file of its own
        importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def run_name(folder: Path, method: str, seed: int) -> str:
    """What trackers call a training: its run, its method and its seed, each once.

    Args:
        folder: The training's folder. That of a run's training lies in the run's own folder ``training``.
        method: What is trained, for example ``"DMPO"``.
        seed: The seed.
    """
    folder = folder.resolve()
    name = f"{folder.parent.parent.name}-{folder.name}" if folder.parent.name == "training" else folder.name
    for part in (method.lower(), f"seed{seed}"):
        if part not in name.lower():
            name = f"{name}-{part}"
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "training"


class Tracking:
    """The trackers of one training: where they keep their files, and the run that they go on with.

    Those of TensorBoard, wandb, trackio and MLflow lie in the training's folder, of which nothing leaves the
    machine; others go by their own settings. What the user's own environment
    variables say goes first. A training that is resumed goes on in the run that it began; another one in the
    same folder gets a run of its own, ``NAME-2``.

    Args:
        names: The trackers.
        args: The training's settings: its folder, its seed, and possibly a name for the run.
        method: What is trained.
    """

    def __init__(self, names: Sequence[str], args: TrainingArguments, *, method: str) -> None:
        self._names = tuple(names) if args.process_index == 0 else ()
        self._args = args
        output = Path(args.output_dir or ".").resolve()
        self._folder = output / FOLDER
        self._name = args.run_name or run_name(output, method, args.seed)
        self._run: dict[str, str] = {}
        # Runs that are open already are somebody else's to end.
        self._others = {name for name in ("wandb", "mlflow") if _is_open(name)}

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """Let trackers find their settings: names, folders, no network. They go again with the block."""
        if not self._names:
            yield
            return
        if not self._run:
            self._begin()
        mine = {key: value for key, value in self._environment().items() if key not in os.environ}
        named = self._args.run_name
        os.environ.update(mine)
        self._args.run_name = self._run["name"]
        try:
            yield
        finally:
            self._args.run_name = named
            for key in mine:
                os.environ.pop(key, None)

    def settle(self, callbacks: Iterable[TrainerCallback], step: int | None) -> None:
        """Decide which run a training that begins, or goes on behind a step, belongs to; outside of `scope`.

        Args:
            callbacks: The trainer's.
            step: The last step that counts; None for a training that begins.
        """
        if not self._names:
            return
        if step is not None:
            self._run = self._recorded() or self._run
        if not self._run:
            self._begin()
        self._write()
        self._place(callbacks, 0 if step is None else step + 1)

    def callback(self) -> TrainerCallback:
        """Keeps, from the first step on, what a resumed training needs to know."""
        return _Note(self._keep_ids)

    def finish(self) -> None:
        """End what trackers leave open behind a training, so that another one begins a run of its own."""
        if not self._run:  # no training has begun
            return
        ours = set(self._names) - self._others
        wandb: Any = sys.modules.get("wandb")
        if "wandb" in ours and _is_open("wandb"):
            wandb.finish()
            wandb.teardown()  # a session that has started looks at no folder or id again
        mlflow: Any = sys.modules.get("mlflow")
        if "mlflow" in ours and _is_open("mlflow"):
            with self.scope():
                mlflow.end_run()  # it ends by itself, but not behind an exception

    # ---- the record ----

    @property
    def _file(self) -> Path:
        return self._folder / "run.json"

    def _recorded(self) -> dict[str, str]:
        try:
            record = json.loads(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        known = isinstance(record, dict) and isinstance(record.get("name"), str)
        return {str(key): str(value) for key, value in record.items()} if known else {}

    def _begin(self) -> None:
        """A run of its own: the name that is wanted, or with a number behind it that is not taken."""
        before = self._recorded()
        last = before.get("number", "0")
        number = int(last) + 1 if last.isdecimal() else 1
        self._run = {
            "name": self._name if number == 1 else f"{self._name}-{number}",
            "number": str(number),
            "wandb": uuid.uuid4().hex[:12],
        }
        if "trackio" in before:
            self._run["trackio"] = before["trackio"]

    def _write(self) -> None:
        with whole_file(self._file) as file:
            json.dump(self._run, file, indent=1)

    def _keep_ids(self) -> None:
        """Note what only the trackers themselves know: the id of MLflow's run, the folder of trackio."""
        if not self._names:
            return
        found = dict(self._run)
        mlflow: Any = sys.modules.get("mlflow")
        if "mlflow" in self._names and "mlflow" not in self._others and _is_open("mlflow"):
            found["mlflow"] = mlflow.active_run().info.run_id
        if "trackio" in self._names:
            found["trackio"] = self._trackio_folder()
        if found != self._run:
            self._run = found
            self._write()

    # ---- their settings ----

    def _environment(self) -> dict[str, str]:
        """What the trackers in use read; see ``docs/training.md``."""
        wanted: dict[str, str] = {}
        if "tensorboard" in self._names:
            wanted["TENSORBOARD_LOGGING_DIR"] = str(self._events)
        if "wandb" in self._names:
            self._folder.mkdir(parents=True, exist_ok=True)  # wandb falls back to a temporary folder
            wanted |= {
                "WANDB_MODE": "offline",
                "WANDB_DIR": str(self._folder),
                "WANDB_PROJECT": PROJECT,
                "WANDB_RUN_ID": self._run["wandb"],
                "WANDB_RESUME": "allow",
            }
        if "trackio" in self._names:
            wanted["TRACKIO_DIR"] = self._trackio_folder()
        if "mlflow" in self._names:
            self._folder.mkdir(parents=True, exist_ok=True)
            wanted["MLFLOW_TRACKING_URI"] = f"sqlite:///{self._folder / 'mlflow.db'}"
            wanted["MLFLOW_EXPERIMENT_NAME"] = PROJECT
            if "mlflow" in self._run:
                wanted["MLFLOW_RUN_ID"] = self._run["mlflow"]
        return wanted

    def _trackio_folder(self) -> str:
        """Where trackio writes: a process decides that once, when it imports it."""
        module: Any = sys.modules.get("trackio.utils")
        if module is not None:
            return str(module.TRACKIO_DIR)
        recorded = self._run.get("trackio", "")
        return recorded if recorded and Path(recorded).is_dir() else str(self._folder / "trackio")

    @property
    def _events(self) -> Path:
        return self._folder / "tensorboard" / self._run["name"]

    def _place(self, callbacks: Iterable[TrainerCallback], first: int) -> None:
        """Let TensorBoard write into the run's folder, in which it forgets what came at `first` and later."""
        if "TENSORBOARD_LOGGING_DIR" in os.environ:
            return
        for callback in callbacks:
            if isinstance(callback, TensorBoardCallback):
                callback.logging_dir = str(self._events)
                if first:
                    # Of whichever of its two packages is installed.
                    make: Any = callback._SummaryWriter
                    callback.tb_writer = make(log_dir=callback.logging_dir, purge_step=first)


def _is_open(tracker: str) -> bool:
    """Whether a run of wandb or MLflow is open in this process."""
    module: Any = sys.modules.get(tracker)
    if module is None:
        return False
    run = module.active_run() if tracker == "mlflow" else getattr(module, "run", None)
    return run is not None


class _Note(TrainerCallback):
    """Calls back when all trackers have begun.

    Args:
        keep: What to call.
    """

    def __init__(self, keep: Any) -> None:
        self._keep = keep

    @override
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """The trackers, whose callbacks come first, have begun their runs."""
        self._keep()
