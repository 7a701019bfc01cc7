"""Files of one token a line, in columns: CoNLL's own, CoNLL-U, GermEval's, OntoNotes' and others, told apart by
what they hold."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import NamedTuple

from convbert.finetuning.cells import Read, Report, Row
from convbert.inference.tags import read_scheme
from convbert.util.errors import InputError

NAMES = ("tokens", "tags")
_NUMBER_OF_WORD = re.compile(r"\d+([-.]\d+)?")
_LEFT_OUT = re.compile(r"\d+[-.]\d+")
_KEY_AND_VALUE = re.compile(r"#\s*[\w.:]+\s*=")
_GLOBAL_COLUMNS = re.compile(r"#\s*global\.columns\s*=\s*(.+)")
_BRACKETS = re.compile(r"\(?[\w.-]*\*?\)?")
_PHRASES = {"NP", "VP", "PP", "ADVP", "ADJP", "SBAR", "PRT", "CONJP", "INTJ", "LST", "UCP"}
"""Types of chunks: their tags look like those of entities."""
_ENOUGH = 8
"""From so many lines on, a column is judged by what its cells have in common."""


class Line(NamedTuple):
    """A line, and whether nothing but lines with "#" stands before it in its sentence."""

    number: int
    text: str
    cells: tuple[str, ...]
    begins: bool

    @property
    def is_marked(self) -> bool:
        """Whether it may be a comment."""
        return self.text.startswith("#")


class Layout(NamedTuple):
    """Column, from 0, by name; cells of a line, 0 where lines may differ; whether the first counts the words; a note
    for a reader.
    """

    chosen: dict[str, int]
    width: int
    is_counted: bool = False
    note: str = ""


def read_sentences(
    path: Path, numbered: Iterable[tuple[int, str]], wanted: Sequence[str], report: Report
) -> tuple[tuple[str, ...], list[Read]]:
    """The columns that there are, and the sentences; an error stands for a sentence that cannot be used.

    Args:
        wanted: the columns to keep: `NAMES`, "xpos" of CoNLL-U, or numbers from 1.
        report: told of comment lines, and which column was taken for what, where there are more than two.

    Raises:
        InputError: it is not clear which column has the words.
    """
    blocks, comments = _blocks(numbered)
    lines = [line for block in blocks for line in block]
    if not lines:
        return NAMES, []
    layout = _layout(path, blocks, comments, wanted)
    if comments and "xpos" not in layout.chosen and not all(map(_KEY_AND_VALUE.match, comments)):
        report(f"{path}: {len(comments):,} comment lines are left out; the first: {comments[0]!r:.60}")
    if layout.note:
        report(f"{path}: {layout.note}")
    columns = (*layout.chosen, *(str(number + 1) for number in range(max(len(line.cells) for line in lines))))
    kept = {name: layout.chosen.get(name, int(name) - 1 if name.isdecimal() else -1) for name in wanted}
    kept = {name: number for name, number in (kept or layout.chosen).items() if name in columns}
    return columns, [_sentence(path, block, kept, layout) for block in blocks]


def _sentence(path: Path, block: Sequence[Line], kept: dict[str, int], layout: Layout) -> Read:
    # In CoNLL-U 1-2 stands for the two words after it, and 1.1 for a word that is not in the text.
    words = [line for line in block if not layout.is_counted or not _LEFT_OUT.fullmatch(line.cells[0])]
    width = layout.width or 1 + max(kept.values(), default=0)
    for line in words:
        problem, count = "", len(line.cells)
        if count < width or (layout.width and count > width):
            problem = f"{count} columns, where there should be {width}: {line.text!r:.60}"
        elif layout.is_counted and not line.cells[0].isdecimal():
            problem = f"{line.cells[0]!r:.40} where the number of the word should be"
        # Words may be empty: in the Broad Twitter Corpus some are, and read as [UNK].
        elif not all(line.cells[number].strip() for number in list(kept.values())[1:]):
            problem = f"an empty cell: {line.text!r:.60}"
        if problem:
            return InputError(f"{path}: line {line.number}: {problem}")
    cells = {name: [line.cells[number] for line in words] for name, number in kept.items()}
    tags = cells.get("tags", [])
    if any("*" in tag for tag in tags) and all(map(_BRACKETS.fullmatch, tags)):
        cells["tags"] = _from_brackets(tags)
    return Row(f"{path}: line {block[0].number}", cells)


def _blocks(numbered: Iterable[tuple[int, str]]) -> tuple[list[list[Line]], list[str]]:
    """Sentences as lines, and the comments that stood among them."""
    blocks: list[list[Line]] = [[]]
    for number, text in numbered:
        if not text.strip() or text.startswith("-DOCSTART-"):
            blocks.append([])
            continue
        # A no-break space is part of a token, as in "10\u00a0000".
        cells = text.rstrip("\t ").split("\t") if "\t" in text else [cell for cell in text.split(" ") if cell]
        begins = all(line.is_marked for line in blocks[-1])
        blocks[-1].append(Line(number, text, tuple(cells), begins))
    lines = [line for block in blocks for line in block]
    width = _width([line for line in lines if not line.is_marked] or lines)
    tags = {line.cells[-1] for line in lines if not line.begins or not line.is_marked} | {"#"}

    def is_comment(line: Line) -> bool:
        """A line with "#" is a word where it looks like the others: as many cells, and at the end one of their tags."""
        if not line.is_marked:
            return False
        looks_alike = line.cells[-1] in tags or _has_entities([line.cells[-1]])
        is_key = bool(_KEY_AND_VALUE.match(line.text)) and len(line.cells) > 2
        return len(line.cells) != width or (line.begins and (is_key or not looks_alike))

    comments = [line.text for line in lines if is_comment(line)]
    kept = ([line for line in block if not is_comment(line)] for block in blocks)
    return [block for block in kept if block], comments


def _width(lines: Sequence[Line]) -> int:
    return Counter(len(line.cells) for line in lines).most_common(1)[0][0]


def _layout(
    path: Path, blocks: Sequence[Sequence[Line]], comments: Sequence[str], wanted: Sequence[str]
) -> Layout:
    """What the columns hold; an `InputError` where that is not clear, and not said in `wanted`."""
    lines = [line for block in blocks for line in block]
    width = _width(lines)
    columns = list(zip(*(line.cells for line in lines if len(line.cells) == width), strict=True))
    is_counted = width > 2 and _counts(blocks)
    if wanted and all(name.isdecimal() for name in wanted):
        return Layout({}, 0, is_counted)
    named = next(filter(None, map(_GLOBAL_COLUMNS.match, comments)), None)
    if named is not None:  # CoNLL-U Plus names its columns
        names = named[1].split()
        if not {"FORM", "UPOS"} <= set(names):
            told = f"has the columns {', '.join(names)}; FORM and UPOS are read, or choose by number"
            raise InputError(f"{path}: {told}")
        note = "the words are read from the column FORM, their tags from UPOS"
        chosen = {"tokens": names.index("FORM"), "tags": names.index("UPOS")}
        return Layout(chosen, width, names[0] == "ID", note)
    is_said = path.suffix.lower() == ".conllu"
    if is_said or (width == 10 and is_counted and "\t" in lines[0].text):
        note = "read as CoNLL-U: the words from column 2, their tags (UPOS) from column 4"
        return Layout({"tokens": 1, "tags": 3, "xpos": 4}, 10, True, "" if is_said else note)
    if width == 1 and wanted and "tags" not in wanted:
        return Layout({"tokens": 0}, 1)
    has_documents = width >= 11 and all(len({line.cells[0] for line in block}) == 1 for block in blocks)
    if has_documents and _counts(blocks, 2):
        note = "read as OntoNotes' columns: the words from column 4, entities from column 11"
        return Layout({"tokens": 3, "tags": 10}, 0, False, f"{note} (parts of speech are in column 5)")
    if width == 2 and _has_entities(columns[0]) and not _has_entities(columns[1]):
        note = "the tags are read from column 1, the words from column 2"
        return Layout({"tokens": 1, "tags": 0}, 2, False, note)
    words, note = int(is_counted), ""
    tags = _tag_column(columns, words)
    if width > 2:
        cells = columns[words]
        are_numbers = all(map(str.isdecimal, cells))
        if len(cells) >= _ENOUGH and (are_numbers or len(set(cells)) == 1):
            what = "nothing but numbers" if are_numbers else f"{cells[0]!r:.40} on every line"
            raise InputError(
                f"{path}: column {words + 1} holds {what}: which column has the words, and which the tags? "
                "Give their numbers (--tokens-column 2 --label-column 4)"
            )
        note = f"of {width} columns, the words are read from {words + 1}, the tags from {tags + 1}"
        note += " (column 1 numbers the words)" if is_counted else ""
    return Layout({"tokens": words, "tags": tags}, max(width, 2), is_counted, note)


def _counts(blocks: Sequence[Sequence[Line]], column: int = 0) -> bool:
    """Whether a column counts the words: by sentence from 0 or 1, or through the file."""
    cells = [[line.cells[column] for line in block if len(line.cells) > column] for block in blocks]
    if not all(_NUMBER_OF_WORD.fullmatch(cell) for row in cells for cell in row):
        return False
    rows = [[int(cell) for cell in row if cell.isdecimal()] for row in cells]
    if all(row[:1] in ([], [0], [1]) for row in rows):
        return all(b - a == 1 for row in rows for a, b in pairwise(row))
    through = list(chain.from_iterable(rows))
    return through[0] in (0, 1) and all(b - a == 1 for a, b in pairwise(through))


def _tag_column(columns: Sequence[Sequence[str]], first: int) -> int:
    """The last; of several columns of entities side by side (outer and inner ones, or right ones and predicted
    ones) the first."""
    chosen = last = len(columns) - 1
    for number in range(last, first, -1):
        scheme = read_scheme(columns[number], may_be_bare=False)
        if scheme.unknown or (scheme.types and scheme.types <= _PHRASES):
            break
        if scheme.types:
            chosen = number
    return chosen


def _has_entities(cells: Sequence[str]) -> bool:
    """Whether these are tags of entities, with their types."""
    scheme = read_scheme(cells, may_be_bare=False)
    return not scheme.unknown and bool(scheme.types)


def _from_brackets(tags: Sequence[str]) -> list[str]:
    """(ORG* * *) as B-ORG I-ORG I-ORG."""
    found, current = [], ""
    for tag in tags:
        prefix = "B" if tag.startswith("(") else "I"
        current = tag.strip("(*)") if prefix == "B" else current
        found.append(f"{prefix}-{current}" if current else "O")
        current = "" if tag.endswith(")") else current
    return found
