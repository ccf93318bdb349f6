"""edgefuse_runtime: frames from a RealSense camera or recording, through an exported bundle, to results. Never imports torch.

Importing it opens nothing: cameras and engines are opened by `with`, and their packages are imported there.
"""
