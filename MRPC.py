"""MRPC, the Microsoft Research Paraphrase Corpus: do two sentences mean the same? Scored by F1 and accuracy.

    uv run MRPC.py --demo                           # a whole run on the small data set in demo/
    uv run MRPC.py                                  # BERT-base on the real one
    uv run MRPC.py --model electra-base --seed 3    # every knob is an option: --help

Expect on dev: minilm about 87/81 (measured, README); BERT-base about 89/84, ELECTRA-base accuracy about 89.5
(published, not yet rerun here).
"""

import snippets
from config import Knobs
from snippets import keras

# ---- Knobs ----------------------------------------------------------------------------------------------------------

knobs = Knobs(
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
    # Every batch brings weights, 0 for rows that only fill it up: a loss of your own multiplies by them, then takes the
    # mean.
    model.compile(optimizer=snippets.build_optimizer(knobs, model, examples, lookup=encoder.words.embeddings),
                  loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                  jit_compile=snippets.use_xla(knobs, examples), steps_per_execution=knobs.steps_per_execution)
    return model


# ---- Score and run --------------------------------------------------------------------------------------------------


def score(outputs, data):
    """{metric: value} of the model's outputs for dev, (examples, labels), against its labels."""
    from sklearn.metrics import accuracy_score, f1_score  # takes 2 s: not before training
    chosen = outputs.argmax(-1)
    return {'f1': f1_score(data.gold, chosen, zero_division=0.0), 'accuracy': accuracy_score(data.gold, chosen)}


def answers(outputs, data):
    """What is written for every example, from the model's outputs for it: its label."""
    return [data.labels[i] for i in outputs.argmax(-1)]


def main(knobs):
    """From the rows of the TSV files to the rows of the submission."""
    data = {split: snippets.tokenize(knobs, load_data(knobs, split)) for split in snippets.splits(knobs)}
    model = build_model(knobs, len(data['train']))
    best = snippets.train(knobs, model, data['train'], data['dev'], score, answers)     # the best epoch on dev
    if knobs.predict:
        outputs = best.predict(data['test'])
        snippets.write_answers(knobs, 'MRPC.tsv', data['test'].examples, outputs, answers(outputs, data['test']))


if __name__ == '__main__':
    snippets.launch(main, knobs, __doc__)
