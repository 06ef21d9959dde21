"""The transformers side of checks.rerun: needs torch and transformers, and nothing of this project.

    python rerun.py REQUEST ANSWER         # two json files; checks.rerun writes the first and reads the second
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import transformers

DEVICE = torch.device('cuda' if torch.cuda.is_available() else 'cpu')


def build(request):
    settings = transformers.AutoConfig.from_pretrained(request['model'], num_labels=request['labels'])
    for name in ('classifier_dropout', 'classifier_dropout_prob', 'seq_classif_dropout'):
        if hasattr(settings, name):
            setattr(settings, name, request['dropout'])
    kind = transformers.AutoModelForTokenClassification if request['of_tokens'] else \
        transformers.AutoModelForSequenceClassification
    return kind.from_pretrained(request['model'], config=settings, dtype=torch.float32).to(DEVICE)


def inputs_of(model, ids, segments):
    """The inputs of rows whose padding, id 0, is cut to that of the longest."""
    width = int((ids != 0).sum(1).max())
    ids, segments = (torch.tensor(x[:, :width], dtype=torch.long, device=DEVICE) for x in (ids, segments))
    inputs = {'input_ids': ids, 'attention_mask': (ids != 0).long()}
    return inputs if model.config.model_type == 'distilbert' else inputs | {'token_type_ids': segments}


def set_step(optimizer, request, step, steps):
    """Set what the recipe says of this step, from 0, of so many: what WarmUpDecay and AdamW do with it in
    engine/training/optimizers.py."""
    peak, rising = request['learning_rate'], request['warmup'] * steps
    if request['schedule'] == 'linear':
        rising = int(rising)
        rate = peak * min(step / rising if rising else 1, (steps - step) / max(steps - rising, 1))
    else:
        rate = peak * min(step / rising if rising else 1, 1) * (steps - step) / steps
    # torch corrects both means of Adam. Without bias correction these factors take that back.
    of_mean, of_squares = 1 - 0.9 ** (step + 1), (1 - 0.999 ** (step + 1)) ** 0.5
    factor, epsilon = (1, 1) if request['bias_correction'] else (of_mean / of_squares, 1 / of_squares)
    for group, decay in zip(optimizer.param_groups, (request['weight_decay'], 0), strict=True):
        group |= {'lr': rate * factor, 'eps': request['epsilon'] * epsilon, 'weight_decay': decay / factor}


def main(request_path, answer_path):
    request = json.loads(Path(request_path).read_text())
    transformers.set_seed(request['seed'])
    with np.load(request['rows']) as arrays:
        arrays = dict(arrays)
    gold = torch.tensor(arrays['gold'], device=DEVICE)
    gold = gold.float() if request['labels'] == 1 else gold.long()
    model = build(request)
    # As transformers.Trainer: no decay of biases and LayerNorm.
    decayed, others = [], []
    for name, value in model.named_parameters():
        (others if name.endswith('bias') or 'LayerNorm' in name else decayed).append(value)
    optimizer = torch.optim.AdamW([{'params': decayed}, {'params': others}])
    count, size = len(gold), request['batch_size']
    steps, step = -(-count // size) * request['epochs'], 0
    kind = torch.float32 if request['precision'] == 'auto' else getattr(torch, request['precision'])

    def forward(split, rows, **labels):
        inputs = inputs_of(model, arrays[f'{split}_ids'][rows], arrays[f'{split}_segments'][rows])
        if labels and request['of_tokens']:
            labels['labels'] = labels['labels'][:, :inputs['input_ids'].shape[1]].contiguous()
        with torch.autocast(DEVICE.type, kind, kind != torch.float32):
            return model(**inputs, **labels)

    outputs = {}
    for epoch in range(request['epochs']):
        model.train()
        for rows in torch.randperm(count).split(size):
            forward('train', rows.numpy(), labels=gold[rows.to(DEVICE)]).loss.backward()
            if request['clip_norm']:
                torch.nn.utils.clip_grad_norm_(model.parameters(), request['clip_norm'])
            set_step(optimizer, request, step, steps)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
        model.eval()
        for split in request['splits']:
            lengths = (arrays[f'{split}_ids'] != 0).sum(1)
            order = np.argsort(lengths, kind='stable')
            parts = np.split(order, range(request['eval_batch_size'], len(order), request['eval_batch_size']))
            with torch.no_grad():
                logits = [forward(split, rows).logits.float().cpu().numpy() for rows in parts]
            if request['of_tokens']:
                width = arrays[f'{split}_ids'].shape[1]
                logits = [np.pad(part, ((0, 0), (0, width - part.shape[1]), (0, 0))) for part in logits]
            outputs[f'{split}_{epoch}'] = np.concatenate(logits)[np.argsort(order)]
        print(f'epoch {epoch + 1} of {request["epochs"]}', flush=True)
    np.savez(request['outputs'], **outputs)
    Path(answer_path).write_text('{}')


if __name__ == '__main__':
    main(*sys.argv[1:])
