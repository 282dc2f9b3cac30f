"""Environments by name."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import faulty_environment
import pytest
from faulty_environment import Faulty

import multiturn
from multiturn.envs import Environment, available, make, options_of, register
from multiturn.envs.registry import ENTRY_POINT_GROUP, Option, check_options, find, unregister
from multiturn.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Plain(Faulty):
    """A plain one.

    More about it, which no list shows.

    Args:
        seed: Another seed, other games; this goes on
            in a second line.
        names (list): Their names.
    """

    isolate = True

    def __init__(self, seed: int, *, names: tuple[str, ...] = ("a",), **rest: object) -> None:
        super().__init__()
        self.seed = seed


@pytest.fixture
def registered() -> Iterator[str]:
    register("plain", Plain)
    yield "plain"
    unregister("plain")


def test_what_ships_is_listed_without_being_imported() -> None:
    code = (
        "import multiturn.envs, sys; print(sorted(multiturn.envs.available()));"
        "heavy = {'torch', 'numpy', 'scienceworld', 'py4j', 'multiturn.envs.alfred'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)  # noqa: S603 - ours
    assert done.returncode == 0, done.stderr
    assert "['alfworld', 'household', 'scienceworld', 'webshop', 'webshop-generated']" in done.stdout
    assert all(available().values()), "every environment has a summary"


def test_make_is_at_the_top_of_the_package() -> None:
    env = multiturn.make("household", size="tiny")
    assert isinstance(env, Environment)
    assert env.name == "household"
    env.close()
    with pytest.raises(AttributeError, match="no attribute 'mak'"):
        _ = multiturn.mak


def test_a_registered_factory(registered: str) -> None:
    env = make(registered, seed=3, anything="goes")
    assert isinstance(env, Plain)
    assert env.seed == 3
    assert available()[registered] == "A plain one."
    assert find(registered).isolated(), "its attribute says so"
    assert find(registered).importable() == "test_registry:Plain"


def test_a_module_and_a_factory() -> None:
    assert isinstance(make("faulty_environment:Faulty"), Faulty)
    assert not find("faulty_environment:Faulty").isolated()


def test_only_what_ships_is_isolated_by_its_entry() -> None:
    assert find("scienceworld").isolated()
    assert not find("household").isolated()


def test_options_are_read_from_signature_and_docstring(registered: str) -> None:
    assert options_of(registered) == [
        Option(
            name="seed",
            type="int",
            default=None,
            summary="Another seed, other games; this goes on in a second line.",
        ),
        Option(name="names", type="tuple[str, ...]", default="('a',)", summary="Their names."),
    ]


@pytest.mark.parametrize("name", ["household", "alfworld", "scienceworld"])
def test_every_option_that_ships_is_documented(name: str) -> None:
    options = options_of(name)
    assert options
    assert all(option.summary and option.type and option.default is not None for option in options)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("houshold", {}, r"no environment 'houshold' \(did you mean 'household'\?\); there are alfworld"),
        ("xyzzy", {}, r"no environment 'xyzzy'; there are"),
        ("household", {"sise": "tiny"}, r"no option 'sise' \(did you mean 'size'\?\); it has"),
        ("plain", {}, "needs the option 'seed'"),
        ("faulty_environment:Faulti", {}, "has no factory 'Faulti'"),
        ("faulty_environment:not_callable", {}, "has no factory 'not_callable'"),
        ("faulty_environment:", {}, "has no factory ''"),
        (":Faulty", {}, "does not name a module"),
        (".faulty_environment:Faulty", {}, "write 'module:factory'"),
        ("no_such_module.at_all:Env", {}, "needs the module 'no_such_module', which is not installed"),
    ],
)
def test_mistakes_are_named(registered: str, name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(name, **options)
    with pytest.raises(ConfigError, match=message):
        check_options(name, options)


def test_an_option_may_be_called_name() -> None:
    register("named", lambda *, name="": Plain(0, names=(name,)))
    try:
        assert isinstance(make("named", name="Ann"), Plain)
    finally:
        unregister("named")


def test_what_an_environment_raises_itself_is_not_hidden() -> None:
    with pytest.raises(MissingExtraError):
        make("faulty_environment:Faulty", fail="missing")


def test_a_module_that_lacks_a_module_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "half_installed.py").write_text("import no_such_engine\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_engine"):
        make("half_installed:Env")


@pytest.mark.parametrize("name", ["", "a:b", "-x", "a b"])
def test_names_that_cannot_be_registered(name: str) -> None:
    with pytest.raises(ConfigError, match="not a name for an environment"):
        register(name, Faulty)


def test_what_ships_cannot_be_replaced() -> None:
    with pytest.raises(ConfigError, match="ships with multiturn"):
        register("alfworld", Faulty)


def test_an_installed_package_announces_its_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "their_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n", encoding="utf-8"
    )
    points = (
        f"[{ENTRY_POINT_GROUP}]\n"
        "theirs = faulty_environment:Faulty\n"
        "household = faulty_environment:Faulty\n"
        "broken = no_such_module:Env\n"
    )
    (info / "entry_points.txt").write_text(points, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    assert available()["theirs"] == "from the package their-package"
    assert isinstance(make("theirs"), faulty_environment.Faulty)
    assert find("theirs").importable() == "faulty_environment:Faulty"
    assert not isinstance(make("household"), Faulty), "what ships goes first"
    with pytest.raises(ConfigError, match="no_such_module"):
        make("broken")
