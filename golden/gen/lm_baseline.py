# SPDX-License-Identifier: MIT
"""What the held-out text costs without a neural network, in bits per byte.

    lm_baseline.py TRAIN HELDOUT

compresses with xz, and scores with an order-4 model of bytes: interpolated Witten-Bell smoothing,
P(c|h) = (n(hc) + T(h) P(c|h')) / (n(h) + T(h)), where T(h) bytes were seen after the context h, h'
is h without its first byte, and below the empty context all 256 bytes are equal. Each document is
scored alone: every byte once, the separator before the first one, no end. All figures are divided
by the bytes so scored. Only Python's standard library is used.
"""

import lzma
import math
import sys
from collections import Counter
from pathlib import Path

ORDER = 4
FEW = 48  # documents: what a short test takes
SEPARATOR = b"\f"


class WittenBell:
    def __init__(self, text):
        self.count, self.seen, self.followers = {}, Counter(), Counter()
        for k in range(1, ORDER + 2):
            grams = Counter(text[i : i + k] for i in range(len(text) - k + 1))
            self.count.update(grams)
            for gram, n in grams.items():
                self.seen[gram[:-1]] += n
                self.followers[gram[:-1]] += 1

    def probability(self, context, byte):
        p = 1 / 256
        for k in range(len(context) + 1):
            h = context[len(context) - k :]
            t = self.followers[h]
            if t == 0:
                break  # a longer context is unseen too
            p = (self.count.get(h + byte, 0) + t * p) / (self.seen[h] + t)
        return p

    def bits(self, document):
        text = SEPARATOR + document
        return -sum(
            math.log2(self.probability(text[max(0, i - ORDER) : i], text[i : i + 1]))
            for i in range(1, len(text))
        )


def xz(text):
    return len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME))


def main(train, heldout):
    documents = heldout.split(SEPARATOR)
    scored = sum(map(len, documents))
    alone, both, before = xz(heldout), xz(train + SEPARATOR + heldout), xz(train)
    model = WittenBell(SEPARATOR + train)
    print(f"{len(documents)} documents, {scored} bytes scored")
    print(f"xz -9e, alone: {8 * alone / scored:.4f} bits per byte")
    print(f"xz -9e, after the training text: {8 * (both - before) / scored:.4f} bits per byte")
    for part in (documents, documents[:FEW]):
        bits, size = sum(map(model.bits, part)), sum(map(len, part))
        print(f"order {ORDER}, first {len(part)} documents: {bits / size:.4f} bits per byte")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*(Path(p).read_bytes() for p in sys.argv[1:]))
