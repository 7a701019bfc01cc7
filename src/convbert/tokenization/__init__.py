"""Both tokenizers: `ConvBertTokenizerFast`, backed by tokenizers, and `ConvBertTokenizer`, in Python.

BERT's WordPiece: clean the text, cut it into words at white space and punctuation, cut each word into the
longest pieces the vocabulary holds. The two classes give the same ids on any string; the fast one also gives
offsets, word numbers and overflowing windows.
"""

from convbert.tokenization.fast import ConvBertTokenizerFast
from convbert.tokenization.slow import ConvBertTokenizer
from convbert.tokenization.vocabulary import SPECIAL_TOKENS, load_vocabulary

__all__ = ["SPECIAL_TOKENS", "ConvBertTokenizer", "ConvBertTokenizerFast", "load_vocabulary"]
