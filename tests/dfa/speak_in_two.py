"""One of two processes that share a training of an adapter: started by a test with `torch.distributed.run`."""

import sys
from dataclasses import replace
from pathlib import Path

from moderation.dfa.gpt.bundle import read_bundle
from moderation.dfa.train.lora import train_lora
from tests.dfa.test_train_lora import PLAN, loaded

if __name__ == "__main__":
    base, conversations, out = (Path(argument) for argument in sys.argv[1:])
    train_lora(loaded(read_bundle(base)), conversations, out, replace(PLAN, most_steps=3))
