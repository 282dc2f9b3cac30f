"""The configuration of a run: what a YAML file may say, and what every key means.

Unknown keys are errors that suggest the nearest known one. `load_config` merges a file with ``--set a.b=c``
overrides; everything below `Config` is plain validated data.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from multiturn.pipeline.methods import (
    KIND,
    PREFERENCE,
    REFERENCE,
    RFT,
    SFT,
    BestOfNSettings,
    MethodRound,
    RftSettings,
    by_name,
    kind_of,
)
from multiturn.pipeline.section import Count, Fraction, Positive, Section
from multiturn.pipeline.train_settings import PreferenceSettings, SftSettings
from multiturn.precision import Precision, default_precision

__all__ = [
    "NAME_PATTERN",
    "REFERENCE",
    "SFT",
    "Config",
    "DecodingSettings",
    "EnvironmentSettings",
    "EvaluateSettings",
    "ExpertSettings",
    "ExploreSettings",
    "PairsSettings",
    "PromptSettings",
]

NAME_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""Names of runs and methods become names of files and folders."""


def _settled(value: object) -> object:
    return default_precision() if value == "auto" else value


class EnvironmentSettings(Section):
    """Where the agent acts.

    Attributes:
        name: A registered environment, or ``module:factory``.
        options: Passed to the environment's factory; ``multiturn env list NAME`` shows them.
        train_split: The split for expert trajectories and exploration.
        test_splits: The held-out splits that are evaluated, each on its own.
        max_turns: Ends an episode after so many turns; null takes the environment's own limit.
        workers: How many environments run side by side; null takes one for each decoding slot, and
            for the expert one for each core. Each ScienceWorld is a Java process of about 600 MB.
        deadline: Seconds after which a call to an isolated environment counts as hung.
        ray: Where the environments run: null is this machine; ``auto`` or an address the machines of a Ray
            cluster; ``local`` a Ray that is started here, to try it.
    """

    name: str
    options: dict[str, Any] = Field(default_factory=dict)
    train_split: str = "train"
    test_splits: tuple[str, ...] = ("test",)
    max_turns: Count | None = None
    workers: Count | None = None
    deadline: Positive = 60.0
    ray: str | None = None


class PromptSettings(Section):
    """How conversations are put to the model.

    Attributes:
        chat_template: ``model`` (the tokenizer's own), ``compact`` (few markup tokens), a variant such as
            ``qwen3-training`` (``docs/templates.md``), or a Jinja file.
        format: ``react`` (Thought and Action) or ``action`` (the bare action).
        instructions: ``environment`` (what the environment tells agents), ``protocol`` (what the DMPO paper's
            agents are told on the benchmark, in our words, with an example), ``none``, or a text of your own.
        instructions_role: ``system``, or ``user`` for chat templates that know no system message: they are
            then the beginning of the first user message.
    """

    chat_template: str = "model"
    format: Literal["react", "action"] = "react"
    instructions: str = "environment"
    instructions_role: Literal["system", "user"] = "system"


class ExpertSettings(Section):
    """Expert trajectories.

    Attributes:
        tasks: How many training tasks the expert plays; null takes the whole split.
        min_reward: Trajectories below this return are not used as demonstrations.
    """

    tasks: Count | None = None
    min_reward: Fraction = 1.0


class DecodingSettings(Section):
    """How a local model answers.

    Attributes:
        slots: Conversations decoded side by side.
        max_new_tokens: Tokens in one turn at most.
        max_context: Tokens in a conversation at most; null takes the model's own limit.
    """

    slots: Count = 16
    max_new_tokens: Count = 64
    max_context: Count | None = None


class ExploreSettings(DecodingSettings):
    """Exploration of training tasks by the SFT policy.

    Attributes:
        tasks: How many of the tasks that the expert solved to explore; null takes all, as does more than
            there are.
        skip: How many of them to leave out at the front, for example those that SFT has seen.
        samples: Rollouts for each task.
        temperature: The sampling temperature; 0 is greedy.
        top_p: Nucleus sampling.
    """

    tasks: Count | None = None
    skip: Annotated[int, Field(ge=0)] = 0
    samples: Count = 1
    temperature: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 1.0
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0


class PairsSettings(Section):
    """Preference pairs.

    Attributes:
        strategy: ``expert-vs-rollout``, or one that pairs the trajectories of a task among themselves, the
            expert's with them: ``best-vs-worst``, ``all-above-margin``, ``length-matched`` or
            ``first-divergence``.
        shared_turns: ``score`` keeps whole trajectories; ``context`` moves the turns that both sides share
            into the prompt, where nothing is scored.
        min_gap: The least difference of returns within a pair.
        max_pairs_per_task: More pairs of one task than this are dropped; null keeps all.
        noise: ``keep`` or ``drop`` dispreferred trajectories with repeated actions or meaningless text.
    """

    strategy: Literal[
        "expert-vs-rollout", "best-vs-worst", "all-above-margin", "length-matched", "first-divergence"
    ] = "expert-vs-rollout"
    shared_turns: Literal["score", "context"] = "score"
    min_gap: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 0.0
    max_pairs_per_task: Count | None = None
    noise: Literal["keep", "drop"] = "keep"


class EvaluateSettings(DecodingSettings):
    """Evaluation on held-out tasks, greedy.

    Attributes:
        tasks: How many tasks of each test split; null takes all.
    """

    tasks: Count | None = None


class Config(Section):
    """A whole run.

    Attributes:
        name: What the run is called in reports.
        output: The run's directory; null takes ``runs/<name>-seed<seed>``.
        seed: Seeds data order, sampling and training. The tasks themselves depend on the environment's own
            options only.
        model: ``smollm2-135m-instruct``, a path, a hub id, or ``{scratch: {...}}`` for tests.
        precision: ``bf16`` (autocast; weights stay float32), ``fp32``, or ``auto``, the faster one of the two
            on this machine; what that is is written down with the run.
        environment: Where the agent acts.
        prompt: How conversations are put to the model.
        expert: Expert trajectories.
        sft: Supervised fine-tuning.
        explore: Exploration by the SFT policy.
        pairs: Preference pairs.
        preference: Preference training, common to all methods.
        methods: The methods compared. A mapping by name says what differs from ``preference`` for each; with
            ``kind: rft`` what differs from ``sft``, and with ``kind: best_of_n`` the samples. A method called
            ``rft`` or ``best_of_n`` is of that kind. A list like ``[best_of_n, rft, dpo, dmpo]`` takes known
            methods as they are.
        rounds: How often the methods that are trained on pairs are trained: from the second round on, each
            explores with its own policy, and trains it on against itself as the reference.
        evaluate: Evaluation.
    """

    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    output: str | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    model: str | dict[str, Any] = "smollm2-135m-instruct"
    precision: Annotated[Precision, BeforeValidator(_settled)] = Field(default_factory=default_precision)
    environment: EnvironmentSettings
    prompt: PromptSettings = PromptSettings()
    expert: ExpertSettings = ExpertSettings()
    sft: SftSettings = SftSettings()
    explore: ExploreSettings = ExploreSettings()
    pairs: PairsSettings = PairsSettings()
    preference: PreferenceSettings = PreferenceSettings()
    methods: Annotated[dict[str, dict[str, Any]], BeforeValidator(by_name)] = Field(
        default_factory=lambda: {"dmpo": {"objective": "dmpo"}, "dpo": {"objective": "dpo"}}, min_length=1
    )
    rounds: Count = 1
    evaluate: EvaluateSettings = EvaluateSettings()

    @model_validator(mode="after")
    def _enough_expert_tasks(self) -> Self:
        """Found out here: after the expert or SFT has run, its folder takes no other configuration."""
        tasks = self.expert.tasks
        if tasks is not None and self.sft.tasks is not None and self.sft.tasks > tasks:
            raise ValueError(f"sft.tasks {self.sft.tasks} is more than expert.tasks {tasks}; raise that")
        if tasks is not None and self.explore.skip >= tasks:
            raise ValueError(
                f"explore.skip {self.explore.skip} leaves none of the {tasks} tasks of expert.tasks; lower it"
            )
        return self

    def kind(self, name: str) -> str:
        """What a method is: one of `multiturn.pipeline.methods.KINDS`, or whatever else somebody wrote."""
        return kind_of(name, self.methods[name])

    def of_kind(self, kind: str) -> list[str]:
        """The methods of a kind, in their order."""
        return [name for name in self.methods if self.kind(name) == kind]

    def method(self, name: str) -> PreferenceSettings:
        """The full settings of a method that is trained on pairs: ``preference`` with its own overrides.

        Raises:
            pydantic.ValidationError: An override is unknown or unusable; `load_config` reports it.
        """
        return PreferenceSettings.model_validate(self.preference.model_dump() | self._own(name))

    def rft(self, name: str) -> RftSettings:
        """The full settings of a rejection fine-tuning: ``sft`` with its own overrides.

        Raises:
            pydantic.ValidationError: An override is unknown or unusable; `load_config` reports it.
        """
        return RftSettings.model_validate(self.sft.model_dump() | self._own(name))

    def best_of_n(self, name: str) -> BestOfNSettings:
        """The settings of a best of several samples.

        Raises:
            pydantic.ValidationError: One is unknown or unusable; `load_config` reports it.
        """
        return BestOfNSettings.model_validate(self._own(name))

    def trainings(self) -> list[PreferenceSettings | RftSettings]:
        """The full settings of every method that trains."""
        return [*map(self.method, self.of_kind(PREFERENCE)), *map(self.rft, self.of_kind(RFT))]

    def method_rounds(self) -> list[MethodRound]:
        """The policies evaluated beside SFT's: every method, each followed by its later rounds."""
        return [
            MethodRound(name, number)
            for name in self.methods
            for number in range(1, self.rounds + 1 if self.kind(name) == PREFERENCE else 2)
        ]

    def _own(self, name: str) -> dict[str, Any]:
        """What the configuration says of a method, apart from what it is."""
        return {key: value for key, value in self.methods[name].items() if key != KIND}
