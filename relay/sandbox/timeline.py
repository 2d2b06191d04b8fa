"""When a sandbox task is in which status: its whole course is drawn when it is created, and time only reveals it.

Steps are the moments at which the upstream would report: PENDING, perhaps THROTTLED, RUNNING at 0, at every 10 %, and
the end. Because the course is fixed, a task's state at any moment is a look-up, and no clock has to tick for it.
"""

from bisect import bisect_right
from dataclasses import dataclass
from random import Random
from typing import Final

from relay.core.catalogue import Model

FINAL: Final = frozenset({"SUCCEEDED", "FAILED", "CANCELLED", "CANCELED"})
STEPS_OF_PROGRESS: Final = 10

# Seconds in the queue. The catalogue's queues are those of explore mode, which waits at a lower priority; for models to
# which it gives none, the page's "queue ~7-9 min" stands.
QUEUE_S: Final = 30.0
EXPLORE_QUEUE_S: Final = 480.0
RENDER_S: Final = 300.0
JITTER: Final = 0.1


@dataclass(frozen=True, slots=True)
class Ending:
    """How a task ends, and at which part of its render (1.0: when it is done). `status` None: it never does."""

    status: str | None = "SUCCEEDED"
    at: float = 1.0
    reason: str = ""
    message: str = ""
    category: str | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """From `at_ms` on the task has this status and progress."""

    at_ms: int
    status: str
    progress: float


@dataclass(frozen=True, slots=True)
class Course:
    """All that will happen to a task; `starts_ms` is its first RUNNING, `ends_ms` its end (None: never)."""

    steps: tuple[Step, ...]
    starts_ms: int
    ends_ms: int | None
    ending: Ending

    def step_at(self, now_ms: int) -> Step:
        """The last step that has come by `now_ms`; the first before it."""
        return self.steps[max(0, bisect_right(self.steps, now_ms, key=lambda step: step.at_ms) - 1)]

    def ended(self, now_ms: int) -> bool:
        return self.ends_ms is not None and now_ms >= self.ends_ms


def draw_course(
    begins_ms: int,
    *,
    queue_ms: int,
    render_ms: int,
    ending: Ending,
    throttled_ms: int = 0,
    running: str = "RUNNING",
) -> Course:
    """The course of a task that is created at `begins_ms`; `running` is the word reported while it renders."""
    steps = [Step(begins_ms, "PENDING", 0.0)]
    if throttled_ms:
        steps.append(Step(begins_ms + queue_ms, "THROTTLED", 0.0))
    starts_ms = begins_ms + queue_ms + throttled_ms
    for tenth in range(STEPS_OF_PROGRESS):
        progress = tenth / STEPS_OF_PROGRESS
        if progress < ending.at:
            steps.append(Step(starts_ms + round(render_ms * progress), running, progress))
    if ending.status is None:
        return Course(tuple(steps), starts_ms, None, ending)
    ends_ms = starts_ms + round(render_ms * ending.at)
    progress = 1.0 if ending.status == "SUCCEEDED" else steps[-1].progress
    steps.append(Step(ends_ms, ending.status, progress))
    return Course(tuple(steps), starts_ms, ends_ms, ending)


def draw_times_s(model: Model | None, *, explore: bool, rng: Random) -> tuple[float, float]:
    """Seconds in the queue and of rendering for a new task, before they are divided by the sandbox's speed."""
    queue_s = (model.typical_queue_s if model else 0.0) or EXPLORE_QUEUE_S if explore else QUEUE_S
    render_s = model.typical_render_s if model else RENDER_S
    return queue_s * _jitter(rng), render_s * _jitter(rng)


def _jitter(rng: Random) -> float:
    return 1.0 + JITTER * (2.0 * rng.random() - 1.0)
