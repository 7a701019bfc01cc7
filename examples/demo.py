"""Fill the masks of a few sentences with the embedded model, and print a table: what `make demo` runs."""

from rich.console import Console
from rich.table import Table

import convbert

SENTENCES = [
    "Plants create [MASK] through a process known as photosynthesis.",
    "The capital of the country is a large [MASK].",
    "She opened the [MASK] and went into the room.",
    "Water boils at a high [MASK].",
    "The patient was treated at the [MASK].",
    "He had never [MASK] such a thing before.",
]


def main() -> None:
    """Print each sentence with the three words that fit best."""
    fill = convbert.pipeline("fill-mask", top_k=3)
    table = Table(title="The embedded English model of convbert, offline, on this machine's CPU")
    table.add_column("sentence")
    table.add_column("words that fit, with their probability")
    for sentence, words in zip(SENTENCES, fill(SENTENCES), strict=True):
        fits = ", ".join(f"{word['token_str']} {word['score']:.0%}" for word in words)
        table.add_row(sentence.replace("[MASK]", "____"), fits)
    Console().print(table)


if __name__ == "__main__":
    main()
