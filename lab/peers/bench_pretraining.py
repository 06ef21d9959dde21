"""The transformers side of checks.bench_pretraining: needs torch and transformers, and nothing of this project but
bench.py.

    python bench_pretraining.py REQUEST ANSWER     # two json files; checks.bench_pretraining writes the first

ELECTRA as richarddwang/electra_pytorch trains it (pretrain.py): transformers' two models with the same embeddings,
tokens hidden on the device by a coin for each, samples by Gumbel noise, the discriminator's loss over all real tokens.
'as usual': the logits of all words for the whole text, of which those of the hidden tokens are used, there and in
BertForMaskedLM's own loss. 'gathered': the head computes the hidden tokens alone.
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from bench import CUDA, SKIP, VERSIONS, fit
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy


def config_of(settings):
    return transformers.AutoConfig.for_model(**settings)


class MaskedLM(torch.nn.Module):
    """transformers' model for hidden words, and its loss."""

    def __init__(self, settings, gathered):
        super().__init__()
        self.model, self.gathered = transformers.AutoModelForMaskedLM.from_config(config_of(settings)), gathered

    def head(self, states):
        if self.model.config.model_type == 'bert':
            return self.model.cls(states)
        return self.model.generator_lm_head(self.model.generator_predictions(states))

    def logits(self, is_hidden, **inputs):
        """Of the hidden tokens, (tokens, words)."""
        if self.gathered:
            return self.head(self.model.base_model(**inputs).last_hidden_state[is_hidden])
        return self.model(**inputs).logits[is_hidden]

    def forward(self, ids, hidden, is_hidden, **inputs):
        if self.gathered:
            return cross_entropy(self.logits(is_hidden, input_ids=hidden, **inputs).float(), ids[is_hidden])
        return self.model(input_ids=hidden, labels=ids.where(is_hidden, -100), **inputs).loss


class Electra(torch.nn.Module):
    """Generator and discriminator with the same embeddings, and their loss."""

    def __init__(self, generator, discriminator, gathered, weight):
        super().__init__()
        self.generator, self.weight = MaskedLM(generator, gathered), weight
        self.discriminator = transformers.AutoModelForPreTraining.from_config(config_of(discriminator))
        self.discriminator.base_model.embeddings = self.generator.model.base_model.embeddings

    def forward(self, ids, hidden, is_hidden, attention_mask, **inputs):
        inputs['attention_mask'] = attention_mask
        logits = self.generator.logits(is_hidden, input_ids=hidden, **inputs).float()
        with torch.no_grad():
            noise = torch.distributions.Gumbel(logits.new_zeros(()), logits.new_ones(())).sample(logits.shape)
            corrupted = hidden.clone()
            corrupted[is_hidden] = (logits + noise).argmax(-1)
            is_replaced = (corrupted != ids) & is_hidden
        suspicion = self.discriminator(input_ids=corrupted, **inputs).logits
        is_real = attention_mask > 0
        return cross_entropy(logits, ids[is_hidden]) + self.weight * binary_cross_entropy_with_logits(
            suspicion[is_real].float(), is_replaced[is_real].float())


def hide(ids, request):
    """The text with hidden tokens, and which these are."""
    is_special = (ids == request['cls']) | (ids == request['sep'])
    is_hidden = (torch.rand(ids.shape, device=ids.device) < request['mask_share']) & ~is_special
    fate, other = torch.rand(ids.shape, device=ids.device), torch.randint_like(ids, 1, request['model']['vocab_size'])
    hidden = ids.where(~is_hidden | (fate >= request['masked'] + request['random']), other)
    return hidden.masked_fill(is_hidden & (fate < request['masked']), request['mask']), is_hidden


def main(request_path, answer_path):
    request = json.loads(Path(request_path).read_text())
    if CUDA and request['tf32']:
        torch.set_float32_matmul_precision('high')      # as TensorFlow does
    torch.manual_seed(request['repeat'])
    device, gathered = torch.device('cuda' if CUDA else 'cpu'), request['mode'] == 'gathered'
    if request['generator']:
        model = Electra(request['generator'], request['model'], gathered, request['discriminator_weight'])
    else:
        model = MaskedLM(request['model'], gathered)
    model.to(device)

    def loss(ids):
        ids = ids.to(device)
        hidden, is_hidden = hide(ids, request)
        with torch.autocast(device.type, getattr(torch, request['precision']), request['precision'] != 'float32'):
            return model(ids, hidden, is_hidden, attention_mask=(ids != 0).long(),
                         token_type_ids=torch.zeros_like(ids))

    steps, batch_size, length = request['steps'], request['batch_size'], request['length']
    rows = torch.randint(1, request['model']['vocab_size'], ((SKIP + steps) * batch_size, length))
    rows[:, 0], rows[:, -1] = request['cls'], request['sep']
    figures = fit(model, torch.utils.data.DataLoader(rows, batch_size, shuffle=True), loss, request['updates'], request)
    rate = steps / figures['seconds']
    Path(answer_path).write_text(json.dumps(figures | {
        'steps_per_second': rate, 'examples_per_second': rate * batch_size,
        'tokens_per_second': rate * batch_size * length, 'steps': steps, 'versions': VERSIONS}))


if __name__ == '__main__':
    main(*sys.argv[1:])
