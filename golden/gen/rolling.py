# SPDX-License-Identifier: MIT
"""Writes golden/lm/rolling.tsv: windows and word counts of lm-evaluation-harness, and what transformers gives for
every token of the first documents of the held-out text in those windows.

    python rolling.py FOLDER_OF_LM_EVAL >../lm/rolling.tsv

FOLDER_OF_LM_EVAL is an unpacked wheel of lm_eval (0.4.13); its functions are taken out of their files, which import
more than they need.
"""
import ast
import json
import os
import re
import sys

DOCUMENTS = 2
LM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lm")


def function(path, name):
    with open(path) as f:
        text = f.read()
    (node,) = [n for n in ast.parse(text).body if getattr(n, "name", "") == name]
    space = {"re": re}
    exec("from __future__ import annotations\n" + ast.get_source_segment(text, node), space)
    return space[name]


TEXTS = ["word", "two words", " in front", "behind ", "  both\t\n ", "", " ", "a\x0bb\x1cc\x1dd\x1ee\x1ff", "a\x85b",
         "no\u00a0break", "em\u2003space \u2009thin", "line\u2028par\u2029", "\u3000wide\u3000", "\u200bzero width\u200b",
         "\u1680ogham\u202fnarrow\u205fmath", "\U0001f600 emoji", "e\u0301 accents \u00e9\u00df", "\ufeffmark", "tab\tcr\r\nend\n",
         "\u2000\u2001\u2002\u2004\u2005\u2006\u2007\u2008\u200aend", "\u2060joined", "\u180emongolian"]


def token_losses(windows, wide):
    """-ln p of every token of the first documents, by transformers, in binary64 or binary32."""
    import torch
    from lm_model import in_double, make
    from safetensors.torch import load_file
    with open(os.path.join(LM, "model", "config.json")) as f:
        config = {k: v for k, v in json.load(f).items() if k != "torch_dtype"}
    parameters = {k: v.double() if wide else v.float()
                  for k, v in load_file(os.path.join(LM, "model", "model.safetensors")).items()}
    separator = config["bos_token_id"]
    model = make(config, wide, parameters)
    with open(os.path.join(LM, "heldout.txt"), "rb") as f:
        documents = [d for d in f.read().split(bytes([separator])) if d][:DOCUMENTS]
    losses = []
    with torch.no_grad(), in_double(wide):
        for document in documents:
            for inputs, targets in windows(list(document), separator, config["max_position_embeddings"], 1):
                logits = model(torch.tensor([inputs]), use_cache=False).logits[0, -len(targets):]
                losses += torch.nn.functional.cross_entropy(logits, torch.tensor(targets), reduction="none").tolist()
    return losses


def main():
    folder = sys.argv[1]
    windows = function(os.path.join(folder, "lm_eval/utils.py"), "get_rolling_token_windows")
    disjoint = function(os.path.join(folder, "lm_eval/utils.py"), "make_disjoint_window")
    results = function(os.path.join(folder, "lm_eval/tasks/wikitext/preprocess_wikitext.py"), "process_results")
    losses = list(zip(token_losses(windows, True), token_losses(windows, False)))
    print("# lm_eval 0.4.13. windows: tokens of the document, context, then FIRST:LENGTH:SCORED of each window: it reads")
    print("# LENGTH tokens, of which the first is the separator where FIRST is 0, else token FIRST - 1, and scores the last")
    print("# SCORED of FIRST .. FIRST + LENGTH. words: of a text, in hexadecimal, as wikitext's process_results counts them.")
    print("# nll: -ln p of each token of the first %d documents of heldout.txt by model/, in these windows, transformers" % DOCUMENTS)
    print("# 5.23.0 with torch 2.13.0 on a CPU: in binary64 (as golden/gen/lm_model.py makes it), then in binary32.")
    for context in (1, 2, 3, 8, 256):
        for n in sorted({1, 2, 3, 7, 8, 9, 15, 16, 17, 40, 255, 256, 257, 511, 512, 513, 1000}):
            if n > 64 * context:
                continue
            row = []
            for inputs, targets in windows(list(range(n)), -1, context, 1):
                assert inputs == list(range(targets[-1] - len(inputs), targets[-1])), (inputs, targets)
                before, behind = disjoint((inputs, targets))
                assert (before + behind)[:-1] == inputs  # what the model is given in the end
                row.append(f"{inputs[0] + 1}:{len(inputs)}:{len(targets)}")
            print("windows", n, context, *row, sep="\t")
    for text in TEXTS:
        words = results({"page": text}, (0.0,))["word_perplexity"][1]
        print("words", text.encode().hex() or "-", words, sep="\t")
    for wide, single in losses:
        print("nll", wide.hex(), single.hex(), sep="\t")


main()
