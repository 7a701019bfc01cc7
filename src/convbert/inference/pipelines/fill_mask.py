"""Words that fit where a text says [MASK]."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from transformers import FillMaskPipeline

from convbert.inference.engine import Packed, Rows, Tokens
from convbert.inference.pipelines.base import PackedPipeline, check_is_text, check_whole, excerpt
from convbert.inference.windows import Long, text_numbers, windows_around
from convbert.util.errors import DataWarning, InputError


class FillMask(PackedPipeline, FillMaskPipeline):
    """transformers' `FillMaskPipeline`, with the vocabulary computed at masks only.

    A text with one mask gives a list of {"score", "token", "token_str", "sequence"}, a text with several a
    list of such lists. Of a text that is too long, windows around the masks are read: each mask has at least a quarter
    of a window on either side, where the text goes on.

    Keyword Args:
        top_k (in old programs `topk`): words to give per mask; 5 by default.
        targets: words to choose from. Of one that is no token, the first piece is scored, with a warning.
        long: "windows", "cut" or "refuse": what is done with a text of more than `max_length` tokens.
        truncation, max_length: True is "cut"; by default what the model reads.
        tokenizer_kwargs: the same, and more for the tokenizer.
    """

    def _sanitize_parameters(
        self,
        top_k: int | None = None,
        targets: str | list[str] | None = None,
        long: Long | None = None,
        tokenizer_kwargs: dict[str, Any] | None = None,
        topk: int | None = None,
        **tokenizer: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if self.tokenizer.mask_token_id is None:
            raise InputError("the tokenizer has no mask token")
        forward: dict[str, Any] = {}
        top_k = topk if top_k is None else top_k
        if top_k is not None:
            check_whole("top_k", top_k, most=self.model.config.vocab_size)
            forward["top_k"] = top_k
        if targets is not None:
            forward["target_ids"] = self._numbers_of([targets] if isinstance(targets, str) else targets)
        return self._for_encoding(long, tokenizer_kwargs, tokenizer), forward, {}

    def _numbers_of(self, targets: list[str]) -> Tensor:
        """As transformers, takes the first token of a target that is none, but says so."""
        if not targets:
            raise InputError("targets is empty: name at least one word to choose from")
        vocabulary, found = self.tokenizer.get_vocab(), set()
        for target in targets:
            check_is_text(target)
            ids = [vocabulary[target]] if target in vocabulary else []
            if not ids:
                ids = self.tokenizer(target, add_special_tokens=False, verbose=False)["input_ids"]
                if len(ids) != 1 or ids[0] == self.tokenizer.unk_token_id:
                    shown = self.tokenizer.convert_ids_to_tokens(ids[:1])
                    then = f"{shown[0]} is scored in its place" if ids else "it is left out"
                    what = f"the target {excerpt(target)} is no token of the vocabulary; {then}"
                    warnings.warn(what, DataWarning, stacklevel=2)
            found |= set(ids[:1])
        if not found:
            raise InputError(f"targets names no word: {excerpt(repr(targets))}")
        return torch.tensor(sorted(found))

    def preprocess(self, inputs: str, **tokenizer_kwargs: Any) -> list[Tokens]:
        """A text to tokens, of each of its windows, with a mask among them."""
        check_is_text(inputs)
        mask = self.tokenizer.mask_token
        if not inputs.strip():
            raise InputError(f"the text is empty; it must say {mask} where a word is wanted")
        if mask not in inputs:  # before its tokens are counted
            raise InputError(f"there is no {mask} in the text {excerpt(inputs)}")
        windows = self.encode(inputs, **tokenizer_kwargs)
        if not any(self.tokenizer.mask_token_id in window.input_ids for window in windows):
            raise InputError(f"{mask} is behind the cut in the text {excerpt(inputs)}")
        return windows

    def plan(self, encoded: Any, room: int) -> tuple[list[list[int]], bool]:
        """Windows around the masks. No mask is left out, and the rest is not asked for."""
        masks = [
            place for place, token in enumerate(encoded["input_ids"]) if token == self.tokenizer.mask_token_id
        ]
        return windows_around(masks, text_numbers(encoded), room), False

    def _forward(
        self, packed: Packed, top_k: int = 5, target_ids: Tensor | None = None
    ) -> tuple[Rows, Tensor]:
        is_mask = packed["input_ids"] == self.tokenizer.mask_token_id
        logits = self.model(**packed, logits_to_keep=is_mask).logits
        probabilities = logits.float().softmax(-1)
        if target_ids is None:
            scores, tokens = probabilities.topk(top_k)
        else:
            target_ids = target_ids.to(logits.device)
            scores, chosen = probabilities[:, target_ids].topk(min(top_k, len(target_ids)))
            tokens = target_ids[chosen]
        masks_before = torch.nn.functional.pad(is_mask[0].cumsum(0), (1, 0))
        return {"scores": scores, "tokens": tokens}, masks_before[packed["cu_seq_lens_q"].long()].diff()

    def postprocess(self, model_outputs: list[tuple[Tokens, Rows]], **_: Any) -> list[Any]:
        """The best tokens (masks, k) as words, each also in place of its mask."""
        mask_id, ids = self.tokenizer.mask_token_id, model_outputs[0][0].detail.ids
        best: dict[int, tuple[int, list[float], list[int]]] = {}  # by mask: context, scores and tokens
        for text, found in model_outputs:
            shown = [number for number, token in enumerate(text.input_ids) if token == mask_id]
            for number, scores, chosen in zip(
                shown, found["scores"].tolist(), found["tokens"].tolist(), strict=True
            ):
                mask, context = text.detail.places[number], min(number, len(text.input_ids) - 1 - number)
                if mask not in best or context > best[mask][0]:
                    best[mask] = context, scores, chosen
        results: list[list[dict[str, Any]]] = []
        for mask in sorted(best):
            results.append([])
            for score, token in zip(*best[mask][1:], strict=True):
                filled = [*ids[:mask], token, *ids[mask + 1 :]]
                # Special tokens are left out of the sentence, unless other masks are among them; padding always is.
                filled = [each for each in filled if each != self.tokenizer.pad_token_id]
                results[-1].append(
                    {
                        "score": score,
                        "token": token,
                        "token_str": self.tokenizer.decode([token]),
                        "sequence": self.tokenizer.decode(filled, skip_special_tokens=len(best) == 1),
                    }
                )
        return results[0] if len(results) == 1 else results
