"""Where a run is computed: which device, in which precision, with XLA or without."""

import json
import os
import resource
import sys
from pathlib import Path

from engine.backend import GPUS, tf
from engine.files import UserError


def resolve_precision(precision):
    """--precision with 'auto' settled: 16 bits on a GPU that is made for them."""
    if precision != 'auto':
        return precision
    capabilities = [tf.config.experimental.get_device_details(gpu).get('compute_capability', (0, 0)) for gpu in GPUS]
    capability = min(capabilities, default=(0, 0))
    if capability >= (8, 0):
        return 'bfloat16'
    return 'float16' if capability >= (7, 0) else 'float32'


def distribution(knobs):
    """The tf.distribute strategy for --devices, and whether this process is the one that writes the run.

    Where it is `all`, TF_CONFIG may name several machines (tf.distribute's own format); the first of them writes.
    """
    if knobs.devices == 'one':
        return tf.distribute.get_strategy(), True
    try:
        setting = json.loads(os.environ.get('TF_CONFIG', '{}'))
        machines, task = setting.get('cluster', {}), setting.get('task', {})
    except (ValueError, AttributeError):
        raise UserError('TF_CONFIG: not what tf.distribute expects: {"cluster": {"worker": ["host:port", ...]}, '
                        '"task": {"type": "worker", "index": 0}}.') from None
    if knobs.grad_accumulation > 1:
        raise UserError('--grad-accumulation does not go with --devices all.')
    if machines:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    else:
        devices = tf.config.list_logical_devices('GPU') or tf.config.list_logical_devices('CPU')
        strategy = tf.distribute.MirroredStrategy([device.name for device in devices])
    if knobs.batch_size % strategy.num_replicas_in_sync:
        raise UserError(f'--batch-size {knobs.batch_size}: not divisible by {strategy.num_replicas_in_sync} devices.')
    is_chief = task.get('type') == 'chief' or 'chief' not in machines and task.get('index') == 0
    return strategy, not machines or is_chief


def several_machines():
    """Whether this process is one of several that train together. Such a run cannot go on where it was stopped: all
    would have to, from the same step."""
    return isinstance(tf.distribute.get_strategy(), tf.distribute.MultiWorkerMirroredStrategy)


def peak_memory():
    """The largest memory so far, in GiB: of the GPU, where there is one, else of this process."""
    if GPUS:
        return tf.config.experimental.get_memory_info('GPU:0')['peak'] / 2**30
    return process_peak()


def process_peak():
    """The largest memory of this process so far, in GiB."""
    unit = 1 if sys.platform == 'darwin' else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def describe(knobs):
    """One line about where this runs."""
    count = tf.distribute.get_strategy().num_replicas_in_sync
    if count > 1:
        return f'Data-parallel on {count} devices, {knobs.batch_size // count} examples of a batch on each.'
    if GPUS:
        names = [tf.config.experimental.get_device_details(gpu).get('device_name', gpu.name) for gpu in GPUS]
        more = f', the first of {len(names)}; --devices all trains on all of them' if names[1:] else ''
        return f'GPU: {names[0]}{more}, {knobs.precision}'
    hint = ''
    if Path('/proc/driver/nvidia/version').exists():
        hint = ' This machine has an NVIDIA GPU: give TensorFlow its CUDA libraries with `uv run --extra gpu`, or ' \
               "pip install 'tensorflow[and-cuda]==2.21.*'."
    return f'TensorFlow sees no GPU: running on the CPU, {os.cpu_count()} cores.{hint}'
