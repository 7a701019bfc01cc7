"""The bytes that the original's `vocab.txt` has lost, in the order of its lines.

The file is BERT's uncased vocabulary (Google, Apache-2.0), whose UTF-8 was once read as GBK. Where the third byte of a
character had no partner to make a character of GBK with, U+FFFD stands in its place.
"""

from __future__ import annotations

import string

# A continuation byte of UTF-8 has six bits, as a digit of base 64 has.
_DIGITS = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"
_LOST = (
    "FGJPVWXacfhjklmnoqstuvwy12345+/LklCFGHJPTVWXabcfhjklmnoqstuvwy2345+/HVafkopquvwyz1+/BHIow+a679PBHVXZ"
    "ehijlnqtyLNCERTUWYgijmZQRSTUVXYZabcdghijCDFGHJKLMOPQRShilmnpqtuvyz01orv348suw16DHIJNPQSWXYijklcgQRST"
    "UVWYZacdeghimwyz6/Ewx01234567/BCDEFGHIJKNOQRSTVWXYZabckpsx5TWdiTUQRSTUmEMSCFGHISXYaenopqIhklCGVXFCgq"
    "PFGJgjlmtvop8p8lBCIJKLMNOPcCEGIKLNPRTVXZbdfhjkmoqrstuvy147+/BCEGIJKLMNSThijkmnoqrtvxz1357/BDEGIKLOPS"
    "VYbefghijlnpqrstvz78JKLNWt7FLfLMUVs67BLjuKaQNdhlDJrsF6GNJbgdX6BDXafjky4IJMNMXb9LfwCOC0rPWnpqrIzQmHJX"
    "aju2/6HPaxh2Ode/dz04/Y1zMh3DEXgbQRm4LM/Hw5lOflt6y4IJdosORx+XuK5LMijmUPR0134fiz7V3FisrIsLfw3S69EHu4Bf"
    "z6+eP+L6Lg55Opzv5xxvJkMX/LBe3d0KN2TOho9MOR0H3Td/z9ESiofZsYN4BCBIJMNOPafeCDB6EiZCStSFGJPVWXacfhjklmno"
    "qstuvwy12345+/LklCFGHJPTVWXabcfhjklmnoqstuvwy2345+/HVafkopquvwyz1+/BHIow+a679PBHVXZehijlnqtyLNCERTUW"
    "YgijmZQRSTUVXYZabcdghijCDFGHJKLMOPQRShilmnpqtuvyz01orv348suw16DHIJNPQSWXYjklcgQRSTUVWYZacdeghimwyz6/"
    "Ewx0123457/FGHIJKNOQRSTVWXYabckpsx5TWdiTUQRSTUmEMSCFGHIXYaenopqIhklCGVXFCgqPFGJgjlmvop8p8lBCIJKLMNOP"
    "cCEGIKLNPRTVXZbdfhjkmoqrstuvy147+/BCEGIJKLMNSThijkmnoqrtvxz1357/BDEGIKLOPSVYbefghijlnpqrstvz78JKLNWt"
    "7FLfLMUVs67BLjuKaQNdhlDJrsF6GNJbgdX6BDXafjky4IJMNMXb9LfwCOC0rPWnpqrIzQmHJXaju2/6HPaxh2Ode/dz04/Y1zMh"
    "3DEXgbQRm4LM/Hw5lOflt6y4IJdosORx+XuK5LMijmUPR0134fiz7V3FisrIsLfw3S69EHu4Bfz6+eP+L6Lg55Opzv5xxvJkMX/L"
    "Be3d0KN2TOho9MOR0H3Td/z9ESiofZsYN4BCBIJMNOPafe"
)

LOST_BYTES = bytes(0x80 + _DIGITS.index(digit) for digit in _LOST)
SHA256 = "12b936f32da689796ede0082bd6f02767fb7e4dc88e2bda87cff3e953642c49b"
"""Of all lines of BERT's vocabulary that are not ASCII: number from 0, a space, the token; joined by newlines."""
