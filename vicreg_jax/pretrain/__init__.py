"""The pretraining job, from a laptop to a pod.

config: every choice that can be made.
recipes: named configurations.
data, input: the images, and how they get to the devices.
model: the network, the views and the optimiser of a configuration.
mesh, distributed: devices and processes.
step, state: one update; what it takes and gives.
loop: all of them, with what happens in between.
metrics: what is written down.
evaluation: what features know, and whether embeddings are healthy.
checkpoints, folder, interruption: stopping and going on.
run: from images to report.
report, export: the picture; the encoder in files.
compile_only: the step, compiled for TPUs that are not here.
"""
