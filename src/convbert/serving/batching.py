"""Dynamic batching: texts of all requests in one bounded queue, handed to workers in portions of tokens."""

from __future__ import annotations

import asyncio
import logging
import math
import multiprocessing
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

from convbert.serving.meters import Meters
from convbert.serving.worker import Answered, Job, ModelInfo, Models, answer, describe, follow_parent
from convbert.tokenization.unknown import WARNING_SHARE

PORTIONS = 2
"""With a worker at most: one that it answers, and a full one that it finds when it is done."""
ADMITTED = 0.5
"""Of the deadline: how long a text may be expected to wait when it is let in."""
_NEWEST = 0.2
"""Weight of the newest portion in moving averages."""
_ENOUGH_TOKENS = 1000
"""From which the share of unknown tokens says something."""

logger = logging.getLogger("convbert.serving")


class OverloadedError(Exception):
    """The queue is full, or would take longer than the deadline; `retry_after` is in seconds."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"the server is busy: try again in {retry_after} s")
        self.retry_after = retry_after


class WorkerDiedError(Exception):
    """The worker that had the request is gone."""


@dataclass(eq=False)
class _Call:
    """A request: its answers so far, and who waits for them."""

    answers: list[Any]
    left: int
    done: asyncio.Future[None]
    tokens: int = 0


class Answers(NamedTuple):
    """The answers to a request, an `InputError` or a `BugError` in place of one that has none; and all its tokens."""

    answers: list[Any]
    tokens: int


class _Waiting(NamedTuple):
    call: _Call
    place: int
    job: Job
    record: Any
    size: int


def process_pool() -> Executor:
    """A worker: one process, which a signal to the server's group does not end."""
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=follow_parent)


class Batcher:
    """Answers requests by workers, each text once, whatever else is in its batch.

    Args:
        models: what every worker loads, before this returns.
        workers: how many there are.
        queue: texts that may wait.
        timeout: seconds that a request may take.
        make_pool: an executor of one worker.

    Attributes:
        models: what is served, by name.

    Raises:
        InputError: see `convbert.pipeline`.
    """

    def __init__(
        self,
        models: Models,
        workers: int = 1,
        queue: int = 1000,
        timeout: float = 30.0,
        make_pool: Callable[[], Executor] = process_pool,
    ) -> None:
        self.settings, self.queue, self.timeout = models, queue, timeout
        self.meters = Meters(lambda: len(self.waiting))
        self.waiting: deque[_Waiting] = deque()
        self._make_pool = make_pool
        self._pools = [make_pool() for _ in range(workers)]
        self._last_answer = [0.0] * workers
        self._at_work = [0] * workers  # portions that it has
        self._size = 0  # characters that wait or are being answered
        self._speed = 0.0  # characters a second of a worker
        self._token = 4.0  # characters of a token
        self._tokens = self._unknown = 0
        self._is_said = False
        try:
            found = [each.result() for each in [pool.submit(describe, models) for pool in self._pools]]
        except BaseException:
            self._close()
            raise
        self.models: dict[str, ModelInfo] = {info.name: info for info in found[0]}

    async def start(self) -> None:
        """Begin to hand out work, in the running event loop."""
        self._changed = asyncio.Event()  # texts have arrived, or a worker is done
        self._tasks = [
            asyncio.create_task(self._work(number))
            for number in range(len(self._pools))
            for _ in range(PORTIONS)
        ]

    async def stop(self) -> None:
        """End the workers; what they had is not answered."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.to_thread(self._close)

    async def answer(self, job: Job, records: Sequence[Any]) -> Answers:
        """The answers to records, in their order.

        Raises:
            OverloadedError: nothing was begun, at once or by the deadline.
            TimeoutError: the deadline has passed over what was begun.
            WorkerDiedError: one of the records was with a worker that ended.
        """
        sizes = [_size_of(record) for record in records]
        self._admit(len(records), sum(sizes))
        call = _Call([None] * len(records), len(records), asyncio.get_running_loop().create_future())
        self._size += sum(sizes)
        self.waiting.extend(
            _Waiting(call, place, job, record, size)
            for place, (record, size) in enumerate(zip(records, sizes, strict=True))
        )
        self._changed.set()
        try:
            async with asyncio.timeout(self.timeout):
                await call.done
        except TimeoutError:
            if sum(item.call is call for item in self.waiting) == len(
                records
            ):  # the workers have become slower
                raise self._overloaded() from None
            raise
        finally:
            if call.left:
                self._withdraw(call)
        return Answers(call.answers, call.tokens)

    def _admit(self, texts: int, size: int) -> None:
        speed = self._speed * len(self._pools) or math.inf
        is_late = bool(self.waiting) and (self._size + size) / speed > ADMITTED * self.timeout
        if is_late or len(self.waiting) + texts > self.queue:
            raise self._overloaded()

    def _overloaded(self) -> OverloadedError:
        speed = self._speed * len(self._pools) or math.inf
        return OverloadedError(max(1, math.ceil(self._size / speed)))

    def _withdraw(self, call: _Call) -> None:
        """Forget what nobody waits for."""
        self._size -= sum(item.size for item in self.waiting if item.call is call)
        self.waiting = deque(item for item in self.waiting if item.call is not call)

    async def _take(self, worker: int) -> list[_Waiting]:
        """As many waiting texts as fit the budget of tokens, by their length; one at least.

        For a worker that is at work, a portion that is not full stays here and grows.
        """
        while not self.waiting or (self._at_work[worker] and not self._is_full()):
            self._changed.clear()
            await self._changed.wait()
        room = self.settings.max_tokens * self._token
        portion = [self.waiting.popleft()]
        room -= portion[0].size
        while self.waiting and (room := room - self.waiting[0].size) >= 0:
            portion.append(self.waiting.popleft())
        return portion

    def _is_full(self) -> bool:
        """Whether the texts that wait are a whole portion."""
        sizes = accumulate(item.size for item in self.waiting)
        return any(size >= self.settings.max_tokens * self._token for size in sizes)

    async def _work(self, worker: int) -> None:
        while True:
            portion = await self._take(worker)
            self._at_work[worker] += 1
            started = time.monotonic()
            try:
                found = await self._submit(worker, portion)
            except Exception as error:
                self._fail(worker, portion, error)
            else:
                self._deliver(worker, portion, found, started)
            finally:
                self._size -= sum(item.size for item in portion)
                self._at_work[worker] -= 1
                self._changed.set()

    async def _submit(self, worker: int, portion: list[_Waiting]) -> Answered:
        jobs = [(item.job, item.record) for item in portion]
        try:
            future = self._pools[worker].submit(answer, self.settings, jobs)
        except BrokenExecutor:  # it ended with nothing to do, so that nothing of this was begun
            self._replace(worker)
            future = self._pools[worker].submit(answer, self.settings, jobs)
        pool = self._pools[worker]
        try:
            return await asyncio.wrap_future(future)
        except BrokenExecutor as error:
            if self._pools[worker] is pool:
                self._replace(worker)
            raise WorkerDiedError("the worker that had this request ended; it is being replaced") from error

    def _replace(self, worker: int) -> None:
        logger.error("worker %d ended; it is replaced", worker)
        self.meters.restarts.inc()
        self._pools[worker].shutdown(wait=False)
        self._pools[worker] = self._make_pool()

    def _fail(self, worker: int, portion: list[_Waiting], error: Exception) -> None:
        if not isinstance(error, WorkerDiedError):
            logger.error("worker %d: %s", worker, type(error).__name__)
        for item in portion:
            if not item.call.done.done():
                item.call.done.set_exception(error)

    def _deliver(self, worker: int, portion: list[_Waiting], found: Answered, started: float) -> None:
        for item, each, tokens in zip(portion, found.answers, found.tokens, strict=True):
            call = item.call
            call.answers[item.place] = each
            call.tokens += tokens
            call.left -= 1
            if not call.left and not call.done.done():
                call.done.set_result(None)
        now = time.monotonic()
        size = sum(item.size for item in portion)
        speed = size / (now - max(started, self._last_answer[worker]) + 1e-9)
        self._speed += _NEWEST * (speed - self._speed) if self._speed else speed
        self._last_answer[worker] = now
        self._count(size, len(portion), found)

    def _count(self, size: int, texts: int, found: Answered) -> None:
        tokens = sum(found.tokens)
        if tokens:
            self._token += _NEWEST * (size / tokens - self._token)
        self.meters.count(texts, tokens, found.unknown)
        self._tokens += tokens
        self._unknown += found.unknown
        is_much = self._unknown >= WARNING_SHARE * max(self._tokens, _ENOUGH_TOKENS)
        if is_much and not self._is_said:
            share = self._unknown / self._tokens
            logger.warning("%.1f %% of the tokens are [UNK]: is the model of another language?", 100 * share)
            self._is_said = True

    def _close(self) -> None:
        for pool in self._pools:
            pool.shutdown(cancel_futures=True)


def _size_of(record: Any) -> int:
    """Characters of a record, and some for its special tokens."""
    if isinstance(record, dict) and "choices" in record:
        return sum(len(record["text"]) + len(choice) + 8 for choice in record["choices"])
    texts = record.values() if isinstance(record, dict) else (record,)
    return sum(len(text) for text in texts) + 8
