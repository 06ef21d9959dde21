"""The families of encoders: the names and shapes of their variables, by Google's code and by Hugging Face's."""

import re

# Of a family: the root of Google's names, of Hugging Face's, and what the latter have different beyond BERT's rules.
# DistilBERT, which Google never published, has BERT's names without segments and pooler. albert_zh is brightmart's.
FAMILIES = {
    'bert': ('bert', 'bert', {}),
    'electra': ('electra', 'electra', {}),
    'albert': ('bert', 'albert', {
        'encoder/transformer/group_0/inner_group_0/': 'encoder/albert_layer_groups/0/albert_layers/0/',
        'attention_1/self/': 'attention/', 'attention_1/output/dense/': 'attention/dense/',
        '/0/LayerNorm_1/': '/0/full_layer_layer_norm/', '/0/LayerNorm/': '/0/attention/LayerNorm/',
        'ffn_1/intermediate/output/dense/': 'ffn_output/', 'ffn_1/intermediate/dense/': 'ffn/',
        'pooler/dense/': 'pooler/'}),
    'albert_zh': ('bert', None, {}),
    'distilbert': ('bert', 'distilbert', {
        'encoder/layer_': 'transformer/layer_', 'attention/self/query/': 'attention/q_lin/',
        'attention/self/key/': 'attention/k_lin/', 'attention/self/value/': 'attention/v_lin/',
        'attention/output/dense/': 'attention/out_lin/', 'attention/output/LayerNorm/': 'sa_layer_norm/',
        '/intermediate/dense/': '/ffn/lin1/', '/output/dense/': '/ffn/lin2/',
        '/output/LayerNorm/': '/output_layer_norm/'}),
}

# Of the head for hidden words: Google's name, and what Hugging Face's names have different beyond dots.
BERT_HEAD = 'cls/predictions/transform', {'output_bias': 'bias'}
MLM_HEADS = {
    'bert': BERT_HEAD, 'albert_zh': BERT_HEAD,
    'albert': ('cls/predictions/transform', {'cls/predictions/transform/': 'predictions/',
                                             'cls/predictions/output_bias': 'predictions/bias'}),
    'distilbert': ('cls/predictions/transform', {'cls/predictions/transform/dense/': 'vocab_transform/',
                                                 'cls/predictions/transform/LayerNorm/': 'vocab_layer_norm/',
                                                 'cls/predictions/output_bias': 'vocab_projector/bias'}),
    'electra': ('generator_predictions', {'generator_predictions/output_bias': 'generator_lm_head/bias',
                                          'dense_1/': 'dense_prediction/'}),
}


def encoder_shapes(family, settings):
    """{name: shape} of an encoder's variables with its pooler, as the authors' code names them. Dense kernels are
    (inputs, outputs)."""
    hidden, inner = settings['hidden_size'], settings['intermediate_size']
    root, embedding = FAMILIES[family][0], settings.get('embedding_size', hidden)
    summed = hidden if family == 'albert_zh' else embedding  # where words, segments, positions are added
    shapes = {f'{root}/embeddings/word_embeddings': (settings['vocab_size'], embedding),
              f'{root}/embeddings/token_type_embeddings': (settings['type_vocab_size'], summed),
              f'{root}/embeddings/position_embeddings': (settings['max_position_embeddings'], summed),
              f'{root}/embeddings/LayerNorm/gamma': (summed,), f'{root}/embeddings/LayerNorm/beta': (summed,)}

    def dense(name, inputs, outputs):
        shapes.update({f'{name}/kernel': (inputs, outputs), f'{name}/bias': (outputs,)})

    if family == 'distilbert':
        del shapes[f'{root}/embeddings/token_type_embeddings']
    if family == 'albert_zh':
        shapes[f'{root}/embeddings/word_embeddings_2'] = (embedding, hidden)
    elif family == 'albert':
        dense(f'{root}/encoder/embedding_hidden_mapping_in', embedding, hidden)
    elif family == 'electra' and embedding != hidden:
        dense(f'{root}/embeddings_project', embedding, hidden)
    parts = ['attention/self/query', 'attention/self/key', 'attention/self/value', 'attention/output/dense',
             'intermediate/dense', 'output/dense']
    norms = ['attention/output/LayerNorm', 'output/LayerNorm']
    layers = [f'layer_{i}' for i in range(settings['num_hidden_layers'])]
    if family == 'albert':      # one layer, used several times
        layers, norms = ['transformer/group_0/inner_group_0'], ['LayerNorm', 'LayerNorm_1']
        parts = ['attention_1/self/query', 'attention_1/self/key', 'attention_1/self/value', 'attention_1/output/dense',
                 'ffn_1/intermediate/dense', 'ffn_1/intermediate/output/dense']
    elif family == 'albert_zh':
        layers = ['layer_shared']
    for layer in layers:
        for part, shape in zip(parts, [(hidden, hidden)] * 4 + [(hidden, inner), (inner, hidden)], strict=True):
            dense(f'{root}/encoder/{layer}/{part}', *shape)
        for norm in norms:
            shapes.update({f'{root}/encoder/{layer}/{norm}/{variable}': (hidden,) for variable in ('gamma', 'beta')})
    if family not in ('electra', 'distilbert'):
        dense(f'{root}/pooler/dense', hidden, hidden)
    return shapes


def mlm_head_shapes(family, settings):
    """{name: shape} of the head that predicts hidden words (Devlin et al. 2019, section 3.1; in ELECTRA the
    generator's), as the authors' code names them. Its matrix is the word embeddings."""
    embedding = settings.get('embedding_size', settings['hidden_size'])
    root = MLM_HEADS[family][0]
    return {f'{root}/dense/kernel': (settings['hidden_size'], embedding), f'{root}/dense/bias': (embedding,),
            f'{root}/LayerNorm/beta': (embedding,), f'{root}/LayerNorm/gamma': (embedding,),
            f'{root.removesuffix("/transform")}/output_bias': (settings['vocab_size'],)}


def rtd_head_shapes(settings):
    """The same of ELECTRA's head that finds replaced tokens."""
    hidden, root = settings['hidden_size'], 'discriminator_predictions'
    return {f'{root}/dense/kernel': (hidden, hidden), f'{root}/dense/bias': (hidden,),
            f'{root}/dense_1/kernel': (hidden, 1), f'{root}/dense_1/bias': (1,)}


def hugging_face_name(name, family):
    """Hugging Face's name of an encoder variable from Google's: bert/encoder/layer_0/output/dense/kernel ->
    bert.encoder.layer.0.output.dense.weight (whose matrix is the transposed one)."""
    root, own, renamed = FAMILIES[family]
    name = f'{own}/{name.removeprefix(f"{root}/")}'
    for old, new in renamed.items():
        name = name.replace(old, new)
    return with_dots(re.sub(r'/layer_(\d+)/', r'/layer/\1/', name))


def hugging_face_head_name(name, family):
    """The same of a variable of the heads of pre-training."""
    for old, new in MLM_HEADS[family][1].items():
        name = name.replace(old, new)
    return with_dots(name)


def with_dots(name):
    """A name with PyTorch's endings and dots."""
    name = re.sub(r'/(kernel|gamma)$', '/weight', name)
    name = re.sub(r'/beta$', '/bias', name)
    return re.sub(r'(_embeddings)$', r'\1/weight', name).replace('/', '.')
