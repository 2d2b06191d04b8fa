"""What comes to the inbox and was answered 200 is kept, whatever the ledger knows of its task."""

import json

from relay.core.adopting import StrayReported
from relay.core.ledger import Loaded, Quarantined
from tests.core.builders import TASK_ID, arrived, job, task_body


def test_a_report_on_a_job_that_has_no_attempt_of_its_task_is_kept_apart() -> None:
    body = json.dumps(task_body("RUNNING")).encode()
    known = Loaded(epoch="e", next_seq=1, job=job(state="running", upstream_task_id=TASK_ID))

    changes = StrayReported(arrived(body), "another-job").decide(known)

    assert changes.result == "quarantined"
    assert [type(record) for record in changes.puts] == [Quarantined]
