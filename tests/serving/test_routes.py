"""Every route gives what the pipelines give for each text alone, in the form that its clients read."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

pytest.importorskip("fastapi", reason="needs the extra serve")

import convbert

TEXTS = [
    "the cat [MASK] on the mat .",
    "[MASK]",
    "a dog [MASK] and the dogs ran to the house .",
    "a [MASK] ran",
]
QUESTION = {"question": "the cat", "context": "the dog ran to the house and the cat sat on a mat ."}

CHOICE = {"text": "the cat sat", "choices": ["on a mat .", "and ran", "a dog"]}


@pytest.fixture(scope="module")
def pipes(folders):
    def make(task: str, name: str, **kwargs):
        return convbert.pipeline(task, folders[name], precision="fp32", **kwargs)

    return {
        "words": make("fill-mask", "words"),
        "reviews": make("text-classification", "reviews", top_k=None),
        "ranks": make("text-classification", "ranks", top_k=None),
        "names": make("token-classification", "names", aggregation_strategy="simple"),
        "questions": make("question-answering", "questions"),
        "choices": make("multiple-choice", "choices"),
        "vectors": make("feature-extraction", "words", pooling="mean"),
    }


def close(found, expected) -> None:
    """The same, numbers to rounding."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name, each in expected.items():
            close(found[name], each)
    elif isinstance(expected, list | tuple):
        for one, other in zip(found, expected, strict=True):
            close(one, other)
    else:
        assert found == (expected if isinstance(expected, str) else pytest.approx(expected, abs=1e-5))


def unit(vectors) -> np.ndarray:
    array = np.array(vectors)
    return array / np.linalg.norm(array, axis=-1, keepdims=True)


@pytest.mark.parametrize(
    ("path", "model", "inputs"),
    [
        ("/fill-mask", "words", TEXTS),
        ("/tag", "names", TEXTS),
        ("/answer", "questions", [QUESTION, QUESTION]),
        ("/choose", "choices", [CHOICE, {**CHOICE, "choices": CHOICE["choices"][:2]}]),
    ],
)
def test_own_routes(server, pipes, path, model, inputs):
    expected = [pipes[model](each) for each in inputs]
    close(server.send(path, {"inputs": inputs}).content, expected)
    close(server.send(path, {"inputs": inputs[0], "model": model}).content, expected[0])


def test_classes(server, pipes):
    expected = [pipes["reviews"](text, top_k=None) for text in TEXTS]
    close(server.send("/classify", {"inputs": TEXTS}).content, expected)
    close(server.send("/classify", {"inputs": TEXTS[0]}).content, expected[:1])
    close(server.send("/predict", {"inputs": TEXTS[0]}).content, expected[0])
    pair = pipes["reviews"]({"text": "a cat", "text_pair": "a dog"})
    close(server.send("/predict", {"inputs": ["a cat", "a dog"]}).content, pair)
    close(server.send("/predict", {"inputs": [[TEXTS[1]], ["a cat", "a dog"]]}).content, [expected[1], pair])
    raw = pipes["reviews"](TEXTS[0], top_k=None, function_to_apply="none")
    close(server.send("/predict", {"inputs": TEXTS[0], "raw_scores": True}).content, raw)


def test_reranking(server, pipes):
    query, texts = "the cat", ["a dog ran", "a cat sat on the mat", "the house"]
    scores = [
        pipes["ranks"]({"text": query, "text_pair": text}, function_to_apply="sigmoid")[0]["score"]
        for text in texts
    ]
    order = sorted(range(3), key=lambda number: -scores[number])
    body = {"query": query, "texts": texts, "return_text": True}
    found = server.send("/rerank", body).content
    close(found, [{"index": number, "score": scores[number], "text": texts[number]} for number in order])
    refused = server.send("/rerank", {**body, "model": "reviews"})
    assert (refused.status, "3 labels" in refused.content["error"]) == (404, True)


def test_parameters_reach_the_pipeline(server, pipes):
    parameters = {"targets": ["cat", "dog"], "top_k": 1}
    found = server.send("/fill-mask", {"inputs": TEXTS[0], "parameters": parameters}).content
    close(found, pipes["words"](TEXTS[0], **parameters))
    parameters = {"top_k": 2, "max_answer_len": 3}
    found = server.send("/answer", {"inputs": QUESTION, "parameters": parameters}).content
    close(found, pipes["questions"](QUESTION, **parameters))


def test_embeddings(server, pipes):
    expected = pipes["vectors"](TEXTS)
    close(server.send("/embed", {"inputs": TEXTS, "model": "words", "normalize": False}).content, expected)
    cut = server.send("/embed", {"inputs": TEXTS[0], "model": "words", "dimensions": 8}).content
    np.testing.assert_allclose(cut, unit(np.array(expected[:1])[:, :8]), atol=1e-5)


@pytest.mark.parametrize(
    "text",
    ["the cat", {"text": "the cat sat", "text_pair": "a dog ran"}, {"text": "a", "text_pair": "cat " * 99}],
)
@pytest.mark.parametrize("layer", [None, 0])
def test_maps(server, folders, text, layer):
    body = {"inputs": text, "model": "reviews"} | ({} if layer is None else {"layer": layer})
    found = server.send("/maps", body).content
    model = convbert.ConvBertForSequenceClassification.from_pretrained(folders["reviews"])
    tokenizer = convbert.ConvBertTokenizerFast.from_pretrained(folders["reviews"])
    texts = {"text": text} if isinstance(text, str) else text
    batch = tokenizer(
        **texts, truncation=True, max_length=model.config.max_position_embeddings, return_tensors="pt"
    )
    with torch.no_grad():
        output = model(**batch, output_attentions=True, output_conv_kernels=True)
    for name in ("attentions", "conv_kernels"):
        np.testing.assert_allclose(found[name], output[name][-1 if layer is None else layer][0], atol=1e-4)
    assert found["tokens"] == tokenizer.convert_ids_to_tokens(batch["input_ids"][0])
    assert found["length"] == batch["input_ids"].shape[1]


def test_no_more_layers_than_there_are(server):
    reply = server.send("/maps", {"inputs": "the cat", "layer": 2})
    assert (reply.status, "0 to 1" in reply.content["error"]) == (422, True)


def test_the_openai_client(server, pipes):
    openai = pytest.importorskip("openai", reason="needs the client")
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    assert [model.id for model in client.models.list()] == list(server.batcher.models)
    expected = unit(pipes["vectors"](TEXTS))
    for options in ({}, {"encoding_format": "float"}):  # by default the client asks for base64
        found = client.embeddings.create(model="words", input=TEXTS, **options)
        np.testing.assert_allclose([each.embedding for each in found.data], expected, atol=1e-5)
    (cut,) = client.embeddings.create(model="words", input=TEXTS[0], dimensions=8).data
    np.testing.assert_allclose(cut.embedding, unit(np.array(pipes["vectors"](TEXTS[0]))[:8]), atol=1e-5)
    with pytest.raises(openai.BadRequestError, match="dimensions"):
        client.embeddings.create(model="words", input="a cat", dimensions=1000)
    assert (
        found.usage.prompt_tokens == sum(len(text.replace("[MASK]", "").split()) for text in TEXTS) + 1
    )  # dogs is two
    with pytest.raises(openai.NotFoundError, match="words"):
        client.embeddings.create(model="gpt", input="a cat")
    (long,) = client.embeddings.create(model="words", input="cat " * 100).data
    np.testing.assert_allclose(long.embedding, unit(pipes["vectors"]("cat " * 100)), atol=1e-5)


def test_the_client_of_the_hub(server, pipes, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    from huggingface_hub import InferenceClient

    def client(path: str) -> InferenceClient:
        return InferenceClient(model=f"{server.url}{path}", token="none")

    for path in ("/fill-mask", ""):
        found = client(path).fill_mask(TEXTS[0], top_k=3)
        expected = pipes["words"](TEXTS[0], top_k=3)
        close([(each.token, each.score) for each in found], [[x["token"], x["score"]] for x in expected])
    found = client("/classify").text_classification(TEXTS[0])
    close(
        [{"label": each.label, "score": each.score} for each in found], pipes["reviews"](TEXTS[0], top_k=None)
    )
    spans = client("/tag").token_classification(TEXTS[2])
    assert [(each.start, each.end) for each in spans] == [
        (x["start"], x["end"]) for x in pipes["names"](TEXTS[2])
    ]
    answer = client("/answer").question_answering(**QUESTION)
    assert answer.answer == pipes["questions"](QUESTION)["answer"]
    np.testing.assert_allclose(
        client("/embed").feature_extraction(TEXTS[0]), unit([pipes["vectors"](TEXTS[0])]), atol=1e-5
    )


@pytest.mark.parametrize("cut", [False, True])
def test_long_texts_are_read_in_windows_unless_the_request_cuts_them(cut, server, pipes):
    text = "the cat ran to the house . " * 20
    found = server.send("/classify", {"inputs": text, "parameters": {"truncation": cut}}).content
    close(found, [pipes["reviews"](text, top_k=None, long="cut" if cut else "windows")])


def test_answers_are_never_mixed(server, pipes):
    """Many clients with texts of all lengths and different jobs at once: each gets its own."""
    texts = [" ".join(["the cat", "[MASK]", *["and a dog"] * (number % 7)]) for number in range(60)]
    expected = [pipes["words"](text) for text in texts], pipes["reviews"](texts, top_k=None)
    with ThreadPoolExecutor(16) as clients:
        filled = list(clients.map(lambda text: server.send("/fill-mask", {"inputs": text}).content, texts))
        classes = list(clients.map(lambda text: server.send("/predict", {"inputs": text}).content, texts))
    close(filled, expected[0])
    close(classes, expected[1])
    batches = server.send("/metrics").content
    assert 'convbert_batch_texts_bucket{le="1.0"}' in batches


def test_information(server):
    assert server.send("/health").content == {"status": "ok"}
    info = server.send("/info").content
    assert [model["name"] for model in info["models"]] == list(server.batcher.models)
    assert info["models"][3]["labels"] == ["O", "B-X", "I-X"]
    metrics = server.send("/metrics").content
    assert 'convbert_requests_total{path="/health",status="200"}' in metrics
    described = server.send("/openapi.json").content
    assert {"/v1/embeddings", "/embed", "/predict", "/rerank", "/fill-mask", "/tag"} <= described[
        "paths"
    ].keys()
    for path in ("/", "/docs", "/serve.js", "/docs.js", "/draw.js", "/maps.js", "/style.css"):
        page = server.send(path)
        assert page.status == 200
        assert "://" not in page.content  # nothing from outside
