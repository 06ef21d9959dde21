"""What decides the outcome of a run: knobs, model, source code and versions."""

import ast
import hashlib
import importlib.metadata
import os
import sys
from pathlib import Path

import config
from engine.backend import GPUS
from engine.model.checkpoints import model_spec

PACKAGES = ('tensorflow', 'tf-keras', 'bert4keras', 'numpy', 'scikit-learn', 'tokenizers')


def configuration(knobs):
    """What decides the outcome: the knobs, the model, the code, the versions; not the content of the data."""
    model = model_spec(knobs)
    return {
        'task': knobs.task, 'recipe': knobs.recipe,
        'knobs': {field.name: getattr(knobs, field.name) for field in config.option_fields(knobs)},
        'found': list(knobs.found),
        'source_sha256': source_hashes(knobs.script),
        'versions': {'python': sys.version.split()[0]} | {name: importlib.metadata.version(name) for name in PACKAGES},
        'device': GPUS[0].name if GPUS else 'CPU', 'cores': os.cpu_count(),
        **model.config, 'model_type': model.family,
        'pooling': model.pooling if knobs.pooling == 'auto' else knobs.pooling,
    }


def source_hashes(script):
    """{file: sha256} of the code that makes a run of this script: the script, and the files of the project that it
    imports, and these import, in turn. What is hashed is the syntax tree, without comments and docstrings."""
    script, hashes = Path(script).resolve(), {}
    waiting = [script]
    while waiting:
        path = waiting.pop()
        name = path.relative_to(config.ROOT).as_posix() if path.is_relative_to(config.ROOT) else path.name
        if name not in hashes:
            tree = ast.parse(path.read_bytes())
            waiting += imported_files(tree, script.parent)
            code = ast.unparse(without_docstrings(tree))        # the same text on every version of Python
            hashes[name] = hashlib.sha256(code.encode()).hexdigest()
    return dict(sorted(hashes.items()))


def imported_files(tree, script_folder):
    """The project's own files among those that a syntax tree imports."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f'{node.module}.{alias.name}' for alias in node.names)}
    stems = [name.replace('.', '/') for name in names]
    candidates = [folder / f'{stem}{ending}' for folder in (config.ROOT, script_folder) for stem in stems
                  for ending in ('.py', '/__init__.py')]
    return [path for path in candidates if path.is_file()]


def without_docstrings(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, clean=False):
            del node.body[0]
    return tree
