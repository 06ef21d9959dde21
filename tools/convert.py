"""Convert a model between Google's layout (TensorFlow checkpoint) and Hugging Face's (safetensors), to the last bit.

    uv run -m tools.convert uncased_L-12_H-768_A-12 bert-hf         # the other layout than SRC has
    uv run -m tools.convert bert-hf bert-google                     # and back again: the same bits
    uv run -m tools.convert runs/CoLA/bert-base-uncased-seed42 cola-hf      # a fine-tuned model for transformers
    uv run -m tools.convert runs/pretraining/ELECTRA/small-seed42 electra-hf                # a pre-trained one
    uv run -m tools.convert runs/pretraining/ELECTRA/small-seed42 generator-hf --generator  # and what it was trained by

SRC is a folder or a model's name, as --model takes it: BERT, ELECTRA, ALBERT or DistilBERT (which Google has no
checkpoint of; it gets BERT's names). What is mapped and what is skipped, and why, is printed; an unknown variable is an
error. DST appears whole or not at all, after every variable in it was compared with SRC. Exit status 0, else 2.

A run becomes BertForSequenceClassification or AlbertForSequenceClassification where its text vector is the pooler's.
The other classes of transformers compute another head than ours (ElectraForSequenceClassification and
DistilBertForSequenceClassification have one more dense layer): there DST holds the encoder, and beside it
classifier.safetensors with our head and a README.md that shows how to compute its logits.

A run of reading/ with the plain head becomes BertForQuestionAnswering, or that of its family: its logits are the run's
wherever an answer may begin or end.

A run of tagging/ becomes BertForTokenClassification, or that of its family. What a CRF has besides the logits is in
crf.safetensors: transitions, from the row's label to the column's, start and end.

A run of pretraining/ELECTRA.py becomes ElectraForPreTraining, and with --generator ElectraForMaskedLM, which gets its
own copy of the embeddings that both have in common; a run of pretraining/MLM.py becomes BertForMaskedLM, or that of its
family. So does a folder update-... in such a run.
"""

import argparse
import contextlib
import io
import re
import sys
from pathlib import Path

import numpy as np
import safetensors.numpy
from tokenizers import Tokenizer, decoders, processors

import config
from engine.backend import keras, tf
from engine.data.vocabulary import load_vocabulary
from engine.files import UserError, atomic_folder, exit_status, write_file, write_json
from engine.model.checkpoints import DISTILBERT_SIZES, Checkpoint, open_model, skipped_variables
from engine.model.encoders import build_encoder
from engine.model.families import (
    FAMILIES,
    encoder_shapes,
    hugging_face_head_name,
    hugging_face_name,
    mlm_head_shapes,
    rtd_head_shapes,
)
from engine.training.prediction import token_axis
from lab.scripts import disable_tf32, open_run, sample_batches

CLASSES = {'bert': 'Bert', 'electra': 'Electra', 'albert': 'Albert', 'distilbert': 'DistilBert'}
VECTORS = {     # the text vector in transformers' terms
    'cls': 'output.last_hidden_state[:, 0]', 'mean': '(output.last_hidden_state * mask).sum(1) / mask.sum(1)'}
README = '''\
A fine-tuned model whose head is none of transformers' own. `model.safetensors` is the encoder ({encoder}),
`classifier.safetensors` the head: classifier.weight ({units}, {hidden}) and classifier.bias ({units}).

    encoder, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    head = safetensors.torch.load_file(f'{{folder}}/classifier.safetensors')
    inputs = tokenizer(texts, padding=True, truncation=True, max_length={maxlen}, return_tensors='pt')
    output, mask = encoder(**inputs), inputs['attention_mask'][:, :, None]
    vector = {vector}
    logits = vector @ head['classifier.weight'].T + head['classifier.bias']

{meaning}
'''


class Generator(Checkpoint):
    """The generator in a run of pretraining/ELECTRA.py as a model of its own: an ELECTRA with its names and sizes. Of
    the embeddings of words, positions and segments the run has one for both. Raises UserError for anything else.

    others: the names of the run's variables that are not the generator's.
    """

    def __init__(self, folder):
        super().__init__(folder)
        kernel = 'generator/encoder/layer_{}/intermediate/dense/kernel'
        if not self.task or kernel.format(0) not in self.shapes:
            raise UserError(f'{self.folder}: --generator is for runs of pretraining/ELECTRA.py alone; there is no '
                            'generator in this one.')
        self.keys = {name.replace('generator/', 'electra/', 1): name for name in self.shapes
                     if name.startswith(('electra/embeddings/', 'generator/', 'generator_predictions/'))}
        self.others = sorted(set(self.shapes) - set(self.keys.values()))
        layers = [name for name in self.shapes if re.fullmatch(kernel.format(r'\d+'), name)]
        hidden, inner = self.shapes[kernel.format(0)]
        self.config = self.config | {'hidden_size': hidden, 'intermediate_size': inner,
                                     'num_hidden_layers': len(layers), 'num_attention_heads': max(1, hidden // 64)}
        self.shapes = {name: self.shapes[key] for name, key in self.keys.items()}

    def transposed(self, name):
        return False


def pretraining_head(checkpoint):
    """(transformers' class without the family, {name: shape} of its head) of a run of pre-training: its variables are
    those of an encoder and of this head, and of ELECTRA's generator. (None, {}) for another run. Raises UserError."""
    family, settings = checkpoint.family, checkpoint.config
    replaced, words = rtd_head_shapes(settings), mlm_head_shapes(family, settings)
    on_top = set(checkpoint.shapes) - set(encoder_shapes(family, settings))
    if {name for name in on_top if not name.startswith(('generator/', 'generator_predictions/'))} == set(replaced):
        return 'ForPreTraining', replaced
    if on_top != set(words):
        return None, {}
    if family == 'electra' and settings['hidden_act'] != 'gelu_erf':
        raise UserError(f"{checkpoint.path}: transformers' ElectraForMaskedLM has gelu in its head, this one "
                        f'{settings["hidden_act"]}.')
    return 'ForMaskedLM', words


def hugging_face_config(checkpoint):
    """config.json of the bare encoder, as transformers writes it."""
    settings, family = dict(checkpoint.config), checkpoint.family
    settings['hidden_act'] = {'gelu_tanh': 'gelu_new', 'gelu_erf': 'gelu'}.get(
        settings['hidden_act'], settings['hidden_act'])
    if family == 'bert':
        del settings['embedding_size']
    if family == 'albert':
        settings |= {'num_hidden_groups': 1, 'inner_group_num': 1}
    if family == 'distilbert':
        if settings['layer_norm_eps'] != 1e-12:
            raise UserError(f"{checkpoint.path}: transformers' DistilBERT has the epsilon 1e-12 in LayerNorm, this "
                            f'model {settings["layer_norm_eps"]:g}.')
        settings = {own: settings[name] for own, name in DISTILBERT_SIZES.items()} | {
            key: settings[key] for key in ('vocab_size', 'max_position_embeddings')} | {'sinusoidal_pos_embds': False}
    return {'architectures': [f'{CLASSES[family]}Model'], 'model_type': family, 'pad_token_id': 0} | settings


def key_of(name, family, root):
    """Hugging Face's name of a variable of an encoder, which begins with `root` ('bert.', or '' for a bare encoder), or
    of a head of pre-training."""
    if name.startswith(f'{FAMILIES[family][0]}/'):
        return root + hugging_face_name(name, family).removeprefix(f'{family}.')
    return hugging_face_head_name(name, family)


def google_config(checkpoint):
    """The json beside a Google checkpoint. 'gelu' means the tanh form for BERT and ALBERT, erf for ELECTRA."""
    settings, family = dict(checkpoint.config), checkpoint.family
    plain = 'gelu_tanh' if family in ('bert', 'albert') else 'gelu_erf'
    settings['hidden_act'] = 'gelu' if settings['hidden_act'] == plain else settings['hidden_act']
    if family in ('bert', 'distilbert'):
        del settings['embedding_size']
    return settings | {'initializer_range': 0.02} | ({'model_type': family} if family == 'distilbert' else {})


def hugging_face_parts(folder, checkpoint, names, root):
    """Write the tokenizer; return what belongs into model.safetensors and config.json. Keys begin with `root` ('bert.',
    or '' for a bare encoder)."""
    tensors = {}
    for name, value in checkpoint.read(names):
        key = key_of(name, checkpoint.family, root)
        own = name if checkpoint.layout == 'Google' else checkpoint.keys[name]
        transposed = name.endswith('/kernel')
        tensors[key] = np.ascontiguousarray(value.T if transposed else value)
        print(f'{own} {value.shape} -> {key}{", transposed" if transposed else ""}')
    settings = hugging_face_config(checkpoint)
    vocabulary = load_vocabulary(checkpoint.folder, checkpoint.config['vocab_size'])
    tokenizer = Tokenizer.from_str(vocabulary.tokenizer.to_str())
    special = {f'{name}_token': f'[{name.upper()}]' for name in ('pad', 'unk', 'cls', 'sep', 'mask')
               if tokenizer.token_to_id(f'[{name.upper()}]') is not None}
    tokenizer.add_special_tokens(list(special.values()))
    tokenizer.post_processor = processors.TemplateProcessing(
        single='[CLS] $A [SEP]', pair='[CLS] $A [SEP] $B:1 [SEP]:1',
        special_tokens=[('[CLS]', vocabulary.cls), ('[SEP]', vocabulary.sep)])
    tokenizer.decoder = decoders.WordPiece()
    inputs = ['input_ids', 'attention_mask']
    if checkpoint.family != 'distilbert':
        inputs.append('token_type_ids')
    write_file(folder / 'tokenizer.json', tokenizer.to_str(pretty=True))
    write_json(folder / 'tokenizer_config.json', {
        'tokenizer_class': 'PreTrainedTokenizerFast', 'do_lower_case': tokenizer.normalizer.lowercase,
        'model_max_length': checkpoint.config['max_position_embeddings'], 'model_input_names': inputs} | special)
    return tensors, settings


def save(path, tensors):
    write_file(path, safetensors.numpy.save(tensors, metadata={'format': 'pt'}))


def save_checkpoint(prefix, values):
    """Write {name: array} as a TensorFlow checkpoint, the files prefix.index and prefix.data-00000-of-00001."""
    tf.raw_ops.SaveV2(prefix=str(prefix), tensor_names=list(values), shape_and_slices=[''] * len(values),
                      tensors=[tf.constant(value) for value in values.values()])


def convert_to_hugging_face(folder, checkpoint, names):
    tensors, settings = hugging_face_parts(folder, checkpoint, names, '')
    save(folder / 'model.safetensors', tensors)
    write_json(folder / 'config.json', settings)


def convert_to_google(folder, checkpoint, names):
    values = dict(checkpoint.read(names))
    for name, value in values.items():
        print(f'{checkpoint.keys[name]} {value.shape} -> {name}{", transposed" if checkpoint.transposed(name) else ""}')
    prefix = checkpoint.family if checkpoint.family in ('electra', 'albert') else 'bert'
    save_checkpoint(folder / f'{prefix}_model.ckpt', values)
    write_json(folder / f'{prefix}_config.json', google_config(checkpoint))


def convert_pretrained(folder, checkpoint, names, kind):
    """A pre-trained model with its head. kind: transformers' class without the family."""
    tensors, settings = hugging_face_parts(folder, checkpoint, names, f'{checkpoint.family}.')
    save(folder / 'model.safetensors', tensors)
    write_json(folder / 'config.json', settings | {'architectures': [f'{CLASSES[checkpoint.family]}{kind}']})


def convert_run(folder, checkpoint, names):
    """A fine-tuned model: transformers' class where it computes the same head, else encoder and head apart."""
    script, knobs, model = open_run(checkpoint.folder)
    head = dict(checkpoint.read(set(checkpoint.shapes) - set(names)))
    if any(name.startswith('joint/') for name in head):
        raise UserError(f'{checkpoint.path}: no class of transformers has its joint head. A run with --head plain can '
                        'be converted.')
    crf = {name.removeprefix('crf/'): head.pop(name) for name in sorted(head) if name.startswith('crf/')}
    if set(head) != {'classifier/kernel', 'classifier/bias'}:
        raise UserError(f'{checkpoint.path}: the head has the variables {", ".join(sorted(head))}; only one dense '
                        f'layer, classifier, can be converted. Was {script.__name__}.py edited?')
    if model.output_shape[1:] == (2, None):
        convert_positions(folder, checkpoint, names, knobs, model, head)
        return
    scale = np.float32(np.prod([layer.scale for layer in model.layers if type(layer).__name__ == 'Rescaling']))
    of_tokens = token_axis(model.outputs[0]) is not None
    check_head(checkpoint, knobs, model, head, scale, of_tokens)
    head = {'classifier.weight': np.ascontiguousarray(head['classifier/kernel'].T) * scale,
            'classifier.bias': head['classifier/bias'] * scale}
    units, family = len(head['classifier.bias']), checkpoint.family
    whole = of_tokens or checkpoint.pooling == 'pooler'
    tensors, settings = hugging_face_parts(folder, checkpoint, names, f'{family}.' if whole else '')
    labels = list(knobs.labels) or ['LABEL_0']
    settings |= {'id2label': dict(enumerate(labels)), 'label2id': {label: i for i, label in enumerate(labels)},
                 'num_labels': units}
    if not of_tokens:
        settings['problem_type'] = 'single_label_classification' if knobs.labels else 'regression'
    scaled = f', both times {scale:g}' if scale != 1 else ''
    print(f'classifier/kernel, classifier/bias -> classifier.weight, transposed, classifier.bias{scaled}, in '
          f'{"model" if whole else "classifier"}.safetensors')
    if whole:
        kind = 'ForTokenClassification' if of_tokens else 'ForSequenceClassification'
        settings |= {'architectures': [f'{CLASSES[family]}{kind}'],
                     'classifier_dropout_prob' if family == 'albert' else 'classifier_dropout': knobs.dropout}
        tensors |= head
    else:
        save(folder / 'classifier.safetensors', head)
        write_file(folder / 'README.md', README.format(
            encoder=f'{CLASSES[family]}Model', units=units, hidden=checkpoint.config['hidden_size'],
            maxlen=knobs.maxlen, vector=VECTORS[checkpoint.pooling],
            meaning=f'Labels in the order of the logits: {", ".join(labels)}.' if knobs.labels else
            'The logit is the score.'))
        print(f'{CLASSES[family]}ForSequenceClassification computes another head than this one: model.safetensors is '
              'the encoder, classifier.safetensors the head, README.md says how they go together.')
    if crf:
        save(folder / 'crf.safetensors', crf)
        print(f'crf/{", crf/".join(crf)} -> {", ".join(crf)}, in crf.safetensors')
    save(folder / 'model.safetensors', tensors)
    write_json(folder / 'config.json', settings)


def check_head(checkpoint, knobs, model, head, scale, of_tokens):
    """That a run's logits are those of one dense layer on the encoder's own vector, or on those of the tokens, times
    `scale`, and nothing else."""
    disable_tf32()
    with contextlib.redirect_stdout(io.StringIO()):     # which variables were read
        encoder = build_encoder(knobs)
    vectors = keras.Model(encoder.inputs, encoder.sequence if of_tokens else encoder.vector)
    which = 'vectors of the tokens' if of_tokens else f'{checkpoint.pooling} vector'
    for ids, segments in sample_batches(checkpoint.folder, knobs):
        logits = model([ids, segments], training=False).numpy()
        plain = (vectors([ids, segments], training=False).numpy() @ head['classifier/kernel']
                 + head['classifier/bias']) * scale
        if not np.abs(plain - logits).max() <= 1e-5 * np.abs(logits).max():
            raise UserError(f"{checkpoint.folder}: the run's logits are not those of one dense layer on the encoder's "
                            f'{which}. Its build_model() was edited, and what it computes has no '
                            'place in a transformers model; tools.export takes it as it is.')


def convert_positions(folder, checkpoint, names, knobs, model, head):
    """A model of where in a paragraph the answer begins and ends, with one dense layer as its head: transformers' class
    for question answering, which leaves it to its user to pass over question and padding."""
    disable_tf32()
    with contextlib.redirect_stdout(io.StringIO()):     # which variables were read
        encoder = build_encoder(knobs)
    vectors = keras.Model(encoder.inputs, encoder.sequence)
    for ids, segments in sample_batches(checkpoint.folder, knobs):
        logits = model([ids, segments], training=False).numpy()
        plain = vectors([ids, segments], training=False).numpy() @ head['classifier/kernel'] + head['classifier/bias']
        plain = np.where(logits <= -1e9, logits, plain.transpose(0, 2, 1))      # where no answer can be
        if not np.abs(plain - logits).max() <= 1e-5 * np.abs(logits[logits > -1e9]).max():
            raise UserError(f"{checkpoint.folder}: the run's logits are not those of one dense layer on the encoder's "
                            'tokens. Its build_model() was edited, and what it computes has no place in a '
                            'transformers model.')
    family = checkpoint.family
    tensors, settings = hugging_face_parts(folder, checkpoint, names, f'{family}.')
    tensors |= {'qa_outputs.weight': np.ascontiguousarray(head['classifier/kernel'].T),
                'qa_outputs.bias': head['classifier/bias']}
    print('classifier/kernel, classifier/bias -> qa_outputs.weight, transposed, qa_outputs.bias')
    save(folder / 'model.safetensors', tensors)
    write_json(folder / 'config.json', settings | {'architectures': [f'{CLASSES[family]}ForQuestionAnswering']})


def convert(source, target, model_dir=config.Knobs.model_dir, generator=False):
    """Write the folder `target`. generator: that of a run of pretraining/ELECTRA.py, not its discriminator. Raises
    UserError; then it is not there."""
    target = Path(target)
    if target.exists():
        raise UserError(f'{target} exists already; nothing is overwritten. Choose another folder.')
    checkpoint = open_model(str(source), model_dir)
    if checkpoint.family == 'albert_zh':
        raise UserError(f'{checkpoint.path}: transformers has no model that adds segments and positions after the '
                        "words are projected, as brightmart's ALBERT does; there is nothing to convert it to.")
    if checkpoint.family == 'bert' and checkpoint.config['embedding_size'] != checkpoint.config['hidden_size']:
        raise UserError(f"{checkpoint.path}: transformers' BERT has no projection of embeddings to the size of the "
                        f'layers; this one has, from {checkpoint.config["embedding_size"]} to '
                        f'{checkpoint.config["hidden_size"]}.')
    if generator:
        checkpoint = Generator(checkpoint.folder)
    kind, head = pretraining_head(checkpoint) if checkpoint.task else (None, {})
    expected = encoder_shapes(checkpoint.family, checkpoint.config) | head
    names = [name for name, shape in expected.items() if checkpoint.shapes.get(name) == shape]
    missing = [name for name in set(expected) - set(names) if '/pooler/' not in name or name in checkpoint.shapes]
    if missing:
        raise UserError(f'{checkpoint.path}: variable {min(missing)} should have the shape {expected[min(missing)]}; '
                        f'the checkpoint has {checkpoint.shapes.get(min(missing), "none of this name")}.')
    skipped = left_out(checkpoint, names, kind)
    with atomic_folder(target) as folder:
        write_file(folder / 'vocab.txt', (checkpoint.folder / 'vocab.txt').read_bytes())
        if checkpoint.pooling == 'mean':        # as sentence-transformers says it
            (folder / '1_Pooling').mkdir()
            write_json(folder / '1_Pooling' / 'config.json', {
                'word_embedding_dimension': checkpoint.config['hidden_size'], 'pooling_mode_mean_tokens': True})
        if kind:
            convert_pretrained(folder, checkpoint, names, kind)
        elif checkpoint.task:
            convert_run(folder, checkpoint, names)
        elif checkpoint.layout == 'Google':
            convert_to_hugging_face(folder, checkpoint, names)
        else:
            convert_to_google(folder, checkpoint, names)
        for reason, which in skipped.items():
            print(f'skipped ({reason}): {", ".join(which)}')
        verify(checkpoint, Checkpoint(folder), names)
    what = 'the model' if kind else 'the encoder'
    print(f'{target}: {len(names)} variables of {what}, each with the same bits as in {checkpoint.path}')


def left_out(checkpoint, names, kind):
    """{reason: names} of the variables that are not converted; of a fine-tuned model there are none. Raises
    UserError."""
    if isinstance(checkpoint, Generator):
        return {"the discriminator's; it is converted without --generator": checkpoint.others}
    if checkpoint.task and not kind:
        return {}
    return skipped_variables(checkpoint, names)


def verify(source, written, names):
    """That what was written reads back as the same model."""
    if written.config != source.config:
        raise UserError(f'{written.path}: its configuration reads back as {written.config} instead of {source.config}.')
    for (name, value), (_, copy) in zip(source.read(names), written.read(names), strict=True):
        if value.dtype != copy.dtype or value.shape != copy.shape or value.tobytes() != copy.tobytes():
            raise UserError(f'{written.path}: {name} reads back with other bits than it has in {source.path}. '
                            'Is the disk full or damaged?')


def main(argv=None):
    """The command line. Returns 0, or 2 where nothing was written."""
    parser = argparse.ArgumentParser(prog='python -m tools.convert', description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('source', metavar='SRC', help='a folder with a model, a folder in runs/, or a name')
    parser.add_argument('target', metavar='DST', help='the folder to write')
    parser.add_argument('--model-dir', default=config.Knobs.model_dir, help='downloaded models (%(default)s)')
    parser.add_argument('--generator', action='store_true',
                        help='of a run of pretraining/ELECTRA.py the generator, not the discriminator')
    args = parser.parse_args(argv)
    return exit_status(convert, args.source, args.target, args.model_dir, args.generator)


if __name__ == '__main__':
    sys.exit(main())
