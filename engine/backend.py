"""TensorFlow and its Keras 2, imported in this place alone, and quietly. Importing it takes seconds: what has no need
of it (files.py, console.py, the tools that only read files) does not import this module."""

import contextlib
import os
import signal
import sys
import tempfile
import threading


@contextlib.contextmanager
def quiet():
    """Keep what C++ libraries print on standard error while they start off the screen, unless they fail.

    TF_CPP_MIN_LOG_LEVEL=0 shows it.
    """
    if os.environ['TF_CPP_MIN_LOG_LEVEL'] == '0':
        yield
        return
    sys.stderr.flush()
    with tempfile.TemporaryFile() as log:
        screen = os.dup(2)
        os.dup2(log.fileno(), 2)
        try:
            yield
        except BaseException:
            log.seek(0)
            os.write(screen, log.read())
            raise
        finally:
            os.dup2(screen, 2)
            os.close(screen)


@contextlib.contextmanager
def interruptible():
    """Ctrl-C ends the program in one line. (TensorFlow's import would turn it into errors of many lines.)"""
    screen = os.dup(2)      # quiet() redirects it

    def end(number, frame):
        os.write(screen, b'interrupted\n')
        os._exit(128 + number)

    can_be_set = threading.current_thread() is threading.main_thread() and \
        signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if can_be_set:
        signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        if can_be_set:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        os.close(screen)


with interruptible(), quiet():
    import tensorflow as tf
    from bert4keras.backend import keras
    GPUS = tf.config.list_physical_devices('GPU')

if 'tf_keras' not in keras.layers.Layer.__module__:     # tf.keras was used before the engine's __init__ could choose it
    raise ImportError('Keras 3 was in use before this project chose Keras 2. Import snippets before anything that uses '
                      'tf.keras.')
for gpu in GPUS:
    tf.config.experimental.set_memory_growth(gpu, True)     # two runs fit on one
