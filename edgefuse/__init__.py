"""edgefuse: gated-fusion RGB-D classification, from labelled frames to live decisions.

Importing this package loads neither torch nor OpenCV: each module imports what it needs when it is called.
"""

__version__ = "0.1.0"
