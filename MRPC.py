"""MRPC, the Microsoft Research Paraphrase Corpus: do two sentences mean the same? Scored by F1 and accuracy.

    uv run MRPC.py --demo                           # a whole run on the small data set in demo/
    uv run MRPC.py                                  # BERT-base on the real one
    uv run MRPC.py --model electra-base --seed 3    # every knob is an option: --help

Expect on dev: minilm about 87/81 (measured, README); BERT-base about 89/84, ELECTRA-base accuracy about 89.5
(published, not yet rerun here).
"""

from sklearn.metrics import accuracy_score, f1_score

import snippets
from config import Knobs
from snippets import keras

# ---- Knobs ----------------------------------------------------------------------------------------------------------

knobs = Knobs(
    'MRPC',
    labels=('0', '1'),                                  # different, paraphrase; F1 counts the second
    maxlen=128,                                         # no pair is longer
    epochs={'bert': 10, 'electra': 3, 'minilm': 3},     # small task: Mosbach et al. 2021; ELECTRA, appendix B; README
)

# ---- Data -----------------------------------------------------------------------------------------------------------


def load_data(knobs, split):
    """The rows of 'train', 'dev' or 'test' as Examples; also from Microsoft's files, which need dev_ids.tsv."""
    original = f'MRPC/msr_paraphrase_{"test" if split == "test" else "train"}.txt'
    path = snippets.data_file(knobs, f'MRPC/{split}.tsv', original)
    columns = {'text_a': '#1 String', 'text_b': '#2 String'}
    if split == 'test':
        return snippets.load_tsv(knobs, split, path, index='index' if path.suffix == '.tsv' else None, **columns)
    keep = None
    if path.suffix != '.tsv':
        dev_ids = set(snippets.read_lines(snippets.data_file(knobs, 'MRPC/dev_ids.tsv', 'MRPC/mrpc_dev_ids.tsv')))
        def keep(row):
            return (f'{row["#1 ID"]}\t{row["#2 ID"]}' in dev_ids) == (split == 'dev')
    examples = snippets.load_tsv(knobs, split, path, label='Quality', labels=knobs.labels, keep=keep, **columns)
    if keep and split == 'dev' and len(examples) != len(dev_ids):
        raise snippets.UserError(f'{path}: it has {len(examples)} of the {len(dev_ids)} pairs of dev_ids.tsv.')
    return examples + snippets.swap_pairs(examples) if split == 'train' and knobs.swap_pairs else examples


# ---- Model ----------------------------------------------------------------------------------------------------------


def build_model(knobs, examples):
    """The encoder's vector of the text, dropout, one dense layer; `examples` sets the schedule's length."""
    encoder = snippets.build_encoder(knobs)
    x = snippets.Dropout(knobs.dropout, knobs.seed)(encoder.vector)
    logits = snippets.classifier(knobs, len(knobs.labels))(x)
    model = keras.Model(encoder.inputs, logits)
    model.compile(optimizer=snippets.build_optimizer(knobs, model, examples),
                  loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                  jit_compile=knobs.jit, steps_per_execution=knobs.steps_per_execution)
    return model


# ---- Score and run --------------------------------------------------------------------------------------------------


def score(logits, examples):
    """{metric: value} of logits (examples, labels) against the examples' labels."""
    labels, answers = [example.label for example in examples], logits.argmax(-1)
    return {'f1': f1_score(labels, answers, zero_division=0.0), 'accuracy': accuracy_score(labels, answers)}


def main(knobs):
    """From the rows of the TSV files to the rows of the submission."""
    splits = ('train', 'dev', 'test') if knobs.predict else ('train', 'dev')
    data = {split: snippets.tokenize(knobs, load_data(knobs, split)) for split in splits}
    model = build_model(knobs, len(data['train']))
    snippets.train(knobs, model, data['train'], data['dev'], score)      # the best epoch on dev
    if knobs.predict:
        answers = [knobs.labels[i] for i in snippets.predict(knobs, model, data['test']).argmax(-1)]
        snippets.write_answers(knobs, 'MRPC.tsv', data['test'].examples, answers)


if __name__ == '__main__':
    snippets.launch(main, knobs, __doc__)
