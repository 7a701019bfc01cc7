"""Why this word? The neighbours that the convolution heads mix into a masked place, layer by layer.

    python examples/explain.py ["A sentence with a [MASK]."] [MODEL]

Each token predicts its own kernel, one weight for each neighbour; here, the mean of a layer's heads. Beside them, the
token that the attention heads of the layer look at most.
"""

import sys

import torch

import convbert

SHADES = " ░▒▓█"


@torch.no_grad()
def main(text: str = "The doctor sent the patient to the [MASK] at once.", model: str | None = None) -> None:
    source = model or convbert.embedded.folder()
    tokenizer = convbert.ConvBertTokenizerFast.from_pretrained(source)
    network = convbert.ConvBertForMaskedLM.from_pretrained(source, dtype="float32").eval()
    batch = tokenizer(text, return_tensors="pt")
    output = network(**batch, output_conv_kernels=True, output_attentions=True)
    tokens = tokenizer.convert_ids_to_tokens(batch["input_ids"][0])
    at = tokens.index(tokenizer.mask_token)
    words = tokenizer.convert_ids_to_tokens(output.logits[0, at].topk(3).indices)
    print(f"{text}\n[MASK] may be: {', '.join(words)}\n")

    half = network.config.conv_kernel_size // 2
    places = [place for place in range(at - half, at + half + 1) if 0 <= place < len(tokens)]
    print("layer " + "".join(f"{tokens[place][:9]:>10}" for place in places) + "   attention looks at")
    for layer, (kernels, attention) in enumerate(zip(output.conv_kernels, output.attentions, strict=True)):
        weights = kernels[0, at].mean(0)  # (heads, taps) to (taps,)
        shown = [weights[place - at + half].item() for place in places]
        bars = "".join(f"{SHADES[min(4, int(weight * 12))] * 3:>5}{weight:>5.0%}" for weight in shown)
        print(f"{layer:>5} {bars}   {tokens[attention[0, :, at].mean(0).argmax()]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
