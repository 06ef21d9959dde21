"""The data sets by name: where they come from, the files they consist of, what the leaderboard expects."""

import dataclasses
from typing import NamedTuple


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
AVAILABLE_ON_REQUEST = {
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
