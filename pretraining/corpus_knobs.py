"""What ELECTRA.py and MLM.py share: their knobs, the text that they are trained on, the checkpoints they leave."""

import dataclasses
import os
import shutil
from pathlib import Path

import config
from config import knob
from engine.catalog.models import MODELS
from engine.data.corpus import load_corpus, text_files
from engine.data.packing import PackedRows, hold_out, pack
from engine.data.vocabulary import load_vocabulary
from engine.files import UserError, read_lines
from engine.model.checkpoints import ModelSpec, model_spec, open_model
from engine.runs.layout import run_folder
from snippets import keras

DEMO = {    # short made-up sentences of demo/
    'text': ','.join(str(config.ROOT / 'demo' / task / 'train.tsv') for task in ('MNLI', 'RTE', 'STS-B', 'WNLI')),
    'columns': 'sentence1,sentence2', 'maxlen': 32, 'runs_dir': 'runs/demo', 'fresh': True}


@dataclasses.dataclass
class Knobs(config.Knobs):
    """The scripts' knobs, and those of pre-training."""
    unused = ('data_dir', 'results_dir', 'swap_pairs', 'skip_bad_rows', 'pooling', 'predict', 'cache')
    predict = False         # there is no test set

    # Text
    text: str = knob('', 'files, folders or patterns, separated by commas: UTF-8, also packed (.gz)')
    documents: str = knob('blank', 'what ends a document: a blank line and the end of its file, every line, or the end '
                          'of its file alone', choices=('blank', 'line', 'file'))
    columns: str = knob('', 'the text files are tables (.tsv) with a header, each row of which is a document: the '
                        'columns that are its lines, separated by commas')
    vocabulary: str = knob('minilm', "of a model with fresh values: a folder with a vocab.txt, or a model's name; "
                           "minilm has BERT's English one, uncased")
    held_out: int = knob(1000, 'about so many rows, in whole documents, are kept from training, to measure on; at '
                         'most a twentieth of all', 1)
    segmenter: str = knob('', 'cuts text without spaces into words, for --whole-words', choices=('', 'jieba'))

    # A model with fresh values
    layers: int = knob(12, 'of the encoder', 1, 1000)
    hidden_size: int = knob(256, 'of the encoder; its heads are 64 wide, its inner layers four times as large', 8, 8192)
    embedding_size: int = knob(128, 'of the word embeddings', 8, 8192)
    positions: int = knob(512, 'the longest text that the model can be used for later, in tokens', 8, 65536)
    sine_positions: bool = knob(False, 'the position embeddings begin as sines (Vaswani et al. 2017), not as random '
                                'values: small models learn much sooner to look at neighbours')

    # Training
    mask_share: float = knob(0.15, 'of the tokens are hidden', 0.01, 0.9)
    checkpoints: int = knob(0, 'so many last scorings leave their weights too, in folders update-...', 0, 10000)

    @property
    def slots(self):
        """The most tokens that are hidden in a row (google-research/electra, max_predictions_per_seq)."""
        return max(1, int((self.mask_share + 0.005) * self.maxlen))

    @property
    def vocabulary_folder(self):
        """The folder with the vocab.txt of a fresh model."""
        name = self.vocabulary
        if name in MODELS:
            return open_model(name, self.model_dir).folder
        folder = Path(name).parent if Path(name).name == 'vocab.txt' else Path(name)
        if not (folder / 'vocab.txt').is_file():
            raise UserError(f'--vocabulary {name}: no vocab.txt there. Name a folder that has one, or a model, or make '
                            'one: uv run pretraining/vocabulary.py')
        return folder

    def new_model_spec(self):
        """The model that a script makes with fresh values (google-research/electra, training_utils.py,
        get_bert_config), or None."""
        if self.model not in self.new_models:
            return None
        folder = self.vocabulary_folder
        settings = encoder_sizes(self.layers, self.hidden_size) | {
            'vocab_size': len(read_lines(folder / 'vocab.txt')), 'embedding_size': self.embedding_size,
            'max_position_embeddings': self.positions, 'type_vocab_size': 2, 'hidden_dropout_prob': self.dropout,
            'attention_probs_dropout_prob': self.dropout, 'layer_norm_eps': 1e-12, 'hidden_act': 'gelu_erf'}
        return ModelSpec(self.family, settings, 'cls', folder)


def encoder_sizes(layers, hidden_size):
    return {'num_hidden_layers': layers, 'hidden_size': hidden_size, 'num_attention_heads': max(1, hidden_size // 64),
            'intermediate_size': 4 * hidden_size}


def load_data(knobs, line_by_line=False):
    """{'train': rows to train on, 'dev': rows that are held out}, without targets. Raises UserError."""
    if not knobs.text:
        raise UserError('--text is missing: name the files or folders to train on, or try --demo.')
    model = model_spec(knobs)
    vocabulary = load_vocabulary(model.folder, model.config['vocab_size'])
    columns = knobs.columns.split(',') if knobs.columns else ()
    corpus = load_corpus(knobs.cache_dir, vocabulary, text_files(knobs.text), knobs.documents, columns, knobs.segmenter)
    rows = pack(corpus, vocabulary, knobs.maxlen, knobs.seed, line_by_line)
    if len(rows) < 2:
        raise UserError(f'--text {knobs.text}: one row of {knobs.maxlen} tokens, of which none can be held out. More '
                        'text is needed.')
    # Not of len(rows), which the seed changes: so runs with other seeds hold the same documents out.
    train, dev = hold_out(rows, len(corpus.ids) // (knobs.maxlen * knobs.held_out))
    used = (rows[:, 1].sum() + rows[:, 3].sum()) / len(corpus.ids)
    print(f'{len(train):,} rows of up to {knobs.maxlen} tokens to train on, {len(dev):,} held out; they hold '
          f'{100 * used:.1f} % of the tokens')
    return {'train': PackedRows(corpus, vocabulary, rows, train[:knobs.limit or None]),
            'dev': PackedRows(corpus, vocabulary, rows, dev)}


class Checkpoints(keras.callbacks.Callback):
    """Keeps the weights of the last scorings in model folders of their own, update-..., in the run's folder."""

    def __init__(self, knobs):
        super().__init__()
        self.folder, self.count = run_folder(knobs), knobs.checkpoints

    def on_epoch_end(self, leg, row):
        if not self.count:
            return
        folder = self.folder / f'update-{row["update"]:08}'
        folder.mkdir(exist_ok=True)
        for name in ('config.json', 'vocab.txt', 'model.safetensors'):
            (folder / name).unlink(missing_ok=True)
            os.link(self.folder / name, folder / name)      # files are replaced here, never written to
        for old in sorted(self.folder.glob('update-*'))[:-self.count]:
            shutil.rmtree(old)
