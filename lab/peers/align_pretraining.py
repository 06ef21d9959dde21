"""The transformers side of checks.align_pretraining: needs torch and transformers, and nothing of this project.

    python align_pretraining.py FOLDER     # with request.json and request.npz; adds answer.json and answer.npz

All in float64. The losses are transformers' own, of the labels that its documentation asks for.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import transformers

UNLABELLED = -100       # in the labels for hidden words


def load(folder):
    """The model of a folder, of the class that its config.json names; and the number of its variables that the folder
    lacks, and of the folder's that it does not know."""
    architecture, = json.loads((Path(folder) / 'config.json').read_text())['architectures']
    model, info = getattr(transformers, architecture).from_pretrained(
        folder, output_loading_info=True, attn_implementation='eager')
    return model.double().eval(), sum(len(info[kind]) for kind in (
        'missing_keys', 'unexpected_keys', 'mismatched_keys'))


def inputs_of(model, ids, segments, is_real):
    inputs = {'input_ids': torch.tensor(ids).long(), 'attention_mask': torch.tensor(is_real).long()}
    if model.config.model_type != 'distilbert':
        inputs['token_type_ids'] = torch.tensor(segments).long()
    return inputs


def forward(models, batch, replaced_weight):
    """({what: logits as the program of the other side has them}, {what: loss})."""
    generator, discriminator = models['generator'], models.get('discriminator')
    rows = np.arange(len(batch['ids']))[:, None]
    labels = np.full(batch['ids'].shape, UNLABELLED)
    used = batch['used']
    labels[np.broadcast_to(rows, used.shape)[used], batch['places'][used]] = batch['words'][used]
    output = generator(**inputs_of(generator, batch['ids'], batch['segments'], batch['is_real']),
                       labels=torch.tensor(labels))
    logits = {'words': output.logits[rows, batch['places']]}
    losses = {'words': output.loss, 'total': output.loss}
    if discriminator:
        output = discriminator(**inputs_of(discriminator, batch['corrupted'], batch['segments'], batch['is_real']),
                               labels=torch.tensor(batch['is_replaced']).long())
        logits['replaced'] = output.logits
        losses |= {'replaced': output.loss, 'total': losses['words'] + replaced_weight * output.loss}
    return logits, losses


def gradients_of(models, names):
    """{part/Google's name: gradient}, dense kernels as (inputs, outputs)."""
    found = {}
    for which, model in models.items():
        own = dict(model.named_parameters())
        for name, key in names[which].items():
            gradient = own[key].grad
            found[f'{which}/{name}'] = (gradient.T if name.endswith('/kernel') else gradient).numpy()
    return found


def main(folder):
    request, data = json.loads((folder / 'request.json').read_text()), np.load(folder / 'request.npz')
    loaded = {which: load(path) for which, path in request['folders'].items()}
    models = {which: model for which, (model, _) in loaded.items()}
    answers, of_step = {}, {}
    for i in range(request['batches']):
        batch = {name.split('/')[1]: data[name] for name in data if name.startswith(f'{i}/')}
        logits, losses = forward(models, batch, request['replaced_weight'])
        answers |= {f'{i}/{what}': value.detach().numpy() for what, value in logits.items()}
        if i == 0:
            losses['total'].backward()
            of_step = {what: float(value) for what, value in losses.items()}
            answers |= {f'gradients/{name}': value for name, value in gradients_of(models, request['names']).items()}
    np.savez(folder / 'answer.npz', **answers)
    (folder / 'answer.json').write_text(json.dumps({
        'name': f'transformers {transformers.__version__}, torch {torch.__version__}, float64',
        'unlike': sum(count for _, count in loaded.values()), 'losses': of_step}))


if __name__ == '__main__':
    main(Path(sys.argv[1]))
