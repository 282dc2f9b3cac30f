"""Trackers: what may be named, where they write, and that a resumed training goes on in its run."""

from __future__ import annotations

import importlib.util
import json
import os
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest
from training_samples import lora, pairs, policy, trajectories
from transformers import TrainerCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from multiturn.errors import ConfigError, MissingExtraError
from multiturn.training import DMPOConfig, DMPOTrainer, SFTConfig, trackers, train_preference, train_sft
from multiturn.training.trackers import TRACKERS, Tracking, require_trackers, run_name, tracker_names

SETTINGS = (
    "TENSORBOARD_LOGGING_DIR",
    "WANDB_MODE",
    "WANDB_DIR",
    "WANDB_PROJECT",
    "WANDB_RUN_ID",
    "WANDB_RESUME",
    "TRACKIO_DIR",
    "MLFLOW_TRACKING_URI",
    "MLFLOW_EXPERIMENT_NAME",
    "MLFLOW_RUN_ID",
)


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the machine's own environment says of trackers is not looked at."""
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def tensorboard() -> None:
    pytest.importorskip(
        "tensorboard", reason="tensorboard is not installed; pip install 'multiturn[trackers]'"
    )


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard would show of a folder: steps and values by name."""
    accumulator = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder)).Reload()
    return {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def trainer(folder: Path, callbacks: list[TrainerCallback] | None = None, **options: Any) -> DMPOTrainer:
    """Three steps with one pair each; a checkpoint behind each step."""
    tiny = policy()
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 1,
        "num_train_epochs": 1,
        "logging_steps": 1,
        "save_steps": 1,
        "seed": 3,
        "report_to": "tensorboard",
        **options,
    }
    return DMPOTrainer(
        tiny.model,
        DMPOConfig(**settings),
        train_dataset=pairs(3),
        processing_class=tiny.tokenizer,
        callbacks=callbacks,
    )


class StopsAt(TrainerCallback):
    """Breaks a training off when a step's record has been written, and its checkpoint has not."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self._step:
            raise KeyboardInterrupt


class TestNames:
    def test_they_are_those_of_transformers(self) -> None:
        assert set(TRACKERS) == set(INTEGRATION_TO_CALLBACK)

    @pytest.mark.parametrize(
        ("given", "names"),
        [
            (None, []),
            ("none", []),
            (["none"], []),
            ([], []),
            ("tensorboard", ["tensorboard"]),
            ("tensorboard, wandb", ["tensorboard", "wandb"]),
            (["wandb", "wandb"], ["wandb"]),
            ("all", ["all"]),
        ],
    )
    def test_ways_to_write_them(self, given: Any, names: list[str]) -> None:
        assert tracker_names(given) == names

    def test_an_unknown_one_is_refused_with_a_suggestion(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"no tracker 'tensorbord' .did you mean 'tensorboard'"):
            SFTConfig(output_dir=str(tmp_path), report_to="tensorbord")

    def test_one_that_is_not_installed_names_the_command(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(ConfigError, match="run: pip install comet-ml"):
            DMPOConfig(output_dir=str(tmp_path), report_to=["comet_ml"])
        with pytest.raises(MissingExtraError, match=r"pip install 'multiturn\[trackers\]'"):
            require_trackers(["tensorboard"])
        require_trackers(["kubeflow"])  # is no package

    def test_a_folder_of_that_name_is_no_package(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """Trackers leave folders of their own name where they ran."""
        (tmp_path / "swanlab").mkdir()
        monkeypatch.syspath_prepend(tmp_path)
        assert importlib.util.find_spec("swanlab") is not None
        with pytest.raises(ConfigError, match="run: pip install swanlab"):
            require_trackers(["swanlab"])

    def test_an_mlflow_without_a_database(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As ``mlflow-skinny`` is; with a server it needs none."""
        monkeypatch.setattr(trackers, "_installed", lambda module, package: module != "sqlalchemy")
        with pytest.raises(
            ConfigError, match="'sqlalchemy', which is not installed; run: pip install mlflow"
        ):
            require_trackers(["mlflow"])
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
        require_trackers(["mlflow"])

    def test_none_by_default(self, tmp_path: Path) -> None:
        assert DMPOConfig(output_dir=str(tmp_path)).report_to == []
        assert SFTConfig(output_dir=str(tmp_path), report_to=None).report_to == []


@pytest.mark.parametrize(
    ("folder", "method", "name"),
    [
        ("runs/shop-seed1/training/dmpo", "DMPO", "shop-seed1-dmpo"),
        ("runs/shop/training/gamma0.9", "DMPO", "shop-gamma0.9-dmpo-seed1"),
        ("out", "SFT", "out-sft-seed1"),
        ("dpo", "DPO", "dpo-seed1"),
        ("a b|c", "SFT", "a-b-c-sft-seed1"),
    ],
)
def test_runs_are_called_by_run_method_and_seed(folder: str, method: str, name: str, tmp_path: Path) -> None:
    assert run_name(tmp_path / folder, method, 1) == name


class TestSettings:
    def tracking(self, folder: Path, *names: str) -> Tracking:
        return Tracking(names, SFTConfig(output_dir=str(folder)), method="SFT")

    def test_wandb_stays_offline_and_in_the_folder(self, tmp_path: Path) -> None:
        tracking = self.tracking(tmp_path / "out", "wandb")
        with tracking.scope():
            found = {name: os.environ.get(name) for name in SETTINGS}
        assert found["WANDB_MODE"] == "offline"
        assert found["WANDB_DIR"] == str(tmp_path / "out" / "trackers")
        assert found["WANDB_PROJECT"] == "multiturn"
        assert found["TRACKIO_DIR"] is found["MLFLOW_TRACKING_URI"] is None
        assert not any(name in os.environ for name in SETTINGS)

    def test_the_users_own_settings_go_first(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WANDB_MODE", "online")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somewhere")
        with self.tracking(tmp_path, "wandb", "mlflow").scope():
            assert os.environ["WANDB_MODE"] == "online"
            assert os.environ["MLFLOW_TRACKING_URI"] == "http://somewhere"
        assert os.environ["WANDB_MODE"] == "online"

    def test_a_run_keeps_its_name_and_ids_when_it_is_resumed(self, tmp_path: Path) -> None:
        seen = []
        for step in (None, 4, None):  # begun, resumed, begun anew
            tracking = self.tracking(tmp_path / "out", "wandb")
            tracking.settle([], step)
            with tracking.scope():
                seen.append(os.environ["WANDB_RUN_ID"])
        assert seen[0] == seen[1] != seen[2]
        record = json.loads((tmp_path / "out" / "trackers" / "run.json").read_text())
        assert record["name"] == "out-sft-seed42-2"

    def test_a_record_that_is_damaged_is_not_used(self, tmp_path: Path) -> None:
        (tmp_path / "trackers").mkdir()
        (tmp_path / "trackers" / "run.json").write_text('["name"]')
        tracking = self.tracking(tmp_path, "wandb")
        tracking.settle([], 4)
        assert json.loads((tmp_path / "trackers" / "run.json").read_text())["number"] == "1"

    def test_other_processes_write_nothing(self, tmp_path: Path) -> None:
        class Second(SFTConfig):
            @property
            def process_index(self) -> int:
                return 1

        tracking = Tracking(["wandb"], Second(output_dir=str(tmp_path / "out")), method="SFT")
        tracking.settle([], None)
        with tracking.scope():
            assert "WANDB_MODE" not in os.environ
        assert not (tmp_path / "out").exists()

    def test_without_trackers_there_is_no_folder(self, tiny: Any, run_options: dict[str, Any]) -> None:
        train_sft(tiny, trajectories(2), SFTConfig(**run_options, max_steps=1))
        assert {path.name for path in Path(run_options["output_dir"]).iterdir()} == {"model", "history.json"}


@pytest.mark.usefixtures("tensorboard")
class TestTensorBoard:
    def test_our_metrics_arrive(self, tmp_path: Path) -> None:
        folder = tmp_path / "shop" / "training" / "mine"
        tiny = policy()
        args = DMPOConfig(
            output_dir=str(folder), report_to="tensorboard", logging_steps=1, max_steps=2, seed=3
        )
        history = train_preference(tiny, pairs(4), args, peft_config=lora())
        shown = scalars(folder / "trackers" / "tensorboard" / "shop-mine-dmpo-seed3")
        log: Any = history["log"]
        records = [record for record in log if "loss" in record]
        names = (
            "rewards/chosen",
            "rewards/rejected",
            "rewards/margins",
            "rewards/accuracies",
            "logps/chosen",
        )
        for name in ("loss", *names):
            steps, values = zip(*shown[f"train/{name}"], strict=True)
            assert list(steps) == [record["step"] for record in records]
            assert list(values) == pytest.approx([record[name] for record in records], rel=1e-6), name
        assert args.run_name is None
        assert "TENSORBOARD_LOGGING_DIR" not in os.environ

    def test_a_resumed_training_goes_on_in_its_run(self, tmp_path: Path) -> None:
        """Step 3 was recorded, then lost with the process: it is done again, and shown once."""
        with pytest.raises(KeyboardInterrupt):
            trainer(tmp_path / "out", [StopsAt(3)]).train()
        events = tmp_path / "out" / "trackers" / "tensorboard" / "out-dmpo-seed3"
        assert [step for step, _ in scalars(events)["train/loss"]] == [1, 2, 3]
        trainer(tmp_path / "out").train(resume_from_checkpoint=True)
        assert [step for step, _ in scalars(events)["train/loss"]] == [1, 2, 3]
        assert [path.name for path in events.parent.iterdir()] == ["out-dmpo-seed3"]

    def test_another_training_in_the_folder_gets_a_run_of_its_own(self, tmp_path: Path) -> None:
        for _ in range(2):
            trainer(tmp_path, max_steps=1, run_name="mine").train()
        runs = tmp_path / "trackers" / "tensorboard"
        assert sorted(path.name for path in runs.iterdir()) == ["mine", "mine-2"]

    def test_evaluations_before_and_after(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        mine = trainer(tmp_path / "out", max_steps=1)
        mine.evaluate(pairs(2))
        mine.train()
        mine.evaluate(pairs(2))
        shown = scalars(tmp_path / "out" / "trackers" / "tensorboard" / "out-dmpo-seed3")
        assert {step for step, _ in shown["eval/rewards/margins"]} == {0, 1}
        assert [path.name for path in tmp_path.iterdir()] == ["out"]  # nothing beside the training's folder

    def test_a_folder_of_the_users_own(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "mine"))
        trainer(tmp_path / "out", max_steps=1).train()
        assert "train/loss" in scalars(tmp_path / "mine")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of packages that are not ours
class TestOthers:
    """The other trackers, where they are installed: two trainings, the first one broken off and resumed."""

    def both(self, tmp_path: Path, tracker: str) -> None:
        if importlib.util.find_spec(tracker) is None:  # an import would settle some of its settings
            pytest.skip(f"{tracker} is not installed; pip install {tracker}")
        first = tmp_path / "training" / "dmpo"
        broken = trainer(first, [StopsAt(3)], report_to=tracker)
        with pytest.raises(KeyboardInterrupt):
            broken.train()
        broken.finish_tracking()
        resumed = trainer(first, report_to=tracker)
        resumed.train(resume_from_checkpoint=True)
        resumed.finish_tracking()
        train_sft(
            policy(),
            trajectories(2),
            SFTConfig(output_dir=str(tmp_path / "training" / "sft"), report_to=tracker, max_steps=1),
        )

    def test_mlflow(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        self.both(tmp_path, "mlflow")
        found = {}
        for method in ("dmpo", "sft"):
            with sqlite3.connect(tmp_path / "training" / method / "trackers" / "mlflow.db") as store:
                found[method] = store.execute("select distinct name from runs").fetchall()
                steps = store.execute("select distinct step from metrics where key = 'loss'").fetchall()
            assert {step for (step,) in steps} == ({1, 2, 3} if method == "dmpo" else {1})
        assert [len(names) for names in found.values()] == [1, 1]
        assert sorted(path.name for path in tmp_path.iterdir()) == ["training"]

    def test_wandb(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        self.both(tmp_path, "wandb")
        for method, count in (("dmpo", 2), ("sft", 1)):
            folder = tmp_path / "training" / method / "trackers"
            run_id = json.loads((folder / "run.json").read_text())["wandb"]
            runs = list((folder / "wandb").glob(f"offline-run-*-{run_id}"))
            assert len(runs) == len(list((folder / "wandb").glob("offline-run-*"))) == count
        assert sorted(path.name for path in tmp_path.iterdir()) == ["training"]

    def test_trackio(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        self.both(tmp_path, "trackio")
        record = json.loads((tmp_path / "training" / "dmpo" / "trackers" / "run.json").read_text())
        (store,) = tmp_path.glob("training/*/trackers/trackio/*.db")
        assert str(store.parent) == record["trackio"]
        storage = importlib.import_module("trackio.sqlite_storage").SQLiteStorage
        names = {
            method: f"{tmp_path.name}-{method}-seed{seed}" for method, seed in (("dmpo", 3), ("sft", 42))
        }
        for method, steps in (("dmpo", [1, 2, 3, 3]), ("sft", [1])):  # step 3 came twice
            logs = storage.get_logs("multiturn", names[method])
            assert [row["train/global_step"] for row in logs if "train/loss" in row] == steps


class Opened:
    """A tracker's package with one run that may be open."""

    def __init__(self, run: object) -> None:
        self.run = run
        self.finished = 0

    def finish(self) -> None:
        self.finished += 1

    def teardown(self) -> None:
        self.run = None


@pytest.mark.parametrize("before", [True, False])
def test_a_run_that_somebody_else_began_is_theirs_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, before: bool
) -> None:
    module = Opened("theirs" if before else None)
    monkeypatch.setitem(sys.modules, "wandb", module)
    args = DMPOConfig(output_dir=str(tmp_path), report_to="none")
    tracking = Tracking(["wandb"], args, method="DMPO")
    tracking.finish()
    tracking.settle([], None)
    module.run = module.run or "ours"
    tracking.finish()
    assert module.finished == (0 if before else 1)


def test_trackers_end_behind_a_failed_training_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[Tracking] = []

    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    def note(self: Tracking) -> None:
        ended.append(self)

    monkeypatch.setattr(Tracking, "finish", note)
    monkeypatch.setattr(DMPOTrainer, "training_step", fail)
    with pytest.raises(ZeroDivisionError):
        train_preference(policy(), pairs(2), DMPOConfig(output_dir=str(tmp_path), report_to="none"))
    assert len(ended) == 1
