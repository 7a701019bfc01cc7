"""Which of some sentences are closest to a question? Mean of the token states, compared by cosine.

    python examples/sentence_similarity.py ["A sentence"] [MODEL]

The embedded model is small and only pre-trained, a poor judge of meaning: give a model that was fine-tuned for it.
"""

import sys

import numpy as np

import convbert

SENTENCES = [
    "Leaves turn the light of the sun into food.",
    "Trees and flowers grow towards the light.",
    "The train to the coast leaves at noon.",
    "He paid the money back to the bank.",
    "Birds build their nests in spring.",
]


def main(question: str = "How do plants get their energy?", model: str | None = None) -> None:
    embed = convbert.pipeline("feature-extraction", model, pooling="mean")
    vectors = np.array(embed([question, *SENTENCES]))
    vectors -= vectors.mean(axis=0)  # what all texts share says nothing
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    similarities = vectors[1:] @ vectors[0]
    print(question)
    for number in np.argsort(-similarities):
        print(f"  {similarities[number]:+.2f}  {SENTENCES[number]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
