"""The replies, as the description of the interface says them; they are written as the pipelines give them."""

from __future__ import annotations

from typing import Literal, NotRequired

from typing_extensions import TypedDict

Vector = list[float]


class Failed(TypedDict):
    """In place of the answer to a text of a list that cannot be used."""

    error: str


class Embedding(TypedDict):
    """A vector, as a list, or its bytes in base64."""

    object: Literal["embedding"]
    index: int
    embedding: Vector | str


class Usage(TypedDict):
    """Tokens of a request."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(TypedDict):
    """OpenAI's form."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage


class Label(TypedDict):
    """A class."""

    label: str
    score: float


class Choice(Label):
    """A choice, and its place among the choices."""

    index: int


class Rank(TypedDict):
    """A text by its number, with how well it fits."""

    index: int
    score: float
    text: NotRequired[str]


class Word(TypedDict):
    """A word for a mask, and the text with it."""

    score: float
    token: int
    token_str: str
    sequence: str


Masks = list[Word] | list[list[Word]]
"""Of a text with one mask, or with several."""


class Span(TypedDict):
    """Marked characters; `entity_group` of grouped ones, `entity` and the token's number of single tokens."""

    entity_group: NotRequired[str]
    entity: NotRequired[str]
    index: NotRequired[int]
    score: float
    word: str
    start: int
    end: int


class Answer(TypedDict):
    """A piece of the context."""

    score: float
    start: int
    end: int
    answer: str


Answers = Answer | list[Answer]


class Maps(TypedDict):
    """See `convbert.serving.maps.stream_maps`."""

    tokens: list[str]
    length: int
    attentions: list[list[Vector]]
    conv_kernels: list[list[Vector]]
