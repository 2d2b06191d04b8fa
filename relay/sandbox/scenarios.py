"""Scenarios: what `relay trigger NAME` sets up, each a sentence, the sandbox's faults and the fields of one create."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

# The page's own example.
EXAMPLE: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "model": "gen4.5",
        "text_prompt": "A cinematic aerial shot of a coastal city at golden hour",
        "duration": 5,
        "aspect_ratio": "16:9",
    }
)


@dataclass(frozen=True, slots=True)
class Scenario:
    """`sentence` tells what happens; `faults` goes to PUT /sandbox/faults, `fields` to POST videos/create."""

    sentence: str
    faults: Mapping[str, Any] = field(default_factory=dict)
    fields: Mapping[str, Any] = field(default_factory=lambda: EXAMPLE)


def _once(value: Any, times: int = 1) -> dict[str, Any]:
    return {"value": value, "times": times}


def _prompted(words: str) -> dict[str, Any]:
    return {**EXAMPLE, "text_prompt": f"{EXAMPLE['text_prompt']}, {words}"}


SCENARIOS: Final[Mapping[str, Scenario]] = MappingProxyType(
    {
        "happy": Scenario("All goes well: queued, rendered with progress, succeeded."),
        # At submit.
        "moderated-at-submit": Scenario("The prompt is moderated at once: 422.", {}, _prompted("moderate-me")),
        "refused": Scenario("The upstream refuses the request: 400.", {"refused": _once(True)}),
        "no-credits": Scenario("No account has credits: 412 without a code.", {"no_credits": _once("412")}),
        "unauthorized": Scenario("The token is refused once: 401.", {"unauthorized": _once(True)}),
        "busy": Scenario("The API's own queue is full three times: 429 with runningTasks.", {"busy": _once(True, 3)}),
        "provider-limit": Scenario(
            "The provider is full three times: 429 without a code.", {"provider_limit": _once(True, 3)}
        ),
        "changing-capacity": Scenario("The provider runs one to three tasks at a time.", {"capacity_changes": 60}),
        # Answers that are lost.
        "created-then-522": Scenario(
            'The task is created, but the answer is "error code: 522".', {"create_lost": _once("522")}
        ),
        "cut-then-appears": Scenario(
            "The connection is cut, and the task appears 20 s later.",
            {"create_lost": _once("cut"), "appears_after": _once(20)},
        ),
        "522-then-appears": Scenario(
            'The answer is "error code: 522", and the task appears 60 s later.',
            {"create_lost": _once("522"), "appears_after": _once(60)},
        ),
        "created-in-silence": Scenario(
            "The task is created, and the create is never answered.", {"create_lost": _once("hang")}
        ),
        "never-created": Scenario(
            'The answer is "error code: 522", and there is no task: nobody can know.', {"create_fails": _once("522")}
        ),
        "html-at-submit": Scenario(
            "The task is created, but the answer is an HTML page.", {"create_lost": _once("html")}
        ),
        "lagging-lists": Scenario(
            "The answer is lost, and scheduler and task list show the task only after 60 s.",
            {"create_lost": _once("522"), "lists_lag": 60},
        ),
        "lists-without-refs": Scenario(
            "The answer is lost, and no list says whose the task is.",
            {"create_lost": _once("522"), "lists_without_refs": True},
        ),
        "slow-answer": Scenario("The create answer comes two minutes late.", {"create_slow": _once(120)}),
        # How the task goes.
        "moderated-late": Scenario("The task fails for moderation as it runs.", {}, _prompted("moderate-late")),
        "bad-output": Scenario(
            "The task fails with INTERNAL.BAD_OUTPUT: the next try may succeed.", {"fails": _once("bad-output")}
        ),
        "failed-without-reason": Scenario("The task fails with an empty reason.", {"fails": _once("empty")}),
        "failed-otherwise": Scenario("The task fails for a reason that no retry helps.", {"fails": _once("other")}),
        "cancelled": Scenario("The task ends as CANCELLED.", {"cancelled": _once("CANCELLED")}),
        "throttled": Scenario("The task is THROTTLED for ten minutes before it runs.", {"throttled": _once("10m")}),
        "odd-status": Scenario("The task reports a status that nobody knows.", {"odd_status": _once("UPSCALING")}),
        "never-ends": Scenario("The task stops at 90 % for ever.", {"never_ends": _once(True)}),
        # Callbacks.
        "lost-callbacks": Scenario("No callback ever comes.", {"callbacks": "none"}),
        "half-the-callbacks": Scenario("Every second callback is lost, by chance.", {"callbacks_dropped": 0.5}),
        "final-callback-only": Scenario("There are no progress callbacks.", {"callbacks": "final"}),
        "duplicate-callbacks": Scenario("Every callback comes twice.", {"callbacks_doubled": 1.0}),
        "reordered-callbacks": Scenario(
            "Callbacks overtake each other, the final one the last progress.", {"callbacks_reordered": True}
        ),
        "late-final": Scenario("The final callback comes five minutes late.", {"final_late": _once("5m")}),
        "late-callbacks": Scenario("Every callback comes two minutes late.", {"callbacks_late": "2m"}),
        "callback-before-answer": Scenario(
            "The first callback arrives before the create answer.", {"callbacks_before_answer": _once(True)}
        ),
        "stray-callbacks": Scenario(
            "Callbacks of tasks that nobody submitted come in between.", {"callbacks_stray": 1.0}
        ),
        "anonymous-callbacks": Scenario("Callbacks have neither taskId nor replyRef.", {"callbacks_without": "ids"}),
        # Asking.
        "running-after-final": Scenario(
            "Asking still says RUNNING for 60 s after the final callback.", {"get_running_after_final": 60}
        ),
        "not-found-at-first": Scenario("Asking says 404 for 60 s after the create.", {"not_found_after_create": 60}),
        "html-errors": Scenario("Asking is answered with an HTML page three times.", {"get_fails": _once("html", 3)}),
        "polls-limited": Scenario("Asking is answered with 429 five times.", {"get_fails": _once("429", 5)}),
        "asking-in-silence": Scenario("Asking once is never answered.", {"get_fails": _once("hang")}),
        # Artifacts.
        "no-artifact-at-first": Scenario("SUCCEEDED comes without artifacts for 60 s.", {"no_artifacts_at_first": 60}),
        "no-artifact-ever": Scenario("SUCCEEDED comes without artifacts.", {"no_artifacts_at_first": "30d"}),
        "expired-links": Scenario(
            "Artifact links expire after 60 s; asking again gives fresh ones.", {"links_expire": 60}
        ),
        "large-film": Scenario("The film has 100 MB.", {"artifact_bytes": 100_000_000}),
        # Shapes.
        "other-shapes": Scenario(
            "Everything that can have two shapes has the less usual one.",
            {
                "create_body": "flat",
                "get_body": "nested",
                "callback_body": "nested",
                "callback_content_type": "text/plain",
                "list_body": "object",
                "progress": "number",
                "metadata": "flat",
            },
        ),
    }
)
