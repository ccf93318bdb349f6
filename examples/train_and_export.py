"""Train on a data set, export it, and score the exported file: python examples/train_and_export.py DATA OUT EPOCHS"""

import sys

import edgefuse

data, out, epochs = sys.argv[1:]
recipe = edgefuse.recipes.small_rgbd(epochs=int(epochs), test_fraction=0.25)
run = edgefuse.train(data, f"{out}/run", recipe=recipe)
bundle = edgefuse.export(run, f"{out}/bundle")
for condition, scores in edgefuse.evaluate(bundle.folder, data).items():
    print(f"{condition}: {scores.accuracy:.1%} of {scores.num_samples} pairs")
