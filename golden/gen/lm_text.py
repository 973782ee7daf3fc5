# SPDX-License-Identifier: MIT
"""Makes the text that the shipped language model is trained and judged on.

    lm_text.py PACKAGES OUT

PACKAGES is a folder with the three Debian packages that SOURCES names (apt-get download). OUT gets
train.txt, valid.txt and heldout.txt: printable ASCII and newlines, a paragraph a line, documents
separated by one form feed. Nothing but Python's standard library, dpkg-deb and gzip is used, and
the same packages give the same bytes. See golden/lm/README.md for what the files are.
"""

import hashlib
import re
import struct
import subprocess
import sys
import unicodedata
import zlib
from pathlib import Path

# name: (package file, its sha256, chapters held out of training)
SOURCES = {
    "austen": (
        "r-cran-janeaustenr_1.0.0-1_all.deb",
        "df6bddf211906d1ff404f8ff662c21b34e6660e7f54a311084e749050c019c95",
        12,
    ),
    "kjv": (
        "bible-kjv-text_4.38_all.deb",
        "d61b6aad4c51ba9e2800b825325fa6a09e99a0d02a9bb6dc4724fcc4995a1b7a",
        50,
    ),
    "david": (
        "sword-comm-tdavid_2.1-1_all.deb",
        "bcbfad701c5c4a061475b58309cebc42755a59e87478c8355227c5e046412b3f",
        10,
    ),
}
GROUP = 3000  # bytes of notes that make a document, at least
PASSAGES = 560  # of the held-out text, all sources together
VALID = 64  # passages of the validation text, from the same chapters
SHORTEST, LONGEST = 400, 700  # bytes of a passage
SHARED = 64  # a passage that has so many bytes in a row in common with the training text is dropped

PLAIN = str.maketrans(
    {
        "\u2018": "'",
        "\u2019": "'",
        "\u201c": '"',
        "\u201d": '"',
        "\u2013": "-",
        "\u2014": "--",
        "\u2026": "...",
        "\u00c6": "AE",
        "\u00e6": "ae",
        "\u0152": "OE",
        "\u0153": "oe",
    }
)


def plain(text):
    """One paragraph as printable ASCII, white space made single spaces."""
    text = unicodedata.normalize("NFKD", text.translate(PLAIN))
    text = "".join(c for c in text if " " <= c <= "~" or c.isspace())
    return " ".join(text.split())


def rank(*words):
    """A fixed place in a shuffle: what is chosen depends on names and texts alone."""
    return hashlib.sha256("\0".join(words).encode()).digest()


def document(paragraphs):
    return "".join(p + "\n" for p in map(plain, paragraphs) if p)


def austen(root):
    """(chapter, documents) of the six novels: a block of the data base is a character vector."""
    data = (root / "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb").read_bytes()
    book = 0
    while data:
        unzip = zlib.decompressobj()
        block = unzip.decompress(data[4:])  # 4 bytes: the size of the block unzipped
        data = unzip.unused_data
        lines = list(r_strings(block))
        book += 1
        chapter, start = 0, None
        for i, line in enumerate(lines + ["CHAPTER"]):
            if re.match(r"(?i)chapter\b", line):
                if start is not None:
                    chapter += 1
                    yield f"austen {book} {chapter}", [austen_chapter(lines[start:i])]
                start = i + 1


def r_strings(block):
    """The strings of an R character vector as saved in R's XDR format, version 3."""
    (n,) = struct.unpack_from(">I", block, 14)  # 'X\n', three versions, the native encoding's size
    at = 18 + n
    kind, count = struct.unpack_from(">II", block, at)
    if kind & 0xFF != 16:
        sys.exit(f"lm_text: an R object of type {kind & 0xFF} where a character vector should be")
    at += 8
    for _ in range(count):
        _, size = struct.unpack_from(">II", block, at)
        yield block[at + 8 : at + 8 + size].decode()
        at += 8 + size


def austen_chapter(lines):
    text = "\n".join(lines).replace("_", "")
    paragraphs = re.split(r"\n\s*\n", text)
    return document(p for p in paragraphs if not re.fullmatch(r"\s*[A-Z0-9 .,:]*\s*", p))


def kjv(root):
    """(chapter, documents): a chapter a document, a verse a paragraph."""
    data = (root / "usr/lib/bible.data").read_bytes()
    (count,) = struct.unpack_from(">I", data, 0x58)
    places = struct.unpack_from(f">{count + 1}I", data, 0x5C)
    windows = (unpack_window(data[a:b]) for a, b in zip(places, places[1:]))
    chapters = {}
    for line in b"".join(windows).decode("ascii").splitlines():
        verse = re.match(r"(\w+?)(\d+):\d+ (.*)", line)
        if verse:
            chapters.setdefault(f"kjv {verse[1]} {verse[2]}", []).append(verse[3])
    for name, verses in chapters.items():
        yield name, [document(verses)]


def unpack_window(window):
    magic = b"\x1f\x9d\x90"  # of compress(1); the file leaves it out
    unzip = subprocess.run(["gzip", "-dc"], input=magic + window, capture_output=True, check=True)
    return unzip.stdout


def david(root):
    """(chapter, documents): a psalm a chapter, the comment on a verse a document."""
    base = root / "usr/share/sword/modules/comments/zcom/tdavid"
    blocks, text, entries = ((base / f"ot.cz{c}").read_bytes() for c in "szv")
    psalms = {}
    seen = set()
    for block, start, size in struct.iter_unpack("<III", entries):
        if size and (block, start) not in seen:
            seen.add((block, start))
            psalms.setdefault(block, []).append((start, size))
    for block, places in psalms.items():
        at, size, _ = struct.unpack_from("<III", blocks, 12 * block)
        chapter = zlib.decompress(text[at : at + size])
        entries = [osis(chapter[a : a + n].decode()) for a, n in places]
        yield f"david {block}", [d for entry in entries for d in groups(entry)]


def groups(text):
    """Documents of at least GROUP bytes, each of whole notes (a note begins with its verse)."""
    document = ""
    for paragraph in text.splitlines(keepends=True):
        if len(document) >= GROUP and re.match(r"Ver(ses?\b|\.)", paragraph):
            yield document
            document = ""
        document += paragraph
    if document:
        yield document


# headings that Psalm 119 has as paragraphs, and lines of asterisks
HEADING = r"HINTS TO PREACHERS\.|EXPOSITION\.?|Psalms 119:[\d-]+[*.]|[ *]+"


def osis(text):
    """The paragraphs of an OSIS entry, headings and notes left out."""
    text = re.sub(r"<title.*?</title>|<note.*?</note>", "\n", text, flags=re.S)
    ends = r"<div[^>]*x-p[^>]*>|<lb[^>]*>|<l[ />][^>]*>|</?(lg|list|item|p)\b[^>]*>"
    text = re.sub(ends, "\n", text)
    text = re.sub(r"<[^>]*>", "", text)
    for name, c in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&apos;", "'"), ("&amp;", "&")):
        text = text.replace(name, c)
    return document(p for p in text.split("\n") if not re.fullmatch(HEADING, p.strip()))


def passages(documents):
    """Pieces of SHORTEST to LONGEST bytes: from a paragraph's start to a sentence's end."""
    for text in documents:
        piece = ""
        for paragraph in text.splitlines():
            for sentence in re.findall(r".+?(?:[.!?][\"')]*(?= )|$) ?", paragraph):
                piece += sentence
                if len(piece) >= SHORTEST:
                    break
            piece = piece.rstrip() + "\n"
            if len(piece) >= SHORTEST:
                if len(piece) <= LONGEST:
                    yield piece
                piece = ""


def shared_with(training, candidates):
    """The candidates that have SHARED bytes in a row that the training text has too."""
    places = {}
    for i, text in enumerate(candidates):
        for at in range(len(text) - SHARED + 1):
            places.setdefault(text[at : at + SHARED], set()).add(i)
    found = set()
    for at in range(len(training) - SHARED + 1):
        piece = training[at : at + SHARED]
        if piece in places:
            found |= places[piece]
    return found


def unpack(packages, name):
    file, digest, _ = SOURCES[name]
    path = packages / file
    if not path.exists():
        sys.exit(f"lm_text: {path} is missing; fetch it with apt-get download, then run this again")
    if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
        sys.exit(f"lm_text: {path} is not the package that the text was made of (sha256 differs)")
    root = packages / name
    subprocess.run(["dpkg-deb", "-x", path, root], check=True)
    return root


def split(name, chapters):
    """Training documents and held-out passages of one source; passages in a fixed shuffle."""
    out = set(sorted(chapters, key=lambda c: rank("held out", c))[: SOURCES[name][2]])
    train = [d for c in chapters if c not in out for d in chapters[c]]
    held = [p for c in chapters if c in out for p in passages(chapters[c])]
    return train, sorted(set(held), key=lambda p: rank("passage", p))


def share(sizes, total):
    """How many of total passages each source gives: in proportion to its training text."""
    whole = sum(sizes.values())
    return {name: round(total * size / whole) for name, size in sizes.items()}


def mixed(parts):
    """All passages in an order of which every start is a fair mix of the sources."""
    placed = [((i + 0.5) / len(p), name, t) for name, p in parts.items() for i, t in enumerate(p)]
    return [text for _, _, text in sorted(placed)]


def write(path, documents):
    text = "\f".join(documents)
    bad = re.search(r"[^ -~\n\f]", text)
    if bad:
        sys.exit(f"lm_text: byte {ord(bad[0])} in {path}")
    path.write_bytes(text.encode("ascii"))
    print(path.name, len(documents), "documents", len(text), "bytes",
          hashlib.sha256(text.encode()).hexdigest())


def main(packages, out):
    train, held, sizes = [], {}, {}
    for name, read in (("austen", austen), ("kjv", kjv), ("david", david)):
        chapters = dict(read(unpack(packages, name)))
        documents, held[name] = split(name, chapters)
        sizes[name] = sum(map(len, documents))
        train += documents
        print(f"{name}: {len(chapters)} chapters, {len(documents)} documents of training, "
              f"{sizes[name]} bytes; {len(held[name])} held-out passages")
    train.sort(key=lambda d: rank("document", d))
    write(out / "train.txt", train)
    judged, tried = share(sizes, PASSAGES), share(sizes, VALID)
    texts = {n: p[: 3 * (judged[n] + tried[n])] for n, p in held.items()}
    flat = [p for n in texts for p in texts[n]]
    known = {flat[i] for i in shared_with("\f".join(train), flat)}
    for name in texts:
        clean = [p for p in texts[name] if p not in known]
        print(f"{name}: {len(texts[name]) - len(clean)} of {len(texts[name])} passages dropped: "
              f"{SHARED} bytes of each are in the training text")
        if len(clean) < judged[name] + tried[name]:
            sys.exit(f"lm_text: too few passages of {name}: {len(clean)}")
        texts[name] = clean
    write(out / "heldout.txt", mixed({n: p[: judged[n]] for n, p in texts.items()}))
    write(out / "valid.txt",
          mixed({n: p[judged[n] : judged[n] + tried[n]] for n, p in texts.items()}))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
