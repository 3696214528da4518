"""Drift: whether images are still like those a model was trained on, and its predictions like those it was tested on.

profile.py     what is kept of an image, and the profile of the reference images
comparison.py  other images against a profile: distances, and which of them are more than chance
monitor.py     the same while a server answers, and as Prometheus' metrics
report.py      a folder of images: the comparison, what to label first, and both as a page
"""
