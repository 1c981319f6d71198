"""Profiles of load tests: what is shipped, what is refused and in what words."""

import json
import re
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.bench.load import profile as profiles
from holdfast.bench.load.profile import OPERATIONS, AnyLoad, Profile
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


_FOLD_IS = "stores[0] (fold): "
_WEIGHT = "is not a number from 0 to 1,000,000"
_NONE_ABOVE_0 = "none has a weight above 0"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "stores is missing: a list of one table or more, each begun with [[stores]]"),
        ("x = [", "Invalid value (at end of document)"),
        ("stores = 3", "stores = 3 is not a list of one table or more, each begun with [[stores]]"),
        ("stores = []", "stores = [] is not a list of one table or more"),
        ("stores = [3]", "stores[0] = 3 is not a table"),
        (_FOLD.replace("[[stores]]", "[stores]"), "'get': 1}} is not a list of one table or more"),
        ("rate = -1\n" + _FOLD, "rate = -1 is not a number above 0 and at most 1,000,000"),
        ("rate = inf\n" + _FOLD, "rate = inf is not a number above 0 and at most 1,000,000"),
        ("speed = 3\n" + _FOLD,
         "speed = 3: there is no such key; there are description, durability, rate, stores"),
        ('name = "x"\n' + _FOLD, "name = 'x': there is no such key"),
        ("description = 1\n" + _FOLD, "description = 1 is not text"),
        ('durability = "maybe"\n' + _FOLD,
         "durability = 'maybe' is not one of always, interval, never"),
        ("[[stores]]\noperations = { get = 1 }",
         "stores[0]: kind is missing: one of fold, vectors, warm, index, registry"),
        ('[[stores]]\nkind = "tree"\noperations = {}', "stores[0]: kind = 'tree' is not one of"),
        ("[[stores]]\nkind = []\noperations = {}", "stores[0]: kind = [] is not one of fold"),
        ('[[stores]]\nkind = "fold"',
         _FOLD_IS + "operations is missing: a table of names, each with a number from 0 to"),
        (_FOLD + "keys = 0", _FOLD_IS + "keys = 0 is not a whole number from 1 to 10,000,000"),
        (_FOLD + "keys = 10_000_001", _FOLD_IS + "keys = 10000001 is not a whole number from 1 to"),
        (_FOLD + 'keys = "many"', _FOLD_IS + "keys = 'many' is not a whole number from 1 to"),
        (_FOLD + "keys = true", _FOLD_IS + "keys = true is not a whole number"),
        (_FOLD + f"keys = 0x1{'0' * 5000}", "keys = a number of thousands of digits is not"),
        (_FOLD + f"keys = 1{'0' * 5000}", "4300"),
        (_FOLD + f"keys = {'[' * 5000}", "recursion"),
        (_FOLD + f"keys = '{'x' * 500}'", f"keys = '{'x' * 59}... is not a whole number"),
        (_FOLD + "batch = 1.5", _FOLD_IS + "batch = 1.5 is not a whole number from 1 to 100,000"),
        (_FOLD + "batch = 17\nkeys = 16", _FOLD_IS + "batch = 17 is over its 16 keys"),
        (_FOLD + "exponent = nan", _FOLD_IS + "exponent = nan is not a number above 0 and below"),
        (_FOLD + "exponent = 10", "exponent = 10 is not a number above 0 and below 10"),
        (_FOLD + "share = 0", _FOLD_IS + "share = 0 is not a number above 0 and at most 1,000,000"),
        (_FOLD + 'distribution = "normal"',
         _FOLD_IS + "distribution = 'normal' is not one of uniform, zipfian"),
        (_FOLD + "value_bytes = 8", _FOLD_IS + "value_bytes = 8 is not a whole number from 16 to"),
        (_FOLD + "dimension = 8", _FOLD_IS + "dimension = 8: there is no such key; there are"),
        (_FOLD + _FOLD, _FOLD_IS + "there is more than one of that kind"),
        ("rate = 5\n" + _FOLD + _FOLD.replace("fold", "warm") + "keys = 0",
         "stores[1] (warm): keys = 0 is not"),
        (_FOLD.replace("get", "fly"), _FOLD_IS + "operations.fly = 1: there is no such operation; "
         "there are apply, delete, get, get_many, prefix"),
        (_FOLD.replace("1", "-1"), _FOLD_IS + f"operations.get = -1 {_WEIGHT}"),
        (_FOLD.replace("1", "nan"), _FOLD_IS + f"operations.get = nan {_WEIGHT}"),
        (_FOLD.replace("1", '"x"'), _FOLD_IS + f"operations.get = 'x' {_WEIGHT}"),
        (_FOLD.replace("1", "true"), _FOLD_IS + f"operations.get = true {_WEIGHT}"),
        (_FOLD.replace("1", "1979-05-27"), f"= datetime.date(1979, 5, 27) {_WEIGHT}"),
        (_FOLD.replace("{ get = 1 }", "['get']"),
         _FOLD_IS + "operations = ['get'] is not a table of names, each with a number from 0 to"),
        (_FOLD.replace("get = 1", ""), _FOLD_IS + "operations = {}: " + _NONE_ABOVE_0),
        (_FOLD.replace("1", "0"), _FOLD_IS + "operations = {'get': 0.0}: " + _NONE_ABOVE_0),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_profile_is_named(text: str, said: str) -> None:
    """A profile that is refused is refused with the file, the store, the key or operation, the
    value and what may be there."""
    with pytest.raises(InvalidArgument) as refused:
        parsed(text)
    message = str(refused.value)
    assert message.startswith("profile 'mine.toml': ")
    assert said in message


_KEYS = sorted({field for kind in get_args(AnyLoad) for field in kind.__struct_fields__})
_VALUES = st.one_of(
    st.booleans(), st.integers(), st.sampled_from([1, 16, 100, "uniform", "get", 0.5, -1, []]),
    st.floats(), st.text("az\"\\\n\u00e9", max_size=3), st.lists(st.integers(), max_size=2),
    st.dictionaries(st.sampled_from(["get", "append", "save", "x"]), st.floats(0, 9), max_size=2),
)  # fmt: skip


@given(
    st.dictionaries(st.sampled_from(["rate", "durability", "name", "x"]), _VALUES, max_size=2),
    st.lists(
        st.builds(
            lambda kind, good, more: {"kind": kind, "operations": {good: 1}} | more,
            st.sampled_from(list(OPERATIONS)), st.sampled_from(["get", "append", "save"]),
            st.dictionaries(st.sampled_from([*_KEYS, "kind", "x"]), _VALUES, max_size=2),
        ),
        max_size=2,
    ),
)  # fmt: skip
def test_whatever_a_file_says_it_is_a_profile_or_the_fault_is_named(
    head: dict[str, object], stores: list[dict[str, object]]
) -> None:
    """Values of any kind under keys of any kind give a profile with just these values, or an error
    that begins with the file and names a key that the file has, or has not."""
    text = "".join(f"{key} = {toml(value)}\n" for key, value in head.items())
    for store in stores:
        text += "[[stores]]\n" + "".join(f"{key} = {toml(one)}\n" for key, one in store.items())
    try:
        profile = parsed(text)
    except InvalidArgument as refused:
        what, _, said = str(refused).partition(": ")
        assert what == "profile 'mine.toml'"
        key = re.sub(r"^stores\[\d\]( \(\w+\))?: ", "", said).split()[0].partition(".")[0]
        named = {*head, *(key for store in stores for key in store)}
        # A key may be missing, or at odds with others; or the kind of store is there already.
        assert key in {*named, "stores", "batch"} or "there is more than one" in said
    else:
        for name, value in head.items():
            assert getattr(profile, name) == value
        for load, store in zip(profile.stores, stores, strict=True):
            assert all(getattr(load, name) == value for name, value in store.items())


def toml(value: object) -> str:
    """A value as TOML has it."""
    match value:
        case dict():
            return f"{{ {', '.join(f'{key} = {toml(one)}' for key, one in value.items())} }}"
        case list():
            return f"[{', '.join(map(toml, value))}]"
        case str():
            return json.dumps(value)
        case bool():
            return str(value).lower()
    return repr(value)


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
