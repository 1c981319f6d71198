"""The command line on registries: what it prints, how it exits, and that looking is harmless."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import holdfast
from holdfast import ModelArtifact, SchemaFingerprint
from holdfast.cli_base import EXIT_ERROR
from tests.engine.cli_runner import Cli, snapshot
from tests.formats.zsm_samples import DATA, expected, read_file

FIELDS = [("a", "Name"), ("b\x1b[31m", "Id")]


def model(tag: str, *extra: str) -> ModelArtifact:
    """A small model."""
    fields = [*FIELDS, *((name, "Date") for name in extra)]
    records = [{"a": "x", "b\x1b[31m": 1}, {"a": "y"}]
    fingerprint = SchemaFingerprint.from_sample(fields, records, created_at=5)
    rows = [[0.5, 0.5]] * len(fields)
    return ModelArtifact(fingerprint, rows, rows, -1.0, 0.9, 0.1, tag, trained_on=1_750_000_000)


MODELS = [model("first"), model("second", "c"), model("\x1b third", "c", "d")]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """The file of a closed registry of three models; the generation before has two of them."""
    with holdfast.open(tmp_path) as engine:
        registry = engine.registry("models")
        registry.save_many(MODELS[:2])
        registry.save(MODELS[2])
    return tmp_path / "models.zsm"


def _told(name: str) -> list[dict[str, Any]]:
    """What an independent reader says of a golden file, as inspect is to print it."""
    wanted = []
    for key, found in sorted(read_file((DATA / name).read_bytes())[0].items()):
        row = {
            "schema_hash": found["schema_hash"],
            "tag": found["tag"],
            "trained_on": found["trained_on"],
            "em_iterations": found["em_iterations"],
            "record_count": found["record_count"],
            "created_at": found["created_at"],
            "fields": found["fields"],
            "m": found["m"],
            "u": found["u"],
            "log_prior_odds": found["log_prior_odds"],
            "upper_threshold": found["upper_threshold"],
            "lower_threshold": found["lower_threshold"],
        }
        wanted.append(row if key == found["schema_hash"] else {"key": key} | row)
    return wanted


@pytest.mark.parametrize("name", [name for name, case in expected()["files"].items() if case["ok"]])
def test_inspect_prints_the_promised_object(cli: Cli, name: str) -> None:
    """Every artifact of the original's files, sorted by key, its floats to the bit."""
    result = cli("inspect", DATA / name, "--json", "--rows")
    assert (result.code, result.err) == (0, "")
    found = result.json
    assert (found["format"], found["verdict"], found["checked"]) == ("zsm", "clean", False)
    wanted = [] if "count-0" in name else _told(name)
    assert found["artifacts"] == wanted
    assert found["count"] == len(wanted)
    assert list(found)[:2] == ["format", "count"]


@pytest.mark.parametrize("name", [name for name, case in expected()["files"].items()
                                  if not case["ok"]])  # fmt: skip
def test_refused_files_are_judged(cli: Cli, name: str) -> None:
    """Damaged or not ours, with a reason and an offset, and nothing is written."""
    before = snapshot(DATA)
    foreign = "invalid .zsm magic" in expected()["files"][name]["message"]
    result = cli("verify", DATA / name, "--json")
    assert result.code == (3 if foreign else 2)
    assert result.json["reason"]
    assert result.json["format"] == "zsm"
    assert isinstance(result.json["offset"], int)
    assert cli("inspect", DATA / name, "--rows").code == (3 if foreign else 0)
    assert snapshot(DATA) == before


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("odd-key-differs-from-hash.zsm", "holds a model for 1b42"),
        ("odd-duplicate-key.zsm", "1 entries have a key that comes again"),
        ("odd-trailing-junk.zsm", "4 bytes behind the entries"),
        ("odd-map-count-0-with-body.zsm", "3089 bytes behind the entries"),
        ("reg-special.zsm", "m has 0 rows, and the schema has 7 fields"),
    ],
)
def test_oddities_are_told(cli: Cli, name: str, text: str) -> None:
    """What opening accepts but a reader should know of is told; the verdict stays clean."""
    result = cli("verify", DATA / name)
    assert result.code == 0
    assert text in result.out


def test_values_that_cannot_be_true_are_told(cli: Cli, tmp_path: Path) -> None:
    """A file of the original with thresholds the wrong way round opens, and ``verify`` says so."""
    data = (DATA / "reg-1-schema-none.zsm").read_bytes()
    path = tmp_path / "m.zsm"
    path.write_bytes(data)
    (found,) = cli("inspect", path, "--json", "--rows").json["artifacts"]
    upper, lower = (
        bytes.fromhex(found[name])[::-1] for name in ("upper_threshold", "lower_threshold")
    )
    assert data.count(upper + lower) == 1
    path.write_bytes(data.replace(upper + lower, lower + upper))
    assert "is below lower_threshold" in cli("verify", path).out
    assert cli("verify", path).code == 0
    with holdfast.open(tmp_path) as engine:
        (kept,) = engine.registry("m").list_all()
        assert kept.upper_threshold < kept.lower_threshold
        with pytest.raises(holdfast.InvalidArgument, match="is below lower_threshold"):
            engine.registry("m").save(kept)


def test_ambiguous_names_are_told(cli: Cli, tmp_path: Path) -> None:
    """A field name with a separator in it is flagged."""
    fingerprint = SchemaFingerprint.from_schema([("a|b", "Id")], ambiguous_names="accept")
    with holdfast.open(tmp_path) as engine:
        engine.registry("m").save(
            ModelArtifact(fingerprint, [[1.0]], [[0.5]], 0, 1, 0, trained_on=1)
        )
    result = cli("verify", tmp_path / "m.zsm", "--json")
    assert result.code == 0
    assert any("'a|b' makes the hash ambiguous" in text for text in result.json["problems"])


def test_text_is_escaped(cli: Cli, store: Path) -> None:
    """No name or tag moves the reader's cursor."""
    result = cli("inspect", store, "--rows")
    assert result.code == 0
    assert "\x1b" not in result.out
    assert "first" in result.out
    assert "2025-06-15T15:06:40+00:00" in result.out
    assert "checked" in result.out


def test_looking_is_harmless(cli: Cli, store: Path) -> None:
    """Neither command changes anything, also beside a running engine."""
    before = snapshot(store.parent)
    assert cli("verify", store).code == 0
    assert cli("inspect", store, "--rows", "--json").json["count"] == 3
    assert snapshot(store.parent) == before
    with holdfast.open(store.parent) as engine:
        engine.registry("models").save(MODELS[0])
        assert cli("verify", store).code == 0
        (found,) = cli("stat", store.parent, "--json").json["stores"]
        assert (found["kind"], found["artifacts"], found["state"]) == ("registry", 3, "running")
    (found,) = cli("stat", store.parent, "--json").json["stores"]
    assert (found["artifacts"], found["verdict"], found["state"]) == (3, "clean", "closed")
    assert " 3 " in cli("stat", store.parent).out


def test_an_unsynced_file_that_was_lost(cli: Cli, tmp_path: Path) -> None:
    """What opening would repair is torn, and verify says so before and after."""
    with holdfast.open(tmp_path) as engine:
        engine.registry("m").save(MODELS[0])
    path = tmp_path / "m.zsm"
    shutil.copy(path, tmp_path / "m.zsm.previous")
    (tmp_path / "m.zsm.unsynced").write_bytes(b"another boot....")
    path.write_bytes(bytes(300))
    result = cli("verify", path, "--json")
    assert (result.code, result.json["verdict"]) == (1, "torn")
    with holdfast.open(tmp_path) as engine:
        registry = engine.registry("m")
        assert registry.list_all() == MODELS[:1]
        assert registry.status().fell_back
    assert cli("verify", path).code == 0
    assert (tmp_path / "m.zsm.cut1").exists() is False, "zeros tell nothing"


class TestRepair:
    """What is intact of a damaged registry, in a file of its own."""

    def _damage(self, store: Path) -> str:
        """Damage one model that the previous generation has, too; its hash."""
        data = bytearray(store.read_bytes())
        victim = min(MODELS[:2], key=lambda m: m.schema_hash)
        data[data.index(victim.schema_hash) + 70] ^= 1
        store.write_bytes(data)
        return victim.schema_hash.hex()

    def test_intact_models_are_kept(self, cli: Cli, store: Path) -> None:
        """Of three models the two that are whole, and a hint at the previous generation."""
        lost = self._damage(store)
        assert cli("verify", store).code == 2
        result = cli("repair", store, "--json")
        assert result.code == 0
        assert (result.json["rows"], result.json["salvaged_rows"]) == (2, 0)
        (flaw,) = result.json["lost"]
        assert flaw["rows"] == 1
        assert "--salvage" in result.json["notes"][0]
        repaired = cli("inspect", f"{store}.repaired", "--json", "--rows").json
        assert (repaired["verdict"], repaired["checked"]) == ("clean", True)
        hashes = {row["schema_hash"] for row in repaired["artifacts"]}
        assert hashes == {m.schema_hash.hex() for m in MODELS} - {lost}

    def test_salvage_takes_what_the_previous_generation_has(self, cli: Cli, store: Path) -> None:
        """With the previous generation's model nothing is missing; it opens in place."""
        self._damage(store)
        damaged = store.read_bytes()
        result = cli("repair", store, "--salvage", "--in-place", "--json")
        assert (result.json["rows"], result.json["salvaged_rows"]) == (3, 1)
        assert Path(f"{store}.damaged").read_bytes() == damaged
        with holdfast.open(store.parent) as engine:
            found = engine.registry("models").list_all()
        assert found == sorted(MODELS, key=lambda m: m.schema_hash)

    def test_a_cut_file_without_checksums(self, cli: Cli, tmp_path: Path) -> None:
        """What the original wrote is had up to the damage."""
        path = tmp_path / "r.zsm"
        path.write_bytes((DATA / "reg-5.zsm").read_bytes()[:-100])
        result = cli("repair", path, "--json")
        assert result.json["rows"] == 4
        assert result.json["lost"][0]["rows"] == 1
        assert cli("verify", f"{path}.repaired").code == 0

    def test_models_whose_checksums_are_lost(self, cli: Cli, store: Path) -> None:
        """They are kept, and it is said that they may be damaged too."""
        data = store.read_bytes()
        lost = data.index(b"HFZCHK")
        store.write_bytes(data[:lost] + bytes(len(data) - lost))
        result = cli("verify", store, "--json")
        assert (result.code, result.json["offset"]) == (2, lost)
        result = cli("repair", store, "--json")
        assert result.json["rows"] == 3
        assert "vouch" in result.json["notes"][0]

    def test_an_open_registry_is_not_replaced(self, cli: Cli, store: Path) -> None:
        """While an engine has it open, it cannot be repaired in place."""
        with holdfast.open(store.parent) as engine:
            engine.registry("models").status()
            result = cli("repair", store, "--in-place", "--json")
            assert (result.code, result.json["error"]["type"]) == (EXIT_ERROR, "StoreLocked")

    def test_not_ours(self, cli: Cli, tmp_path: Path) -> None:
        """There is nothing to start from in a foreign file."""
        path = tmp_path / "x.zsm"
        path.write_bytes(b"something else")
        result = cli("repair", path, "--json")
        assert (result.code, result.json["error"]["type"]) == (EXIT_ERROR, "InvalidFormat")


@pytest.mark.parametrize("command", ["compact", "export"])
def test_commands_for_other_stores(cli: Cli, store: Path, command: str, tmp_path: Path) -> None:
    """A registry has nothing to compact, and its file is its export: refused by its kind."""
    more = [tmp_path / "out"] if command == "export" else []
    result = cli(command, store.parent, "models", *more, "--json")
    assert (result.code, result.json["error"]["type"]) == (EXIT_ERROR, "WrongKind")
    assert json.loads(result.out)["error"]["message"].count("registry")
