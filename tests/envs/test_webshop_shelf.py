"""Products on disk: the same shop as in memory, from files of any size."""

from __future__ import annotations

import io
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import multiturn
from multiturn.envs.webshop import prepare, shelf, world
from multiturn.envs.webshop.disk import build_index
from multiturn.envs.webshop.generator import Catalogue, generate_catalogue
from multiturn.envs.webshop.products import read_products
from multiturn.envs.webshop.shelf import MemoryShelf, StoredShelf, store_products, stream_array
from multiturn.envs.webshop.world import DataFiles
from multiturn.errors import ConfigError, DataError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return generate_catalogue(seed=0, products=200)


@given(st.lists(st.dictionaries(st.text(max_size=3), st.text(max_size=9), max_size=3)), st.integers(1, 9))
def test_an_array_comes_in_pieces(values: list[Any], chunk: int) -> None:
    class Slow(io.StringIO):
        def read(self, _size: int | None = -1) -> str:
            return super().read(chunk)

    for text in (json.dumps(values), json.dumps(values, indent=1, ensure_ascii=False)):
        assert list(stream_array(Slow(f"\ufeff {text}"))) == values


@pytest.mark.parametrize(
    "text", ["", "{}", '[{"a": 1}', '[{"a": 1}, {"b', '[{"a" 1}]', '[{"a": ' + "[" * 100_000]
)
def test_what_is_no_array_is_said(text: str) -> None:
    with pytest.raises(ValueError, match=r"no JSON|nested too deeply"):
        list(stream_array(io.StringIO(text)))


def test_a_damaged_object_does_not_swallow_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf, "_LONGEST", 100)
    monkeypatch.setattr(shelf, "_CHUNK", 50)
    text = io.StringIO('[{"a": "' + "x" * 10_000)
    with pytest.raises(ValueError, match="cut off, or no JSON, before byte"):
        list(stream_array(text))
    assert text.tell() < 500


def test_a_stored_shelf_is_the_one_in_memory(catalogue: Catalogue, tmp_path: Path) -> None:
    said = {"instruction": "i want it.", "instruction_attributes": ["soft"], "instruction_options": ["red"]}
    human = {catalogue.items[3]["asin"]: [said]}
    products = list(read_products(catalogue.items, catalogue.attributes, human))
    assert list(store_products(products, tmp_path / "products.sqlite")) == products
    stored, memory = StoredShelf(tmp_path / "products.sqlite"), MemoryShelf(products)
    assert len(stored) == len(memory) == 200
    assert list(stored) == list(memory)
    assert [stored[asin] for asin in stored] == list(memory.values())
    assert list(stored.pricings()) == list(memory.pricings())
    for is_human in (True, False):
        assert list(stored.asked_for(human=is_human)) == list(memory.asked_for(human=is_human))
    assert [product.asin for product in stored.asked_for(human=True)] == list(human)
    for product in products[::40]:
        assert stored.of_category(product.category) == memory.of_category(product.category)
        assert stored.of_query(product.query) == memory.of_query(product.query)
    assert "nothing" not in stored
    with pytest.raises(KeyError):
        stored["nothing"]


def test_any_folder_will_do(catalogue: Catalogue, tmp_path: Path) -> None:
    folder = tmp_path / "what? #1 100%20"
    folder.mkdir()
    products = list(read_products(catalogue.items, catalogue.attributes, {}))
    assert len(list(store_products(products, folder / "products.sqlite"))) == 200
    assert len(StoredShelf(folder / "products.sqlite")) == 200


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.sqlite").write_bytes(b"no database at all, but long enough to be looked at" * 30)
    with pytest.raises(DataError, match="prepare them again"):
        StoredShelf(tmp_path / "x.sqlite")


class Blanks:
    """Stands in for spaCy."""

    asked = 0

    def __call__(self, title: str) -> tuple[str, ...]:
        Blanks.asked += 1
        return tuple(title.lower().split())


@pytest.fixture
def files(catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The catalogue as data files, an empty cache, and no spaCy."""
    said = {"instruction": "i want it.", "instruction_attributes": ["soft"], "instruction_options": ["red"]}
    human = {item["asin"]: [said] for item in catalogue.items[:20]}
    for name, content in (
        ("items_shuffle.json", catalogue.items),
        ("items_ins_v2.json", catalogue.attributes),
        ("items_human_ins.json", human),
    ):
        (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
    monkeypatch.setenv("MULTITURN_CACHE", str(tmp_path / "cache"))
    for module in (prepare, world):
        monkeypatch.setattr(module, "SpacyNouns", Blanks)
    return tmp_path


def test_data_of_usual_size_gets_a_table_of_nouns(files: Path) -> None:
    findings = prepare.prepare_webshop(files)
    assert all(finding.ok for finding in findings)
    assert any("200 products" in finding.what for finding in findings)
    assert any("nouns of 200 titles" in finding.what for finding in findings)
    asked = Blanks.asked
    assert prepare.prepare_webshop(files) == findings
    env = multiturn.make("webshop", path=str(files))
    step = env.reset("0")
    while not step.terminated:
        expert = env.expert_action()
        assert expert is not None
        step = env.step(expert.action)
    assert step.reward > 0.5
    assert Blanks.asked == asked, "the table knows all titles"


def test_large_data_is_put_on_disk(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_memory = multiturn.make("webshop", path=str(files), human_goals=True)
    for module in (prepare, world):
        monkeypatch.setattr(module, "LARGE", 100)
    with pytest.raises(ConfigError, match="env prepare webshop --path"):
        multiturn.make("webshop", path=str(files), human_goals=True)
    findings = prepare.prepare_webshop(files)
    assert all(finding.ok for finding in findings)
    assert any("search index of 200 products" in finding.what for finding in findings)
    on_disk = multiturn.make("webshop", path=str(files), human_goals=True)
    for task in in_memory.tasks("test"):
        assert on_disk.reset(task.id) == in_memory.reset(task.id)
        for action in ("search[soft red cotton]", "click[next >]", "search[<c> garden]", "click[< prev]"):
            assert on_disk.step(action) == in_memory.step(action)


def test_two_who_prepare_at_once_build_one_index(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (prepare, world):
        monkeypatch.setattr(module, "LARGE", 100)
    built: list[Path] = []
    together = threading.Barrier(2, timeout=60)
    digest = DataFiles.digest

    def counted(documents: Any, folder: Path, **options: Any) -> None:
        built.append(folder)
        build_index(documents, folder, **options)

    def both_begin(own: DataFiles) -> str:
        together.wait()
        return digest(own)

    monkeypatch.setattr(prepare, "build_index", counted)
    monkeypatch.setattr(DataFiles, "digest", both_begin)
    with ThreadPoolExecutor(2) as pool:
        for findings in pool.map(prepare.prepare_webshop, [files, files]):
            assert all(finding.ok for finding in findings)
    assert len(built) == 1
