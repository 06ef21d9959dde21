"""Where things are, which models and tasks there are, and the default of every knob.

A knob gets its value from, in this order: the command line, the script's own knobs, the model's recipe, the default
here. Nothing in this file imports TensorFlow.
"""

import dataclasses
from pathlib import Path

ROOT = Path(__file__).resolve().parent

BATCH_COST = 200            # tokens that could be computed in the time that a batch of prediction takes by itself
PADDING = 0.05              # the share of padding that training batches may hold; less takes more lengths to pad to
XLA_LENGTHS = 4             # at most so many lengths where XLA compiles the step, once for each
# Whether compiling pays (plan.py, steps; devices.py): estimates for 12 layers on a GPU, not measured yet.
XLA_COMPILES = 25.0         # seconds that compiling a training step for one length takes
XLA_SAVES = 0.008           # seconds that the compiled step saves
CACHE_LIMIT = 2 * 2**30     # bytes of token ids that are kept; all of GLUE takes 0.3 GB for one vocabulary

# ---- Recipes: what a model brings along -----------------------------------------------------------------------------

RECIPES = {
    # Mosbach et al. 2021, "On the Stability of Fine-tuning BERT", section 6: bias correction, warm-up over 10 % of the
    # steps, linear decay and more epochs on small tasks. The rest is BERT's own (Devlin et al. 2019, appendix A.2-A.3).
    'bert': {
        'learning_rate': 2e-5, 'schedule': 'linear', 'warmup': 0.1, 'layer_decay': 1.0, 'weight_decay': 0.01,
        'bias_correction': True, 'epsilon': 1e-6, 'clip_norm': 1.0, 'dropout': 0.1, 'swap_pairs': False,
    },
    # Clark et al. 2020, ELECTRA, appendix B, as their code has it (google-research/electra, configure_finetuning.py,
    # model/optimization.py): no bias correction, warm-up and decay multiplied, learning rates that decay by layer,
    # MRPC and STS-B doubled with the sentences swapped.
    'electra': {
        'learning_rate': 1e-4, 'schedule': 'multiplied', 'warmup': 0.1, 'layer_decay': 0.8, 'weight_decay': 0.01,
        'bias_correction': False, 'epsilon': 1e-6, 'clip_norm': 1.0, 'dropout': 0.1, 'swap_pairs': True,
    },
}
# ELECTRA-small: as base on GLUE (same source); what reads Chinese takes larger steps (chinese/).
RECIPES['electra-small'] = RECIPES['electra']
# ELECTRA-large: lower and flatter (same source).
RECIPES['electra-large'] = RECIPES['electra'] | {'learning_rate': 5e-5, 'layer_decay': 0.9}
# The small BERTs: of the learning rates that their authors try (google-research/bert, README: 3e-4 to 3e-5).
RECIPES['bert-small'] = RECIPES['bert'] | {'learning_rate': 1e-4}
# all-MiniLM-L6-v2 is small and was last trained on sentence vectors: it wants larger steps than BERT (docs/results.md).
RECIPES['minilm'] = RECIPES['bert'] | {'learning_rate': 1e-4}

# ---- Models ---------------------------------------------------------------------------------------------------------


# ---- Knobs ----------------------------------------------------------------------------------------------------------


DEMO = {'model': 'minilm', 'data_dir': str(ROOT / 'demo'), 'runs_dir': 'runs/demo', 'results_dir': 'results/demo',
        'epochs': 5, 'fresh': True}


def knob(default, help, low=None, high=None, choices=None):
    """A knob: its default, its line in --help, and the values it takes (inclusive range, or a list)."""
    return dataclasses.field(default=default, metadata={'help': help, 'low': low, 'high': high, 'choices': choices})


@dataclasses.dataclass
class Knobs:
    """Every knob of every script; each is also a command-line option. None: from the model's recipe, or as it says.

    A script may give a value for each recipe or model: `epochs={'bert': 10, 'electra': 3}`. A family of scripts adds
    knobs of its own by subclassing this (with @dataclasses.dataclass): each is an option of these scripts then. Such a
    family may also say of which sizes --model may name a model that it makes with fresh values.
    """
    unused = ()                 # knobs that a family has no use for
    new_models = {}           # {name of the sizes: the recipe that such a model is fine-tuned with later}
    demo_settings = DEMO        # what --demo sets, unless the command line says otherwise
    out_of_memory_hint = '--maxlen'   # what is to be lowered beside --batch-size
    cut = {}                    # how texts that are too long are cut, where not as in tokenize(): its options for that

    # What and where
    model: str = knob('bert-base-uncased', 'a folder with a checkpoint, or the name of a published model')
    init: str = knob('', 'start from the weights of this run: a folder in runs/')
    name: str = knob('', 'of this variant: the run goes to a folder of its own, beside the one without a name')
    demo: bool = knob(False, 'train minilm on the small data set in demo/: no download, about a minute, no real score')
    data_dir: str = knob('datasets', 'the data, in their official layout: CoLA/train.tsv, ...')
    model_dir: str = knob('pretrained', 'downloaded models')
    runs_dir: str = knob('runs', 'what a run leaves behind goes to RUNS_DIR/SCRIPT/MODEL-seedSEED[-NAME]')
    results_dir: str = knob('results', 'the test predictions, for the leaderboard')
    cache_dir: str = knob('cache', 'what is kept between runs: token ids')
    cache: bool = knob(True, 'keep token ids in CACHE_DIR, and take them from there (--no-cache: neither)')
    fresh: bool = knob(False, 'start over, whatever is in the folder of the run')
    save_every: float = knob(60.0, 'seconds from one saved state, from which a killed run goes on, to the next; in any '
                             'case 50 times as long as saving takes. 0: after every step', 0.0, 1e9)
    quiet: bool = knob(False, 'say only how it ended')
    deterministic: bool = knob(False, 'the same numbers, bit by bit, from the same command on the same machine')
    predict: bool = knob(True, 'write the test predictions (--no-predict: the test file is not needed)')

    # Data
    labels: tuple = knob((), 'the labels, in the order of the logits, separated by commas')
    maxlen: int = knob(128, 'longest input in tokens, [CLS] and [SEP] included', 8, 512)
    swap_pairs: bool = knob(None, 'train on every pair also with its two sentences swapped (MRPC, STSB)')
    skip_bad_rows: bool = knob(False, 'drop malformed rows of training files (never of dev or test files)')
    limit: int = knob(0, 'train on the first LIMIT rows only; 0: on all', 0)

    # Training
    seed: int = knob(42, 'of the new layers, the shuffling and the dropout', 0, 2**31 - 1)
    epochs: int = knob(3, 'passes over the training data', 1, 1000)
    updates: int = knob(0, 'train for this number of updates instead of epochs; 0: for epochs', 0, 10**9)
    score_every: int = knob(0, 'updates from one scoring on dev to the next; 0: an epoch', 0, 10**9)
    batch_size: int = knob(32, 'examples in a training step', 1, 65536)
    eval_batch_size: int = knob(128, 'most examples in a step of evaluation or prediction', 1, 65536)
    learning_rate: float = knob(None, 'the peak of the schedule', 1e-9, 1.0)
    schedule: str = knob(None, 'warm-up then linear decay, or the two multiplied', choices=('linear', 'multiplied'))
    warmup: float = knob(None, 'share of the steps in which the learning rate rises', 0.0, 1.0)
    layer_decay: float = knob(None, 'learning rate of a layer over that of the layer above it', 0.01, 1.0)
    weight_decay: float = knob(None, 'decoupled; not on biases and LayerNorm', 0.0, 1.0)
    bias_correction: bool = knob(None, "Adam's correction of its first steps")
    epsilon: float = knob(None, "Adam's epsilon", 1e-12, 1.0)
    clip_norm: float = knob(None, 'clip the norm of the whole gradient to this; 0: do not clip', 0.0, 1e6)
    dropout: float = knob(None, 'in front of the classifier', 0.0, 0.9)
    precision: str = knob('auto', 'of the matrix products; residual sums, LayerNorm, softmax and loss stay float32. '
                          'auto: float32 on the CPU, 16 bits on a GPU that is made for them',
                          choices=('auto', 'float32', 'bfloat16', 'float16'))
    jit: bool = knob(None, 'compile the step with XLA, once for each length; by itself on GPUs, where it pays. On a '
                     'CPU gelu alone, or nothing with --no-jit')
    grad_accumulation: int = knob(1, 'steps of batch_size examples that make one update, as if a batch were that many '
                                  'times as large', 1, 65536)
    steps_per_execution: int = knob(1, 'training steps between two returns to Python', 1, 10000)
    devices: str = knob('one', 'all: split every batch over all GPUs, and over the machines of TF_CONFIG',
                        choices=('one', 'all'))
    pooling: str = knob('auto', 'the vector that stands for the text; auto: as the model was trained',
                        choices=('auto', 'cls', 'pooler', 'mean'))

    # No options, but what settle() finds out, the path of the script and the recipe; and the knobs that were left at 0,
    # and whose number the run has found out.
    script: str = ''
    recipe: str = ''
    found: tuple = ()

    @property
    def task(self):
        """How a run names its script: 'CoLA', 'chinese/LCQMC'; the file's name alone where it lies elsewhere."""
        path = Path(self.script).with_suffix('')
        return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name

    def parse_text(self, line):
        """What tools.predict makes of a text that somebody types."""
        return line

    def new_model_spec(self):
        """What the script's model is (checkpoints.py, Made) where that is not what --model names; else None."""
        return

    def resolve(self, script, recipe, given):
        """These knobs with every value settled: `given` (the command line), else the script's, else the recipe's.

        A value that the script gives by name is looked up by the model's name, by the recipe's, and by its family
        ('electra-large', then 'electra').
        """
        names = given.get('model', self.model), recipe, recipe.split('-')[0]
        values = {}
        for field in option_fields(self):
            value = given.get(field.name, getattr(self, field.name))
            if isinstance(value, dict):
                value = next((value[name] for name in names if name in value), field.default)
            values[field.name] = RECIPES[recipe].get(field.name) if value is None else value
        return dataclasses.replace(self, script=str(Path(script).resolve()), recipe=recipe, **values)


def option_fields(knobs):
    """The fields of a Knobs, or of a subclass, that are command-line options."""
    return [field for field in dataclasses.fields(knobs) if 'help' in field.metadata and field.name not in knobs.unused]


# Knobs that change no number.
NOT_IN_RUN_IDENTITY = ('name', 'fresh', 'runs_dir', 'results_dir', 'model_dir', 'cache_dir', 'cache', 'eval_batch_size', 'save_every',
        'quiet')


# ---- Tasks ----------------------------------------------------------------------------------------------------------


# ---- Other data -----------------------------------------------------------------------------------------------------


