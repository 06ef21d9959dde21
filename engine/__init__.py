"""How it works inside. No author of a script has to open this folder: snippets.py has all that a script uses.

bert4keras runs on today's TensorFlow only with tf-keras, and only if both variables are set before anything asks for
Keras. Every module that does lies in this folder, so it is done here, where nobody can come too late for it.
"""

import os

os.environ['TF_KERAS'] = '1'
os.environ['TF_USE_LEGACY_KERAS'] = '1'
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')      # errors only; 0 shows TensorFlow's start-up lines
