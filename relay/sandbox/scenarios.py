"""Scenarios: what `relay trigger NAME` sets up, each a sentence, the sandbox's faults and the fields of one create."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from relay.sandbox.faults import parse_fault

# The page's own example.
EXAMPLE: Final[Mapping[str, Any]] = {
    "model": "gen4.5",
    "text_prompt": "A cinematic aerial shot of a coastal city at golden hour",
    "duration": 5,
    "aspect_ratio": "16:9",
}


@dataclass(frozen=True, slots=True)
class Scenario:
    """`sentence` tells what happens; `faults` goes to PUT /sandbox/faults, `fields` to POST videos/create."""

    sentence: str
    faults: Mapping[str, Any]
    fields: Mapping[str, Any]


def _scenario(sentence: str, faults: str = "", prompt: str = "") -> Scenario:
    """With `faults` as `--fault` takes them, spaces between, and `prompt` at the end of the example's."""
    fields = {**EXAMPLE, "text_prompt": EXAMPLE["text_prompt"] + prompt}
    return Scenario(sentence, dict(map(parse_fault, faults.split())), fields)


SCENARIOS: Final[Mapping[str, Scenario]] = {
    "happy": _scenario("All goes well: queued, rendered with progress, succeeded."),
    # At submit.
    "moderated-at-submit": _scenario("The prompt is moderated at once: 422.", prompt=", moderate-me"),
    "refused": _scenario("The upstream refuses the request: 400.", "refused*1"),
    "no-credits": _scenario("No account has credits: 412 without a code.", "no_credits=412*1"),
    "unauthorized": _scenario("The token is refused once: 401.", "unauthorized*1"),
    "busy": _scenario("The API's own queue is full three times: 429 with runningTasks.", "busy*3"),
    "provider-limit": _scenario("The provider is full three times: 429 without a code.", "provider_limit*3"),
    "changing-capacity": _scenario("The provider runs one to three tasks at a time.", "capacity_changes=60s"),
    # Answers that are lost.
    "created-then-522": _scenario('The task is created, but the answer is "error code: 522".', "create_lost=522*1"),
    "cut-then-appears": _scenario(
        "The connection is cut, and the task appears 20 s later.", "create_lost=cut*1 appears_after=20s*1"
    ),
    "522-then-appears": _scenario(
        'The answer is "error code: 522", and the task appears 60 s later.', "create_lost=522*1 appears_after=60s*1"
    ),
    "created-in-silence": _scenario("The task is created, and the create is never answered.", "create_lost=hang*1"),
    "never-created": _scenario(
        'The answer is "error code: 522", and there is no task: nobody can know.', "create_fails=522*1"
    ),
    "html-at-submit": _scenario("The task is created, but the answer is an HTML page.", "create_lost=html*1"),
    "lagging-lists": _scenario(
        "The answer is lost, and scheduler and task list show the task only after 60 s.",
        "create_lost=522*1 lists_lag=60s",
    ),
    "lists-without-refs": _scenario(
        "The answer is lost, and no list says whose the task is.", "create_lost=522*1 lists_without_refs"
    ),
    "slow-answer": _scenario("The create answer comes two minutes late.", "create_slow=120s*1"),
    # How the task goes.
    "moderated-late": _scenario("The task fails for moderation as it runs.", prompt=", moderate-late"),
    "bad-output": _scenario("The task fails with INTERNAL.BAD_OUTPUT: the next try may succeed.", "fails=bad-output*1"),
    "failed-without-reason": _scenario("The task fails with an empty reason.", "fails=empty*1"),
    "failed-otherwise": _scenario("The task fails for a reason that no retry helps.", "fails=other*1"),
    "cancelled": _scenario("The task ends as CANCELLED.", "cancelled=CANCELLED*1"),
    "throttled": _scenario("The task is THROTTLED for ten minutes before it runs.", "throttled=10m*1"),
    "odd-status": _scenario("The task reports a status that nobody knows.", "odd_status=UPSCALING*1"),
    "never-ends": _scenario("The task stops at 90 % for ever.", "never_ends*1"),
    # Callbacks.
    "lost-callbacks": _scenario("No callback ever comes.", "callbacks=none"),
    "half-the-callbacks": _scenario("Every second callback is lost, by chance.", "callbacks_dropped=0.5"),
    "final-callback-only": _scenario("There are no progress callbacks.", "callbacks=final"),
    "duplicate-callbacks": _scenario("Every callback comes twice.", "callbacks_doubled=1.0"),
    "reordered-callbacks": _scenario(
        "Callbacks overtake each other, the final one the last progress.", "callbacks_reordered"
    ),
    "late-final": _scenario("The final callback comes five minutes late.", "final_late=5m*1"),
    "late-callbacks": _scenario("Every callback comes two minutes late.", "callbacks_late=2m"),
    "callback-before-answer": _scenario(
        "The first callback arrives before the create answer.", "callbacks_before_answer*1"
    ),
    "stray-callbacks": _scenario("Callbacks of tasks that nobody submitted come in between.", "callbacks_stray=1.0"),
    "anonymous-callbacks": _scenario("Callbacks have neither taskId nor replyRef.", "callbacks_without=ids"),
    # Asking.
    "running-after-final": _scenario(
        "Asking still says RUNNING for 60 s after the final callback.", "get_running_after_final=60s"
    ),
    "not-found-at-first": _scenario("Asking says 404 for 60 s after the create.", "not_found_after_create=60s"),
    "html-errors": _scenario("Asking is answered with an HTML page three times.", "get_fails=html*3"),
    "polls-limited": _scenario("Asking is answered with 429 five times.", "get_fails=429*5"),
    "asking-in-silence": _scenario("Asking once is never answered.", "get_fails=hang*1"),
    # Artifacts.
    "no-artifact-at-first": _scenario("SUCCEEDED comes without artifacts for 60 s.", "no_artifacts_at_first=60s"),
    "no-artifact-ever": _scenario("SUCCEEDED comes without artifacts.", "no_artifacts_at_first=30d"),
    "expired-links": _scenario("Artifact links expire after 60 s; asking again gives fresh ones.", "links_expire=60s"),
    "large-film": _scenario("The film has 100 MB.", "artifact_bytes=100000000"),
    # Shapes.
    "other-shapes": _scenario(
        "Everything that can have two shapes has the less usual one.",
        "create_body=flat get_body=nested callback_body=nested callback_content_type=text/plain "
        "list_body=object progress=number metadata=flat",
    ),
}
