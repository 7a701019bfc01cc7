"""Answers by this process, or by several on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from convbert.bulk.answering import Answered, Answering, Write, answer_in_parts, make_worker
from convbert.bulk.blocks import Block
from convbert.finetuning.prediction import RecordReader
from convbert.util.cores import usable_cores
from convbert.util.workers import in_order, processes


def answer_here(blocks: Iterator[Block], reader: RecordReader, write: Write) -> Iterator[Answered]:
    """Answers as they come."""
    for block in blocks:
        yield from answer_in_parts(reader, write, block)


def answer_by_processes(
    blocks: Iterator[Block], answering: Answering, write: Write, workers: int
) -> Iterator[Answered]:
    """Answers in the order of the blocks, by processes that share the cores.

    Raises:
        InputError: one of them died.
    """
    make = partial(make_worker, answering, write, max(1, usable_cores() // workers))
    with processes(make, workers, make_worker.__module__) as submit:
        for _, answered in in_order(blocks, submit, workers):
            yield answered
