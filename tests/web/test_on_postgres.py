"""Whole journeys that are told of the relay on SQLite, word for word on PostgreSQL: one contract, two engines.

None in which the clock is moved by hand: while a server answers, hours would go by, and on PostgreSQL leases run out.
"""

from collections.abc import Iterator
from importlib import import_module
from typing import Final

import pytest

from tests import journeys
from tests.postgres import Cluster

pytestmark = pytest.mark.anyio

JOURNEYS: Final = {
    "test_callbacks": ("test_however_callbacks_come_a_job_ends_once",),
    "test_deliveries": ("test_a_replay_is_shown_before_it_is_done",),
    "test_dropin": (
        "test_a_create_with_a_free_slot_gets_the_upstreams_own_task_id",
        "test_lists_carry_the_clients_references_and_no_callback_address",
        "test_without_a_free_slot_a_create_is_queued_with_a_truthful_start",
    ),
    "test_idempotency": (
        "test_a_key_outlives_the_relay",
        "test_many_at_once_with_one_key_make_one_job_and_pay_once",
        "test_the_client_that_lost_the_answer_does_not_pay_twice",
    ),
    "test_jobs": (
        "test_a_list_shows_the_event_view_without_request_and_task",
        "test_pages_walk_from_the_newest_to_the_oldest_without_a_gap_or_a_double",
    ),
    "test_steering": (
        "test_a_cancel_that_races_with_the_submitter_leaves_one_winner",
        "test_a_failed_job_is_tried_again_as_a_new_one",
        "test_a_queued_job_that_is_cancelled_is_never_submitted",
        "test_an_open_retry_is_returned_and_not_doubled",
        "test_what_a_cancelled_job_renders_is_kept_on_it_without_an_event",
        "test_what_was_not_created_is_sent_again_and_what_failed_is_not",
    ),
    "test_stream": (
        "test_a_drain_says_goodbye_and_another_relay_goes_on_from_there",
        "test_a_jobs_stream_ends_even_for_a_reader_that_does_not_want_its_end",
        "test_a_reader_that_reconnects_after_every_event_misses_nothing_and_sees_nothing_twice",
        "test_all_doors_tell_the_same_events_with_the_same_ids",
        "test_filters_choose_what_a_reader_sees",
    ),
    "test_subscriptions": (
        "test_a_subscription_is_told_of_what_it_asked_for",
        "test_deliveries_of_a_job_come_in_order_and_its_end_is_the_last",
    ),
    "test_tickets": (
        "test_a_ticket_dies_with_its_makers_token",
        "test_a_ticket_for_a_reference_shows_what_its_maker_may_read",
        "test_a_ticket_shows_one_job_in_public_and_ends_with_it",
    ),
}
for module, names in JOURNEYS.items():
    globals().update({name: getattr(import_module(f"tests.web.{module}"), name) for name in names})


@pytest.fixture(scope="module", autouse=True)
def on_postgres(postgres: Cluster) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journeys, "server", postgres)
        yield
