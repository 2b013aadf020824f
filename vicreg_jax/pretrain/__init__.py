"""The pretraining job: what a run is, the step, the loop, the report.

config: every choice that can be made.
data: the images and which are held out.
step: one update.
loop: the run.
report: the table and the picture.
"""
