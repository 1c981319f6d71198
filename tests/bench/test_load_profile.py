"""Profiles of load tests: what is shipped, what is refused and in what words."""

from pathlib import Path

import pytest

from holdfast.bench.load import profile as profiles
from holdfast.bench.load.profile import OPERATIONS, Profile
from holdfast.bench.load.work import Client, work_of
from holdfast.formats.errors import InvalidArgument

_FOLD = '[[stores]]\nkind = "fold"\noperations = { get = 1 }\n'


def parsed(text: str) -> Profile:
    """A profile from a file's text."""
    return profiles.parse(text.encode(), "mine.toml")


def test_every_shipped_profile_loads() -> None:
    """The five shipped profiles load by name, say what they stand for, and have work for each of
    their operations."""
    assert profiles.shipped() == ["agent-memory", "config-edge", "mixed", "rag", "telemetry"]
    for name in profiles.shipped():
        profile = profiles.load(name)
        assert profile.name == name
        assert profile.description
        for store in profile.stores:
            assert set(store.operations) <= OPERATIONS[store.kind]
    assert {store.kind for store in profiles.load("mixed").stores} == set(OPERATIONS)


def test_every_operation_that_a_profile_may_name_has_work() -> None:
    """What profiles may name as operations of a kind is what its work has, no more and no less."""
    import numpy as np

    for kind, names in OPERATIONS.items():
        text = "\n".join(["[[stores]]", f'kind = "{kind}"', "operations = {"])
        weights = ", ".join(f"{name} = 1" for name in sorted(names))
        (load,) = parsed(text + weights + "}").stores
        work = work_of(kind)
        made = work(load, work.knowledge(load, [0], 1), Client(0, 1), np.random.default_rng(0))
        assert set(made.operations()) == names


def test_a_file_of_ones_own_is_a_profile(tmp_path: Path) -> None:
    """A path that ends in .toml is read, and the profile is called as the file is."""
    path = tmp_path / "my mix.toml"
    path.write_text('rate = 7\ndurability = "never"\n' + _FOLD)
    profile = profiles.load(str(path))
    assert (profile.name, profile.rate, profile.durability) == ("my mix", 7.0, "never")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ["stores"]),
        ("x = [", ["Invalid value"]),
        ("stores = 3", ["stores", "3"]),
        ("stores = []", ["stores", "1"]),
        ("rate = -1\n" + _FOLD, ["rate", "-1", "> 0"]),
        ("rate = inf\n" + _FOLD, ["rate", "inf", "<= 1000000"]),
        ("speed = 3\n" + _FOLD, ["speed", "unknown"]),
        ('durability = "maybe"\n' + _FOLD, ["durability", "maybe", "always, interval, never"]),
        ("[[stores]]\noperations = { get = 1 }", ["kind", "stores[0]"]),
        ('[[stores]]\nkind = "tree"\noperations = {}', ["kind", "'tree'", "fold, vectors"]),
        ('[[stores]]\nkind = "fold"', ["operations", "stores[0]"]),
        (_FOLD + "keys = 0", ["keys", ">= 1", "which is 0"]),
        (_FOLD + "keys = 10_000_001", ["keys", "<= 10000000", "10000001"]),
        (_FOLD + 'keys = "many"', ["keys", "int", "'many'"]),
        (_FOLD + "keys = true", ["keys", "int", "bool"]),
        (_FOLD + "batch = 1.5", ["batch", "int", "1.5"]),
        (_FOLD + "batch = 17\nkeys = 16", ["batch 17", "16 keys"]),
        (_FOLD + "exponent = nan", ["exponent", "> 0", "nan"]),
        (_FOLD + "share = 0", ["share", "> 0", "which is 0"]),
        (_FOLD + 'distribution = "normal"', ["distribution", "'normal'", "uniform, zipfian"]),
        (_FOLD + "value_bytes = 8", ["value_bytes", ">= 16", "8"]),
        (_FOLD + "dimension = 8", ["dimension", "stores[0]"]),
        (_FOLD + _FOLD, ["stores[0] (fold)", "more than one"]),
        (_FOLD.replace("get", "fly"), ["'fly'", "apply, delete, get, get_many, prefix"]),
        (_FOLD.replace("1", "-1"), ["weight of 'get'", "-1", "between 0 and 1e+06"]),
        (_FOLD.replace("1", "nan"), ["weight of 'get'", "nan"]),
        (_FOLD.replace("1", '"x"'), ["operations", "str"]),
        (_FOLD.replace("get = 1", ""), ["no operation has a weight above 0"]),
        (_FOLD.replace("1", "0"), ["no operation has a weight above 0"]),
    ],
)
def test_what_is_wrong_with_a_profile_is_named(text: str, said: list[str]) -> None:
    """A profile that is refused is refused with the file, the key, the value and the limit."""
    with pytest.raises(InvalidArgument) as caught:
        parsed(text)
    assert "'mine.toml'" in str(caught.value)
    for words in said:
        assert words in str(caught.value)


def test_a_file_that_is_no_text_is_refused() -> None:
    """Bytes that are not UTF-8 are refused as a profile, by name."""
    with pytest.raises(InvalidArgument, match=r"mine\.toml"):
        profiles.parse(b"\xff\xfe", "mine.toml")


def test_a_profile_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """An unknown name is answered with those there are, a missing file with the system's words."""
    with pytest.raises(InvalidArgument, match=r"'warp'.*agent-memory.*telemetry"):
        profiles.load("warp")
    with pytest.raises(InvalidArgument, match="No such file"):
        profiles.load(str(tmp_path / "none.toml"))


def test_a_profile_is_cut_to_some_stores() -> None:
    """Of a profile's stores those of the kinds asked for are left, and there has to be one."""
    mixed = profiles.load("mixed")
    assert [store.kind for store in profiles.only(mixed, ("warm", "fold")).stores] == [
        "fold",
        "warm",
    ]
    with pytest.raises(InvalidArgument, match="stores of warm only"):
        profiles.only(profiles.load("telemetry"), ("fold",))
