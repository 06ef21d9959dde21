"""Write tests/goldens.json: what transformers computes for small random models, in float64.

    uv run tests/make_goldens.py PYTHON         # an interpreter with torch and transformers

Of every family: the names of its variables, the logits and losses of the first batch in demo/, the norm of the gradient
of every variable, and how far 20 steps of both recipes move every variable.
"""

import json
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1])]

import numpy as np

import config
from checks import align
from lab.reference.random_model import random_variables, sizes_of, write_google

GOLDENS = Path(__file__).with_name('goldens.json')
FAMILIES = ('bert', 'electra', 'albert', 'distilbert')


def small_setup(family, folder):
    """A small random model of a family, as checks.align takes it; the same numbers on every machine."""
    sizes = sizes_of(family)
    model = write_google(folder, random_variables(family, sizes), sizes | {'model_type': family})
    return align.Setup(model, '', config.ROOT / 'demo')


def norms(arrays):
    return {name: float(np.sqrt((np.asarray(value, np.float64) ** 2).sum())) for name, value in arrays.items()}


def main(python):
    goldens = {}
    for family in FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            setup = small_setup(family, Path(folder) / family)
            peer = align.Peer(python, setup, Path(folder))
            answers = {'made with': peer.name, 'variables': sorted(peer.variables)}
            for task in align.SCRIPTS:
                _, _, logits, loss, gradients = peer.forward(task)
                answers[task] = {'logits': logits.tolist(), 'loss': loss, 'gradients': norms(gradients)}
            start = align.named_arrays(setup.models['MRPC'])
            for run in setup.runs:
                if run['steps'] == [align.STEPS]:
                    weights, rates = peer.train(run)
                    answers[run['recipe']['schedule']] = {
                        'rates': rates, 'moved': norms({name: weights[name] - start[name] for name in weights})}
        goldens[family] = answers
    GOLDENS.write_text(json.dumps(goldens, indent=1) + '\n')


if __name__ == '__main__':
    main(sys.argv[1])
