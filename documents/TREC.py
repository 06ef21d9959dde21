"""TREC, questions (Li and Roth 2002): what kind of answer does a question ask for? Scored by accuracy.

    uv run documents/TREC.py --demo                 # a whole run on the small data set in demo/
    uv run documents/TREC.py                        # BERT-base on the real one: 6 coarse labels
    uv run documents/TREC.py --fine --name fine     # 50 fine ones

Expect on test: BERT-base 97.2 (Sun et al. 2019, table 5; not yet rerun here); minilm about 96.5 (docs/documents.md).
Of the 500 official test questions 10 stand in the official training file, too.
"""

import dataclasses

import snippets
from config import knob
from documents import long_text
from snippets import keras

# ---- Knobs ----------------------------------------------------------------------------------------------------------

COARSE = 'ABBR', 'DESC', 'ENTY', 'HUM', 'LOC', 'NUM'
FINE = tuple(f'{coarse}:{fine}' for coarse, names in zip(COARSE, (
    'abb exp', 'def desc manner reason',
    'animal body color cremat currency dismed event food instru lang letter other plant product religion sport '
    'substance symbol techmeth termeq veh word',
    'desc gr ind title', 'city country mount other state',
    'code count date dist money ord other perc period speed temp volsize weight',
), strict=True) for fine in names.split())


@dataclasses.dataclass
class Knobs(long_text.Knobs):
    fine: bool = knob(False, 'the 50 fine labels, such as HUM:ind, in place of the 6 coarse ones')

    def resolve(self, script, recipe, given):
        knobs = super().resolve(script, recipe, given)
        return dataclasses.replace(knobs, labels=FINE) if knobs.fine and knobs.labels == COARSE else knobs


knobs = Knobs(
    labels=COARSE,
    maxlen=64,                                              # the longest question has 41 tokens
    batch_size=24,                                          # Sun et al. 2019, section 5.2
    epochs={'bert': 4, 'electra': 10, 'minilm': 6},         # "up to 4"; a small task for the others
)

# ---- Data -----------------------------------------------------------------------------------------------------------


def load_data(knobs, split):
    """The questions of 'train', 'dev' or 'test' as Examples: dev is a part of the training set. A line is
    'HUM:ind Who was Galileo ?', in ASCII, but for one byte 0xf0 where a space should be."""
    name = 'TREC_10.label' if split == 'test' else 'train_5500.label'
    path = snippets.data_file(knobs, f'TREC/{name}', name)
    examples = []
    lines = path.read_bytes().replace(b'\xf0', b' ').decode('latin-1').rstrip('\n').split('\n')
    for number, line in enumerate(lines, 1):
        label, _, text = line.partition(' ')
        if not knobs.fine:
            label = label.partition(':')[0]
        if label not in knobs.labels or not text.strip():
            raise snippets.UserError(f'{path}, line {number}: {line[:40]!r} is not a label, a space and a question.')
        examples.append(snippets.Example(str(path), number, number - 1, text, None, knobs.labels.index(label)))
    return long_text.train_or_dev(knobs, examples, split)


# ---- Model ----------------------------------------------------------------------------------------------------------


def build_model(knobs, examples):
    """The encoder's vector of the text, dropout, one dense layer; `examples` sets the schedule's length."""
    encoder = long_text.build_encoder(knobs)
    x = snippets.Dropout(knobs.dropout, knobs.seed)(encoder.vector)
    logits = snippets.classifier(knobs, len(knobs.labels))(x)
    model = keras.Model(encoder.inputs, logits)
    # Every batch brings weights, 0 for rows that only fill it up: a loss of your own multiplies by them, then takes the
    # mean.
    model.compile(optimizer=snippets.build_optimizer(knobs, model, examples, lookup=encoder.words.embeddings,
                                                     exponents=knobs.decay_rule),
                  loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                  jit_compile=long_text.use_xla(knobs, examples), steps_per_execution=knobs.steps_per_execution)
    return model


# ---- Score and run --------------------------------------------------------------------------------------------------


def score(outputs, data):
    """{metric: value} of the model's outputs for dev, (examples, labels), against its labels."""
    from sklearn.metrics import accuracy_score  # takes 2 s: not before training
    return {'accuracy': accuracy_score(data.gold, outputs.argmax(-1))}


def answers(outputs, data):
    """What is written for every example, from the model's outputs for it: its label."""
    return [data.labels[i] for i in outputs.argmax(-1)]


def main(knobs):
    """From the texts to the predictions of the test set, whose labels are used once, at the end."""
    data = {split: snippets.tokenize(knobs, load_data(knobs, split)) for split in snippets.splits(knobs)}
    model = build_model(knobs, len(data['train']))
    best = snippets.train(knobs, model, data['train'], data['dev'], score, answers)     # the best epoch on dev
    if knobs.predict:
        outputs = best.predict(data['test'])
        snippets.write_test_scores(knobs, data, score(outputs, data['test']))
        snippets.write_answers(knobs, 'TREC.tsv', data['test'].examples, outputs, answers(outputs, data['test']))


if __name__ == '__main__':
    snippets.launch(main, knobs, __doc__)
