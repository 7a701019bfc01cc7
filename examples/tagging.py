"""Train a tagger on a column of words and a column of tags, and mark what it finds in a text.

    python examples/tagging.py train.conll "Ada Lovelace lived in London."

train.conll: a word and its tag a line (BIO, BILOU, ...), an empty line between sentences.
"""

import sys
from pathlib import Path

import convbert
from convbert.cli import main as command

OUTPUT = Path("runs/tagging")


def main(train: str, text: str, *options: str) -> None:
    words = ["finetune", "--task", "entities", "--train", train, "--output", str(OUTPUT), *options]
    if command(words) != 0:
        sys.exit(2)
    tag = convbert.pipeline("token-classification", OUTPUT / "model", aggregation_strategy="first")
    for entity in reversed(tag(text)):  # from the end, so that places in front of it stay true
        found = f"[{text[entity['start'] : entity['end']]} {entity['entity_group']} {entity['score']:.2f}]"
        text = text[: entity["start"]] + found + text[entity["end"] :]
    print(text)


if __name__ == "__main__":
    main(*sys.argv[1:])
