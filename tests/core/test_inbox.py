"""What comes to the inbox and was answered 200 is kept, whatever the ledger knows of its task."""

import json

from relay.core.adopting import ADOPTIONS_MAX, StrayReported
from relay.core.ledger import Adoption, Loaded, Quarantined
from tests.core.builders import TASK_ID, arrived, job, task_body


def test_a_report_on_a_job_that_has_no_attempt_of_its_task_is_kept_apart() -> None:
    body = json.dumps(task_body("RUNNING")).encode()
    known = Loaded(epoch="e", next_seq=1, job=job(state="running", upstream_task_id=TASK_ID))

    changes = StrayReported(arrived(body), "another-job").decide(known)

    assert changes.result == "quarantined"
    assert [type(record) for record in changes.puts] == [Quarantined]


def test_a_task_that_is_one_too_many_is_turned_away_and_may_be_reported_again() -> None:
    report = StrayReported(arrived(json.dumps(task_body("RUNNING")).encode()), "a-job")
    one_more = report.decide(Loaded(epoch="e", next_seq=1, adoptions=ADOPTIONS_MAX - 1))
    too_many = report.decide(Loaded(epoch="e", next_seq=1, adoptions=ADOPTIONS_MAX))

    assert Adoption in {type(record) for record in one_more.puts}
    assert (too_many.result, [type(record) for record in too_many.puts]) == ("quarantined", [Quarantined])
