"""The requests, as their clients send them. Types are strict, and unknown fields are refused by name."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

LONGEST_TEXT = 100_000
"""Characters of a text: some fifty windows of 512 tokens."""

Text = Annotated[str, Field(max_length=LONGEST_TEXT)]
Texts = Annotated[list[Text], Field(min_length=1)]
TopK = Annotated[int, Field(ge=1, le=100)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]


class Strict(BaseModel):
    """A JSON object."""

    model_config = ConfigDict(strict=True, extra="forbid")


class Body(Strict):
    """A request; `model` is a name that `/info` lists, by default the first that has the head."""

    model: str | None = None


class EmbeddingsBody(Body):
    """OpenAI's form."""

    input: Text | Texts
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Count | None = None
    user: str | None = None


class EmbedBody(Body):
    """That of text-embeddings-inference."""

    inputs: Text | Texts
    normalize: bool = True
    truncate: bool = False
    truncation_direction: Literal["right", "Right"] = "right"
    dimensions: Count | None = None


class PredictBody(Body):
    """That of text-embeddings-inference: a text, a pair of texts, or a list of [text] and [text, text]."""

    inputs: (
        Text
        | Annotated[list[Text], Field(min_length=2, max_length=2)]
        | Annotated[list[Annotated[list[Text], Field(min_length=1, max_length=2)]], Field(min_length=1)]
    )
    raw_scores: bool = False
    truncate: bool = False
    truncation_direction: Literal["right", "Right"] = "right"


class RerankBody(Body):
    """That of text-embeddings-inference."""

    query: Text
    texts: Texts
    raw_scores: bool = False
    return_text: bool = False
    truncate: bool = False
    truncation_direction: Literal["right", "Right"] = "right"


class FillMaskParameters(Strict):
    """Of fill-mask."""

    top_k: TopK = 5
    targets: Text | Texts | None = None
    truncation: bool = False


class ClassifyParameters(Strict):
    """Of text classification."""

    top_k: TopK | None = None
    function_to_apply: Literal["softmax", "sigmoid", "none"] | None = None
    truncation: bool = False


class TagParameters(Strict):
    """Of token classification."""

    aggregation_strategy: Literal["none", "simple", "first", "average", "max"] = "simple"
    ignore_labels: list[str] | None = None
    stride: Annotated[int, Field(ge=0)] | None = None
    truncation: bool = False


class AnswerParameters(Strict):
    """Of question answering."""

    top_k: TopK = 1
    doc_stride: Annotated[int, Field(ge=0)] | None = None
    max_answer_len: Count | None = None
    max_question_len: Count | None = None
    max_seq_len: Count | None = None
    handle_impossible_answer: bool | None = None
    align_to_words: bool | None = None


class ChooseParameters(Strict):
    """Of multiple choice."""

    top_k: TopK | None = None
    truncation: bool = False


class TextPair(Strict):
    """Two texts that are read together."""

    text: Text
    text_pair: Text | None = None


class Choice(Strict):
    """A text, and those of which one goes with it."""

    text: Text
    choices: Annotated[list[Text], Field(min_length=2)]


class Question(Strict):
    """A question, and the text that may hold its answer."""

    question: Text
    context: Text


class FillMaskBody(Body):
    """Texts with [MASK]."""

    inputs: Text | Texts
    parameters: FillMaskParameters = FillMaskParameters()


class ClassifyBody(Body):
    """Texts, or pairs of texts."""

    inputs: Text | TextPair | Annotated[list[Text | TextPair], Field(min_length=1)]
    parameters: ClassifyParameters = ClassifyParameters()


class TagBody(Body):
    """Texts."""

    inputs: Text | Texts
    parameters: TagParameters = TagParameters()


class AnswerBody(Body):
    """Questions."""

    inputs: Question | Annotated[list[Question], Field(min_length=1)]
    parameters: AnswerParameters = AnswerParameters()


class ChooseBody(Body):
    """Texts with choices."""

    inputs: Choice | Annotated[list[Choice], Field(min_length=1)]
    parameters: ChooseParameters = ChooseParameters()


class MapsBody(Body):
    """A text, or a pair of texts; layers are counted from 0, and the last one is shown by default."""

    inputs: Text | TextPair
    layer: Annotated[int, Field(ge=0)] | None = None


def params_of(parameters: Strict) -> dict[str, Any]:
    """Arguments of a call of the pipeline; what was not given is left to it."""
    given = parameters.model_dump(exclude_none=True)
    return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
