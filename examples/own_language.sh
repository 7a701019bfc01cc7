#!/usr/bin/env bash
# Your own language in three commands: learn it from plain text, fill masks, fine-tune.
#
# corpus.txt: one paragraph a line, an empty line between documents. train.csv, dev.csv: the columns review and stars.
# smoke takes a minute and learns next to nothing; tiny wants a few megabytes of text, and a quarter of an hour on a laptop.
set -euo pipefail
convbert pretrain --recipe smoke --corpus corpus.txt --output runs/first
convbert fill-mask "The quick brown [MASK] jumps." --model runs/first/generator
convbert finetune --task text-classification --train train.csv --dev dev.csv --text-column review \
    --label-column stars --model runs/first/model --output runs/tuned
