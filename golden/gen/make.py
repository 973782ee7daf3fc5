# SPDX-License-Identifier: MIT
"""Makes golden/data: every family's files, and the manifest. See README.md.

    python make.py [--out DIR] [--date YYYY-MM-DD] [--only FILE]...
"""
import argparse
import datetime
import glob
import importlib
import os
import sys

# Each module has FILES: a dictionary from the name of a file to the function that fills it.
FAMILIES = [
    "fp8_goldens",
    "torchao_goldens",
    "fewer_bits_goldens",
    "microxcaling_goldens",
    "bnb_goldens",
    "llm_int8_goldens",
    "intx_goldens",
    "learned_goldens",
    "int8_tensor_goldens",
    "tinygemm_goldens",
    "gguf_goldens",
    "checkpoint_goldens",
    "gptq_awq_goldens",
    "mx_goldens",
    "nvfp4_goldens",
    "unquantized_goldens",
    "lora_goldens",
    "merge_goldens",
    "mlp_goldens",
    "experts_goldens",
    "adapter_goldens",
    "lm_model",
    "lm_adamw",
]


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    import upstream  # noqa: F401  first: it sets up Triton's interpreter and the threads of torch
    from store import File

    files = {name: fill for family in FAMILIES for name, fill in importlib.import_module(family).FILES.items()}
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--out", default=os.path.join(here, "..", "data"))
    p.add_argument("--date", default=datetime.date.today().isoformat())
    p.add_argument("--only", choices=files, action="append")
    args = p.parse_args()
    os.makedirs(args.out, exist_ok=True)
    manifest = os.path.join(args.out, "MANIFEST.tsv")
    lines = {}
    if args.only and os.path.exists(manifest):
        with open(manifest) as f:
            lines = {line.split("\t")[0]: line.rstrip("\n") for line in f.readlines()[1:]}
    for name in args.only or files:
        print(name, file=sys.stderr)
        file = File(args.out, name, args.date)
        files[name](file)
        lines[name] = file.close()
    with open(manifest, "w") as f:
        f.write("file\tsha256\tbytes\tlibrary\tdate\n")
        f.writelines(lines[name] + "\n" for name in sorted(lines))
    stray = {os.path.basename(p) for p in glob.glob(os.path.join(args.out, "*.h5"))} - set(lines)
    if stray:
        sys.exit(f"not made here: {', '.join(sorted(stray))}; delete them")


if __name__ == "__main__":
    main()
