"""A registry against a dictionary, through writes, crashes and power losses in any order."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from holdfast.bench.faults import Choice, Everything, MemoryDisk, Nothing, Sampled, Zeros
from holdfast.workers.message import Durability
from holdfast.workers.messages import Done
from holdfast.workers.registry_messages import RegistryDeleted
from tests.workers.registry_model import (
    PATH,
    POLICIES,
    History,
    Write,
    content_of,
    deleting,
    opened,
    saving,
    state_in,
    state_of,
    write,
)

NAMES = st.sampled_from(["a", "b", "c", "ü", "x" * 600])
SAVES = st.lists(st.tuples(NAMES, st.integers(0, 9)), max_size=4).map(lambda all: saving(*all))
WRITES: st.SearchStrategy[Write] = st.one_of(SAVES, NAMES.map(deleting))
CHOICES: st.SearchStrategy[Choice] = st.one_of(
    st.builds(Nothing),
    st.builds(Everything),
    st.builds(Zeros),
    st.builds(
        Sampled,
        st.integers(0, 1 << 32),
        kept=st.sampled_from([0.2, 0.5, 0.9]),
        ordered=st.booleans(),
    ),
)


class RegistryMachine(RuleBasedStateMachine):
    """What a registry may go through under one policy."""

    durability: Durability = "always"

    def __init__(self) -> None:
        super().__init__()
        self.disk = MemoryDisk("/data")
        self.history = History(self.durability)
        self._open()

    def _open(self) -> None:
        self.actor = opened(self.disk, PATH, self.durability)
        self.history.synced()  # whatever was found is settled before it is shown

    @rule(requests=st.lists(WRITES, min_size=1, max_size=4))
    def send(self, requests: list[Write]) -> None:
        """Requests that come in one turn."""
        self.history.send(self.actor, *requests)

    @rule(request=WRITES)
    def send_one(self, request: Write) -> None:
        """A request that comes alone."""
        self.history.send(self.actor, request)

    @rule()
    def sync(self) -> None:
        """The interval is over, or the system has saved everything."""
        if self.durability != "never":
            self.actor._group.sync()
            self.history.synced()

    @precondition(lambda self: self.history.last)
    @rule()
    def resend(self) -> None:
        """The last answers got lost in a crash: asked again, nothing changes."""
        self.crash()
        for caller, request in self.history.last:
            reply = write(self.actor, request, caller)
            assert isinstance(reply, Done | RegistryDeleted)

    @rule()
    def crash(self) -> None:
        """The process dies; every answered request is still there."""
        self.disk = self.disk.crash()
        self._open()

    @rule(choice=CHOICES)
    def lose_power(self, choice: Choice) -> None:
        """The machine goes down; what is there is a generation that was not promised away."""
        possible = self.history.after_power_loss()
        self.disk = self.disk.power_loss(choice)
        self.actor = opened(self.disk, PATH, self.durability)
        found = state_of(self.actor)
        assert found in possible
        self.history = History(self.durability, [found], _requests=self.history._requests)

    @rule()
    def reopen(self) -> None:
        """Close and open again."""
        self.history.last = []
        self.actor.close()
        self.history.synced()
        self._open()

    @invariant()
    def holds_what_was_sent(self) -> None:
        """Reads show what was answered, so does the file, and the actor is consistent."""
        self.actor.check_invariants()
        assert state_of(self.actor) == self.history.state
        assert state_in(content_of(self.disk)) == self.history.state


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("durability", POLICIES)
def test_registry_agrees_with_a_dictionary(durability: Durability) -> None:
    """Whatever happens in whatever order, the registry holds what the model says."""
    machine = type("Machine", (RegistryMachine,), {"durability": durability})
    examples = 2 * settings().max_examples
    run_state_machine_as_test(machine, settings=settings(max_examples=examples))
