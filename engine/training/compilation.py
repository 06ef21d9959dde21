"""Whether XLA compiles the training step."""

import config
from engine.backend import GPUS
from engine.training.plan import total_updates


def use_xla(knobs, rows):
    """Whether XLA compiles the training step: --jit or --no-jit, else on a GPU where the steps that a training on so
    many rows takes save more time than compiling them for config.XLA_LENGTHS lengths costs."""
    if knobs.jit is not None or not GPUS:
        return bool(knobs.jit)
    steps = total_updates(knobs, rows) * knobs.grad_accumulation
    saved, compiling = steps * config.XLA_SAVES, config.XLA_LENGTHS * config.XLA_COMPILES
    answer = 'compiles' if saved > compiling else 'does not compile'
    print(f'XLA {answer} the training step: over {steps} steps it would save about {saved:.0f} s and take '
          f'{compiling:.0f} s (estimates in config.py; --jit and --no-jit decide by hand).')
    return saved > compiling
