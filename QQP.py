"""QQP, Quora Question Pairs: do two questions ask the same? Scored by F1 and accuracy.

    uv run QQP.py --demo                           # a whole run on the small data set in demo/
    uv run QQP.py                                  # BERT-base on the real one
    uv run QQP.py --model electra-base --seed 3    # every knob is an option: --help

Expect on dev: BERT-base F1 about 87.5 and accuracy about 91, ELECTRA-base accuracy about 91.5 (published, not yet rerun
here; the README has minilm on a sample).
"""

from sklearn.metrics import accuracy_score, f1_score

import snippets
from config import Knobs
from snippets import keras

# ---- Knobs ----------------------------------------------------------------------------------------------------------

knobs = Knobs(
    'QQP',
    labels=('0', '1'),                                  # different, duplicate; F1 counts the second
    maxlen=128,                                         # 0.1 % of the pairs are longer
    epochs=3,                                           # BERT, appendix A.3; ELECTRA, appendix B
)

# ---- Data -----------------------------------------------------------------------------------------------------------


def load_data(knobs, split):
    """The rows of 'train', 'dev' or 'test' as Examples."""
    path = snippets.data_file(knobs, f'QQP/{split}.tsv')
    if split == 'test':
        return snippets.load_tsv(knobs, split, path, index='id', text_a='question1', text_b='question2')
    return snippets.load_tsv(knobs, split, path, text_a='question1', text_b='question2', label='is_duplicate',
                             labels=knobs.labels)


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
        snippets.write_answers(knobs, 'QQP.tsv', data['test'].examples, answers)


if __name__ == '__main__':
    snippets.launch(main, knobs, __doc__)
