"""The life of a subscription: what may follow what, what is written down, and when billing must look at it."""

from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.fakes_catalog import MemoryCatalog
from tests.unit.fakes_metering import FakeCounters
from tollgate.catalog.gates import read_gate
from tollgate.catalog.life import (
    MAX_CHANGES,
    TRANSITIONS,
    Action,
    When,
    Who,
    boundary,
    due_at,
    entry_from_dict,
    entry_to_dict,
)
from tollgate.catalog.model import (
    ENDED,
    AfterGrace,
    BillingPeriod,
    Customer,
    Feature,
    FeatureType,
    Overage,
    Plan,
    PlanFeature,
    Quota,
    Subscription,
    SubscriptionStatus,
    subscription_from_dict,
    subscription_to_dict,
)
from tollgate.catalog.periods import Interval, Period
from tollgate.catalog.service import subscribe
from tollgate.catalog.subscriptions import (
    cancel_subscription,
    catch_up,
    change_plan,
    find_life,
    mark_past_due,
    mark_recovered,
    pause_subscription,
    resume_subscription,
)
from tollgate.kernel.errors import Conflict, InvalidInput, NotFound
from tollgate.metering.model import Series
from tollgate.pricing.model import Flat

START = datetime(2026, 1, 31, 9, tzinfo=UTC)
CALLS = Feature("calls", "Calls", FeatureType.QUOTA)
MONTH, YEAR = BillingPeriod(Interval.MONTH), BillingPeriod(Interval.YEAR)
WHO = Who("key_1", "because")


def plan(code: str, price: str = "20", unit: BillingPeriod = MONTH, **terms: Any) -> Plan:
    """A plan with a quota of calls at a price."""
    granted = PlanFeature(CALLS, price=Flat(Decimal(price) / 100), quota=Quota(Decimal(10), Overage.ALLOW))
    return replace(Plan(code, 1, code, "EUR", unit, Decimal(price), 0, 14, (granted,)), **terms)


class World:
    """A customer on a plan since 31 January 09:00; `now` is what the clock says."""

    def __init__(self, *, trial_days: int = 0, ends_at: datetime | None = None, **terms: Any) -> None:
        self.now = START
        self.catalog, self.counters = MemoryCatalog(), FakeCounters()
        self.catalog.save_feature(CALLS)
        for one in (
            plan("basic", **terms),
            plan("pro", "50"),
            plan("yearly", "200", YEAR),
            plan("dollars", currency="USD"),
        ):
            assert self.catalog.add_plan_version(one)
        self.catalog.save_customer(Customer("ada"))
        subscribe(
            self.catalog,
            customer="ada",
            plan="basic",
            gates=self.counters,
            clock=self.clock,
            subscription_id="sub",
            trial_days=trial_days,
            ends_at=ends_at,
        )

    def clock(self) -> datetime:
        """The present."""
        return self.now

    def readings(self, _: Subscription, period: Period, features: Collection[str]) -> dict[str, Decimal]:
        """As if 7 had been used of everything."""
        assert period.start <= self.now < period.end
        return dict.fromkeys(features, Decimal(7))

    def change(self, code: str, when: When = When.NOW, who: Who = WHO) -> Subscription:
        """Change the plan."""
        return change_plan(
            self.catalog,
            "sub",
            plan=code,
            when=when,
            who=who,
            readings=self.readings,
            gates=self.counters,
            clock=self.clock,
        )

    def do(self, action: Callable[..., Subscription], **more: object) -> Subscription:
        """Pause, resume and so on."""
        return action(self.catalog, "sub", who=WHO, gates=self.counters, clock=self.clock, **more)

    def settle(self) -> None:
        """Write down what happened by itself."""
        while catch_up(self.catalog, find_life(self.catalog, "sub"), self.now, gates=self.counters, clock=self.clock):
            pass

    def status(self) -> SubscriptionStatus:
        """What the subscription is now."""
        return find_life(self.catalog, "sub").subscription.status(self.now)

    def gate_status(self) -> SubscriptionStatus:
        """What a check sees."""
        text = self.counters.heads([Series("ada", "calls")])[Series("ada", "calls")].gate
        term = read_gate("ada", "calls", text).ruling(self.now)
        assert term is not None
        return term[0].status(self.now)

    def actions(self) -> list[str]:
        """What the history tells."""
        return [entry.action.value for entry in find_life(self.catalog, "sub").history]


def test_the_history_begins_with_the_subscription_and_tells_who_and_why() -> None:
    """Each entry says what is in force from its instant on."""
    world = World()
    world.now += timedelta(days=3)
    world.change("pro")
    first, second = find_life(world.catalog, "sub").history
    assert (first.action, first.before, first.after, first.at) == (Action.CREATED, None, "active", START)
    assert (second.number, second.actor, second.reason, second.plan) == (2, "key_1", "because", "pro")
    assert second.readings == {"calls": Decimal(7)}
    assert entry_from_dict(entry_to_dict(second)) == second


def test_a_change_at_once_keeps_the_period_and_counts_late_events_by_the_plan_of_their_time() -> None:
    """Unless the plan has another billing period, which begins there."""
    world = World()
    whole = world.change("basic").period(world.now)
    world.now += timedelta(days=3)
    changed = world.change("pro")
    assert changed.period(world.now) == whole
    assert changed.version_at(START) == ("basic", 1)
    assert changed.version_at(world.now) == ("pro", 1)
    world.now += timedelta(days=3)
    yearly = world.change("yearly")
    assert yearly.period(START) == Period(START, world.now) == yearly.period(world.now - timedelta(seconds=1))
    assert yearly.period(world.now) == Period(world.now, world.now.replace(year=2027))
    assert subscription_from_dict(subscription_to_dict(yearly)) == yearly
    text = world.counters.heads([Series("ada", "calls")])[Series("ada", "calls")].gate
    term = read_gate("ada", "calls", text).ruling(world.now)
    assert term is not None
    for at in (START, world.now - timedelta(seconds=1), world.now):
        assert term[0].period(at) == yearly.period(at)


def test_a_plan_changes_so_often_and_no_more() -> None:
    """What late events need is kept in the customer's snapshot."""
    world = World()
    for number in range(MAX_CHANGES):
        world.now += timedelta(minutes=1)
        world.change("basic" if number % 2 else "pro")
    for when in When:
        with pytest.raises(Conflict, match="100 times"):
            world.change("pro", when)
    world.now = datetime(2026, 2, 28, 9, tzinfo=UTC)
    world.settle()
    assert world.do(cancel_subscription, when=When.NOW).state is SubscriptionStatus.CANCELLED


def test_the_last_change_that_there_is_room_for_may_be_planned() -> None:
    """It takes effect by itself."""
    world = World()
    for number in range(MAX_CHANGES - 1):
        world.now += timedelta(minutes=1)
        world.change("basic" if number % 2 else "pro")
    world.change("basic", When.PERIOD_END)
    world.now = datetime(2026, 2, 28, 9, tzinfo=UTC)
    world.settle()
    assert find_life(world.catalog, "sub").subscription.plan == "basic"


def test_a_change_at_the_end_of_the_period_waits_for_it() -> None:
    """It is written down as of that instant, however late; and is withdrawn by a change to the present plan."""
    world = World()
    end = world.change("yearly", When.PERIOD_END).period(START).end
    assert world.change("basic", When.PERIOD_END).planned is None
    world.change("yearly", When.PERIOD_END)
    world.now = end + timedelta(hours=2)
    world.settle()
    life = find_life(world.catalog, "sub")
    assert (life.history[-1].at, life.history[-1].recorded_at, life.history[-1].actor) == (end, world.now, "system")
    assert life.subscription.period(world.now) == Period(end, end.replace(year=2027))
    assert life.subscription.period(START) == Period(START, end)


def test_a_change_needs_a_plan_of_the_same_currency() -> None:
    """An invoice has one."""
    world = World()
    with pytest.raises(InvalidInput):
        world.change("dollars")
    with pytest.raises(InvalidInput):
        world.change("none")
    assert world.actions() == ["created"]


def test_a_cancellation_at_the_end_of_the_period_takes_effect_by_itself() -> None:
    """To the instant, also for a check; and can be withdrawn until then."""
    world = World()
    end = world.do(cancel_subscription, when=When.PERIOD_END).ends_at
    assert end is not None
    world.do(resume_subscription)
    world.do(cancel_subscription, when=When.PERIOD_END)
    world.now = end - timedelta(microseconds=1)
    assert world.status() is world.gate_status() is SubscriptionStatus.ACTIVE
    world.now = end
    assert world.status() is world.gate_status() is SubscriptionStatus.CANCELLED
    world.settle()
    assert world.actions() == ["created", "cancel_planned", "cancel_withdrawn", "cancel_planned", "cancelled"]
    assert find_life(world.catalog, "sub").history[-1].at == end


def test_a_fixed_term_expires() -> None:
    """It is not cancelled."""
    world = World(ends_at=START + timedelta(days=90))
    world.now = START + timedelta(days=90)
    assert world.status() is SubscriptionStatus.EXPIRED
    world.settle()
    assert world.actions() == ["created", "expired"]


def test_a_fixed_term_outlives_a_cancellation_that_is_withdrawn() -> None:
    """It is no cancellation itself, and cannot be withdrawn."""
    end = START + timedelta(days=90)
    world = World(ends_at=end)
    with pytest.raises(Conflict, match="cannot be resumed"):
        world.do(resume_subscription)
    assert world.do(cancel_subscription, when=When.PERIOD_END).ends_at == datetime(2026, 2, 28, 9, tzinfo=UTC)
    made = world.do(resume_subscription)
    assert (made.ends_at, made.ends_as) == (end, SubscriptionStatus.EXPIRED)
    assert subscription_from_dict(subscription_to_dict(made)) == made
    with pytest.raises(Conflict, match="cannot be resumed"):
        world.do(resume_subscription)
    world.now = end
    assert world.status() is SubscriptionStatus.EXPIRED


def test_a_trial_ends_by_itself_and_a_pause_does_not_stop_it() -> None:
    """It is active after it."""
    world = World(trial_days=14)
    assert world.status() is SubscriptionStatus.TRIALING
    world.do(pause_subscription)
    assert world.gate_status() is SubscriptionStatus.PAUSED
    world.now += timedelta(days=13)
    world.do(resume_subscription)
    assert world.status() is SubscriptionStatus.TRIALING
    world.now += timedelta(days=1)
    assert world.status() is SubscriptionStatus.ACTIVE
    world.settle()
    assert world.actions() == ["created", "paused", "resumed", "trial_ended"]


@pytest.mark.parametrize(
    ("after_grace", "status"),
    [(AfterGrace.CANCEL, SubscriptionStatus.CANCELLED), (AfterGrace.PAUSE, SubscriptionStatus.PAUSED)],
)
def test_who_does_not_pay_has_the_grace_of_the_plan(after_grace: AfterGrace, status: SubscriptionStatus) -> None:
    """It goes on granting until then; what becomes of it the plan says."""
    world = World(after_grace=after_grace)
    world.now += timedelta(days=1)
    made = world.do(mark_past_due)
    assert (made.state, made.grace_until) == (SubscriptionStatus.PAST_DUE, START + timedelta(days=15))
    assert world.do(mark_past_due) == made
    assert due_at(find_life(world.catalog, "sub")) == START
    world.now += timedelta(days=14)
    world.settle()
    assert world.status() is world.gate_status() is status


def test_who_pays_late_is_active_again() -> None:
    """Within the grace, and after it where the subscription was paused for it; not where a person paused it."""
    world = World(after_grace=AfterGrace.PAUSE)
    world.do(mark_past_due)
    assert world.do(mark_recovered).state is SubscriptionStatus.ACTIVE
    world.do(mark_past_due)
    world.now += timedelta(days=14)
    world.settle()
    assert world.do(mark_recovered).state is SubscriptionStatus.ACTIVE
    world.do(pause_subscription)
    assert world.do(mark_recovered).state is SubscriptionStatus.PAUSED


def test_nobody_escapes_a_debt_by_a_pause() -> None:
    """Whoever paused it, and whether the invoice fell due before or after: it is resumed when that is paid."""
    world = World(after_grace=AfterGrace.PAUSE)
    world.do(mark_past_due)
    world.now += timedelta(days=15)
    world.settle()
    with pytest.raises(Conflict, match="past due; possible: cancelled"):
        world.do(resume_subscription)
    assert world.do(mark_recovered).state is SubscriptionStatus.ACTIVE
    for deeds in ((mark_past_due, pause_subscription), (pause_subscription, mark_past_due, mark_past_due)):
        for deed in deeds:
            made = world.do(deed)
        assert made.state is world.gate_status() is SubscriptionStatus.PAUSED
        with pytest.raises(Conflict, match="past due"):
            world.do(resume_subscription)
        assert world.do(mark_recovered).state is SubscriptionStatus.PAUSED  # a person paused it
        assert world.do(resume_subscription).state is SubscriptionStatus.ACTIVE
    assert world.actions()[-8:-4] == ["past_due", "paused", "recovered", "resumed"]
    assert world.actions()[-4:] == ["paused", "past_due", "recovered", "resumed"]


@pytest.mark.parametrize("action", [pause_subscription, resume_subscription])
def test_nothing_follows_the_end(action: Callable[..., Subscription]) -> None:
    """A refusal says what is possible: nothing."""
    world = World()
    world.do(cancel_subscription, when=When.NOW)
    with pytest.raises(Conflict, match="possible: none"):
        world.do(action)
    with pytest.raises(Conflict, match="possible: none"):
        world.change("pro")
    with pytest.raises(Conflict, match="possible: none"):
        world.do(cancel_subscription, when=When.NOW)
    assert world.actions() == ["created", "cancelled"]


def test_what_is_paused_is_not_paused_again_and_what_runs_is_not_resumed() -> None:
    """A refusal names what is possible."""
    world = World()
    with pytest.raises(Conflict, match="past_due, paused"):
        world.do(resume_subscription)
    world.do(pause_subscription)
    with pytest.raises(Conflict, match="active, cancelled, expired, trialing"):
        world.do(pause_subscription)


def test_a_repeated_request_changes_nothing_more() -> None:
    """The same key with another request is refused."""
    world = World()
    once = replace(WHO, request=("key-1", "digest"))
    changed = world.change("pro", who=once)
    world.change("basic")
    assert world.change("pro", who=once).plan == "basic"
    assert world.actions() == ["created", "changed", "changed"]
    with pytest.raises(Conflict):
        world.change("pro", who=replace(WHO, request=("key-1", "other")))
    assert changed.plan == "pro"


def test_what_is_billed_is_never_changed() -> None:
    """A clock that lags behind the billing run's does not reach back."""
    world = World()
    life = find_life(world.catalog, "sub")
    billed = replace(life, standing=replace(life.standing, billed_until=START + timedelta(days=1)))
    assert billed.earliest(START) > START + timedelta(days=1)


def test_billing_looks_at_the_start_at_each_period_and_once_more_when_no_usage_can_come() -> None:
    """The drawing of docs/billing.md, as instants."""
    world = World()
    life = find_life(world.catalog, "sub")
    assert (boundary(life), due_at(life)) == (Period(START, START), START)

    def billed(until: datetime | None) -> None:
        nonlocal life
        life = replace(find_life(world.catalog, "sub"), standing=replace(life.standing, billed_until=until))

    billed(START)
    end = datetime(2026, 2, 28, 9, tzinfo=UTC)
    assert (boundary(life), due_at(life)) == (Period(START, end), end)
    world.now = START + timedelta(days=5)
    world.do(cancel_subscription, when=When.NOW)
    billed(START)
    assert (boundary(life), due_at(life)) == (Period(START, world.now), world.now)
    billed(world.now)
    assert due_at(life) == world.now + timedelta(days=35, hours=1)
    life = replace(life, standing=replace(life.standing, is_settled=True))
    assert (boundary(life), due_at(life)) == (None, None)


def test_a_trial_is_due_when_it_ends() -> None:
    """Nothing is billed when it begins."""
    assert due_at(find_life(World(trial_days=14).catalog, "sub")) == START + timedelta(days=14)


def test_the_final_states_are_final_and_can_be_reached_from_all_others() -> None:
    """As the drawing says."""
    assert all(not TRANSITIONS[status] for status in ENDED)
    assert all(TRANSITIONS[status] >= ENDED for status in set(SubscriptionStatus) - ENDED)


DEEDS = ("basic", "pro", "yearly", "weekly", "pause", "resume", "basic later", "yearly later", "weekly later")
deeds = st.lists(st.tuples(st.integers(1, 40 * 86_400), st.sampled_from(DEEDS)), max_size=12)


@given(deeds, st.sampled_from([0, 14]))
def test_periods_follow_each_other_with_no_gap_whatever_is_changed(deeds: list[tuple[int, str]], trial: int) -> None:
    """And a gate has the same: an event counts in one period, whoever asks."""
    world = World(trial_days=trial)
    assert world.catalog.add_plan_version(plan("weekly", "5", BillingPeriod(Interval.WEEK)))
    for seconds, deed in deeds:
        world.now += timedelta(seconds=seconds)
        code, _, later = deed.partition(" ")
        with suppress(Conflict):  # it is not possible in the present state
            if code in {"pause", "resume"}:
                world.do(pause_subscription if code == "pause" else resume_subscription)
            else:
                world.change(code, When.PERIOD_END if later else When.NOW)
    world.settle()
    one = find_life(world.catalog, "sub").subscription
    gate = read_gate("ada", "calls", world.counters.heads([Series("ada", "calls")])[Series("ada", "calls")].gate)
    [(published, _)] = gate.terms
    at = world.now - timedelta(days=34)
    for _ in range(60):
        period = one.period(at)
        assert period == published.period(at) == one.period(period.end - timedelta(microseconds=1))
        assert period.start <= max(at, START) < period.end
        assert one.period(period.end).start == period.end
        at = period.end
    history = find_life(world.catalog, "sub").history
    assert [entry.at for entry in history] == sorted(entry.at for entry in history)
    for before, after in pairwise(history):
        assert after.before is before.after
        assert after.after is before.after or after.after in TRANSITIONS[before.after]


def test_there_is_no_subscription_but_those_that_were_made() -> None:
    """Another id is not found."""
    with pytest.raises(NotFound):
        find_life(World().catalog, "other")
