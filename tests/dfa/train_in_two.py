"""One of two processes that share a training: started by a test with `torch.distributed.run`."""

import sys
from pathlib import Path

from moderation.dfa.train.sight import train_sight
from tests.dfa.test_train_sight import PLAN

if __name__ == "__main__":
    base, pool, out = (Path(argument) for argument in sys.argv[1:])
    train_sight(base, pool, out, PLAN)
